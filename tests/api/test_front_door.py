"""`import mrt5_jax` is light, its names are there, and the example of each of them does what it says."""

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mrt5_jax
from mrt5_jax.api.model import Model
from mrt5_jax.api.runs import evaluate, train

from ..counting import modules

HEAVY = ("tensorflow", "seqio", "torch", "transformers", "tensorflow_datasets")
FUNCTIONS = {
    "load": mrt5_jax.load,
    "train": train,
    "evaluate": evaluate,
    "presets.byt5": mrt5_jax.presets.byt5,
    "presets.mrt5": mrt5_jax.presets.mrt5,
    **{
        f"Model.{name}": method
        for name, method in vars(Model).items()
        if inspect.isfunction(method) and not name.startswith("_") and name != "job"
    },
}

CLASSES = {
    name: getattr(mrt5_jax, name) for name in ("Model", "Greedy", "Speculative", "Sampling", "Beam", "UserError")
}


def in_a_fresh_process(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_imports_no_library() -> None:
    """Which is what makes it quick, whatever the machine: 0.3 s are wanted."""
    libraries = ("jax", "flax", "numpy", "rich", *HEAVY)
    script = f"import sys, mrt5_jax; print([name for name in {libraries} if name in sys.modules])"
    assert in_a_fresh_process(script) == "[]"


@pytest.mark.slow
def test_loading_and_generating_imports_nothing_heavy(model: Model) -> None:
    script = (
        f"import sys, mrt5_jax; model = mrt5_jax.load({model.name!r}); print(len(model.generate(['a', 'b'], 4)),"
        f" [name for name in {HEAVY} if name in sys.modules])"
    )
    assert in_a_fresh_process(script) == "2 []"


def test_every_name_is_there_and_no_other() -> None:
    for name in mrt5_jax.__all__:
        assert getattr(mrt5_jax, name) is not None
    assert set(mrt5_jax.__all__) <= set(dir(mrt5_jax))
    missing = "no_such_name"
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name': it has load, Model"):
        getattr(mrt5_jax, missing)


def test_editors_see_the_same_names(repository: Path) -> None:
    """What is imported for type checkers is what is imported lazily."""
    tree = modules(repository)["mrt5_jax"]
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    named = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert named == set(mrt5_jax.__all__) - {"__version__"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_gives_and_refuses(name: str) -> None:
    function: Any = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    taken = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
    for section in ("Raises:", "Example:", *(["Args:"] if taken else [])):
        assert f"\n{section}\n" in text, section
    if inspect.signature(function).return_annotation not in (None, "None"):
        assert "\nReturns:\n" in text
    for parameter in taken:
        assert f"\n    {parameter}: " in text, parameter


NAMES: dict[str, Any] = {**FUNCTIONS, **CLASSES}
SLOW = ("train", "Speculative", "Sampling", "Beam")
"""These compile programs of their own."""
EXAMPLES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name, named in NAMES.items()
    if "+SKIP" not in (named.__doc__ or "")
]
"""Of the others `test_loading.py` shows what they do: they write folders."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_gives_what_it_shows(name: str, model: Model, tmp_path: Path) -> None:
    """`model` is a random one, `model_dir` where it lies."""
    given = {"mrt5_jax": mrt5_jax, "model": model, "model_dir": model.name, "folder": str(tmp_path / "run")}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(NAMES[name]) or "", given, name, None, 0)
    assert example.examples
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append).failed
    assert not failed, "".join(said)
