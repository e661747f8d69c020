"""`mrt5 eval --follow`: checkpoints as they appear, each once; the best of them is kept."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrt5_jax.cli.eval_follow import load_step
from mrt5_jax.cli.main import main
from mrt5_jax.config import ExecutionConfig
from mrt5_jax.evaluation.records import read_records, summarize
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.lock import run_lock
from mrt5_jax.runs.model_dir import read_model_config
from mrt5_jax.runs.restoring import restore_params, saved_steps
from mrt5_jax.runs.run_files import read_run

from ..inference.models import random_params
from .small_run import make_model_dir


def add_step(model_dir: Path, step: int) -> None:
    """As a run that trains saves it: it appears whole."""
    config = read_model_config(model_dir)
    made = save_model(model_dir.with_name("made"), random_params(config, seed=step), config, step=step)
    (made / str(step)).rename(model_dir / "checkpoints" / str(step))


def test_checkpoints_are_evaluated_as_they_appear_and_the_best_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends where nothing trains any more, or with the checkpoint of the last step; nothing is evaluated twice."""
    model_dir = make_model_dir(tmp_path / "model")
    run = read_run(model_dir)
    assert run is not None
    last = run.training.num_steps
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(saved_steps(model_dir))
        if len(looks) == 2:
            add_step(model_dir, last)

    monkeypatch.setattr("mrt5_jax.cli.eval_follow.time", SimpleNamespace(sleep=sleep))
    argv = ["eval", f"--model_dir={model_dir}", "--deletion", "hard", "--num_examples=4", "--follow"]
    argv.append("--keep_best=loss")
    assert main(argv) == 0
    assert f"{model_dir} stopped at step 0 of {last:,}, and nothing trains there now" in capsys.readouterr().err
    assert looks == []
    with run_lock(model_dir):
        assert main(argv) == 0
    assert looks == [[0], [0]]
    captured = capsys.readouterr()
    assert captured.err.count("waiting for checkpoints") == 1
    assert captured.out.count("evaluated and clocked already: ") == 1
    folders = {step: next((model_dir / "eval").glob(f"*-test-step{step}")) for step in (0, last)}
    losses = {step: summarize(read_records(folder / "records.jsonl"))["loss"] for step, folder in folders.items()}
    best = min(losses, key=losses.__getitem__)
    kept = json.loads((model_dir / "best_loss" / "best.json").read_text())
    assert (kept["step"], kept["measure"]["deletion"]) == (best, "hard")
    assert saved_steps(model_dir / "best_loss") == [best]
    assert restore_params(model_dir / "best_loss").digest == kept["weights"] == restore_params(model_dir, best).digest
    assert read_run(model_dir / "best_loss") == run

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("everything has been evaluated")

    before = {path: path.read_bytes() for path in model_dir.rglob("*") if path.is_file()}
    monkeypatch.setattr("mrt5_jax.evaluation.shares.evaluate_task", refuse)
    assert main([*argv, f"--tables={tmp_path / 'table.json'}"]) == 0
    assert capsys.readouterr().out.count("evaluated and clocked already: ") == 2
    assert {path: path.read_bytes() for path in model_dir.rglob("*") if path.is_file()} == before
    rows = json.loads((tmp_path / "table.json").read_text())
    assert {row["step"] for row in rows} == {0, last}


def test_a_checkpoint_that_was_cleared_away_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    model_dir = make_model_dir(tmp_path / "model")
    args = SimpleNamespace(model_dir=str(model_dir), follow=True)
    run = SimpleNamespace(model=read_model_config(model_dir), execution=ExecutionConfig())
    assert load_step(args, run, 5, Console(stderr=True)) is None  # pyright: ignore[reportArgumentType]
    assert "the run has cleared step 5 away before it was read" in capsys.readouterr().err
