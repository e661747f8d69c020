"""benchmarks.recipes: every run of the study resolves, its course is measured, it is made in pieces, and once."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrt5_jax.cli import gin_setup


@pytest.fixture
def parts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the benchmark, which is no part of the package."""
    monkeypatch.syspath_prepend(str(repository))
    monkeypatch.chdir(repository)
    names = ("study", "course", "pieces", "quickstarts", "__main__")
    return SimpleNamespace(**{name: importlib.import_module(f"benchmarks.recipes.{name}") for name in names})


@pytest.fixture
def text(parts: Any, tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        for language in parts.study.LANGUAGES:
            (tmp_path / split / f"{language}.txt").write_text(f"{language} {split} says a few words\n" * 9)
    return tmp_path


def test_every_recipe_makes_a_run(parts: Any, text: Path) -> None:
    """It begins with the parameters that it names, and nothing that it sets is without effect."""
    args = SimpleNamespace(text=text, models=text / "models")
    recipes = parts.study.recipes()
    for place, (name, recipe) in enumerate(recipes.items()):
        flags = parts.__main__._flags(name, recipe, args)
        files = [flag.removeprefix("--gin_file=") for flag in flags if flag.startswith("--gin_file=")]
        bindings = [flag.removeprefix("--gin.") for flag in flags if not flag.startswith("--gin_file=")]
        resolved = gin_setup.resolve(files, bindings=bindings)
        resolved.check()
        assert resolved.run.training.seed == recipe.seed
        assert resolved.run.warm_start == (recipe.base and str(args.models / recipe.base))
        assert recipe.base is None or recipe.base in list(recipes)[:place]
        assert (resolved.run.controller is not None) == bool(recipe.targets)


def test_a_course_says_when_a_rate_arrives_and_whether_it_stays(parts: Any) -> None:
    rates = np.concatenate([np.linspace(0, 0.5, 100), np.full(300, 0.5), np.full(50, 0.56), np.full(50, 0.5)])
    lines = [{"total_loss": 1.0, "deletion_rate": rate} for rate in rates]
    found = parts.course.course(lines, "", 0.5)
    assert 100 < found["arrived"] <= 150
    assert found["farthest"] == pytest.approx(0.06)
    assert found["last_fifth"] == pytest.approx(0.53)
    assert len(found["every_50"]) == 10
    never = parts.course.course(lines, "", 0.9)
    assert never["arrived"] is None
    assert never["farthest"] is None


@pytest.fixture
def made(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are trained, in order, when training and evaluating take no time; results go to `tmp_path`."""
    names: list[str] = []

    def train(name: str, *_: Any) -> bool:
        names.append(name)
        return True

    def finish(name: str, *_: Any) -> bool:
        train(name)
        write_result(parts, tmp_path, name)
        return True

    monkeypatch.setattr(parts.__main__, "RESULTS", tmp_path)
    monkeypatch.setattr(parts.__main__, "_trained", train)
    monkeypatch.setattr(parts.__main__, "_made", finish)
    monkeypatch.setattr(parts.__main__, "_quickstart", finish)
    return names


def write_result(parts: Any, folder: Path, name: str) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"recipe": parts.__main__._settings(name)}))


def make(parts: Any, tmp_path: Path, only: str) -> int:
    return parts.__main__.main(["--text=a", f"--models={tmp_path / 'models'}", f"--only={only}"])


def test_what_is_done_is_not_made_again(parts: Any, tmp_path: Path, made: list[str], capsys: Any) -> None:
    """As long as it was done by today's recipe; of another one that is said."""
    write_result(parts, tmp_path, "base")
    assert make(parts, tmp_path, "base") == 0
    assert capsys.readouterr().out == "base: done\n"
    (tmp_path / "base.json").write_text(json.dumps({"recipe": {"seed": 7}}))
    assert make(parts, tmp_path, "base") == 0
    assert re.fullmatch(r"base: done by another recipe than today's: .*base\.json.*\n", capsys.readouterr().out)
    assert made == []
    with pytest.raises(SystemExit, match="base, which others begin with: done by another recipe"):
        make(parts, tmp_path, "mrt5_1")


def test_what_a_run_begins_with_comes_first(parts: Any, tmp_path: Path, made: list[str]) -> None:
    """Also where it has its result, from another machine, but is not here, or not to its end."""
    assert make(parts, tmp_path, "mrt5_1") == 0
    assert made == ["base", "mrt5_1"]
    folder = tmp_path / "models/base"
    (folder / "checkpoints/2000").mkdir(parents=True)
    (folder / "run_config.json").write_text(json.dumps({"training": {"num_steps": 3000}}))
    assert make(parts, tmp_path, "mrt5_2") == 0
    assert made[2:] == ["base", "mrt5_2"]
    (folder / "checkpoints/3000").mkdir()
    assert make(parts, tmp_path, "mrt5_3|quickstart_0") == 0
    assert made[4:] == ["mrt5_3", "quickstart_0"]


def test_flags_that_name_nothing_are_refused(parts: Any, capsys: Any) -> None:
    cases = {"--only=bass": "no run has such a name", "--only=(": "error: --only=(", "--pieces=1": "--text is missing"}
    for flag, words in cases.items():
        with pytest.raises(SystemExit):
            parts.__main__.main(["--models=b", flag])
        assert words in capsys.readouterr().err


def test_a_result_is_of_the_last_step_and_names_its_text(parts: Any, tmp_path: Path) -> None:
    lines = [{"step": step, "total_loss": 1.0, "deletion_rate": 0.25} for step in range(1, 61)]
    lines.insert(30, {"step": 30, "eval/x/hard/loss": 2.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = {"split": "train", "language": "en", "path": "/text/en.txt", "sha256": "0123456789abcdef"}
    (tmp_path / "data_files.json").write_text(json.dumps({"version": 1, "files": [file]}))
    (tmp_path / "pieces.txt").write_text("330.0\n30.0\n")
    metrics = {"hard": {"loss": 1.23456, "deletion_rate": None, "rung": 3.0}}
    for step in (30, 60):
        folder = tmp_path / f"eval/a_task-validation-step{step}"
        folder.mkdir(parents=True)
        summary = {"num_examples": step, "metrics": metrics, "languages": {"en": {"metrics": metrics}}}
        (folder / "summary.json").write_text(json.dumps(summary))
    recipe = parts.study.Recipe(("a.gin",), targets=(("", 0.25),))
    found = parts.__main__._result(recipe, tmp_path)
    assert found.pop("courses")[""]["arrived"] == parts.course.WIDTH
    of_hard = {"hard": {"loss": 1.2346, "deletion_rate": None}}
    assert found == {
        "text": {"train/en": "0123456789ab"},
        "steps": 60,
        "minutes": 6.0,
        "examples": 60,
        "metrics": of_hard,
        "languages": {"en": of_hard},
    }


STOPS_ONCE = """
test -e "$0" && { echo done; exit 0; }
: > "$0"
trap 'kill $!; exit 75' TERM
sleep 60 & wait
"""
"""A command that saves when it is asked to stop, and comes to its end when it is given again."""


def test_a_command_that_is_stopped_is_given_again(parts: Any, tmp_path: Path) -> None:
    log, printed, watched = tmp_path / "logs/pieces.txt", tmp_path / "out/printed.txt", []
    command = ["sh", "-c", STOPS_ONCE, str(tmp_path / "saved")]
    how = {"output": printed, "watch": watched.append}
    assert not parts.pieces.Pieces(0.03, 1).run("a run", command, log, **how), "one piece is too few"
    assert parts.pieces.Pieces(0.03, 5).run("a run", command, log, **how)
    first, second = parts.pieces.seconds_of(log)
    assert first > 0.5
    assert printed.read_text() == "done\n"
    assert watched == sorted(watched)
    assert watched[-1] == pytest.approx(first + second, abs=0.5), "from the beginning of the first piece"


def test_a_command_that_fails_or_never_saves_ends_all(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="a run failed"):
        parts.pieces.Pieces(1.0, 9).run("a run", ["sh", "-c", "exit 2"], tmp_path / "pieces.txt")
    assert not (tmp_path / "pieces.txt").exists()
    with pytest.raises(SystemExit, match="give more --minutes"):
        parts.pieces.Pieces(0.005, 9).run("a run", ["sleep", "60"], tmp_path / "pieces.txt")
    assert len(parts.pieces.seconds_of(tmp_path / "pieces.txt")) == 2


def test_a_quickstart_is_clocked_by_what_it_leaves(parts: Any, tmp_path: Path) -> None:
    watch, model_dir = parts.quickstarts.Watch(tmp_path), tmp_path / "mrt5"
    watch(1.0)
    assert watch.seconds == {}
    model_dir.mkdir()
    (model_dir / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "printed.txt").write_text("")
    watch(2.04)
    (tmp_path / "examples.html").write_text("<html>")
    again = parts.quickstarts.Watch(tmp_path)
    again(3.0)
    assert again.seconds == {"first report": 2.0, "first picture": 3.0}
    timing = [
        {"step": 50, "seconds_per_step": 0.4, "compile_seconds": 9.0},
        {"step": 60, "evaluation_seconds": 2.0},
        {"step": 100, "seconds_per_step": 0.1, "compile_seconds": 0.5},
        {"step": 110, "seconds_per_step": 0.2, "compile_seconds": 0.0},
    ]
    (model_dir / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    (tmp_path / "printed.txt").write_text("a table\n")
    (tmp_path / "pieces.txt").write_text("90.0\n30.0\n")
    assert parts.quickstarts.quickstart_result(tmp_path) == {
        "minutes": 2.0,
        "pieces": 2,
        "seconds": again.seconds,
        "training": 7.0,
        "compiling": 9.5,
        "evaluating": 2.0,
        "printed": ["a table"],
    }
