"""Tables: the figures of the records, each in its column, the soft-hard gap always beside them."""

import io
import math

import pytest
from rich.console import Console

from mrt5_jax.evaluation.records import Record, summarize
from mrt5_jax.evaluation.tables import Row, cut_line, deletion_rows, gap_line, group_table, results_table, saving_line

RECORDS = [
    Record("t", language, index, deletion, nll, 4, correct, correct == 4, 10, 6, rung, False, "")
    for index, language in enumerate(["el", "el", "de"])
    for deletion, nll, correct, rung in (("soft", 1.0, 4, 16), ("hard", 1.5 + index, 3, 8))
]


def cells(table) -> list[list[str]]:
    """A table's rows, headings first."""
    return [list(row) for row in zip(*([column.header, *column.cells] for column in table.columns), strict=True)]


def test_results_by_deletion() -> None:
    headings, soft, hard = cells(results_table("t", deletion_rows(RECORDS, {"soft": 12.34, "hard": 5.0})))
    assert headings == [
        *("", "sequence accuracy", "token accuracy", "loss", "deletion rate", "kept length", "slots", "ms a batch"),
    ]
    assert soft == ["soft", "100.00%", "100.00%", "0.2500", "40.00%", "6.0", "16.0", "12.3"]
    assert hard == ["hard", "0.00%", "75.00%", "0.6250", "40.00%", "6.0", "8.0", "5.0"]


def test_what_was_saved_has_columns_where_it_is_known() -> None:
    """Of a body whose work is its slots; and a line says so where much more is deleted than saved."""
    known = [record._replace(input_length=16) for record in RECORDS]
    headings, soft, hard = cells(results_table("t", deletion_rows(known, {}, lambda slots: slots)))
    at = headings.index("saved")
    assert headings[at : at + 2] == ["saved", "exact"]
    assert (soft[at : at + 2], hard[at : at + 2]) == (["0.0%", "62.5%"], ["50.0%", "62.5%"])
    assert saving_line(known) == "", "40 % of the inputs are deleted, and half of the slots saved"
    wasteful = [record._replace(rung=15) for record in known]
    assert saving_line(wasteful).startswith("hard deletion deletes 40% of the inputs, and its slots save 6%: ")
    assert saving_line(RECORDS) == "", "of records that do not say how long their batches were, nothing is said"


def test_what_a_capacity_dropped_has_a_column_where_there_is_any() -> None:
    """It is no part of the deletion rate: of 10 tokens 6 are kept, 1 dropped and 3 deleted."""
    records = [record._replace(num_dropped_tokens=record.deletion == "hard") for record in RECORDS]
    headings, soft, hard = cells(results_table("t", deletion_rows(records, {})))
    at = headings.index("dropped")
    assert (soft[at], hard[at]) == ("0.0", "1.0")
    assert hard[headings.index("deletion rate")] == "30.00%"


def test_results_fit_a_terminal() -> None:
    """At 80 columns no figure and no heading is cut."""
    console = Console(file=io.StringIO(), width=80)
    shares = {"sequence_accuracy": 1.0, "saved": 0.1234, "saved_if_exact": 0.4567}
    console.print(results_table("t", [Row("MrT5 hard", summarize(RECORDS) | shares, 1234.5)]))
    printed = console.file.getvalue()
    assert "…" not in printed
    assert all(
        word in printed
        for word in ("sequence", "accuracy", "100.00%", "12.3%", "45.7%", "1234.5", "MrT5 hard", "deletion")
    )


def test_what_is_not_known_is_a_dash() -> None:
    """Neither NaN nor a zero that nobody measured."""
    assert cells(results_table("t", [Row("ByT5", summarize([]), math.nan)]))[1] == ["ByT5", *["-"] * 7]


def test_groups_with_their_gaps() -> None:
    headings, greek, german = cells(group_table("by language", RECORDS, "language"))
    assert headings == ["language", "examples", "deletion rate", "loss, soft", "loss, hard", "hard - soft"]
    assert greek == ["el", "2", "40.00%", "0.2500", "0.5000", "+0.2500"]
    assert german == ["de", "1", "40.00%", "0.2500", "0.8750", "+0.6250"]


def test_groups_without_a_gate() -> None:
    """No rate and no gap where nothing can be deleted; a nameless group has a dash."""
    records = [record._replace(deletion="none", language="") for record in RECORDS if record.deletion == "soft"]
    assert cells(group_table("by language", records, "language")) == [
        ["language", "examples", "loss, none"],
        ["-", "3", "0.2500"],
    ]


@pytest.mark.parametrize(
    ("deletions", "expected"), [({"soft", "hard"}, "loss is +0.3750 nats"), ({"hard"}, "needs both soft and hard")]
)
def test_gap_is_told_or_why_there_is_none(deletions: set[str], expected: str) -> None:
    assert expected in gap_line([record for record in RECORDS if record.deletion in deletions])


def test_what_was_cut_is_in_the_table() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(results_table("t", deletion_rows(RECORDS, {}), cut_line(2, 1, 3)))
    assert (
        "cut to fit: 2 inputs and 1 targets of 3 examples (give the run longer INPUT_LENGTH" in console.file.getvalue()
    )
    assert cut_line(0, 0, 3) == "cut to fit: 0 inputs and 0 targets of 3 examples"
