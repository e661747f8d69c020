"""Inspected texts on a terminal, readable without colour as well: marks stand below the characters."""

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from mrt5_jax.evaluation.inspection import TOKEN_KINDS, Piece, tally

_STYLES = {"kept": "default", "partly deleted": "black on yellow", "deleted": "white on red"}
LEGEND = (
    "below each character: x deleted, 1-9 that many of its bytes; then its gate value, "
    "from 0 (keeps) to 9 (deletes) in tenths of the gate's range"
)


def render_pieces(found: Sequence[Piece], scale: float, width: int) -> Iterator[Text]:
    """Renders lines of at most `width` cells: the text in colour, the marks of deletion, the gate values.

    Args:
      scale: k, the gate value of full deletion.
    """
    for line in _lines(found, width):
        text, marks, values = Text(no_wrap=True, overflow="ignore"), "", ""
        for piece in line:
            shown = _shown(piece)
            text.append(shown, _STYLES[piece.state])
            space = " " * (cell_len(shown) - 1)
            marks += _mark(piece) + space
            values += str(_tenths(piece, scale)) + space
        yield text
        yield Text(marks.rstrip(), "red", no_wrap=True, overflow="ignore")
        yield Text(values, "dim", no_wrap=True, overflow="ignore")


def _lines(found: Sequence[Piece], width: int) -> Iterator[list[Piece]]:
    line: list[Piece] = []
    cells = 0
    for piece in found:
        needed = cell_len(_shown(piece))
        if line and (cells + needed > width or line[-1].text == "\n"):
            yield line
            line, cells = [], 0
        line.append(piece)
        cells += needed
    if line:
        yield line


def _shown(piece: Piece) -> str:
    """At least one cell wide, so that its mark has a place."""
    if piece.text == "\n":
        return "\u21b5"
    return piece.text if cell_len(piece.text) else "\u25cc" + piece.text


def _mark(piece: Piece) -> str:
    if piece.state == "partly deleted":
        return str(min(piece.num_deleted, 9))
    return "x" if piece.state == "deleted" else " "


def _tenths(piece: Piece, scale: float) -> int:
    return min(int(10 * math.fsum(value / scale for value in piece.values) / len(piece.values)), 9)


def statistics_line(found: Sequence[Piece]) -> str:
    """Says how many bytes are kept and deleted, by kind, in one line."""
    kinds = tally(found)
    counts = [count for kind, count in kinds.items() if kind != "special"]
    total, deleted = sum(count.total for count in counts), sum(count.deleted for count in counts)
    rate = f" ({deleted / total:.1%})" if total else ""
    parts = [f"{total:,} bytes: {total - deleted:,} kept, {deleted:,} deleted{rate}"]
    parts += [
        f"{TOKEN_KINDS[kind]}: {count.deleted:,} of {count.total:,} ({count.rate:.1%})" for kind, count in kinds.items()
    ]
    return "; ".join(parts)
