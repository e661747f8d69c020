"""What a model deletes of the same texts as others: counts of bytes by kind, and the texts in colour."""

import dataclasses
import itertools
from collections.abc import Mapping

from mrt5_jax.api.results import TextDeletions
from mrt5_jax.data.vocabulary import BYTE_OFFSET, NUM_BYTES, decode
from mrt5_jax.evaluation.page import render_fragment
from mrt5_jax.report.byte_kinds import BYTE_KINDS, count_deleted
from mrt5_jax.report.charts import ShareChart
from mrt5_jax.report.visible import visible_text


@dataclasses.dataclass(frozen=True, eq=False)
class TextsOfModel:
    """What a model deletes of some texts."""

    model: str
    step: int
    texts: Mapping[str, TextDeletions]
    """By the text's name, such as its language."""


def byte_fates(found: TextDeletions) -> tuple[bytes, list[bool]]:
    """Returns the bytes of a text and whether each stays; ends of sequences are left out."""
    is_byte = [BYTE_OFFSET <= token < BYTE_OFFSET + NUM_BYTES for token in found.ids]
    return decode(found.ids), list(itertools.compress(found.keep, is_byte))


def kind_chart(number: int, of: TextsOfModel) -> ShareChart:
    """Makes the chart of which kinds of bytes a model deletes, by text.

    Args:
        number: of the model among those of the report, for the name of the chart's files.
    """
    columns = {}
    for name, found in of.texts.items():
        columns[visible_text(name)] = count_deleted(*byte_fates(found))
    occurring = {kind for tallies in columns.values() for kind in tallies}
    order = [kind for kind in BYTE_KINDS if kind in occurring]
    title = f"Deleted bytes by kind, {visible_text(of.model)}, step {of.step:,}"
    note = "Bytes of the texts below, ends of sequences left out. Of each group of kinds (characters, places in a "
    note += "character, places in a word) a byte is of one; y counts as a consonant."
    return ShareChart(f"bytes_{number}", title, "kind of byte", "text", order, columns, note)


def coloured_texts(of: TextsOfModel) -> str:
    """Returns a model's texts in colour as a part of a page, byte values in the titles of their characters."""
    sections = [section for name, found in of.texts.items() for section in found.sections(visible_text(name))]
    scale = next(iter(of.texts.values())).scale
    return render_fragment(sections, scale)
