"""Where deleted positions went: how much kept positions attend to them in the encoder layers before the gate.

What a kept position takes from a deleted one, it takes by attention in the layers 0..g-1: after the gate nobody sees
the deleted one any more. The layers are run once more here, one after another, for inspection alone; no other program
has attention weights among its outputs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import Piece
from mrt5_jax.kernels.attention import attention
from mrt5_jax.model.dropout import LayerDropout
from mrt5_jax.model.encoder_decoder import EncoderLayer, MrT5, TokenEmbedder
from mrt5_jax.model.layers import Keys, MultiHeadAttention, RMSNorm
from mrt5_jax.model.parameters import PREFIX, Params


class LayerAttention(NamedTuple):
    """What kept positions attend to in a layer, weights averaged over its heads; several layers: a leading axis."""

    attender: Int[Array, "*layers batch length"]
    """Of each position, the kept one that attends to it most; the first of equal ones."""
    weight: Float[Array, "*layers batch length"]
    """How much of its attention that one gives it."""
    share: Float[Array, "*layers batch"]
    """How much of the attention of a row's kept positions goes to deleted ones."""


AttentionInspector = Callable[
    [Params, Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]], LayerAttention
]
"""(parameters, tokens, positions that stay) -> what kept positions attend to, by layer."""


class Attender(NamedTuple):
    """The kept position that attends to a deleted one most, in the layer where it does so most."""

    position: int
    """In the window, from 0."""
    weight: float
    """Its attention weight, from 0 to 1, mean over the heads."""
    layer: int
    """From 0; the gate stands before layer g."""


class WindowAttention(NamedTuple):
    """What became of the deleted positions of a window before they were deleted."""

    shares: tuple[float, ...]
    """By layer: how much of the attention of kept positions goes to deleted ones, from 0 to 1."""
    num_kept: int
    attenders: dict[int, Attender]
    """By deleted position, in order."""


def make_attention_inspector(model: MrT5) -> AttentionInspector:
    """Makes a program that says what kept positions attend to in each encoder layer before the gate."""
    config = model.config
    layer_module = EncoderLayer(config, config.num_encoder_layers, model.execution, sees_gate=False)
    norm, attends = RMSNorm(config), MultiHeadAttention(config, config.num_encoder_layers, model.execution)

    def inspect(
        params: Params, tokens: Int[Array, "batch length"], keep: Bool[Array, "batch length"]
    ) -> LayerAttention:
        positions = jnp.arange(tokens.shape[1])[None]
        keys = Keys(tokens != PAD_ID, positions=positions)
        table = params["encoder"]["relpos_bias"]["rel_embedding"]

        def run_layer(hidden: Array, layer: Params) -> tuple[Array, LayerAttention]:
            normed: Any = norm.apply({"params": layer["pre_attention_layer_norm"]}, hidden)
            projected: Any = attends.apply({"params": layer["attention"]}, normed, method=_queries_and_keys)
            seam = {
                "query_positions": positions,
                "key_positions": positions,
                "bias_table": table,
                "max_distance": config.relpos_max_distance,
                "key_mask": keys.mask,
                "sink": config.softmax1,
            }
            found = _summarize(attention_weights(*projected, **seam), keep, keys.mask)
            after: Any = layer_module.apply({"params": layer}, hidden, LayerDropout(), keys, table)
            return after[0], found

        embedded: Any = TokenEmbedder(config).apply({"params": params["token_embedder"]}, tokens)
        _, found = jax.lax.scan(run_layer, embedded, params["encoder"][PREFIX])
        return found

    return jax.jit(inspect)


def attention_weights(
    query: Float[Array, "batch query heads head_dim"], key: Float[Array, "batch key heads head_dim"], **seam: Any
) -> Float[Array, "batch query key"]:
    """Reads the weights of an attention, mean over its heads, from the seam itself, whatever computes it.

    With values that are unit vectors, what a query receives are its weights: as many keys of a call as a head has
    dimensions.

    Args:
        seam: the other arguments of `kernels.attention.attention`.
    """
    num_keys, width = key.shape[1], key.shape[3]

    def of_keys(first: Int[Array, ""]) -> Float[Array, "batch query head_dim"]:
        units = jnp.arange(num_keys)[:, None] == first + jnp.arange(width)[None]
        values = jnp.broadcast_to(units[None, :, None].astype(key.dtype), key.shape)
        received = attention(query, key, values, **seam).values
        return jnp.mean(received.astype(jnp.promote_types(received.dtype, jnp.float32)), axis=2)

    by_part = jax.lax.map(of_keys, jnp.arange(0, num_keys, width))
    return jnp.moveaxis(by_part, 0, 2).reshape(*query.shape[:2], -1)[..., :num_keys]


def _queries_and_keys(attends: MultiHeadAttention, hidden: Float[Array, "batch length embed"]) -> tuple[Array, Array]:
    key, _ = attends.keys_and_values(hidden)
    return attends.heads(attends.query(hidden)), key


def _summarize(
    weights: Float[Array, "batch query key"], keep: Bool[Array, "batch key"], mask: Bool[Array, "batch key"]
) -> LayerAttention:
    of_kept = jnp.where(keep[:, :, None], weights, -1.0)
    to_deleted = jnp.where(keep[:, :, None] & (mask & ~keep)[:, None, :], weights, 0.0)
    num_kept = jnp.maximum(jnp.sum(keep, axis=1), 1)
    share = jnp.sum(to_deleted, axis=(1, 2)) / num_kept
    return LayerAttention(jnp.argmax(of_kept, axis=1), jnp.max(of_kept, axis=1), share)


def attention_in_windows(
    inspector: AttentionInspector, params: Params, windows: Sequence[Sequence[Piece]], input_length: int
) -> list[WindowAttention]:
    """Returns what kept positions attend to in each window of a text; all windows run in one shape.

    Args:
        windows: as `inspect_windows` gives them, of at most `input_length` ids each.

    Raises:
        UserError: weights are not finite.
    """
    found = []
    for pieces in windows:
        tokens = np.full((1, input_length), PAD_ID, np.int32)
        keep = np.zeros((1, input_length), bool)
        size = sum(len(piece.ids) for piece in pieces)
        tokens[0, :size] = [token for piece in pieces for token in piece.ids]
        keep[0, :size] = [kept for piece in pieces for kept in piece.keep]
        layers: LayerAttention = jax.device_get(inspector(params, tokens, keep))
        shares = tuple(map(float, layers.share[:, 0]))
        if not all(map(math.isfinite, shares)):
            raise UserError("attention weights are not finite: evaluate the checkpoint, or take another one (--step)")
        attenders = {}
        for position in np.flatnonzero(~keep[0, :size]).tolist():
            layer = int(np.argmax(layers.weight[:, 0, position]))
            at = layer, 0, position
            attenders[position] = Attender(int(layers.attender[at]), float(layers.weight[at]), layer)
        found.append(WindowAttention(shares, int(keep.sum()), attenders))
    return found
