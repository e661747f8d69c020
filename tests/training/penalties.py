"""Compares what alpha adds to loss and gradient, however packed rows are cut, with the mean gate value written plainly.

python -m tests.training.penalties '{"deletion": "hard", "chunks": 2, "parts": 1}'      (on eight simulated devices)
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import OnHost
from mrt5_jax.compaction.staged import in_graph
from mrt5_jax.config import CompactionConfig, LossConfig, MeshConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import run_prefix
from mrt5_jax.parallel.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.parallel.batches import CONTROLLER_IDS
from mrt5_jax.parallel.mesh import batch_sharding, make_mesh, on_mesh, replicated, row_shards
from mrt5_jax.training.gradients import Setting, objective_of, training_stages

from ..model.small import LENGTH, by_path, in_double, make_batch, make_config, make_params

ALPHA, ROWS = 0.3, 32
ALPHAS = (0.3, -0.2, 0.7)
"""Of languages with controllers of their own."""
MODEL = MrT5(in_double(make_config()))


def packed_batch() -> dict[str, jax.Array]:
    """Rows of up to two examples; the first is filler."""
    rng = np.random.default_rng(3)
    batch = make_batch(0, (0, *map(int, rng.integers(2, LENGTH + 1, ROWS - 1))))
    for inputs, name in (("encoder_input_tokens", "encoder"), ("decoder_target_tokens", "decoder")):
        mask = batch[inputs] > 0
        second = np.arange(mask.shape[1]) >= mask.sum(1, keepdims=True) // 2
        batch[f"{name}_segment_ids"] = np.where(mask, 1 + second, 0).astype(np.int32)
    return jax.tree.map(jnp.asarray, batch)


def plain_term(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """sum(alpha G) / inputs, over the whole batch at once; alpha is the row's where there are several."""
    prefix = run_prefix(MODEL, params, batch["encoder_input_tokens"], segments=batch["encoder_segment_ids"])
    assert prefix.selection is not None
    values = prefix.selection.signals.key_bias
    alpha = jnp.asarray(ALPHAS)[batch[CONTROLLER_IDS]][:, None] if CONTROLLER_IDS in batch else ALPHA
    return jnp.sum(jnp.where(prefix.mask, alpha * values, 0)) / jnp.sum(prefix.mask)


def largest_difference(
    deletion: Any, chunks: int, parts: int, dispatch: str = "in_graph", devices: int = 1, *, several: bool = False
) -> float:
    """Between what alpha adds and the plain term with `jax.grad`: of the value, or of a gradient."""
    params, batch = jax.tree.map(jnp.asarray, make_params(MODEL.config, 1)), packed_batch()
    alphas = ALPHA
    if several:
        batch[CONTROLLER_IDS] = jnp.asarray(np.random.default_rng(4).integers(0, len(ALPHAS), ROWS).astype(np.int32))
        alphas = ALPHAS
    value, gradients = jax.jit(jax.value_and_grad(plain_term))(params, batch)
    expected = {"value": value, **by_path(gradients)}
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    shards: RowShards = ONE_SHARD if devices == 1 else row_shards(mesh)
    with on_mesh(mesh, MeshConfig()):
        setting = Setting(
            MODEL, LossConfig(), deletion, CompactionConfig(), Ladder((4, 8, LENGTH)), shards, chunks, (), parts
        )
        staged = training_stages(setting)
        run = OnHost(staged).start if dispatch == "host" else jax.jit(in_graph(staged))
        params, batch = jax.device_put(params, replicated(mesh)), jax.device_put(batch, batch_sharding(mesh))
        found = []
        for alpha in (jnp.asarray(alphas), jnp.zeros_like(jnp.asarray(alphas))):
            objective = objective_of(MODEL.config.gate, setting.loss, alpha, batch)
            result: Any = run(params, jax.device_put(objective, replicated(mesh)), (batch, None))
            total = (result() if dispatch == "host" else result).total
            found.append(jax.device_get({"value": total.loss, **by_path(total.gradients)}))
        assert several or abs(float(total.terms["gate"]) * ALPHA - float(value)) < 1e-12
    return max(float(np.max(np.abs(found[0][name] - found[1][name] - expected[name]))) for name in expected)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    print(largest_difference(**json.loads(sys.argv[1]), devices=8))
