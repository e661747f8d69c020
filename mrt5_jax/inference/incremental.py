"""The decoder, one position at a time or a few of each row: equal to teacher forcing, nothing is computed twice.

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
    """Of the token that follows each of those given, in at least float32."""
    past: Past


class IncrementalLayer(DecoderLayer):
    """`DecoderLayer`, with the same parameters, for one position or a few."""

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
        attended = _attend(self.self_attention, flat, past, _all_slots(past), slot[None, None], bias_table)
        return self._after_self_attention(hidden + attended.reshape(hidden.shape), memory, memory_keys), past

    def extend(
        self,
        hidden: Float[Array, "batch width embed"],
        past: KeyValues,
        starts: Int[Array, " batch"],
        bias_table: BiasTable,
        memory: KeyValues,
        memory_keys: Keys,
    ) -> tuple[Float[Array, "batch width embed"], KeyValues]:
        """Returns the layer's output at `width` positions of each row, and the cache with these positions in it.

        A row's positions begin at its own start. Mapped over rows, writing them is a scatter of a block a row: it
        touches these slots alone and leaves every row on its device, where choosing between old and new at every slot
        would read and write the whole cache in every step.
        """
        normed = self.pre_self_attention_layer_norm(hidden)
        new = _heads_first(*self.self_attention.keys_and_values(normed))
        write = jax.vmap(lambda old, at, start: jax.lax.dynamic_update_slice_in_dim(old, at, start, 1))
        past = KeyValues(*(write(old, at, starts) for old, at in zip(past, new, strict=True)))
        positions = _positions(starts, hidden.shape[1])
        attended = _attend(self.self_attention, normed, past, _all_slots(past), positions, bias_table)
        return self._after_self_attention(hidden + attended, memory, memory_keys), past

    def _after_self_attention(
        self, hidden: Float[Array, "batch queries embed"], memory: KeyValues, memory_keys: Keys
    ) -> Float[Array, "batch queries embed"]:
        normed = self.pre_cross_attention_layer_norm(hidden)
        hidden = hidden + _attend(self.encoder_decoder_attention, normed, memory, memory_keys)
        return hidden + self.mlp(self.pre_mlp_layer_norm(hidden))


class CachedDecoder(NamedTuple):
    """A decoder that has read its input; used within one compiled program."""

    config: ModelConfig
    params: Params
    layers: tuple[Params, ...]
    """The layers' parameters, apart: slicing them in every step would copy them in every step."""
    memory: tuple[KeyValues, ...]
    keys: Keys
    inputs: Int[Array, "batch length"] | None = None
    """The ids that it has read, deleted ones too, for a search that reads them."""

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
        positions = slot[None, None], jnp.arange(past[0].key.shape[2])[None]
        return self._run_layers("step", tokens, slot, positions, past)

    def extend(self, tokens: Int[Array, "batch width"], starts: Int[Array, " batch"], past: Past) -> NextLogits:
        """Computes what follows each of `tokens`, which stand at positions `starts` + (0 .. width - 1) of their row.

        Slots from `starts` on may hold anything: those of the tokens are written first, and being causal hides those
        after them. The cache needs `width` slots from a row's start on, or the row's results mean nothing.
        """
        slots = jnp.arange(past[0].key.shape[2])[None]
        # Biases are computed row by row, from queries and keys of the row.
        slots = jnp.broadcast_to(slots, (tokens.shape[0], slots.shape[1]))
        return self._run_layers("extend", tokens, starts, (_positions(starts, tokens.shape[1]), slots), past)

    def _run_layers(
        self, method: str, tokens: Int[Array, "batch queries"], at: Array, positions: tuple[Array, Array], past: Past
    ) -> NextLogits:
        """Runs the decoder by a method of its layers: `at` is where it writes, `positions` are queries' and keys'."""
        model = MrT5(self.config)
        hidden = _apply(model, self.params, tokens, method=lambda module, ids: module.token_embedder(ids))
        bias = _apply(model, self.params, *positions, method=lambda module, *of: module.decoder.bias_table(*of))
        layer, new_past = _layer(self.config), []
        for params, own_past, memory in zip(self.layers, past, self.memory, strict=True):
            hidden, own_past = _apply(layer, params, hidden, own_past, at, bias, memory, self.keys, method=method)
            new_past.append(own_past)
        logits = _apply(model, self.params, hidden, method=_head)
        return NextLogits(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), tuple(new_past))


def memorize(
    model: MrT5, params: Params, compact: Compact, inputs: Int[Array, "batch length"] | None = None
) -> CachedDecoder:
    """Runs the rest of the encoder, and computes cross-attention's keys and values from its output.

    Args:
      inputs: the ids that the encoder has read, for `CachedDecoder.inputs`.
    """
    config, encoded = model.config, _apply(model, params, compact, method="suffix")
    stacked = params["decoder"]["layers"]
    layers = tuple(_layer_params(stacked, index) for index in range(config.num_decoder_layers))
    memory = tuple(_apply(_layer(config), own, encoded.hidden, method="memorize") for own in layers)
    return CachedDecoder(config, params, layers, memory, encoded.keys, inputs)


def _attend(
    attention: MultiHeadAttention,
    hidden: Float[Array, "rows queries embed"],
    cache: KeyValues,
    keys: Keys,
    positions: Int[Array, "#rows queries"] | None = None,
    bias_table: BiasTable | None = None,
) -> Float[Array, "rows queries embed"]:
    """Attends to a cache; causally where the queries have positions."""
    queries = Queries(jnp.ones(hidden.shape[:2], bool), positions=positions)
    key, value = jnp.swapaxes(cache.key, 1, 2), jnp.swapaxes(cache.value, 1, 2)
    causal = positions is not None
    return attention(hidden, key, value, queries, keys, bias_table=bias_table, causal=causal).values


def _all_slots(past: KeyValues) -> Keys:
    """Every slot of a cache as a key: being causal hides those that have no token of their row yet."""
    rows, _, slots, _ = past.key.shape
    return Keys(jnp.ones((rows, slots), bool), positions=jnp.arange(slots)[None])


def _positions(starts: Int[Array, " batch"], width: int) -> Int[Array, "batch width"]:
    return starts[:, None] + jnp.arange(width)[None]


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
