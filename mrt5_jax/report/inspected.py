"""What `mrt5 inspect` finds, for a page on which texts and models stand beside each other, and for programs."""

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence

from mrt5_jax.api.results import TextDeletions
from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES
from mrt5_jax.evaluation.attention_to_deleted import WindowAttention
from mrt5_jax.evaluation.inspection import Piece
from mrt5_jax.evaluation.page import CountTable, Section, render_page
from mrt5_jax.report.byte_kinds import count_deleted
from mrt5_jax.report.texts import byte_fates

COMPARED_KINDS = (
    "vowel",
    "consonant",
    "letter of another script",
    "space",
    "continuation byte",
    "first byte of a word",
)
"""Kinds of bytes that have a column in the table with a text a row."""


@dataclasses.dataclass(frozen=True, eq=False)
class InspectedModel:
    """What a model deletes of some texts, by the texts' names."""

    name: str
    """As people read it."""
    source: str
    """What it was loaded from."""
    step: int
    threshold: float | None
    """Hard deletion keeps gate values above it; None: the selector compares with none."""
    texts: Mapping[str, TextDeletions]
    attention: Mapping[str, Sequence[WindowAttention]]
    """Of each text's windows; empty where nobody asked for it."""


def inspection_heading(text: str, of: InspectedModel, models: Sequence[InspectedModel]) -> str:
    """Returns what stands above a text: the model is named where there are two."""
    return f"{text}: {of.name}" if len(models) > 1 else text


def text_table(of: InspectedModel, title: str) -> CountTable:
    """Makes a table with a text a row: its bytes, what share of them is deleted, and of some kinds of bytes."""
    rows = []
    for name, found in of.texts.items():
        data, keep = byte_fates(found)
        kinds = count_deleted(data, keep)
        shares = (f"{kinds[kind].rate:.1%}" if kind in kinds else "-" for kind in COMPARED_KINDS)
        rows.append([name, f"{len(data):,}", f"{keep.count(False) / len(keep):.1%}", *shares])
    return CountTable(title, ("text", "bytes", "deleted", *COMPARED_KINDS), rows)


def agreement_line(text: str, one: InspectedModel, other: InspectedModel) -> str:
    """Says of how many bytes of a text two models think alike."""
    kept = zip(byte_fates(one.texts[text])[1], byte_fates(other.texts[text])[1], strict=True)
    fates = collections.Counter(kept)
    both, neither = fates[True, True], fates[False, False]
    first, second = fates[False, True], fates[True, False]
    return (
        f"both keep {both:,} bytes, both delete {neither:,}; {first:,} are deleted by {one.name} alone, "
        f"{second:,} by {other.name} alone"
    )


def attention_line(text: str, of: InspectedModel) -> str:
    """Says how much of the attention of a text's kept positions goes to deleted ones, in each layer before the gate."""
    windows = of.attention[text]
    total = sum(window.num_kept for window in windows)
    by_layer = zip(*(window.shares for window in windows), strict=True)
    shares = [
        sum(share * window.num_kept for share, window in zip(layer, windows, strict=True)) / total for layer in by_layer
    ]
    parts = (f"{share:.1%} in layer {layer}" for layer, share in enumerate(shares))
    return (
        f"of the attention of kept positions, deleted ones receive {', '.join(parts)}; they are "
        f"{of.texts[text].deletion_rate:.1%} of all"
    )


def inspection_page(title: str, introduction: str, models: Sequence[InspectedModel]) -> str:
    """Returns a page of all texts, those of two models beside each other.

    Args:
        models: one or two, with the same texts, and gate values of the same range.
    """
    sections: list[Section] = []
    for text in models[0].texts:
        for number, model in enumerate(models, start=1):
            notes = [attention_line(text, model)] if model.attention else []
            if number == len(models) == 2:
                notes.append(agreement_line(text, models[0], models[1]))
            *before, last = _sections(text, model, inspection_heading(text, model, models))
            sections += [*before, dataclasses.replace(last, note="; ".join(notes))]
    several = len(models) > 1 or len(models[0].texts) > 1
    tables = [text_table(model, model.name if len(models) > 1 else "") for model in models] if several else []
    scale = next(iter(models[0].texts.values())).scale
    return render_page(title, introduction, sections, scale, tables)


def _sections(text: str, of: InspectedModel, heading: str) -> Iterator[Section]:
    attention = of.attention.get(text)
    for number, section in enumerate(of.texts[text].sections(heading)):
        remarks = () if attention is None else _remarks(section.pieces, attention[number])
        yield dataclasses.replace(section, remarks=remarks)


def _remarks(pieces: Sequence[Piece], attention: WindowAttention) -> list[str]:
    """What is said of each id of a window: of a deleted one, which kept position attends to it most."""
    at = [(piece, token) for piece in pieces for token in piece.ids]
    remarks = [""] * len(at)
    for position, found in attention.attenders.items():
        piece, token = at[position]
        is_byte = BYTE_OFFSET <= token < BYTE_OFFSET + NUM_BYTES
        name = f"{token - BYTE_OFFSET:02X}" if is_byte else piece.text
        attender = at[found.position][0].text.replace("\n", "\u21b5")
        distance = abs(found.position - position)
        place = f"{distance} position{'s' * (distance > 1)} {'later' if found.position > position else 'earlier'}"
        remarks[position] = (
            f"{name}: attended to most by {attender}, {place}, weight {found.weight:.3f} in layer {found.layer}"
        )
    return remarks


def inspection_lines(models: Sequence[InspectedModel]) -> str:
    """Writes JSON lines, an object for each text and model: the ids of each window, which stay, and the gate values."""
    lines = []
    for text in models[0].texts:
        for model in models:
            found = model.texts[text]
            about = {"text": text, "model": model.source, "step": model.step, "threshold": model.threshold}
            windows = [_shown_window(window) for window in found.windows]
            for window, attention in zip(windows, model.attention.get(text, ()), strict=bool(model.attention)):
                window["attention_to_deleted"] = {
                    "share_by_layer": attention.shares,
                    "attended_most_by": [
                        {"position": position, "by": by, "weight": weight, "layer": layer}
                        for position, (by, weight, layer) in attention.attenders.items()
                    ],
                }
            lines.append(json.dumps({**about, "scale": found.scale, "windows": windows}, allow_nan=False) + "\n")
    return "".join(lines)


def _shown_window(pieces: Sequence[Piece]) -> dict[str, object]:
    return {
        "ids": [token for piece in pieces for token in piece.ids],
        "keep": [kept for piece in pieces for kept in piece.keep],
        "values": [value for piece in pieces for value in piece.values],
    }
