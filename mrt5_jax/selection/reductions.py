"""The table of reductions: what a slot holds of the positions that are merged into it.

A reduction is a module of the second stage, with parameters of its own: it runs at the length that its rows need.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.plan import gather
from mrt5_jax.config import ModelConfig
from mrt5_jax.kernels.products import project
from mrt5_jax.model.layers import RMSNorm, parameter
from mrt5_jax.selection.selector_rule import gate_config


class Members(NamedTuple):
    """What a pooled row's slots are made of, at full length."""

    keep: Bool[Array, "batch length"]
    """Positions that own a slot; a segment whose position a capacity dropped is gone as a whole."""
    merged_into: Int[Array, "batch length"]
    mask: Bool[Array, "batch length"]
    weights: Float[Array, "batch length"] | None


class SegmentMean(nn.Module):
    """The weighted sum of a slot's positions; their weights add up to 1 and carry the selector's gradient.

    Examples:
        >>> config = mrt5_jax.presets.mrt5("tiny", emb_dim=1, gate=GateConfig(1, "every_kth", stride=2))
        >>> hidden, positions = jnp.asarray([[[1.0], [3.0], [5.0], [7.0]]]), jnp.asarray([[0, 2]])
        >>> keep, merged_into = jnp.asarray([[True, False, True, False]]), jnp.asarray([[0, 0, 2, 2]])
        >>> pairs = Members(keep, merged_into, mask=jnp.ones((1, 4), bool), weights=jnp.full((1, 4), 0.5))
        >>> SegmentMean(config).apply({}, hidden, positions, pairs).tolist()
        [[[2.0], [6.0]]]
    """

    config: ModelConfig

    def __call__(
        self, hidden: Float[Array, "batch length embed"], positions: Int[Array, "#batch slots"], members: Members
    ) -> Float[Array, "batch slots embed"]:
        assert members.weights is not None
        slots = positions.shape[1]
        of_kept = jnp.cumsum(members.keep, axis=1, dtype=jnp.int32) - 1
        owned = members.mask & gather(members.keep, members.merged_into)
        number = jnp.where(owned, gather(of_kept, members.merged_into), slots)
        weighted = members.weights[..., None] * hidden
        # A vmapped sum over segments stays local when the batch is sharded.
        pooled = jax.vmap(lambda row, of: jax.ops.segment_sum(row, of, slots))(weighted, number)
        return pooled.astype(hidden.dtype)


class Convolution(nn.Module):
    """GELU(conv(RMSNorm(h))): a kernel as wide as its stride over each slot's positions, exact erf GELU (CANINE).

    Positions beyond a slot's own are zeros: pads, other examples, the end of the row. With `drop_tail` pads are
    convolved as they are, as in the authors' code.

    Examples:
        >>> gate = GateConfig(1, "every_kth", stride=2, reduction="convolution")
        >>> config = mrt5_jax.presets.mrt5("tiny", emb_dim=1, gate=gate)
        >>> hidden, positions = jnp.asarray([[[1.0], [3.0], [5.0], [7.0]]]), jnp.asarray([[0, 2]])
        >>> keep, merged_into = jnp.asarray([[True, False, True, False]]), jnp.asarray([[0, 0, 2, 2]])
        >>> pairs = Members(keep, merged_into, mask=jnp.ones((1, 4), bool), weights=None)
        >>> pooled, _ = Convolution(config).init_with_output(jax.random.key(0), hidden, positions, pairs)
        >>> pooled.shape  # a slot for each pair
        (1, 2, 1)
    """

    config: ModelConfig

    def setup(self) -> None:
        config, stride = self.config, gate_config(self.config).stride
        self.norm = RMSNorm(config)
        width = stride * config.emb_dim
        initial = nn.initializers.normal(width**-0.5)
        self.kernel = parameter(self, "kernel", initial, ("window", "embed"), (width, config.emb_dim), config)
        self.bias = parameter(self, "bias", nn.initializers.zeros, ("embed",), (config.emb_dim,), config)

    def __call__(
        self, hidden: Float[Array, "batch length embed"], positions: Int[Array, "#batch slots"], members: Members
    ) -> Float[Array, "batch slots embed"]:
        gate, length = gate_config(self.config), hidden.shape[1]
        positions = jnp.broadcast_to(positions, (hidden.shape[0], positions.shape[1]))
        normed = self.norm(hidden)
        window = []
        for offset in range(gate.stride):
            at = jnp.minimum(positions + offset, length - 1)
            inside = (positions + offset < length) & (gather(members.merged_into, at) == positions)
            if not gate.drop_tail:
                inside = inside & gather(members.mask, at)
            window.append(jnp.where(inside[..., None], gather(normed, at), 0))
        flat = jnp.concatenate(window, axis=-1).reshape(-1, gate.stride * hidden.shape[-1])
        convolved = project(flat, self.kernel) + self.bias.astype(hidden.dtype)[None]
        return jax.nn.gelu(convolved, approximate=False).reshape(*positions.shape, hidden.shape[-1])


REDUCTIONS: dict[str, type[nn.Module]] = {"segment_mean": SegmentMean, "convolution": Convolution}


def make_reduction(config: ModelConfig) -> nn.Module:
    """Returns the reduction that `config.gate` names."""
    return REDUCTIONS[gate_config(config).reduction](config)
