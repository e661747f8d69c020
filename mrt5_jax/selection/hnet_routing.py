"""H-Net's routing (Hwang et al. 2025): a position is kept where its state is unlike the one before."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.layers import parameter
from mrt5_jax.selection.protocol import Penalty, Selection, Signals
from mrt5_jax.selection.segments import first_of_examples, previous
from mrt5_jax.selection.selector_rule import (
    PenaltyRule,
    Segments,
    SelectorRule,
    count_examples,
    gate_config,
    sum_examples,
)
from mrt5_jax.selection.settings import given, number_above, with_setting

_SETTINGS = {"downsampling": number_above(1.0, 6.0)}
"""N: the ratio loss is least where one position in N is kept; 6 in the paper's models of one stage."""

_TINY = 1e-12
"""Of a squared norm, below which a state has no direction."""


def _identity(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "embed embed"]:
    return jnp.eye(*shape, dtype=dtype)


class Router(nn.Module):
    """Probabilities p_t = (1 - cos(Wq h_{t-1}, Wk h_t)) / 2; 1 at the first input of an example."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "batch length embed"], first: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length"]:
        config, width = self.config, hidden.shape[-1]
        wide = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32)).reshape(-1, width)
        query, key = (
            (wide @ parameter(self, name, _identity, ("embed", "joined_kv"), (width, width), config)).reshape(
                hidden.shape
            )
            for name in ("query", "key")
        )
        query = previous(query)
        norms = (jnp.maximum(jnp.sum(state**2, axis=-1), _TINY) for state in (query, key))
        cosine = jnp.sum(query * key, axis=-1)
        for norm in norms:
            cosine = cosine * jax.lax.rsqrt(norm)
        return jnp.where(first, 1, (1 - cosine) / 2)


class HNetRouting(nn.Module):
    r"""Keeps positions with p_t > 1/2, whose states are multiplied by p_t, straight-through.

    The ratio loss of an example, with F its share of kept positions and P its mean probability, pulls both to 1/N:

    .. math::
        \frac{N}{N-1} ((N-1) F P + (1-F)(1-P))

    Examples:
        >>> show_untrained("aaaaaa", GateConfig(kind="hnet", settings=(("downsampling", 4.0),)))  # like the one before
        'a·····'
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
        probability = Router(self.config, name="router")(hidden, first_of_examples(mask, segments))
        keep = mask & (probability > 0.5)
        downsampling = given(gate_config(self.config), _SETTINGS, "downsampling")
        ratio = ratio_loss(keep, probability, mask, segments, float(downsampling))
        signals = Signals(confidence=jnp.where(keep, probability, 1 - probability))
        statistics = {"rescued": jnp.zeros(mask.shape[0], jnp.float32)}
        return Selection(keep, None, probability, signals, {"ratio": ratio}, statistics)


def ratio_loss(
    keep: Bool[Array, "batch length"],
    probability: Float[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    segments: Segments,
    downsampling: float,
) -> Penalty:
    """Returns the ratio loss of each example. (In the paper F and P are those of a batch.)"""
    sizes = sum_examples(jnp.ones_like(probability), mask, segments)
    share, mean = (
        sum_examples(values.astype(probability.dtype), mask, segments) / jnp.maximum(sizes, 1)
        for values in (keep, probability)
    )
    more = downsampling - 1
    loss = downsampling / more * (more * share * mean + (1 - share) * (1 - mean))
    return Penalty(jnp.sum(jnp.where(sizes > 0, loss, 0), axis=1), count_examples(mask, segments))


def router_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the parameters of a router by their names below it."""
    return dict.fromkeys(("query", "key"), (config.emb_dim, config.emb_dim))


def _hold(gate: GateConfig, deletion_rate: float) -> GateConfig:
    return with_setting(gate, "downsampling", 1 / (1 - deletion_rate))


HNET = SelectorRule(
    HNetRouting,
    reads=("settings",),
    penalties={"ratio": PenaltyRule(count_examples, "target", hold=_hold)},
    has_gate_values=False,
    causal=True,
    settings=_SETTINGS,
    parameters=lambda config: {f"router/{name}": size for name, size in router_shapes(config).items()},
    multiply_adds=lambda config: 2 * config.emb_dim**2,
)
