"""benchmarks.recipes: every run of the study resolves, its course is measured, and finished runs are left alone."""

import importlib
import json
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
    names = ("study", "course", "__main__")
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


def test_what_is_done_is_not_made_again(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(parts.__main__, "RESULTS", tmp_path)
    (tmp_path / "base.json").write_text(json.dumps({}))
    assert parts.__main__.main(["--text=a", "--models=b", "--only=base"]) == 0
    assert capsys.readouterr().out == "base: done\n"
