"""`import mrt5_jax` is light, and its names are there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mrt5_jax
from mrt5_jax.api.model import Model

from ..counting import modules

HEAVY = ("tensorflow", "seqio", "torch", "transformers", "tensorflow_datasets")


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
