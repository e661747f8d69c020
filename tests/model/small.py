"""Models of a few thousand random parameters, and batches with rows of all lengths."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import Deletion, GateConfig, ModelConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, Outputs, forward

LENGTH, TARGET = 12, 6
VOCAB = 20
LENGTHS = (12, 5, 0, 8)
"""Inputs of the rows of a batch; the third is filler."""


def make_config(**changes: Any) -> ModelConfig:
    config = ModelConfig(
        8,
        2,
        4,
        10,
        3,
        2,
        VOCAB,
        gate=GateConfig(layer=1, bias_init=0.0),
        dropout_rate=0.0,
        relpos_num_buckets=8,
        relpos_max_distance=16,
    )
    return dataclasses.replace(config, **changes)


def in_double(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, dtype="float64", param_dtype="float64")


@functools.cache
def param_shapes(config: ModelConfig) -> Any:
    """The parameters' shapes, of float32."""
    ids = jnp.ones((1, 4), jnp.int32)
    config = dataclasses.replace(config, dtype="float32", param_dtype="float32")
    return jax.eval_shape(MrT5(config).init, jax.random.key(0), ids, ids)["params"]


def make_params(config: ModelConfig, seed: int = 0) -> Any:
    """float64 NumPy arrays: no norm's scale is 1, and the gate deletes about half of what it sees."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, boxed: Any) -> np.ndarray:
        shape, name = boxed.value.shape, path[-1].key
        if name in ("scale", "bias"):
            return rng.normal(name == "scale", 0.2, shape)
        gate = "gate" in {getattr(part, "key", None) for part in path}
        return rng.normal(0, 2.0 if gate else 1.0 if name == "embedding" else 0.5, shape)

    return jax.tree_util.tree_map_with_path(draw, param_shapes(config), is_leaf=lambda leaf: hasattr(leaf, "unbox"))


def by_path(tree: Any, start: str = "") -> dict[str, Any]:
    """A nested dictionary's leaves by "name/name/name"."""
    if not isinstance(tree, dict):
        return {start: tree}
    leaves = (by_path(branch, f"{start}/{name}".lstrip("/")) for name, branch in tree.items())
    return {path: leaf for found in leaves for path, leaf in found.items()}


def make_batch(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, vocab: int = VOCAB) -> dict[str, np.ndarray]:
    """Random ids; targets of half the inputs' lengths. A row without input has no targets either."""
    rng = np.random.default_rng(seed)
    shorter = [length // 2 for length in lengths]
    inputs, targets = (
        np.where(np.arange(size)[None] < np.array(ends)[:, None], rng.integers(1, vocab, (len(ends), size)), 0)
        for size, ends in ((LENGTH, lengths), (TARGET, shorter))
    )
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": targets > 0,
    }
    return {name: array.astype(np.int32) for name, array in batch.items()}


_forward = jax.jit(forward, static_argnums=0)


def run_forward(config: ModelConfig, params: Any, batch: dict[str, np.ndarray], deletion: Deletion) -> Outputs:
    """Our forward pass, in the configuration's precision, at 6 or 12 slots; compiled once for all tests."""
    with jax.enable_x64(config.param_dtype == "float64"):
        params = jax.tree.map(lambda leaf: leaf.astype(config.param_dtype), params)
        setting = ForwardSetting(MrT5(config), deletion, Ladder((LENGTH // 2, LENGTH)))
        return jax.device_get(_forward(setting, params, batch))
