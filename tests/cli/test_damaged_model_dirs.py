"""Damaged files in a MODEL_DIR, and folders that cannot be made: one line, the same for every command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.errors import UserError
from mrt5_jax.runs.run_files import read_run

from .small_run import commands, contents, make_model_dir


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model_dir(sound: Path, tmp_path: Path) -> Path:
    """The plain-text part of a MODEL_DIR: nothing here gets as far as its checkpoint."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in sound.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_text(path.read_text()[: len(path.read_text()) // 2]),
    "empty": lambda path: path.write_text(""),
    "no JSON": lambda path: path.write_text("not JSON"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "NaN": lambda path: path.write_text(path.read_text().replace("true", "NaN")),
    "unknown": lambda path: _changed(path, lambda values: values.update(gaet=None)),
    "another type": lambda path: _changed(path, lambda values: values.update(dict.fromkeys(values, "x"))),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", ["run_config.json", "model_config.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_by_every_command_and_nothing_is_overwritten(
    name: str, damage: str, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](model_dir / name)
    before = contents(model_dir)
    for command, words in commands(model_dir, tmp_path).items():
        assert main(words) == 2, command
        error = capsys.readouterr().err
        assert error.startswith("mrt5: "), (command, error)
        assert error.count("\n") == 1, (command, error)
        assert str(model_dir / name) in error, (command, error)
        after = {path: data for path, data in contents(model_dir).items() if path.name != "run.lock"}
        assert after == before, command


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("data", "input_length", -5, "input_length = -5: should be greater than 0"),
        ("data", "input_length", 2**40, "at most 2147483647"),
        ("training", "profile_steps", [1], "not 2 values"),
        ("training", "seed", -1, "seed = -1: should be from 0"),
        ("execution", "rungs", [8, 4], "rungs"),
        ("optimizer", "learning_rate", 10**400, "learning_rate = inf"),
        ("optimizer", "learning_rate", True, "learning_rate is True, not of type float"),
    ],
)
def test_a_number_that_cannot_be_is_named_with_its_file(
    section: str, field: str, value: Any, words: str, model_dir: Path
) -> None:
    path = model_dir / "run_config.json"
    _changed(path, lambda values: values[section].update({field: value}))
    with pytest.raises(UserError) as error:
        read_run(model_dir)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


@pytest.mark.parametrize("place", ["a file", "below a file", "a name too long", "no name that there can be"])
def test_a_model_dir_that_cannot_be_made_is_one_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("somebody's")
    folder = {
        "a file": str(file),
        "below a file": f"{file}/model",
        "a name too long": str(tmp_path / ("x" * 300)),
        "no name that there can be": f"{tmp_path}/a\0b",
    }[place]
    assert main(["train", "--gin_file=runs/quickstart.gin", f"--gin.MODEL_DIR={folder!r}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "MODEL_DIR" in error
    assert "cannot be written" in error
    assert file.read_text() == "somebody's"


@pytest.mark.parametrize("command", ["eval", "infer", "inspect"])
@pytest.mark.parametrize("place", ["nowhere", "a file"])
def test_a_model_dir_that_is_none_is_one_line(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    if place == "a file":
        folder.write_text("somebody's")
    assert main(commands(folder, tmp_path)[command]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(folder / "model_config.json") in error


@pytest.mark.parametrize("seed", ["-1", str(2**32), str(2**64)])
@pytest.mark.parametrize("command", ["train", "quickstart", "infer"])
def test_a_seed_out_of_range_is_one_line(
    command: str, seed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "train": ["--gin_file=runs/quickstart.gin", f"--gin.MODEL_DIR='{tmp_path / 'model'}'", f"--gin.SEED={seed}"],
        "quickstart": [f"--output_dir={tmp_path / 'model'}", f"--seed={seed}"],
        "infer": [*commands(tmp_path, tmp_path)["infer"][1:], "--search=sampling", f"--seed={seed}"],
    }[command]
    assert main([command, *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert seed in error
    assert "from 0 to 4294967295" in error
    assert not (tmp_path / "model").exists()
