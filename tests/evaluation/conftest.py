"""A model of a few thousand parameters whose gate deletes about half of what it sees."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.evaluation.programs import BatchByBatch, Evaluator, evaluation_program
from mrt5_jax.model.encoder_decoder import MrT5


class Tiny(NamedTuple):
    model: MrT5
    params: Any
    evaluator: Evaluator


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Random parameters; inputs of 8 run at 4 or 8 slots."""
    model = MrT5(ModelConfig(16, 2, 8, 16, 2, 1, gate=GateConfig(layer=1), dropout_rate=0.0))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8), jnp.int32), jnp.ones((1, 4), jnp.int32))
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: generator.normal(size=leaf.shape, scale=0.5).astype(np.float32), nn.unbox(shapes["params"])
    )
    params["encoder"]["gate"]["bias"] += 1.0
    return Tiny(model, params, BatchByBatch(evaluation_program(model, Ladder((4, 8)))))
