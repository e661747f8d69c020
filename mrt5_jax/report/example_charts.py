"""What deletion does to single examples: a chart of all, and those that lose most, with what the model writes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrt5_jax.data.task_names import label_of
from mrt5_jax.evaluation.comparison import Comparison, System, group_systems, undeleted_records
from mrt5_jax.evaluation.records import Record
from mrt5_jax.report.charts import Cell, ChartTable, Point, PointChart, Series, thinned
from mrt5_jax.report.evaluation_charts import task_title
from mrt5_jax.report.visible import visible_text
from mrt5_jax.selection.deletions import removes_positions

MOST_EXAMPLES = 1000
"""Of a system in the chart of examples."""
MOST_EXAMPLES_TOGETHER = 3000
"""Of all systems in such a chart: of many systems each has fewer examples, so that a page stays small."""
MOST_CHANGED = 10
"""Examples of a system that are shown with what the model writes."""
MOST_CHANGED_TOGETHER = 120
"""Of all systems on a task."""
MOST_LETTERS = 400
"""Of what a model writes."""


class ExampleChange(NamedTuple):
    """What deletion does to an example."""

    before: Record
    """Without deletion."""
    after: Record

    @property
    def deleted_share(self) -> float:
        """Of the input tokens, those that the gate deletes."""
        one = self.after
        return (one.num_input_tokens - one.num_kept_tokens - one.num_dropped_tokens) / one.num_input_tokens

    @property
    def increase(self) -> float:
        """Of the loss, nats per target token."""
        return (self.after.nll - self.before.nll) / self.after.num_target_tokens


class TaskExamples(NamedTuple):
    """What deletion does to the examples of a task."""

    number: int
    """Of the task among those that were compared, from 1."""
    title: str
    changes: Mapping[str, Sequence[ExampleChange]]
    """By the system's label, in the order of the records; only systems that have any."""


def task_examples(comparisons: Sequence[Comparison], records: Sequence[Record]) -> list[TaskExamples]:
    """Pairs the examples of each task with those without deletion; tasks without pairs are left out.

    Args:
        comparisons: of the records.
    """
    found = []
    by_task = zip(comparisons, group_systems(records).values(), strict=True)  # both group the records alike
    for number, (comparison, systems) in enumerate(by_task, start=1):
        changes = {visible_text(one.label): example_changes(one.system, systems) for one in comparison.systems}
        known = {label: own for label, own in changes.items() if own}
        if known:
            found.append(TaskExamples(number, task_title(comparison), known))
    return found


def example_changes(system: System, systems: Mapping[System, list[Record]]) -> list[ExampleChange]:
    """Pairs a system's records with those of the same checkpoint without deletion, in order.

    Returns:
        a pair for each example that both have, with input and target; none of a system that removes no positions.
    """
    if not removes_positions(system.deletion):
        return []
    before = {(record.task, record.index): record for record in undeleted_records(system, systems)}
    pairs = [(before.get((record.task, record.index)), record) for record in systems[system]]
    return [
        ExampleChange(own, record)
        for own, record in pairs
        if own is not None and record.num_input_tokens and record.num_target_tokens
    ]


def example_chart(of: TaskExamples) -> PointChart:
    """Makes the chart of how much each example's loss is above that without deletion, against what is deleted."""
    most = max(1, min(MOST_EXAMPLES, MOST_EXAMPLES_TOGETHER // len(of.changes)))
    series = []
    for look, (label, changes) in enumerate(of.changes.items()):
        shown = thinned(changes, most)
        points = [Point(change.deleted_share, change.increase, name=_example(change.after)) for change in shown]
        series.append(Series(label, points, "samples", look))
    labels = "deleted share of the example", "increase of its loss, nats per target token"
    note = f"Against the same checkpoint without deletion. Of more than {most:,} examples of a system every k-th."
    return PointChart(f"examples_{of.number}", f"Examples, {of.title}", *labels, series, note)


def changed_tables(of: TaskExamples) -> dict[str, ChartTable]:
    """Returns the examples whose loss rises most, a table for each system, with what the model writes to them."""
    most = max(1, min(MOST_CHANGED, MOST_CHANGED_TOGETHER // len(of.changes)))
    tables = {}
    for label, changes in of.changes.items():
        worst = sorted(changes, key=lambda change: change.increase, reverse=True)[:most]
        rows: list[list[Cell]] = [
            [
                _example(change.after),
                visible_text(change.after.language),
                change.deleted_share,
                change.increase,
                _written(change.before),
                _written(change.after),
            ]
            for change in worst
        ]
        headings = ["example", "language", "deleted share", "increase of the loss", "without deletion", "with"]
        tables[f"{of.title}: {label}"] = ChartTable(headings, rows)
    return tables


def _example(record: Record) -> str:
    return visible_text(f"{label_of(record.task)} {record.index}")


def _written(record: Record) -> str:
    """What the model wrote by itself or, if it did not, token by token given the target before it; not all of it."""
    text = record.prediction if record.generated is None else record.generated
    rest = len(text) - MOST_LETTERS
    return visible_text(text) if rest <= 0 else f"{visible_text(text[:MOST_LETTERS])}\u2026 ({rest:,} more characters)"
