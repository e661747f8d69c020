"""The best positions of each example by a learned score, always as many (as ByteFlow Net has it, ICLR 2026)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.selection.hnet_routing import Router, router_shapes
from mrt5_jax.selection.learned_gate import DeleteGate
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.random_choice import rank_in_segments, sum_of_segments
from mrt5_jax.selection.segments import first_of_examples
from mrt5_jax.selection.selector_rule import Segments, SelectorRule, gate_config
from mrt5_jax.selection.settings import given, one_of, rate

_SETTINGS = {"share": rate(0.5), "score": one_of("gate", "router")}


class TopK(nn.Module):
    """Keeps ceil(share * inputs) positions of each example, those of the highest score; of equal ones the first.

    The score is the probability that a delete gate keeps (gate), or H-Net's (router). Kept states are multiplied by it,
    straight-through: by that alone the score learns. With CompactionConfig.capacity = share all rows have one length.

    Examples:
        >>> best = (("share", 0.05), ("score", "router"))
        >>> show_untrained("The cat, 42.", GateConfig(kind="top_k", settings=best))  # ceil(0.05 * 13) is 1
        'T···········'
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Segments = None,
    ) -> Selection:
        gate, length = gate_config(self.config), mask.shape[1]
        if given(gate, _SETTINGS, "score") == "router":
            score = Router(self.config, name="router")(hidden, first_of_examples(mask, segments))
        else:
            score = jax.nn.sigmoid(DeleteGate(self.config, name="score").logits(hidden))
        # Counted outside the program, as of the fixed selector. However small the share, an example keeps one.
        kept_of_size = np.ceil(np.round(given(gate, _SETTINGS, "share") * np.arange(length + 1), 6))
        kept_of_size = np.maximum(kept_of_size, 1).astype(np.int32)
        examples = jnp.where(mask, 1 if segments is None else segments, 0)
        rank, size = rank_in_segments(-jax.lax.stop_gradient(score), examples), sum_of_segments(mask, examples)
        keep = mask & (rank < jnp.asarray(kept_of_size)[size])
        signals = Signals(confidence=jnp.where(keep, score, 1 - score))
        return Selection(keep, None, score, signals, {}, {"rescued": jnp.zeros(mask.shape[0], jnp.float32)})


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    gate = gate_config(config)
    if given(gate, _SETTINGS, "score") == "router":
        return {f"router/{name}": size for name, size in router_shapes(config).items()}
    norm = {"score/norm/scale": (config.emb_dim,)} if gate.layer_norm else {}
    return {**norm, "score/kernel": (config.emb_dim, 1), "score/bias": (1,)}


def _multiply_adds(config: ModelConfig) -> int:
    router = given(gate_config(config), _SETTINGS, "score") == "router"
    return 2 * config.emb_dim**2 if router else config.emb_dim


TOP_K = SelectorRule(
    TopK,
    reads=("layer_norm", "bias_init", "settings"),
    penalties={},
    has_gate_values=False,
    settings=_SETTINGS,
    parameters=_shapes,
    multiply_adds=_multiply_adds,
)
