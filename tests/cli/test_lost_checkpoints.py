"""A run whose checkpoints are all damaged is refused, however often it is started, until a person decides."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.config import RunConfig
from mrt5_jax.runs import checkpoints
from mrt5_jax.training import loop

from .small_run import commands, contents, make_model_dir

STEPS = range(1, 7)


@pytest.fixture(scope="module")
def lost_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained to step 6, as far as its files tell; its checkpoint is no longer one."""
    folder = make_model_dir(tmp_path_factory.mktemp("runs") / "model")
    (folder / "checkpoints" / "0").rename(folder / "checkpoints" / "6")
    for file in (folder / "checkpoints" / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for name in ("metrics.jsonl", "timing.jsonl"):
        (folder / name).write_text("".join(json.dumps({"step": step}) + "\n" for step in STEPS))
    return folder


@pytest.fixture
def model_dir(lost_run: Path, tmp_path: Path) -> Path:
    """A copy of it: a run goes on in whatever folder it lies."""
    return Path(shutil.copytree(lost_run, tmp_path / "model"))


def without_lock(folder: Path) -> dict[Path, Any]:
    return {path: data for path, data in contents(folder).items() if path.name != "run.lock"}


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mrt5: ")]
    return line


def test_every_command_refuses_every_time_and_changes_nothing(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(model_dir)
    words_of = commands(model_dir, tmp_path)
    for name in (*words_of, "train"):
        assert main(words_of[name]) == 2
        line = last_line(capsys)
        assert str(model_dir / "checkpoints") in line
        assert ("--start_over" in line) == (name == "train")
        assert without_lock(model_dir) == before
    assert not (model_dir / "run.lock").read_text()
    assert not (tmp_path / "out.jsonl").exists()


def test_a_person_decides_by_a_flag(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where training would write its first line."""
    before = contents(model_dir)
    begun: list[int | None] = []

    def stop(run: RunConfig, step: int | None, others: Any) -> None:
        begun.append(step)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "open_writers", stop)
    assert main([*commands(model_dir, tmp_path)["train"], "--start_over"]) == 130
    assert begun == [None]
    (aside,) = (model_dir / "set_aside").iterdir()
    moved = {path: data for path, data in before.items() if "checkpoints" in str(path) or path.suffix == ".jsonl"}
    assert contents(aside) == {aside / path.relative_to(model_dir): data for path, data in moved.items()}
    assert not list((model_dir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("error", "flags"),
    [(PermissionError(errno.EACCES, "no"), []), (OSError(errno.EIO, "Input/output error"), ["--start_over"])],
)
def test_a_disk_that_cannot_be_read_is_no_damage(
    error: OSError,
    flags: list[str],
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(model_dir)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "restore", fail)
    words_of = commands(model_dir, tmp_path)
    for words in ([*words_of["train"], *flags], words_of["infer"]):
        assert main(words) == 2
        assert "that is no damage, and nothing was moved" in last_line(capsys)
        assert without_lock(model_dir) == before


def test_neither_is_a_folder_that_cannot_be_listed(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever else the library makes of it."""
    before, scandir = contents(model_dir), os.scandir

    def scan(path: Any = ".") -> Any:
        if str(path).endswith("/params"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert main(commands(model_dir, tmp_path)["infer"]) == 2
    monkeypatch.undo()
    line = last_line(capsys)
    assert "checkpoints/6/params'): that is no damage, and nothing was moved" in line
    assert without_lock(model_dir) == before
