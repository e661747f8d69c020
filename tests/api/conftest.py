"""A random model, as `mrt5_jax.load` gives it."""

from pathlib import Path

import pytest

from mrt5_jax.api.model import Model

from .models import make_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("front_door") / "model")


@pytest.fixture(scope="session")
def model_dir(model: Model) -> Path:
    return Path(model.name)
