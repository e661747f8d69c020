"""Every deletion has its line in the table, and the table is where a deletion's name is asked about."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from mrt5_jax.config import Deletion, TrainingDeletion
from mrt5_jax.selection.deletions import DELETIONS

NAMES = {*get_args(Deletion), *get_args(TrainingDeletion)}
ALSO_OTHER_THINGS = {"none", "random"}
"""Names of other options too (rematerialisation, selectors): they count where something is called a deletion."""
HOME = "selection/deletions.py"
EXPORTED = "interop/modeling_mrt5.py"
"""Runs where this package is not."""


def test_the_table_has_the_names_of_the_configuration() -> None:
    assert DELETIONS.keys() == NAMES


def test_stand_ins_are_trained_with_and_need_none_themselves() -> None:
    for rule in DELETIONS.values():
        if rule.stand_in is not None:
            assert rule.stand_in in get_args(TrainingDeletion)
            assert DELETIONS[rule.stand_in].stand_in is None


def questions(tree: ast.AST) -> Iterator[str]:
    """Where a deletion's name decides: comparisons, cases, keys of a lookup, and ends of a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.match_case):
            asked = node.pattern if isinstance(node, ast.match_case) else node
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) != "Literal":
            asked = node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ASKING:
            asked = ast.Tuple(node.args)
        else:
            continue
        found = {
            word
            for part in ast.walk(asked)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
            for word in part.value.split("/")
        }
        text = ast.unparse(node) if not isinstance(node, ast.match_case) else ast.unparse(node.pattern)
        if found & (NAMES if "deletion" in text else NAMES - ALSO_OTHER_THINGS):
            yield text


_ASKING = ("startswith", "endswith", "get", "index", "count", "removeprefix", "removesuffix")


def test_no_other_file_asks_for_a_deletion_by_its_name(repository: Path) -> None:
    asking = [
        f"{file.relative_to(repository)}: {question}"
        for file in sorted((repository / "mrt5_jax").rglob("*.py"))
        if not file.as_posix().endswith((HOME, EXPORTED))
        for question in questions(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert asking == []


def test_questions_are_found_in_whatever_form() -> None:
    asked = """
if deletion == "soft": pass
if deletion in ("none", "random"): pass
match deletion:
    case "hard": pass
bias = {"soft": 1}["soft"]
name.endswith("/hard/loss")
if remat != "none": pass
run(deletion="hard")
"""
    assert len(list(questions(ast.parse(asked)))) == 5
