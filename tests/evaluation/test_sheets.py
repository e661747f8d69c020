"""Tables in every form: the figures of the records, each with its error, the total beside the languages."""

import csv
import io
import json
import math

import pytest
from rich.console import Console

from mrt5_jax.evaluation.comparison import compare
from mrt5_jax.evaluation.records import Record
from mrt5_jax.evaluation.sheets import (
    TOTAL,
    WRITERS,
    explain_figures,
    sheets,
    terminal_grids,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
)

from .many_records import random_evaluation

COMPARED = compare(random_evaluation(40), 20)

TWO = [
    Record("t", language, index, "hard", nll, 4, 4, True, 10, 6, 8, False, "", metrics={"f1": f1}, generated="a")
    for index, (language, nll, f1) in enumerate([("el", 1.0, 50.0), ("el", 3.0, 100.0), ("de_x", 2.0, 0.0)])
]


def test_a_row_for_each_system_and_a_table_of_languages_for_each_figure() -> None:
    found = {sheet.title: sheet for sheet in sheets(compare(TWO, 20))}
    assert list(found)[:2] == ["t, predictions", "t, deletion"]
    predictions = found["t, predictions"]
    assert predictions.headings[:2] == ["", "examples"]
    assert predictions.rows[0][:2] == ["hard", "3"]
    assert "f1" in predictions.headings
    assert "dropped" not in found["t, deletion"].headings, "nothing was"
    f1 = found["t, f1"]
    assert f1.headings == ["language", "examples", "hard"]
    assert [row[:2] for row in f1.rows] == [["el", "2"], ["de_x", "1"], [TOTAL, "3"]]
    assert [row[2].split(" ")[0] for row in f1.rows] == ["75.00", "0.00", "50.00"]
    assert f1.rows[1][2] == "0.00", "one example has no error"
    assert [row[2].split(" ")[0] for row in found["t, loss"].rows] == ["0.5000", "0.5000", "0.5000"]


def test_a_language_that_a_system_has_not_is_a_dash() -> None:
    other = [record._replace(model="other") for record in TWO[:2]]
    (loss,) = (sheet for sheet in sheets(compare([*TWO, *other], 20)) if sheet.title == "t, loss")
    assert loss.headings[2:] == ["model, hard", "other, hard"]
    assert loss.rows[1][3] == "-"


def test_tasks_without_languages_have_no_table_of_them() -> None:
    one = [record._replace(language="") for record in TWO]
    assert [sheet.title for sheet in sheets(compare(one, 20))] == ["t, predictions", "t, deletion"]


def test_several_tasks_of_a_language_have_a_table_for_each_figure() -> None:
    """In the order of their labels, whatever that of the records; where languages tell tasks apart, there is none."""
    keys = {"noise.swap_0.1": ":0123456789ab", "noise": ":ba9876543210", "noise.swap_0.05": ":aaaaaaaaaaaa"}
    mixed = [
        record._replace(mixture="suite", task=f"{label}{key}", nll=record.nll + number)
        for number, (label, key) in enumerate(keys.items())
        for record in TWO
    ]
    found = {sheet.title: sheet for sheet in sheets(compare(mixed, 20))}
    loss = found["suite, loss by task"]
    assert loss.headings == ["task", "examples", "hard"]
    assert [row[:2] for row in loss.rows] == [["noise", "3"], ["noise.swap_0.05", "3"], ["noise.swap_0.1", "3"]]
    assert [row[2].split(" ")[0] for row in loss.rows] == ["0.7500", "1.0000", "0.5000"]
    rows = [row for row in csv.DictReader(io.StringIO(to_csv(compare(mixed, 20)))) if row["figure"] == "loss"]
    assert {row["task"]: float(row["value"]) for row in rows if row["language"] == "all"} == {
        "suite": 0.75, "noise": 0.75, "noise.swap_0.05": 1.0, "noise.swap_0.1": 0.5,
    }  # fmt: skip
    apart = [record._replace(mixture="suite", task=f"t.{record.language}") for record in TWO]
    assert not any("by task" in sheet.title for sheet in sheets(compare(apart, 20)))


def test_csv_has_the_values_of_json_to_the_last_digit() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(COMPARED))))
    values = json.loads(to_json(COMPARED))
    assert len(rows) == len(values) > 40
    for row, value in zip(rows, values, strict=True):
        assert float(row["value"]) == value["value"]
        assert (row["standard_error"] == "") == (value["standard_error"] is None)
        assert row["language"] == ("all" if value["language"] is None else value["language"])
        assert (row["figure"], row["deletion"]) == (value["figure"], value["deletion"])
    hard = COMPARED[0].systems[1]
    (loss,) = (one for one in values if (one["deletion"], one["language"], one["figure"]) == ("hard", None, "loss"))
    assert (loss["value"], loss["standard_error"], loss["num_examples"]) == (*hard.total["loss"], 40)
    assert not any(math.isnan(one["value"]) for one in values)


@pytest.mark.parametrize("ending", WRITERS)
def test_the_same_records_make_the_same_bytes(ending: str) -> None:
    assert WRITERS[ending](COMPARED) == WRITERS[ending](compare(random_evaluation(40), 20))


def test_markdown_has_every_cell_in_its_column() -> None:
    text = to_markdown(compare(TWO, 20))
    lines = text.split("**t, f1**\n\n")[1].splitlines()[:5]
    assert lines[0] == "| language | examples | hard |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[3] == r"| de\_x | 1 | 0.00 |"
    assert {line.count("|") for line in lines} == {4}


def test_latex_is_escaped_and_complete() -> None:
    text = to_latex(compare(TWO, 20))
    assert r"de\_x & 1 & 0.00 \\" in text
    assert r"100.00\% $\pm$ 0.00\%" in text
    assert "\u00b1" not in text
    for word in ("table", "tabular"):
        assert text.count(rf"\begin{{{word}}}") == text.count(rf"\end{{{word}}}") == len(sheets(compare(TWO, 20)))


def test_figures_fit_a_terminal_and_are_explained() -> None:
    """In wide and narrow ones nothing is cut or lost; each heading has its line."""
    found = sheets(COMPARED)
    for width in (100, 80, 40):
        console = Console(file=io.StringIO(), width=width)
        for sheet in found:
            grids = list(terminal_grids(sheet, width))
            assert sum(len(grid.columns) - 1 for grid in grids) == len(sheet.headings) - 1
            for grid in grids:
                console.print(grid)
        shown = console.file.getvalue()
        assert "\u2026" not in shown
        assert all(part in shown for sheet in found for row in sheet.rows for cell in row for part in cell.split())
    headings = {heading for sheet in found[:2] for heading in sheet.headings[2:]}
    assert {line.split(":")[0] for line in explain_figures(COMPARED)} == headings
