"""Comparisons as tables for reading and papers, and as values for programs: terminal, Markdown, LaTeX, JSON, CSV."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table as Grid

from mrt5_jax.data.task_names import label_of
from mrt5_jax.evaluation.comparison import Comparison, SystemResults, TaskResults
from mrt5_jax.evaluation.estimates import OWN_METRIC, Estimate, Estimates, describe_figure

TOTAL = "all, by examples"
"""Names the row of all languages together, weighted by their numbers of examples."""


def _percent(value: float) -> str:
    return f"{value:.2%}"


_QUALITY: Mapping[str, Callable[[float], str]] = {
    "sequence_accuracy": _percent,
    "token_accuracy": _percent,
    "loss": "{:.4f}".format,
    "bits_per_target_token": "{:.4f}".format,
    "bits_per_text_byte": "{:.4f}".format,
    "generated_accuracy": _percent,
    "label_accuracy": _percent,
}
"""Figures of what a model predicts -> how they are written; the tasks' own metrics follow them."""

_DELETION: Mapping[str, Callable[[float], str]] = {
    "deletion_rate": _percent,
    "dropped_share": _percent,
    "kept_length": "{:.1f}".format,
    "kept_length_p95": "{:.1f}".format,
    "kept_length_max": "{:.0f}".format,
    "loss_increase_correlation": "{:+.3f}".format,
}

_COST: Mapping[str, Callable[[float], str]] = {
    "runtime": lambda value: f"{value:.3f}" if value < 10 else f"{value:,.1f}",
    "speedup": "{:.2f}".format,
    "multiply_adds": lambda value: f"{value / 1e6:,.1f}",
    "ideal_speedup": "{:.2f}".format,
}
"""Figures of what forward passes cost."""

_HEADINGS = {
    "bits_per_target_token": "bits per target token",
    "bits_per_text_byte": "bits per byte of text",
    "generated_accuracy": "written exactly",
    "label_accuracy": "most probable label",
    "dropped_share": "dropped",
    "kept_length_p95": "kept, 95 %",
    "kept_length_max": "kept, most",
    "loss_increase_correlation": "r, deleted and loss increase",
    "runtime": "ms an example",
    "speedup": "speed-up",
    "multiply_adds": "multiply-adds, millions",
    "ideal_speedup": "ideal speed-up",
}


class Sheet(NamedTuple):
    """A table of texts; the first column names the rows."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def sheets(comparisons: Sequence[Comparison]) -> list[Sheet]:
    """Makes the tables of some comparisons: a row for each system; by language and by task a table for each figure.

    A cell is a figure with its standard error or its range, or a dash where nothing was counted.
    """
    found = []
    for comparison in comparisons:
        title = f"{comparison.task} ({comparison.split})" if comparison.split else comparison.task
        totals = [one.total for one in comparison.systems]
        kinds = {
            "predictions": _quality_of(totals),
            "deletion": _known(_DELETION, totals),
            "cost": _known(_COST, totals),
        }
        for kind, names in kinds.items():
            if names:
                rows = [_system_row(one, names) for one in comparison.systems]
                found.append(Sheet(f"{title}, {kind}", ["", "examples", *map(_heading, names)], rows))
        if len(comparison.languages) > 1:
            names = [name for of_kind in kinds.values() for name in of_kind]
            found += [_by_language(f"{title}, {_heading(name)}", comparison, name) for name in names]
        if comparison.tasks:
            own = [*_quality_of(totals), *_known(_DELETION, totals)]
            found += [_by_task(f"{title}, {_heading(name)} by task", comparison, name) for name in own]
    return found


def explain_figures(comparisons: Sequence[Comparison]) -> list[str]:
    """Says what each figure of the tables is, a line for each."""
    totals = [one.total for comparison in comparisons for one in comparison.systems]
    names = (*_quality_of(totals), *_known(_DELETION, totals), *_known(_COST, totals))
    return [f"{_heading(name)}: {describe_figure(name)}" for name in names]


def _quality_of(totals: Sequence[Estimates]) -> list[str]:
    own = dict.fromkeys(name for total in totals for name in total if name.startswith(OWN_METRIC))
    return [*_known(_QUALITY, totals), *_known(own, totals)]


def _known(names: Mapping[str, Any], totals: Sequence[Estimates]) -> list[str]:
    """Of these figures, those that any system has; what is dropped has a column where anything is."""
    nothing = Estimate(math.nan)
    found = [name for name in names if any(not math.isnan(total.get(name, nothing).value) for total in totals)]
    return [name for name in found if name != "dropped_share" or any(total[name].value > 0 for total in totals)]


def _heading(name: str) -> str:
    return _HEADINGS.get(name, name.removeprefix(OWN_METRIC).replace("_", " "))


def _system_row(one: SystemResults, names: Sequence[str]) -> list[str]:
    return [one.label, f"{sum(one.num_examples.values()):,}", *(_cell(one.total, name) for name in names)]


def _by_language(title: str, comparison: Comparison, name: str) -> Sheet:
    rows = []
    for language in comparison.languages:
        count = max(one.num_examples.get(language, 0) for one in comparison.systems)
        cells = [_cell(one.languages.get(language, {}), name) for one in comparison.systems]
        rows.append([language or "-", f"{count:,}", *cells])
    count = max(sum(one.num_examples.values()) for one in comparison.systems)
    rows.append([TOTAL, f"{count:,}", *(_cell(one.total, name) for one in comparison.systems)])
    return Sheet(title, ["language", "examples", *(one.label for one in comparison.systems)], rows)


def _by_task(title: str, comparison: Comparison, name: str) -> Sheet:
    rows = []
    for task in comparison.tasks:
        found = [one.tasks.get(task, TaskResults(0, {})) for one in comparison.systems]
        count = max(own.num_examples for own in found)
        rows.append([label_of(task), f"{count:,}", *(_cell(own.estimates, name) for own in found)])
    return Sheet(title, ["task", "examples", *(one.label for one in comparison.systems)], rows)


def _cell(estimates: Estimates, name: str) -> str:
    value, error = estimates.get(name, Estimate(math.nan))
    if math.isnan(value):
        return "-"
    show = {**_QUALITY, **_DELETION, **_COST}.get(name, "{:.2f}".format)
    if name == "runtime":
        return f"{show(value)} ({show(estimates['runtime_min'].value)} to {show(estimates['runtime_max'].value)})"
    return show(value) if math.isnan(error) else f"{show(value)} \u00b1 {show(error)}"


def terminal_grids(sheet: Sheet, width: int) -> Iterator[Grid]:
    """Yields a sheet as tables that fit a terminal, one below the other where the columns are too many for it.

    A standard error or a range stands below its figure; the first column is in every table.

    Args:
        width: of the terminal, in cells.
    """
    columns = list(zip(sheet.headings, *sheet.rows, strict=True))
    widths = [_width_of(heading, cells) for heading, *cells in columns]
    for place, numbers in enumerate(_fitting(widths, width)):
        title = None if place else escape(sheet.title)
        grid = Grid(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))
        for number in numbers:
            justify = "right" if number else "left"
            grid.add_column(escape(sheet.headings[number]), justify=justify, width=widths[number], overflow="fold")
        for row in sheet.rows:
            grid.add_row(*(escape(_in_lines(row[number])) for number in numbers))
        yield grid


_BETWEEN = 3
"""Cells that a column takes besides its text."""


def _fitting(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each table, the first one in all."""
    groups: list[list[int]] = []
    free = 0
    for number, own in enumerate(widths[1:], start=1):
        if own + _BETWEEN > free:
            groups.append([0])
            free = width - 1 - (widths[0] + _BETWEEN)
        groups[-1].append(number)
        free -= own + _BETWEEN
    return groups


def _width_of(heading: str, cells: Sequence[str]) -> int:
    """Of the heading's longest word, or of the longest line."""
    lines = [line for cell in cells for line in _in_lines(cell).split("\n")]
    return max(1, *map(cell_len, (*heading.split(), *lines)))


def _in_lines(cell: str) -> str:
    return cell.replace(" \u00b1 ", "\n\u00b1").replace(" (", "\n(")


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """Writes all tables as Markdown."""
    return "\n".join(_markdown(sheet) for sheet in sheets(comparisons))


def _markdown(sheet: Sheet) -> str:
    lines = [sheet.headings, ["---", *["---:"] * (len(sheet.headings) - 1)], *sheet.rows]
    table = "".join(f"| {' | '.join(map(_markdown_text, line))} |\n" for line in lines)
    return f"**{_markdown_text(sheet.title)}**\n\n{table}"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "\u00b1": r"$\pm$"},
}


def to_latex(comparisons: Sequence[Comparison]) -> str:
    """Writes all tables as LaTeX; they need the package booktabs."""
    return "\n".join(_latex(sheet) for sheet in sheets(comparisons))


def _latex(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(map(_latex_text, cells))} \\\\\n"

    rows = "".join(map(line, sheet.rows))
    columns = "l" + "r" * (len(sheet.headings) - 1)
    table = f"\\toprule\n{line(sheet.headings)}\\midrule\n{rows}\\bottomrule\n"
    return (
        f"\\begin{{table}}\n\\caption{{{_latex_text(sheet.title)}}}\n\\centering\n"
        f"\\begin{{tabular}}{{{columns}}}\n{table}\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


_VALUE_FIELDS = (
    *("task", "split", "model", "step", "deletion", "threshold", "search"),
    *("language", "num_examples", "figure", "value", "standard_error"),
)


def values(comparisons: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    """Yields one figure at a time, by name, with all that it is of; those that nothing was counted for are left out.

    `language` is null for all languages together; numbers that nobody knows are null. Tasks of a mixture come after it.
    """
    for comparison in comparisons:
        for one in comparison.systems:
            counts = one.num_examples
            languages = [(comparison.task, language, counts[language], own) for language, own in one.languages.items()]
            total = comparison.task, None, sum(counts.values()), one.total
            tasks = [(label_of(task), None, own.num_examples, own.estimates) for task, own in one.tasks.items()]
            for task, language, count, estimates in (*languages, total, *tasks):
                about = {"task": task, "split": comparison.split, **one.system._asdict()}
                about |= {"language": language, "num_examples": count}
                for name, (value, error) in estimates.items():
                    if not math.isnan(value):
                        known = None if math.isnan(error) else error
                        yield about | {"figure": name, "value": value, "standard_error": known}


def to_json(comparisons: Sequence[Comparison]) -> str:
    """Writes `values` as a list of objects."""
    return json.dumps(list(values(comparisons)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """Writes `values` as rows of CSV, in full precision; what is null is empty, `language` of all languages "all"."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _VALUE_FIELDS, lineterminator="\n")
    writer.writeheader()
    for value in values(comparisons):
        writer.writerow(value | {"language": "all" if value["language"] is None else value["language"]})
    return text.getvalue()


WRITERS: Mapping[str, Callable[[Sequence[Comparison]], str]] = {
    ".json": to_json,
    ".csv": to_csv,
    ".md": to_markdown,
    ".tex": to_latex,
}
"""Ending of a file's name -> what writes such a file."""
