"""Dropout, drawn for a whole step at once and outside the modules.

As in T5X, a hidden unit is dropped for all positions of a row together, and an attention weight for all queries of a
key. Every draw is a function of (the row's key, the unit or the original position) alone, so neither compaction nor
padding nor the other rows change it. Drawing everything in three calls keeps random bits out of the scanned layers and
out of the branches of compaction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mrt5_jax.config import ModelConfig
from mrt5_jax.randomness import RowUse

RowKeys = Key[Array, " batch"]
"""One random key a row."""


class LayerDropout(NamedTuple):
    """What one layer keeps (or, with a leading axis `layers`, what a stack keeps). True = kept; None = all."""

    weights: Bool[Array, "*layers batch heads key"] | None = None
    """Self-attention weights by original key position."""
    residual: Bool[Array, "*layers batch sublayers embed"] | None = None
    """Outputs of the sublayers, as they are added to the residual stream."""
    mlp: Bool[Array, "*layers batch mlp"] | None = None
    cross_weights: Bool[Array, "*layers batch heads cross_key"] | None = None
    """Cross-attention weights by original key position."""

    def sublayer(self, number: int) -> Bool[Array, "batch embed"] | None:
        """Returns what one layer keeps of its `number`-th sublayer's output."""
        return None if self.residual is None else self.residual[:, number]


class Dropout(NamedTuple):
    """What a step keeps in all places. True = kept; None = all."""

    embedded: Bool[Array, "batch embed"] | None = None
    encoded: Bool[Array, "batch embed"] | None = None
    decoder_embedded: Bool[Array, "batch embed"] | None = None
    decoded: Bool[Array, "batch embed"] | None = None
    prefix: LayerDropout = LayerDropout()
    suffix: LayerDropout = LayerDropout()
    decoder: LayerDropout = LayerDropout()


NO_DROPOUT = Dropout()


def draw_dropout(config: ModelConfig, row_keys: RowKeys, input_length: int, target_length: int) -> Dropout:
    """Draws a step's dropout.

    Args:
      row_keys: a key for every row of the batch.
      input_length: full length of the encoder's input.
      target_length: length of the decoder's input.
    """
    if config.dropout_rate == 0.0:
        return NO_DROPOUT
    batch, heads, embed = row_keys.shape[0], config.num_heads, config.emb_dim
    before = config.gate.layer if config.gate else config.num_encoder_layers
    after, decoder = config.num_encoder_layers - before, config.num_decoder_layers

    def draw(use: RowUse, shape: tuple[int, ...]) -> Bool[Array, "batch ..."]:
        def of_row(key: Key[Array, ""]) -> Bool[Array, "..."]:
            return jax.random.bernoulli(jax.random.fold_in(key, use), 1.0 - config.dropout_rate, shape)

        return jax.vmap(of_row)(row_keys)

    # A longer row draws the same for its first positions: the position is the leading axis of a counter-based draw.
    by_input = _split(
        draw(RowUse.WEIGHTS_BY_INPUT, (input_length, before + after + decoder, heads)), (before, after, decoder), axis=2
    )
    by_target = draw(RowUse.WEIGHTS_BY_TARGET, (target_length, decoder, heads))
    widths = [
        4 * embed,
        *(layers * (subs * embed + config.mlp_dim) for layers, subs in _layers(before, after, decoder)),
    ]
    places, *stacks = _split(draw(RowUse.UNITS, (sum(widths),)), widths, axis=1)
    by_place = jnp.moveaxis(places.reshape(batch, 4, embed), 1, 0)

    def stack(units: Bool[Array, "batch units"], layers: int, sublayers: int, weights: Array) -> LayerDropout:
        units = jnp.moveaxis(units.reshape(batch, layers, sublayers * embed + config.mlp_dim), 1, 0)
        residual = units[..., : sublayers * embed].reshape(layers, batch, sublayers, embed)
        return LayerDropout(_by_layer(weights), residual, units[..., sublayers * embed :])

    return Dropout(
        *by_place,
        prefix=stack(stacks[0], before, 2, by_input[0]),
        suffix=stack(stacks[1], after, 2, by_input[1]),
        decoder=stack(stacks[2], decoder, 3, by_target)._replace(cross_weights=_by_layer(by_input[2])),
    )


def rows_first(dropout: Dropout) -> Dropout:
    """Moves the rows to the first axis of every array, so that they can be cut into parts."""
    return _move_stacks(dropout, 1, 0)


def layers_first(dropout: Dropout) -> Dropout:
    """Undoes `rows_first`."""
    return _move_stacks(dropout, 0, 1)


def _move_stacks(dropout: Dropout, source: int, destination: int) -> Dropout:
    def move(stack: LayerDropout) -> LayerDropout:
        return jax.tree.map(lambda array: jnp.moveaxis(array, source, destination), stack)

    return dropout._replace(prefix=move(dropout.prefix), suffix=move(dropout.suffix), decoder=move(dropout.decoder))


def drop_units(
    hidden: Float[Array, "batch length width"], kept: Bool[Array, "batch width"] | None, rate: float
) -> Float[Array, "batch length width"]:
    """Zeroes the dropped units of hidden states, and scales the others to keep their mean. `kept=None`: all stay."""
    if kept is None:
        return hidden
    return jnp.where(kept[:, None, :], hidden / (1.0 - rate), jnp.zeros((), hidden.dtype))


def drop_weights(
    value: Float[Array, "batch key heads head_dim"], kept: Bool[Array, "batch heads key"] | None
) -> Float[Array, "batch key heads head_dim"]:
    """Drops a key's attention weights by dropping its value, for all queries: one pass over [key head_dim] numbers.

    Nothing is scaled; what is attended to is to be divided by the kept share. `kept=None`: all stay.
    """
    if kept is None:
        return value
    return jnp.where(jnp.swapaxes(kept, 1, 2)[..., None], value, jnp.zeros((), value.dtype))


def at_positions(
    kept: Bool[Array, "layers batch heads length"] | None, positions: Int[Array, "rows slots"]
) -> Bool[Array, "layers batch heads slots"] | None:
    """Takes draws by original position in the order of a compact sequence."""
    if kept is None:
        return None
    index = jnp.broadcast_to(positions[None, :, None, :], (*kept.shape[:3], positions.shape[1]))
    return jnp.take_along_axis(kept, index, axis=3)


def _layers(before: int, after: int, decoder: int) -> tuple[tuple[int, int], ...]:
    """(layers, sublayers of a layer that write to the residual stream) of each stack."""
    return ((before, 2), (after, 2), (decoder, 3))


def _split(values: Array, sizes: list[int] | tuple[int, ...], axis: int) -> list[Array]:
    bounds = [sum(sizes[:end]) for end in range(1, len(sizes))]
    return jnp.split(values, bounds, axis=axis)


def _by_layer(weights: Bool[Array, "batch length layers heads"]) -> Bool[Array, "layers batch heads length"]:
    return jnp.transpose(weights, (2, 0, 3, 1))
