"""Charts of evaluations, from their records: compression by language, loss against kept length, time."""

from collections.abc import Sequence

from mrt5_jax.evaluation.comparison import Comparison, SystemResults
from mrt5_jax.report.charts import CategoryChart, Cell, ChartTable, Point, PointChart, Series, pareto_front
from mrt5_jax.report.reading import RunResults
from mrt5_jax.report.visible import visible_text
from mrt5_jax.selection.deletions import DELETIONS

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
            title = f"Compression by language, {task_title(comparison)}"
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
        title = f"Loss against kept length, {task_title(comparison)}"
        labels = "kept length, input tokens", "loss, nats per target token"
        note = "Of all languages, weighted by examples; bars are standard errors. On the front "
        note += "are those of which no other system has both a length and a loss that are no higher."
        charts.append(PointChart(f"loss_kept_{number}", title, *labels, series, note))
    return charts


def task_title(comparison: Comparison) -> str:
    """Returns what a task with its split is called."""
    return visible_text(f"{comparison.task} ({comparison.split})" if comparison.split else comparison.task)


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
