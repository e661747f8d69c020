"""Tables of records, for terminals."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table

from mrt5_jax.compaction.ladder import BodyCost
from mrt5_jax.config import Deletion
from mrt5_jax.data.task_names import label_of
from mrt5_jax.evaluation.records import (
    Record,
    deletions_in,
    group_by,
    of_deletion,
    soft_hard_gap,
    summarize,
)
from mrt5_jax.selection.deletions import DELETIONS, removes_positions


class Row(NamedTuple):
    """A line of a table of results."""

    name: str
    metrics: Mapping[str, float]
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class _Column:
    heading: str
    metric: str
    show: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{value:.2%}"


_COLUMNS = (
    _Column("sequence accuracy", "sequence_accuracy", _percent),
    _Column("token accuracy", "token_accuracy", _percent),
    _Column("loss", "loss", "{:.4f}".format),
    _Column("deletion rate", "deletion_rate", _percent),
    _Column("kept length", "kept_length", "{:.1f}".format),
    _Column("slots", "rung", "{:.1f}".format),
)


def _share(value: float) -> str:
    return f"{value:.1%}"


_WHERE_KNOWN = (
    _Column("saved", "saved", _share),
    _Column("exact", "saved_if_exact", _share),
)
"""Of models with a gate, in evaluations that say so."""

_DROPPED = _Column("dropped", "dropped", "{:.1f}".format)

COLUMNS_EXPLAINED = (
    "loss: nats per target token. kept length: input tokens that hard deletion keeps. "
    "slots: static length that the layers after the gate ran with. "
    "saved: share of the multiply-adds after the gate that these slots saved; exact: that exact lengths would have. "
    "dropped: input tokens that the gate keeps and a capacity had no slot for."
)


def results_table(title: str, rows: Sequence[Row], caption: str = "") -> Table:
    """Makes the table of what a model does and costs: accuracies, loss, deletion rate, kept length, ms a batch.

    What was saved has columns where it is known, and what a capacity dropped where there is any.

    Args:
        caption: printed below.
    """
    known = [column for column in _WHERE_KNOWN if any(column.metric in row.metrics for row in rows)]
    dropped = [_DROPPED] if any(row.metrics.get(_DROPPED.metric, 0) > 0 for row in rows) else []
    columns = [*_COLUMNS, *known, *dropped]
    table = _table(title, ["", *(column.heading for column in columns), "ms a batch"])
    table.caption, table.caption_justify = caption or None, "left"
    for row in rows:
        cells = [_cell(row.metrics.get(column.metric, math.nan), column.show) for column in columns]
        table.add_row(row.name, *cells, _cell(row.milliseconds, "{:.1f}".format))
    return table


def deletion_rows(
    records: Sequence[Record], milliseconds: Mapping[Deletion, float], body: BodyCost | None = None
) -> list[Row]:
    """Returns a row for each deletion that records are of; `body` is the model's, see `summarize`."""
    return [
        Row(deletion, summarize(of_deletion(records, deletion), body), milliseconds.get(deletion, math.nan))
        for deletion in deletions_in(records)
    ]


def group_table(title: str, records: Sequence[Record], field: str) -> Table:
    """Makes a table by task or language: examples, deletion rate, each deletion's loss, and the soft-hard gap.

    Args:
      field: the field of `Record` that tells the groups apart.
    """
    deletions = deletions_in(records)
    gate = [deletion for deletion in deletions if DELETIONS[deletion].heeds_selector]
    losses = [f"loss, {deletion}" for deletion in deletions]
    headings = [field, "examples", *(["deletion rate"] if gate else []), *losses]
    has_gap = soft_hard_gap(records) is not None
    table = _table(title, [*headings, "hard - soft"] if has_gap else headings)
    for name, group in group_by(records, field).items():
        by_deletion = {deletion: summarize(of_deletion(group, deletion)) for deletion in deletions}
        cells = [f"{len(of_deletion(group, deletions[0])):,}"]
        if gate:
            cells.append(_cell(by_deletion[gate[0]]["deletion_rate"], _percent))
        cells += [_cell(metrics["loss"], "{:.4f}".format) for metrics in by_deletion.values()]
        if has_gap:
            cells.append(f"{soft_hard_gap(group):+.4f}")
        table.add_row(label_of(name) or "-", *cells)
    return table


def cut_line(num_inputs: int, num_targets: int, num_examples: int) -> str:
    """Says how many examples were cut to the run's lengths; what is missing of a target was not asked for."""
    return (
        f"cut to fit: {num_inputs:,} inputs and {num_targets:,} targets of {num_examples:,} examples"
        f"{' (give the run longer INPUT_LENGTH, TARGET_LENGTH)' if num_inputs or num_targets else ''}"
    )


def gap_line(records: Sequence[Record]) -> str:
    """Says what the soft-hard gap is, or why there is none."""
    gap = soft_hard_gap(records)
    if gap is None:
        return "soft-hard gap: needs both soft and hard deletion"
    return f"soft-hard gap: hard deletion's loss is {gap:+.4f} nats per target token from soft deletion's"


MORE_THAN_SAVED = 0.1
"""How much more than its slots save a deletion may delete, as shares of positions, before a line says so."""


def saving_line(records: Sequence[Record]) -> str:
    """Says what would help where a deletion deletes much more than its slots save; empty where none does."""
    lines = []
    for deletion in filter(removes_positions, deletions_in(records)):
        known = [record for record in of_deletion(records, deletion) if record.input_length and record.num_input_tokens]
        if not known:
            continue
        deleted = summarize(known)["deletion_rate"]
        saved = 1 - sum(record.rung for record in known) / sum(record.input_length for record in known)
        if deleted - saved > MORE_THAN_SAVED:
            lines.append(f"{deletion} deletion deletes {deleted:.0%} of the inputs, and its slots save {saved:.0%}")
    if not lines:
        return ""
    return (
        f"{'; '.join(lines)}: rows that keep different numbers of positions run at one length; a larger "
        "config.ExecutionConfig.window, or more rungs, save more"
    )


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    for number, heading in enumerate(headings):
        longest_word = max(map(len, heading.split()), default=0)
        table.add_column(heading, justify="right" if number else "left", min_width=longest_word, no_wrap=number == 0)
    return table


def _cell(value: float, show: Callable[[float], str]) -> str:
    return "-" if math.isnan(value) else show(value)
