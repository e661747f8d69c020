"""An engine on a mesh, here of the one device there is; `test_all_devices.py` has eight."""

import jax.numpy as jnp
import numpy as np

from mrt5_jax.config import ExecutionConfig, MeshConfig
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.sampling import Sampling, row_keys
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.parallel.shardings import spread_params

from .models import CONFIG, MAX_LENGTH, PARAMS, TOKENS

ENGINE = Engine(CONFIG, PARAMS, "soft")


def test_a_mesh_changes_no_answer_and_results_come_to_the_host() -> None:
    """Random keys are spread with the rows."""
    mesh = make_mesh(MeshConfig())
    spread = Engine(CONFIG, spread_params(MrT5(CONFIG, ExecutionConfig()), PARAMS, mesh), "soft", mesh=mesh)
    keys = row_keys(0, jnp.arange(len(TOKENS)))
    found, expected = (engine.generate(TOKENS, MAX_LENGTH, Sampling(), keys) for engine in (spread, ENGINE))
    for name, values in found._asdict().items():
        if name == "num_steps":  # speculative search alone counts them
            assert values is None
            continue
        assert isinstance(values, np.ndarray)
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-5, atol=1e-5, err_msg=name)


def test_one_device_needs_no_mesh() -> None:
    assert ENGINE.on_all_devices() is ENGINE
    assert ENGINE.num_shards == 1
