"""A random model, compiled for two lengths and two sizes of batches."""

from pathlib import Path

import pytest

from mrt5_jax.api.loading import load
from mrt5_jax.api.model import Model
from mrt5_jax.config import ExecutionConfig
from mrt5_jax.serve.warm_model import WarmModel

from ..cli.small_run import make_model_dir

LENGTH, TARGET_LENGTH, ROWS = 128, 8, 4


@pytest.fixture(scope="session")
def served_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its gate deletes about half."""
    bindings = f"INPUT_LENGTH={LENGTH}", f"TARGET_LENGTH={TARGET_LENGTH}"
    return make_model_dir(tmp_path_factory.mktemp("served") / "model", *bindings)


@pytest.fixture(scope="session")
def model(served_dir: Path) -> Model:
    return load(served_dir, execution=ExecutionConfig(max_rungs=2))


@pytest.fixture(scope="module")
def warm(model: Model) -> WarmModel:
    """Of each module its own: tests of others may clear what JAX has compiled."""
    found = WarmModel(model, ROWS)
    for shape in found.shapes:
        found.compile(shape)
    return found
