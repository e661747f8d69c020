"""`mrt5 eval` by several processes: the first one writes and prints, once, what a single process does."""

import shutil
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.evaluation.records import Record, read_records

from .small_run import NUM_TEST, make_model_dir
from .two_processes import run_two

SHARES = ("records.jsonl-00000-of-00002", "records.jsonl-00001-of-00002")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "--coordinator_address, --process_id missing"),
        (["--cluster", "--process_id=1"], "--cluster finds the other processes itself"),
        (["--from_records", "a.jsonl", "--cluster"], "--cluster: has no effect on records"),
        (["--follow", "--cluster"], "--follow: is for one process: leave out --cluster"),
        (["--keep_best=loss", "--num_processes=2"], "--keep_best: is for one process"),
        (["--store_threshold", "--target_rate=0.5", "--process_id=0"], "--store_threshold: is for one process"),
    ],
)
def test_processes_that_cannot_be_are_refused(flags: list[str], message: str, tmp_path: Path, capsys) -> None:
    model_dir = [] if "--from_records" in flags else [f"--model_dir={tmp_path}"]
    assert main(["eval", *model_dir, *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def folder_of(model_dir: Path) -> Path:
    (folder,) = (model_dir / "eval").iterdir()
    return folder


def assert_same_records(found: list[Record], expected: list[Record]) -> None:
    """In order; log-probabilities to rounding."""
    for one, other in zip(found, expected, strict=True):
        assert one._replace(nll=0.0, generated_score=0.0) == other._replace(nll=0.0, generated_score=0.0)
        assert one.nll == pytest.approx(other.nll, rel=1e-5)
        assert one.generated_score == pytest.approx(other.generated_score, abs=1e-4)


@pytest.mark.slow
def test_two_processes_write_the_evaluation_of_one(tmp_path: Path) -> None:
    """With four devices each, and three batches of two lengths for both; what is lost is made again."""
    one, two = tmp_path / "one" / "model", tmp_path / "two" / "model"
    one.parent.mkdir()
    make_model_dir(one, "config.DataConfig.length_buckets=(10, 12)")
    shutil.copytree(one, two)
    flags = ["--deletion", "soft", "hard", "--generate"]
    assert main(["eval", f"--model_dir={one}", *flags]) == 0
    expected = read_records(folder_of(one) / "records.jsonl")
    assert len(expected) == 2 * NUM_TEST

    command = ["eval", f"--model_dir={two}", *flags]
    said = run_two(command)
    folder = folder_of(two)
    assert [text.count(f"written: {folder}") for text in said] == [1, 0]
    assert_same_records(read_records(folder / "records.jsonl"), expected)
    assert sum(len(read_records(folder / share)) for share in SHARES) == len(expected)
    answers = {path.name: path.read_bytes() for path in folder.glob("generated-*")}
    assert {name for name in answers if not name.endswith(".settings.json")} == {
        path.name for path in folder_of(one).glob("generated-*.jsonl")
    }

    (folder / "records.jsonl").unlink()
    (folder / SHARES[1]).unlink()
    before = (folder / SHARES[0]).stat().st_mtime_ns
    run_two(command)
    assert_same_records(read_records(folder / "records.jsonl"), expected)
    assert (folder / SHARES[0]).stat().st_mtime_ns == before, "a finished share is not evaluated again"
    assert {path.name: path.read_bytes() for path in folder.glob("generated-*")} == answers
