"""What documents and docstrings show of Python does what they say, and docstrings say all that they have to."""

import doctest
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import pytest

import mrt5_jax
from mrt5_jax.api import given, loading, results, runs
from mrt5_jax.api import model as models
from mrt5_jax.api.model import Model
from mrt5_jax.config import Deletion, GateConfig, TrainingDeletion
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.selection.deletions import DELETIONS, DeletionRule
from mrt5_jax.selection.reductions import REDUCTIONS, Members
from mrt5_jax.selection.selectors import SELECTORS
from mrt5_jax.tools.untrained import show_untrained
from mrt5_jax.training.hooks import Every, Hook, Moment

from .models import make_model

PAGES = ("README.md", *(f"docs/{name}.md" for name in ("index", "python", "deletions", "finetune", "schemes")))
LOADED = ("runs/qa",)
"""What these pages load besides the toy."""


@pytest.mark.slow
def test_every_block_of_python_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's in order, in one session; the models that it loads are random ones."""
    monkeypatch.chdir(tmp_path)
    for folder in LOADED:
        make_model(Path(folder))
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", (repository / page).read_text(encoding="utf-8"), re.M | re.S)
        assert blocks, page
        names: dict[str, Any] = {}
        for block in blocks:
            exec(block, names)
    for written in ("deletions.html", "runs/copy/model_config.json", "exported/config.json", "runs/tiny/metrics.jsonl"):
        assert (tmp_path / written).is_file(), written


FUNCTIONS: dict[str, Any] = {
    "load": mrt5_jax.load,
    "train": runs.train,
    "evaluate": runs.evaluate,
    "presets.byt5": mrt5_jax.presets.byt5,
    "presets.mrt5": mrt5_jax.presets.mrt5,
    "Deletions.write_page": results.Deletions.write_page,
    **{
        f"Model.{name}": method
        for name, method in vars(Model).items()
        if inspect.isfunction(method) and not name.startswith("_") and name != "job"
    },
}
"""The names that users call."""

CLASSES: dict[str, Any] = {
    **{name: getattr(mrt5_jax, name) for name in ("Model", "Greedy", "Speculative", "Sampling", "Beam", "UserError")},
    **{
        found.__name__: found
        for found in (
            results.GeneratedText,
            results.TargetScore,
            results.EncodedTexts,
            results.TextDeletions,
            results.Deletions,
            Evaluation,
            Hook,
            Every,
            Moment,
        )
    },
}

NAMED = {**FUNCTIONS, **CLASSES}
SLOW = ("train", "Speculative", "Sampling", "Beam")
"""These compile programs of their own."""
SHOWN = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name, named in NAMED.items()
    if "+SKIP" not in (named.__doc__ or "") or name == "Hook"
]
"""Of the others `test_loading.py` shows what they do: they write folders. `Every` wants a run; of `Hook`'s example the
class is defined."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_gives_and_refuses(name: str) -> None:
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    taken = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    for section in ("Raises:", "Examples:", *(["Args:"] if taken else [])):
        assert f"\n{section}\n" in text, section
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert "\nReturns:\n" in text
    for parameter in taken:
        assert f"\n    {parameter}: " in text, parameter


def public_functions() -> dict[str, Any]:
    """Functions and methods of the front door's modules, by name."""
    found: dict[str, Any] = {}
    for module in (given, loading, models, results, runs, mrt5_jax.presets):
        for name, named in vars(module).items():
            if name.startswith("_") or getattr(named, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(named):
                found[name] = named
            elif inspect.isclass(named):
                own = {key: value for key, value in vars(named).items() if inspect.isfunction(value) and key[0] != "_"}
                found |= {f"{name}.{key}": value for key, value in own.items()}
    return found


@pytest.mark.parametrize("name", public_functions())
def test_every_argument_of_the_front_door_is_explained(name: str) -> None:
    """By itself, or where another docstring is named that explains it."""
    function = public_functions()[name]
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert parameter == "self" or re.search(rf"\b{parameter}\b", text) or "see `load`" in text, parameter


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_an_example(name: str) -> None:
    assert "\nExamples:\n" in (inspect.getdoc(CLASSES[name]) or "")


def check_examples(named: Any, names: dict[str, Any]) -> None:
    """Runs the examples of a docstring, and compares what they print."""
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(named) or "", names, named.__name__, None, 0)
    assert example.examples
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append).failed
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", SHOWN)
def test_every_example_gives_what_it_shows(name: str, model: Model, tmp_path: Path) -> None:
    """`model` is a random one, `model_dir` where it lies."""
    folder = {"model": model, "model_dir": model.name, "folder": str(tmp_path / "run")}
    check_examples(NAMED[name], {"mrt5_jax": mrt5_jax, "Every": Every, "Hook": Hook, **folder})


@pytest.mark.parametrize("kind", SELECTORS)
def test_the_example_of_a_selector_keeps_what_it_shows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where one of them writes a file of masks
    selector: Any = SELECTORS[kind].make
    assert f'kind="{kind}"' in (inspect.getdoc(selector) or "")
    check_examples(selector, {"show_untrained": show_untrained, "GateConfig": GateConfig, "Path": Path})


@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_example_of_a_reduction_gives_what_it_shows(name: str) -> None:
    reduction = REDUCTIONS[name]
    names = {"jax": jax, "jnp": jnp, "mrt5_jax": mrt5_jax, "GateConfig": GateConfig, "Members": Members}
    check_examples(reduction, {**names, reduction.__name__: reduction})


def test_the_table_of_deletions_says_what_its_example_shows() -> None:
    check_examples(DeletionRule, {"DELETIONS": DELETIONS})


def test_an_untrained_selector_is_shown_byte_by_byte() -> None:
    """Bytes beyond ASCII have a mark; the layer of the gate plays no part."""
    check_examples(show_untrained, {"show_untrained": show_untrained, "GateConfig": GateConfig})
    spacelike = GateConfig(layer=7, kind="spacelike")
    assert show_untrained("é é", spacelike) == "*· ··"
    with pytest.raises(mrt5_jax.UserError, match="should be 'learned' or 'random'"):
        show_untrained("a", GateConfig(kind="spacelik"))


def test_every_entry_of_the_tables_has_its_line_in_the_guides(repository: Path) -> None:
    """How a selector, a reduction or a deletion is asked for."""
    schemes = (repository / "docs/schemes.md").read_text(encoding="utf-8")
    for kind in SELECTORS:
        assert re.search(rf"^\| .*`{kind}` \|", schemes, re.M), kind
    for reduction in REDUCTIONS:
        assert f"`{reduction}`" in schemes, reduction
    deletions = (repository / "docs/deletions.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", deletions, re.M)
    assert sorted(named) == sorted(DELETIONS) == sorted({*get_args(Deletion), *get_args(TrainingDeletion)})
