"""The decoder, one position at a time: equal to teacher forcing, without computing anything twice.

Cross-attention's keys and values are computed once from the compact encoder output, so they have its slots;
self-attention's are written into a cache as tokens come. Both are laid out heads before slots, in which a step's
matrix-vector products read memory in order: on a CPU seven times faster than the layout of training.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ExecutionConfig, ModelConfig
from mrt5_jax.kernels.attention import BiasTable
from mrt5_jax.model.encoder_decoder import Compact, DecoderLayer, MrT5
from mrt5_jax.model.layers import Keys, MultiHeadAttention, Queries
from mrt5_jax.model.parameters import Params


class KeyValues(NamedTuple):
    key: Float[Array, "rows heads slots head_dim"]
    value: Float[Array, "rows heads slots head_dim"]


Past = tuple[KeyValues, ...]
"""Each layer's self-attention cache. Beams are rows: row r of a batch has the rows r * beams + (0 .. beams - 1)."""


class NextLogits(NamedTuple):
    logits: Float[Array, "batch beams vocab"]
    """Of the next token, in at least float32."""
    past: Past


class IncrementalLayer(DecoderLayer):
    """`DecoderLayer`, with the same parameters, for one position."""

    def memorize(self, hidden: Float[Array, "batch slots embed"]) -> KeyValues:
        """Computes cross-attention's keys and values of the encoder's output."""
        return _heads_first(*self.encoder_decoder_attention.keys_and_values(hidden))

    def step(
        self,
        hidden: Float[Array, "batch beams embed"],
        past: KeyValues,
        slot: Int[Array, ""],
        bias_table: BiasTable,
        memory: KeyValues,
        memory_keys: Keys,
    ) -> tuple[Float[Array, "batch beams embed"], KeyValues]:
        """Returns the layer's output at position `slot`, and the cache with that position in it.

        The beams of a row share its memory as so many queries.
        """
        normed = self.pre_self_attention_layer_norm(hidden)
        flat = normed.reshape(-1, 1, normed.shape[-1])
        new = _heads_first(*self.self_attention.keys_and_values(flat))
        past = KeyValues(
            *(jax.lax.dynamic_update_slice_in_dim(old, at, slot, 2) for old, at in zip(past, new, strict=True))
        )
        # Being causal hides the slots that have no token yet.
        slots = Keys(jnp.ones((flat.shape[0], past.key.shape[2]), bool), positions=jnp.arange(past.key.shape[2])[None])
        attended = _attend(self.self_attention, flat, past, slots, slot[None, None], bias_table)
        hidden = hidden + attended.reshape(hidden.shape)
        normed = self.pre_cross_attention_layer_norm(hidden)
        hidden = hidden + _attend(self.encoder_decoder_attention, normed, memory, memory_keys)
        return hidden + self.mlp(self.pre_mlp_layer_norm(hidden)), past


class CachedDecoder(NamedTuple):
    """A decoder that has read its input; used within one compiled program."""

    config: ModelConfig
    params: Params
    layers: tuple[Params, ...]
    """The layers' parameters, apart: slicing them in every step would copy them in every step."""
    memory: tuple[KeyValues, ...]
    keys: Keys

    @property
    def active(self) -> Bool[Array, " batch"]:
        """Rows with input; the others are rows of padding."""
        return jnp.any(self.keys.mask, axis=1)

    def empty_past(self, rows: int, slots: int) -> Past:
        """Makes caches for `rows` sequences of at most `slots` tokens."""
        shape = (rows, self.config.num_heads, slots, self.config.head_dim)
        empty = jnp.zeros(shape, jnp.dtype(self.config.dtype))
        return tuple(KeyValues(empty, empty) for _ in self.layers)

    def step(self, tokens: Int[Array, "batch beams"], slot: Int[Array, ""], past: Past) -> NextLogits:
        """Computes what follows `tokens`, which stand at position `slot` of the decoder's input."""
        model = MrT5(self.config)
        hidden = _apply(model, self.params, tokens, method=lambda module, ids: module.token_embedder(ids))
        positions = slot[None, None], jnp.arange(past[0].key.shape[2])[None]
        bias = _apply(model, self.params, *positions, method=lambda module, *at: module.decoder.bias_table(*at))
        layer, new_past = _layer(self.config), []
        for params, own_past, memory in zip(self.layers, past, self.memory, strict=True):
            hidden, own_past = _apply(layer, params, hidden, own_past, slot, bias, memory, self.keys, method="step")
            new_past.append(own_past)
        logits = _apply(model, self.params, hidden, method=_head)
        return NextLogits(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), tuple(new_past))


def memorize(model: MrT5, params: Params, compact: Compact) -> CachedDecoder:
    """Runs the rest of the encoder, and computes cross-attention's keys and values from its output."""
    config, encoded = model.config, _apply(model, params, compact, method="suffix")
    stacked = params["decoder"]["layers"]
    layers = tuple(_layer_params(stacked, index) for index in range(config.num_decoder_layers))
    memory = tuple(_apply(_layer(config), own, encoded.hidden, method="memorize") for own in layers)
    return CachedDecoder(config, params, layers, memory, encoded.keys)


def _attend(
    attention: MultiHeadAttention,
    hidden: Float[Array, "rows queries embed"],
    cache: KeyValues,
    keys: Keys,
    positions: Int[Array, "1 queries"] | None = None,
    bias_table: BiasTable | None = None,
) -> Float[Array, "rows queries embed"]:
    """Attends to a cache; causally where the queries have positions."""
    queries = Queries(jnp.ones(hidden.shape[:2], bool), positions=positions)
    key, value = jnp.swapaxes(cache.key, 1, 2), jnp.swapaxes(cache.value, 1, 2)
    causal = positions is not None
    return attention(hidden, key, value, queries, keys, bias_table=bias_table, causal=causal).values


def _apply(module: nn.Module, params: Params, *arguments: Any, method: Any) -> Any:
    return module.apply({"params": params}, *arguments, method=method)


def _layer(config: ModelConfig) -> IncrementalLayer:
    return IncrementalLayer(config, config.num_decoder_layers, ExecutionConfig())


def _layer_params(stacked: Params, index: int) -> Params:
    return jax.tree.map(lambda array: array[index], stacked)


def _head(model: MrT5, hidden: Float[Array, "batch beams embed"]) -> Float[Array, "batch beams vocab"]:
    return model.decoder.logits(model.decoder.decoder_norm(hidden))


def _heads_first(
    key: Float[Array, "rows slots heads head_dim"], value: Float[Array, "rows slots heads head_dim"]
) -> KeyValues:
    return KeyValues(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))
