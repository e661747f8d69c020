"""`mrt5 eval`: records, summaries and tables of a MODEL_DIR; mistakes in one line, before anything is written."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.evaluation.records import of_deletion, read_records, soft_hard_gap, summarize
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.model_dir import read_model_config

from ..inference.models import random_params
from .small_run import NUM_TEST, contents, make_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture
def failing(model_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Runs a command that has to fail, and returns the one line that it says; MODEL_DIR stays as it was."""

    def run(*argv: str) -> str:
        before = contents(model_dir)
        assert main(["eval", *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("mrt5: ")
        assert error.count("\n") == 1, error
        assert contents(model_dir) == before
        return error

    return run


@pytest.fixture(scope="module")
def evaluated(model_dir: Path) -> tuple[Path, str]:
    """The folder that a plain evaluation leaves, and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["eval", f"--model_dir={model_dir}"]) == 0
    (folder,) = (model_dir / "eval").iterdir()
    return folder, out.getvalue()


def test_model_dir_is_enough(evaluated) -> None:
    """The run's own task, its test split, soft and hard deletion, all examples; a folder by task, split and step."""
    folder, _ = evaluated
    records = read_records(folder / "records.jsonl")
    assert folder.name.endswith("-test-step0")
    assert folder.name.startswith("diagnostics.vowel_removal")
    assert [record.deletion for record in records].count("soft") == NUM_TEST
    assert sorted(record.index for record in of_deletion(records, "hard")) == list(range(NUM_TEST))


def test_summary_is_of_the_records(evaluated) -> None:
    """Whatever summary.json says can be computed from records.jsonl; what is clocked lies apart."""
    folder, _ = evaluated
    records = read_records(folder / "records.jsonl")
    summary = json.loads((folder / "summary.json").read_text())
    body = body_multiply_adds(read_model_config(folder.parents[1]), 12)
    assert summary["metrics"] == {name: summarize(of_deletion(records, name), body) for name in ("soft", "hard")}
    assert summary["soft_hard_gap"] == soft_hard_gap(records)
    assert (summary["num_examples"], summary["step"], summary["split"]) == (NUM_TEST, 0, "test")
    timing = json.loads((folder / "timing.json").read_text())
    assert set(timing["milliseconds_per_batch"]) == {"soft", "hard"}
    assert "milliseconds" not in (folder / "summary.json").read_text()


def test_tables_and_places_are_printed(evaluated) -> None:
    folder, out = evaluated
    for word in ("soft-hard gap", "deletion", "kept", f"{folder}/"):
        assert word in out


def test_flags_choose(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Task, split, deletions and number; the gap says what it lacks."""
    argv = ["--task", "diagnostics.copy", "--split=validation", "--deletion", "none", "--num_examples=3"]
    bindings = ["--gin.INPUT_LENGTH=64", "--gin.TARGET_LENGTH=64"]
    assert main(["eval", f"--model_dir={model_dir}", *argv, *bindings]) == 0
    records = read_records(model_dir / "eval" / "diagnostics.copy-validation-step0" / "records.jsonl")
    assert [record.deletion for record in records] == ["none"] * 3
    assert {record.task for record in records} == {"diagnostics.copy"}
    assert "needs both soft and hard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--step=7"], ["no step 7"]),
        (["--task=diagnostics.vowel_remval"], ["diagnostics.vowel_remval", "did you mean diagnostics.vowel_removal"]),
        (["--split=dev"], ["has no dev split", "validation"]),
        (["--deletion=gentle"], ["--deletion", "gentle", "soft"]),
        (["--num_examples=0"], ["--num_examples=0", "at least 1"]),
        (["--num_examples=x"], ["--num_examples", "x"]),
        (["--gin.NO_SUCH=1"], ["NO_SUCH"]),
        (["--gin_file=nowhere.gin"], ["nowhere.gin", "not found"]),
        (["--gin.config.ModelConfig.mlp_dim=32"], ["model_config.json", "mlp_dim 16 -> 32"]),
        (
            ["--gin.config.ExecutionConfig.chunks=4", "--gin.config.DataConfig.eval_batch_size=2"],
            ["eval_batch_size=2", "chunks=4"],
        ),
        (["--gin.config.ExecutionConfig.window=0"], ["ExecutionConfig.window=0", "greater than 0"]),
        (["--gin.config.ExecutionConfig.window=1000000000"], ["window = 1000000000", "GiB", "give at most"]),
    ],
)
def test_mistakes_are_one_line(failing, model_dir: Path, argv: list[str], words: list[str]) -> None:
    error = failing(f"--model_dir={model_dir}", *argv)
    for word in words:
        assert word in error


def test_no_model_dir(failing, tmp_path: Path) -> None:
    assert "model_config.json is not there" in failing(f"--model_dir={tmp_path}")
    assert "--model_dir" in failing()


def test_imported_model_needs_a_configuration(failing, model_dir: Path, tmp_path: Path) -> None:
    """Weights alone do not say on what to evaluate them."""
    config = read_model_config(model_dir)
    save_model(tmp_path / "imported", random_params(config), config)
    assert "--gin_file" in failing(f"--model_dir={tmp_path / 'imported'}")
