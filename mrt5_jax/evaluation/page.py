"""Texts with their deleted bytes in colour, as one HTML page or a part of one: no script, nothing loaded."""

import dataclasses
import html
import math
from collections.abc import Sequence

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
table { border-collapse: collapse }
th, td { text-align: right; padding: .1rem .8rem; border-bottom: 1px solid var(--rule) }
th:first-child { text-align: left }
.note { margin: 0; overflow-wrap: anywhere }
"""

_KEPT, _DELETED = "rgb(var(--blue))", "rgb(var(--red))"


@dataclasses.dataclass(frozen=True)
class Section:
    heading: str
    pieces: Sequence[Piece]
    note: str = ""
    """A line below the text."""


def render_page(title: str, introduction: str, sections: Sequence[Section], scale: float) -> str:
    """Returns the page as text.

    Args:
      sections: one text each.
      scale: k, the gate value of full deletion; colours show gate values as shares of it.
    """
    everything = [piece for section in sections for piece in section.pieces]
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(introduction)}</p>",
        _legend(scale),
        _statistics(everything),
        *(_section(section, scale) for section in sections),
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
        parts.append(_text(section.pieces, scale))
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


def _statistics(everything: Sequence[Piece]) -> str:
    rows = [
        f'<tr><th scope="row">{TOKEN_KINDS[kind]}</th><td>{count.total:,}</td><td>{count.total - count.deleted:,}</td>'
        f"<td>{count.deleted:,}</td><td>{count.rate:.1%}</td></tr>"
        for kind, count in tally(everything).items()
    ]
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("in the texts below", "all", "kept", "deleted", "deleted share")
    )
    return f"<table><tr>{heads}</tr>\n" + "\n".join(rows) + "\n</table>"


def _section(section: Section, scale: float) -> str:
    note = f'\n<p class="note">{html.escape(section.note)}</p>' if section.note else ""
    return f"<h2>{html.escape(section.heading)}</h2>\n{_text(section.pieces, scale)}{note}"


def _text(pieces: Sequence[Piece], scale: float) -> str:
    return f'<p class="text" dir="auto">{"".join(_piece(piece, scale) for piece in pieces)}</p>'


def _piece(piece: Piece, scale: float) -> str:
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
    attributes = f' title="{html.escape(describe_piece(piece))}"'
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
