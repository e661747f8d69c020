"""The notebooks run from their first cell to the last, as a person would run them."""

import ast
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.selection.selectors import SELECTORS

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def _selectors_as_they_were() -> Iterator[None]:
    before = dict(SELECTORS)
    yield
    SELECTORS.clear()
    SELECTORS.update(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_selectors_as_they_were")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one session; the last expression of a cell is shown, as HTML where it has that."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells_of(notebook)):
        if cell["cell_type"] == "code":
            run_cell("".join(cell["source"]), f"{notebook.name}, cell {number}", session)


def run_cell(source: str, name: str, session: dict[str, Any]) -> None:
    cell = ast.parse(source, name)
    last = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
    exec(compile(cell, name, "exec"), session)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), name, "eval"), session)
        assert getattr(value, "_repr_html_", value.__repr__)() is not None


def test_there_are_three() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["1_load_and_look", "2_train_tiny", "3_add_a_selector"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_results(notebook: Path) -> None:
    """They would go out of date, and make differences large."""
    cells = cells_of(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 3
