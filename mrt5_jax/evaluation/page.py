"""Texts with their deleted bytes in colour, as one HTML page or a part of one: no script, nothing loaded."""

import dataclasses
import html
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES
from mrt5_jax.evaluation.inspection import TOKEN_KINDS, Piece, tally
from mrt5_jax.evaluation.terminal import statistics_line

COLOURS = {"red": (213, 94, 0), "blue": (0, 114, 178)}
"""Vermilion and blue of Okabe and Ito, told apart with every kind of colour blindness; seen on white and on black."""

_VARIABLES = "; ".join(f"--{name}: {' '.join(map(str, colour))}" for name, colour in COLOURS.items())
_TEXT_STYLE = (
    f"\n.mrt5 {{ {_VARIABLES}; --rule: #8886 }}"
    + """
.mrt5 .text { font: 1.05rem/2 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0
  .3rem; padding: .3rem .6rem; border: 1px solid var(--rule); border-radius: .3rem; text-align: start }
.mrt5 .text span, .mrt5 .text del, .mrt5 .legend span, .mrt5 .legend del { color: inherit; text-decoration: none;
  background: rgb(var(--red) / calc(var(--d, 0) * .45)); padding: .1em 0; border-radius: .15em }
.mrt5 .text del, .mrt5 .legend del { text-decoration: line-through 2px rgb(var(--red)) }
.mrt5 .part { border-bottom: 4px solid; border-image: var(--bytes) 1 }
.mrt5 .escape { font-size: .8em; border: 1px dotted var(--rule) }
.mrt5 .legend { font-family: ui-monospace, monospace }
.mrt5 .legend small { font: .9rem system-ui, sans-serif; margin-right: 1.5rem }
.mrt5 .heading { font: 600 1rem/1.5 system-ui, sans-serif; margin: 1rem 0 .3rem }
"""
)
"""Of the texts, on whatever background they stand: a page's or a notebook's, light or dark."""

_PAGE_STYLE = """
:root { color-scheme: light dark }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem } h2 { font-size: 1rem; margin: 1.5rem 0 .3rem }
table { border-collapse: collapse; margin: .5rem 0 }
caption { text-align: left; font-weight: 600 }
th, td { text-align: right; padding: .1rem .8rem; border-bottom: 1px solid var(--rule) }
th:first-child { text-align: left }
.wide { overflow-x: auto }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 0 1.5rem }
.beside > div { min-width: 0 }
.note { margin: 0; overflow-wrap: anywhere }
"""

_KEPT, _DELETED = "rgb(var(--blue))", "rgb(var(--red))"


@dataclasses.dataclass(frozen=True)
class Section:
    heading: str
    pieces: Sequence[Piece]
    note: str = ""
    """A line below the text."""
    remarks: Sequence[str] = ()
    """What is said of each of the text's ids, besides its value, where one points at it; nothing where empty."""


class CountTable(NamedTuple):
    """Counts as a page shows them; the first column names the rows."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def render_page(
    title: str, introduction: str, sections: Sequence[Section], scale: float, tables: Sequence[CountTable] = ()
) -> str:
    """Returns the page as text; several sections stand beside each other where there is room.

    Args:
      sections: one text each.
      scale: k, the gate value of full deletion; colours show gate values as shares of it.
      tables: above the texts; none: their bytes by kind, all texts together.
    """
    everything = [piece for section in sections for piece in section.pieces]
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(introduction)}</p>",
        _legend(scale),
        *map(_table, tables or [_statistics(everything)]),
        '<div class="beside">',
        *(_section(section, scale) for section in sections),
        "</div>",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en" class="mrt5">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>\n<style>{_PAGE_STYLE}{_TEXT_STYLE}</style>",
            *body,
            "</html>\n",
        ]
    )


def render_fragment(sections: Sequence[Section], scale: float) -> str:
    """Returns the texts with their legend for a place in another page, such as a notebook; see `render_page`."""
    parts = []
    for section in sections:
        if section.heading:
            parts.append(f'<p class="heading">{html.escape(section.heading)}</p>')
        parts.append(_text(section, scale))
    counted = html.escape(statistics_line([piece for section in sections for piece in section.pieces]))
    return f'<div class="mrt5"><style>{_TEXT_STYLE}</style>\n{"".join(parts)}\n<p>{counted}</p>\n{_legend(scale)}</div>'


def _legend(scale: float) -> str:
    two = f"--d:.5;--bytes:linear-gradient(90deg,{_KEPT} 50%,{_DELETED} 50%)"
    return (
        '<p class="legend"><span>a</span> <small>kept</small><del style="--d:1">a</del> <small>deleted</small>'
        f'<span class="part" style="{two}">é</span> <small>some of its bytes deleted (orange), others kept</small>'
        '<span class="escape">\\xE9</span> <small>a byte that is no UTF-8</small></p>\n'
        f"<p>The more orange, the lower the gate value: 0 keeps, {scale:g} deletes. "
        "Point at a character for the values of its bytes.</p>"
    )


def _statistics(everything: Sequence[Piece]) -> CountTable:
    rows = []
    for kind, (total, deleted) in tally(everything).items():
        counts = (f"{count:,}" for count in (total, total - deleted, deleted))
        rows.append([TOKEN_KINDS[kind], *counts, f"{deleted / total:.1%}"])
    return CountTable("", ("in the texts below", "all", "kept", "deleted", "deleted share"), rows)


def _table(table: CountTable) -> str:
    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    heads = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in table.headings)
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in table.rows
    )
    return f'<div class="wide"><table>{caption}<tr>{heads}</tr>\n{rows}\n</table></div>'


def _section(section: Section, scale: float) -> str:
    note = f'\n<p class="note">{html.escape(section.note)}</p>' if section.note else ""
    return f"<div><h2>{html.escape(section.heading)}</h2>\n{_text(section, scale)}{note}</div>"


def _text(section: Section, scale: float) -> str:
    parts, remarks = [], iter(section.remarks)
    for piece in section.pieces:
        own = itertools.islice(remarks, len(piece.ids))
        parts.append(_piece(piece, scale, "\n".join([describe_piece(piece), *filter(None, own)])))
    return f'<p class="text" dir="auto">{"".join(parts)}</p>'


def _piece(piece: Piece, scale: float, title: str) -> str:
    deleted = math.fsum(value / scale for value in piece.values) / len(piece.values)
    styles = [f"--d:{deleted:.2f}"] if deleted >= 0.005 else []
    classes = []
    if piece.state == "partly deleted":
        classes.append("part")
        share = 100 / len(piece.keep)
        stops = (
            f"{_KEPT if keep else _DELETED} {number * share:.0f}% {(number + 1) * share:.0f}%"
            for number, keep in enumerate(piece.keep)
        )
        styles.append(f"--bytes:linear-gradient(90deg,{','.join(stops)})")
    if piece.is_escaped:
        classes.append("escape")
    tag = "del" if piece.state == "deleted" else "span"
    attributes = f' title="{html.escape(title)}"'
    attributes += f' class="{" ".join(classes)}"' if classes else ""
    attributes += f' style="{";".join(styles)}"' if styles else ""
    shown, newline = ("\u21b5", "\n") if piece.text == "\n" else (piece.text, "")
    return f"<{tag}{attributes}>{html.escape(shown)}</{tag}>{newline}"


def describe_piece(piece: Piece) -> str:
    """Says in words what the gate value and the fate of every byte are."""
    tokens = (
        f"{f'{token - BYTE_OFFSET:02X} ' if BYTE_OFFSET <= token < BYTE_OFFSET + NUM_BYTES else ''}{value:.2f} "
        f"{'kept' if keep else 'deleted'}"
        for token, value, keep in zip(piece.ids, piece.values, piece.keep, strict=True)
    )
    return ", ".join(tokens)
