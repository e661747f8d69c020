"""The notebooks run from their first cell to the last, as a person would run them."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    opened = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(opened, timeout=300, kernel_name="python3").execute()
    for cell in opened.cells:
        assert not [output for output in cell.get("outputs", []) if output["output_type"] == "error"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_results(notebook: Path) -> None:
    """They would go out of date, and make differences large."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 3
