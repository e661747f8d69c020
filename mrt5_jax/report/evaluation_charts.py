"""Charts of evaluations, from their records: compression by language, loss against kept length, time, examples."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrt5_jax.data.task_names import label_of
from mrt5_jax.evaluation.comparison import Comparison, System, SystemResults, group_systems, undeleted_records
from mrt5_jax.evaluation.records import Record
from mrt5_jax.report.charts import (
    CategoryChart,
    Cell,
    ChartTable,
    Point,
    PointChart,
    Series,
    pareto_front,
    thinned,
)
from mrt5_jax.report.reading import RunResults
from mrt5_jax.report.visible import visible_text
from mrt5_jax.selection.deletions import DELETIONS, removes_positions

MOST_EXAMPLES = 1000
"""Of a system in the chart of examples."""
MOST_CHANGED = 10
"""Examples that are shown with what the model writes."""

_ALL = "all languages"


def language_charts(comparisons: Sequence[Comparison]) -> list[CategoryChart]:
    """Makes a chart a task: the share of input tokens that each system deletes, by language."""
    charts = []
    for number, comparison in enumerate(comparisons, start=1):
        systems = [one for one in comparison.systems if DELETIONS[one.system.deletion].heeds_selector]
        names = {language: visible_text(language) or _ALL for language in comparison.languages}
        series = {
            visible_text(one.label): {
                names[language]: estimates["deletion_rate"] for language, estimates in one.languages.items()
            }
            for one in systems
        }
        if series:
            title = f"Compression by language, {_title(comparison)}"
            note = "Bars are standard errors."
            places = list(names.values())
            charts.append(
                CategoryChart(f"compression_{number}", title, "language", "deletion rate", places, series, note)
            )
    return charts


def loss_charts(comparisons: Sequence[Comparison]) -> list[PointChart]:
    """Makes a chart a task: the loss of each system against the length that it keeps, with the Pareto front."""
    charts = []
    for number, comparison in enumerate(comparisons, start=1):
        series = [
            Series(visible_text(one.label), [_loss_point(one)], "point", look)
            for look, one in enumerate(comparison.systems)
        ]
        front = pareto_front(point for one in series for point in one.points)
        if len(front) > 1:
            series.append(Series("Pareto front", front, "front", len(series)))
        title = f"Loss against kept length, {_title(comparison)}"
        labels = "kept length, input tokens", "loss, nats per target token"
        note = "Of all languages, weighted by examples; bars are standard errors. On the front "
        note += "are those of which no other system has both a length and a loss that are no higher."
        charts.append(PointChart(f"loss_kept_{number}", title, *labels, series, note))
    return charts


def _loss_point(one: SystemResults) -> Point:
    kept, loss = one.total["kept_length"], one.total["loss"]
    return Point(kept.value, loss.value, kept.error, loss.error)


def runtime_chart(runs: Sequence[RunResults]) -> PointChart | None:
    """Makes the chart of the time that deletion saves against what exact lengths could save; None without timings."""
    series = []
    for look, run in enumerate(runs):
        points = [
            Point(
                time.saved_if_exact,
                1 - time.milliseconds / time.undeleted_milliseconds,
                name=visible_text(f"{time.task} ({time.split}), step {time.step}, {time.deletion}"),
            )
            for time in run.times
            if time.undeleted_milliseconds > 0
        ]
        if points:
            series.append(Series(visible_text(run.name), points, "point", look))
    if not series:
        return None
    series.append(Series("ideal", [Point(0.0, 0.0), Point(1.0, 1.0)], "front", len(runs)))
    note = "To the right: the share of the multiply-adds after the gate that exactly the kept lengths would save. "
    note += "Upwards: the share of a batch's time, layers before the gate included, that is saved against no deletion."
    labels = "work saved if exact", "time saved"
    return PointChart("runtime", "Runtime against ideal", *labels, series, note)


def runtime_table(runs: Sequence[RunResults]) -> ChartTable:
    """Returns the clocked times behind `runtime_chart`."""
    rows: list[list[Cell]] = [
        [
            visible_text(run.name),
            visible_text(f"{time.task} ({time.split}), step {time.step}"),
            time.deletion,
            time.milliseconds,
            time.undeleted_milliseconds,
            time.saved,
            time.saved_if_exact,
        ]
        for run in runs
        for time in run.times
    ]
    headings = ["run", "evaluation", "deletion", "ms a batch", "ms without deletion", "work saved", "saved if exact"]
    return ChartTable(headings, rows)


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


def example_charts(comparisons: Sequence[Comparison], records: Sequence[Record]) -> list[PointChart]:
    """Makes a chart a task: the increase of each example's loss over that without deletion, against what is deleted.

    Args:
        comparisons: of the records.
    """
    charts = []
    for number, (comparison, systems) in enumerate(_paired(comparisons, records), start=1):
        series = []
        for one in comparison.systems:
            changes = example_changes(one.system, systems)
            if changes:
                points = [
                    Point(change.deleted_share, change.increase, name=_example(change.after)) for change in changes
                ]
                label = visible_text(one.label)
                series.append(Series(label, thinned(points, MOST_EXAMPLES), "samples", len(series)))
        if series:
            title = f"Examples, {_title(comparison)}"
            labels = "deleted share of the example", "increase of its loss, nats per target token"
            note = f"Against the same checkpoint without deletion. Of more than {MOST_EXAMPLES:,} examples every k-th."
            charts.append(PointChart(f"examples_{number}", title, *labels, series, note))
    return charts


def changed_tables(comparisons: Sequence[Comparison], records: Sequence[Record]) -> dict[str, ChartTable]:
    """Returns the examples whose loss deletion raises most, by what they are of: with what the model writes to them.

    Args:
        comparisons: of the records.
    """
    tables = {}
    for comparison, systems in _paired(comparisons, records):
        for one in comparison.systems:
            changes = sorted(example_changes(one.system, systems), key=lambda change: change.increase, reverse=True)
            rows: list[list[Cell]] = [
                [
                    _example(change.after),
                    visible_text(change.after.language),
                    change.deleted_share,
                    change.increase,
                    visible_text(_written(change.before)),
                    visible_text(_written(change.after)),
                ]
                for change in changes[:MOST_CHANGED]
            ]
            if rows:
                title = f"{_title(comparison)}: {visible_text(one.label)}"
                headings = ["example", "language", "deleted share", "increase of the loss", "without deletion", "with"]
                tables[title] = ChartTable(headings, rows)
    return tables


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


def _paired(
    comparisons: Sequence[Comparison], records: Sequence[Record]
) -> list[tuple[Comparison, dict[System, list[Record]]]]:
    """Comparisons with the records that they were made of; both group them alike."""
    return list(zip(comparisons, group_systems(records).values(), strict=True))


def _example(record: Record) -> str:
    return visible_text(f"{label_of(record.task)} {record.index}")


def _written(record: Record) -> str:
    """What the model wrote by itself or, if it did not, token by token given the target before it."""
    return record.prediction if record.generated is None else record.generated


def _title(comparison: Comparison) -> str:
    return visible_text(f"{comparison.task} ({comparison.split})" if comparison.split else comparison.task)
