"""Selectors: which positions the rest of the model sees (MrT5 section 3.1 and its baselines).

A selector looks at the hidden states at the input of an encoder block and returns a `Selection`. They share one
protocol, `(hidden, tokens, mask, keys, segments) -> Selection`, and are made by `make_selector`; segments tell the
examples of packed rows apart.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mrt5_jax.compaction.plan import never_empty, rescued_rows
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.layers import RMSNorm, parameter
from mrt5_jax.randomness import SelectorUse

SEPARATORS = (12, 13, *range(35, 51), *range(61, 68), *range(94, 100), *range(126, 130), 1)
"""Ids at which the fixed selector's segments begin: white space, ASCII punctuation and the end of the sequence."""

RANDOM_SHARE_STD = 0.05
"""Standard deviation of a row's share of random deletions."""


class Selection(NamedTuple):
    """Which positions stay. Pads never do; a row with input, and each example of a packed row, keeps a position."""

    keep: Bool[Array, "batch length"]
    bias: Float[Array, "batch length"]
    """Gate values in (k, 0), added to attention scores under soft deletion: 0 keeps, k deletes."""
    priority: Float[Array, "batch length"]
    """When a fixed capacity overflows, positions with the lowest priority are dropped first."""
    rescued: Bool[Array, " batch"]
    """Rows whose positions were all deleted, and which keep their best one; packed rows with such an example."""


def make_selector(config: ModelConfig) -> nn.Module:
    """Makes the selector that `config.gate` names."""
    assert config.gate is not None
    return {"learned": DeleteGate, "random": RandomSelector, "fixed": FixedSelector}[config.gate.kind](config)


def deletion_threshold(gate: GateConfig) -> float:
    """Returns tau: hard deletion keeps gate values above it."""
    return gate.scale / 2 if gate.threshold is None else gate.threshold


class DeleteGate(nn.Module):
    """The learned gate: G = k sigmoid(-z), z = w . RMSNorm(h) + c, in at least float32."""

    config: ModelConfig

    def setup(self) -> None:
        gate, config = _gate(self.config), self.config
        if gate.layer_norm:
            self.norm = RMSNorm(self.config)
        xavier, constant = nn.initializers.xavier_uniform(), nn.initializers.constant(gate.bias_init)
        self.kernel = parameter(self, "kernel", xavier, ("embed", "gate"), (config.emb_dim, 1), config)
        self.bias = parameter(self, "bias", constant, ("gate",), (1,), config)

    def logits(self, hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length"]:
        """Computes z: positive keeps."""
        wide = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
        if _gate(self.config).layer_norm:
            wide = self.norm(wide)
        return (wide.reshape(-1, wide.shape[-1]) @ self.kernel + self.bias[None, :]).reshape(wide.shape[:-1])

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Selection:
        gate = _gate(self.config)
        logits = self.logits(hidden)
        if gate.gumbel_noise and keys is not None:
            logits = logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
        values = gate.scale * jax.nn.sigmoid(-logits)
        above = (values > deletion_threshold(gate)) & mask
        keep = never_empty(above, values, mask, segments)
        return Selection(keep, values, values, rescued_rows(above, keep))


class RandomSelector(nn.Module):
    """Deletes a Normal(p, 0.05) share of each row's positions, chosen at random.

    Without keys (outside training) the choice is a function of the row's tokens alone, so that it repeats.
    """

    config: ModelConfig

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Selection:
        keys = token_keys(tokens) if keys is None else keys
        share = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, SelectorUse.SHARE)))(keys)
        share = jnp.clip(_gate(self.config).deletion_probability + RANDOM_SHARE_STD * share, 0.0, 1.0)
        present = jnp.sum(mask, axis=1)
        count = present - jnp.round(share * present).astype(present.dtype)
        chance = _chance(keys, mask, SelectorUse.POSITIONS)
        selection = _by_rule((_rank(chance) < count[:, None]) & mask, mask, segments, self.config)
        # What a capacity drops is random too.
        return selection._replace(priority=(-chance).astype(selection.priority.dtype))


class FixedSelector(nn.Module):
    """Keeps the first ceil((1 - p) * length) bytes of every segment; segments begin at separator bytes."""

    config: ModelConfig

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Selection:
        length = tokens.shape[1]
        position = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        begins = jnp.isin(tokens, jnp.asarray(SEPARATORS)) | (position == 0)
        if segments is not None:
            begins = begins | (segments != jnp.roll(segments, 1, axis=1))
        start = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
        # A segment ends where the next one begins, or where the row's input does.
        after = jnp.where(begins | ~mask, position, length)
        after = jnp.concatenate([after[:, 1:], jnp.full((tokens.shape[0], 1), length)], axis=1)
        end = jax.lax.cummin(after, axis=1, reverse=True)
        # Counted outside the program: in float32, 0.6 * 25 is above 15.
        share = 1.0 - _gate(self.config).deletion_probability
        kept_of_size = np.ceil(np.round(share * np.arange(length + 1), 6)).astype(np.int32)
        keep = (position - start < jnp.asarray(kept_of_size)[end - start]) & mask
        return _by_rule(keep, mask, segments, self.config)


def random_like(
    selection: Selection,
    mask: Bool[Array, "batch length"],
    keys: RowKeys,
    segments: Int[Array, "batch length"] | None = None,
) -> Selection:
    """Selects as many positions of each row as `selection` keeps, at random: the baseline of equal deletion.

    Of packed rows (`segments`) as many of each example, so none becomes empty. The priorities are random too: what a
    capacity drops is as random as what is deleted.
    """
    chance = _chance(keys, mask, SelectorUse.INSTEAD)
    if segments is None:
        rank, count = _rank(chance), jnp.sum(selection.keep, axis=1, keepdims=True)
    else:
        segments = jnp.where(mask, segments, 0)
        rank, count = _rank_in_segments(chance, segments), _sum_of_segments(selection.keep, segments)
    return selection._replace(keep=(rank < count) & mask, priority=(-chance).astype(selection.priority.dtype))


def token_keys(tokens: Int[Array, "batch length"]) -> RowKeys:
    """Returns a random key of each row that depends on its tokens alone, not on its padding."""
    weights_key, root = jax.random.split(jax.random.key(0))
    weights = jax.random.bits(weights_key, tokens.shape[1:], jnp.uint32)
    digest = jnp.sum(tokens.astype(jnp.uint32) * weights[None], axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda number: jax.random.fold_in(root, number))(digest)


def _gate(config: ModelConfig) -> GateConfig:
    assert config.gate is not None
    return config.gate


def _chance(keys: RowKeys, mask: Bool[Array, "batch length"], use: SelectorUse) -> Float[Array, "batch length"]:
    """Uniform numbers of the valid positions, drawn position by position so that padding does not change them; 2 of
    the others."""

    def draw(key: Key[Array, ""], position: Int[Array, ""]) -> Float[Array, ""]:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, use), position))

    chance = jax.vmap(jax.vmap(draw, in_axes=(None, 0)), in_axes=(0, None))(keys, jnp.arange(mask.shape[1]))
    return jnp.where(mask, chance, 2.0)


def _rank(chance: Float[Array, "batch length"]) -> Int[Array, "batch length"]:
    """How many positions of the row come before each, by rising chance."""
    return jnp.argsort(jnp.argsort(chance, axis=1), axis=1)


def _rank_in_segments(
    chance: Float[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """How many positions of its segment come before each, by rising chance."""

    def of_row(chance: Float[Array, " length"], segments: Int[Array, " length"]) -> Int[Array, " length"]:
        rank = jnp.argsort(jnp.lexsort((chance, segments)))
        return rank - jax.ops.segment_min(rank, segments, chance.shape[0] + 1)[segments]

    return jax.vmap(of_row)(chance, segments)


def _sum_of_segments(
    values: Bool[Array, "batch length"], segments: Int[Array, "batch length"]
) -> Int[Array, "batch length"]:
    """At each position, how many values of its segment are True."""

    def of_row(values: Bool[Array, " length"], segments: Int[Array, " length"]) -> Int[Array, " length"]:
        return jax.ops.segment_sum(values.astype(jnp.int32), segments, values.shape[0] + 1)[segments]

    return jax.vmap(of_row)(values, segments)


def _by_rule(
    chosen: Bool[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    segments: Int[Array, "batch length"] | None,
    config: ModelConfig,
) -> Selection:
    """The selection of a rule that has no gate values of its own: 0 for kept positions, k for deleted ones."""
    dtype = jnp.promote_types(jnp.dtype(config.param_dtype), jnp.float32)
    keep = never_empty(chosen, chosen.astype(dtype), mask, segments)
    values = jnp.where(keep, jnp.zeros((), dtype), jnp.asarray(_gate(config).scale, dtype))
    return Selection(keep, values, values, rescued_rows(chosen, keep))
