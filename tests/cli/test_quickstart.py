"""The end of the quickstart, on a model that is not trained; what it learns is judged in tests/end_to_end."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mrt5_jax.cli.quickstart import NUM_EXAMPLES, NUM_SHOWN, inspect_strings, make_picture, vowel_lines
from mrt5_jax.evaluation.model_dirs import evaluate_task, load_model
from mrt5_jax.evaluation.records import of_deletion
from mrt5_jax.runs.run_files import read_run

from .small_run import NUM_TEST, make_model_dir


def test_the_page_shows_what_the_evaluation_found(tmp_path: Path) -> None:
    """Of each string as many tokens are kept as its record says."""
    run = read_run(make_model_dir(tmp_path))
    assert run is not None
    loaded = load_model(tmp_path, run.model, None, run.execution)
    records = evaluate_task(loaded, run, run.data.eval_tasks[0], "test", ("soft", "hard")).records
    vowels, sections = inspect_strings(run, loaded, records)
    hard = of_deletion(records, "hard")
    kept = [sum(sum(piece.keep) for piece in section.pieces) for section in sections]
    assert len(sections) == min(NUM_EXAMPLES, NUM_TEST)
    assert kept == [record.num_kept_tokens for record in hard[: len(sections)]]
    assert vowels.ends.total == NUM_TEST
    assert len(vowel_lines(vowels)) == 2


def test_a_model_in_training_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a page, and the first strings on the terminal: text, marks and gate values, three lines each."""
    run = read_run(make_model_dir(tmp_path))
    assert run is not None
    loaded = load_model(tmp_path, run.model, None, run.execution)
    page = tmp_path / "page.html"
    make_picture(run, page)(SimpleNamespace(step=5, state=SimpleNamespace(params=loaded.params)))
    html = page.read_text(encoding="utf-8")
    assert f"step 5 of {run.training.num_steps}" in html
    assert html.count('class="text"') == min(NUM_EXAMPLES, NUM_TEST, run.data.eval_batch_size)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 1 + 3 * NUM_SHOWN
    assert shown[1].startswith("#")
