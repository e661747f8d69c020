"""What the page has, section by section."""

import dataclasses
from collections.abc import Mapping, Sequence

from mrt5_jax.evaluation.comparison import Comparison, compare
from mrt5_jax.evaluation.sheets import explain_figures, sheets
from mrt5_jax.report.charts import Cell, Chart, ChartTable
from mrt5_jax.report.evaluation_charts import language_charts, loss_charts, runtime_chart, runtime_table
from mrt5_jax.report.example_charts import changed_tables, example_chart, task_examples
from mrt5_jax.report.reading import RunResults
from mrt5_jax.report.texts import TextsOfModel, coloured_texts, kind_chart
from mrt5_jax.report.training_charts import training_charts
from mrt5_jax.report.visible import visible_text


@dataclasses.dataclass(frozen=True)
class ReportSection:
    """A section of the page; a part that it lacks is empty."""

    heading: str
    lines: Sequence[str] = ()
    """Paragraphs below the heading."""
    charts: Sequence[Chart] = ()
    tables: Mapping[str, ChartTable] = dataclasses.field(default_factory=dict)
    """By title."""
    fragments: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Finished HTML, by title."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing would stand below the heading."""
        return not (self.charts or self.tables or self.fragments)


def report_sections(
    runs: Sequence[RunResults],
    texts: Sequence[TextsOfModel] = (),
    notes: Sequence[str] = (),
    example_tasks: int = 4,
) -> list[ReportSection]:
    """Makes the sections of a report; those for which there are no numbers are left out.

    Args:
        runs: whose names differ.
        texts: what models delete of the same texts.
        notes: sentences about what was left out, beside those of the runs.
        example_tasks: of how many tasks, the first ones, examples are shown one by one.
    """
    records = [record for run in runs for record in run.records]
    comparisons = compare(records)
    runtime = runtime_chart(runs)
    examples = task_examples(comparisons, records)
    shown = examples[:example_tasks]
    said = [*notes, *(note for run in runs for note in run.notes)]
    if left_out := [one.title for one in examples[len(shown) :]]:
        said.append(
            f"Examples are shown of {len(shown)} of {len(examples)} tasks; left out (--example_tasks): "
            f"{'; '.join(left_out)}"
        )
    sections = [
        ReportSection("Runs", list(map(visible_text, said)), tables={"": _run_table(runs)}),
        ReportSection("Training", charts=training_charts(runs)),
        ReportSection("Compression by language", charts=language_charts(comparisons)),
        ReportSection("Loss against kept length", charts=loss_charts(comparisons)),
        ReportSection(
            "Runtime", charts=[] if runtime is None else [runtime], tables=_if_rows("Clocked", runtime_table(runs))
        ),
        ReportSection(
            "Examples",
            [
                "The tables have the examples whose loss rises most, and what the model writes to them: by itself or, "
                "where nothing was generated, token by token given the target before it."
            ],
            list(map(example_chart, shown)),
            {title: table for one in shown for title, table in changed_tables(one).items()},
        ),
        ReportSection(
            "What is deleted",
            charts=[kind_chart(number, one) for number, one in enumerate(texts, start=1)],
            fragments={f"{visible_text(one.model)}, step {one.step:,}": coloured_texts(one) for one in texts},
        ),
        ReportSection("All figures", _explained(comparisons), tables=_figures(comparisons)),
    ]
    return [section for section in sections if not section.is_empty]


def _run_table(runs: Sequence[RunResults]) -> ChartTable:
    rows: list[list[Cell]] = []
    for run in runs:
        steps = run.last_step if run.metrics else "-"
        of = "-" if run.num_steps is None else run.num_steps
        rows.append([visible_text(run.name), visible_text(run.folder), steps, of, len(run.records)])
    return ChartTable(["run", "MODEL_DIR", "steps made", "of", "records"], rows)


def _if_rows(title: str, table: ChartTable) -> dict[str, ChartTable]:
    return {title: table} if table.rows else {}


def _explained(comparisons: Sequence[Comparison]) -> list[str]:
    lines = [visible_text(line) for line in explain_figures(comparisons)]
    return ["\u00b1: standard error, by bootstrap over examples.", *lines]


def _figures(comparisons: Sequence[Comparison]) -> dict[str, ChartTable]:
    """The tables of `mrt5 eval`."""
    return {
        visible_text(sheet.title): ChartTable(
            [*map(visible_text, sheet.headings)], [[visible_text(cell) for cell in row] for row in sheet.rows]
        )
        for sheet in sheets(comparisons)
    }
