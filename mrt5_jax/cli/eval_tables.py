"""Tables of records for `mrt5 eval`: on the terminal, and as files for papers and programs."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, given_path

if TYPE_CHECKING:
    from mrt5_jax.evaluation.comparison import Evaluations

_BESIDE_RECORDS = ("from_records", "tables")
"""Flags that go with records; all others are of models."""


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --from_records and --tables."""
    group = parser.add_argument_group("tables")
    group.add_argument(
        "--from_records",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="make the tables again, or of several evaluations together, without a model: records.jsonl or the "
        "folder of an evaluation; as NAME=PATH, NAME is what the tables call its model",
    )
    group.add_argument(
        "--tables",
        nargs="+",
        action="extend",
        type=given_path,
        default=[],
        metavar="FILE",
        help="write the tables as well: .csv, .json, .md or .tex, as the file's name ends",
    )


def check_tables(args: argparse.Namespace) -> None:
    """Refuses files of an unknown kind, and flags of models beside records.

    Raises:
        UserError: naming the first of them.
    """
    from mrt5_jax.evaluation.sheets import WRITERS

    for path in args.tables:
        if _ending(path) not in WRITERS:
            raise UserError(f"--tables={path}: give a name that ends with {', '.join(WRITERS)}")
    if not args.from_records:
        return
    given = [f"--{name}" for name, value in vars(args).items() if name not in _BESIDE_RECORDS and _is_given(value)]
    if given:
        flag = f"--gin.{args.gin_bindings[0]}" if given == ["--gin_bindings"] else given[0]
        raise UserError(f"{flag}: has no effect on records, of which --from_records makes tables: leave it out")


def tables_of_records(args: argparse.Namespace) -> int:
    """Prints and writes the tables of --from_records; returns the exit code."""
    from rich.console import Console

    from mrt5_jax.evaluation.comparison import read_evaluations

    print_comparisons(Console(), read_evaluations(args.from_records), args.tables)
    return 0


def print_comparisons(console: Any, evaluations: "Evaluations", files: Sequence[str]) -> None:
    """Prints the tables of evaluations with their standard errors, and writes them to files.

    Raises:
        UserError: a file cannot be written.
    """
    from mrt5_jax.evaluation.comparison import compare
    from mrt5_jax.evaluation.sheets import WRITERS, explain_figures, sheets, terminal_grids
    from mrt5_jax.runs.model_dir import write_atomically

    comparisons = compare(evaluations.records, costs=evaluations.costs)
    for sheet in sheets(comparisons):
        for grid in terminal_grids(sheet, console.width):
            console.print(grid)
    figures = "; ".join(explain_figures(comparisons))
    text = f"\u00b1: standard error, by bootstrap over examples. {figures}"
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
    for path in files:
        with explained(path, "--tables="):
            write_atomically(path, WRITERS[_ending(path)](comparisons))
        console.print(f"written: {path}", soft_wrap=True, highlight=False, markup=False)


def _ending(path: str) -> str:
    return os.path.splitext(path)[1]


def _is_given(value: Any) -> bool:
    return not (value is None or value is False or value == "" or value == [])
