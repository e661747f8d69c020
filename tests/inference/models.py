"""Small random models whose gate really deletes, and inputs of various lengths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.inference.decoding import Generated
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params

VOCAB = 12


def small_config(**changes: Any) -> ModelConfig:
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 24, "vocab_size": VOCAB}
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2, "gate": GateConfig(layer=1, bias_init=0.0)}
    return ModelConfig(**{**sizes, **layers, **changes})


def random_params(config: ModelConfig, seed: int = 0) -> Params:
    """Random parameters, drawn with NumPy: nothing to compile. Logits are sharp, so that none are nearly equal."""
    ids = jnp.ones((1, 4), jnp.int32)
    abstract = jax.eval_shape(MrT5(config).init, jax.random.key(0), ids, ids)["params"]
    rng = np.random.default_rng(seed)

    def draw(path: Any, boxed: Any) -> jax.Array:
        shape, name = boxed.value.shape, path[-1].key
        if name in ("scale", "bias"):
            return jnp.full(shape, 1.0 if name == "scale" else 0.0)
        std = {"embedding": 1.0, "rel_embedding": 0.5}.get(name, 2 * shape[-2] ** -0.5)
        return jnp.asarray(rng.normal(0, std, shape), config.param_dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract, is_leaf=lambda leaf: hasattr(leaf, "unbox"))


def random_inputs(lengths: list[int], length: int, seed: int = 0) -> np.ndarray:
    """Rows of random ids with an end of sequence; a length of 0 makes filler."""
    rng = np.random.default_rng(seed)
    batch = np.zeros((len(lengths), length), np.int32)
    for row, real in zip(batch, lengths, strict=True):
        row[:real] = rng.integers(2, VOCAB, real)
        row[max(real - 1, 0)] = min(real, 1)
    return batch


CONFIG = small_config()
PARAMS = random_params(CONFIG, seed=1)
LENGTHS = [24, 3, 0, 11, 24, 17]
TOKENS = random_inputs(LENGTHS, 24)
"""Under hard deletion greedy search ends some of these rows before MAX_LENGTH, and others not."""
MAX_LENGTH = 10


def as_targets(tokens: np.ndarray, generated: Generated) -> dict[str, np.ndarray]:
    """A batch of which the targets are what was generated."""
    targets = np.asarray(generated.tokens)
    weights = np.arange(MAX_LENGTH)[None] < np.asarray(generated.num_tokens)[:, None]
    return {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": weights.astype(np.int32),
    }
