"""Decoding token by token: greedy, and the loop that sampling shares with it.

A search is a small frozen object with the method `search(decoder, row_keys, max_length) -> Generated`, traced into one
program whose steps are one `lax.while_loop`. It ends when all rows have ended. Decoding begins with token 0, as T5's
does; a row ends with the end of sequence (1) and has pads (0) after it.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.inference.incremental import CachedDecoder, Past
from mrt5_jax.model.dropout import RowKeys

START_ID = PAD_ID


class Generated(NamedTuple):
    """One sequence for each row; rows without input have pads and score 0."""

    tokens: Int[Array, "batch target"]
    """Up to and with the end of sequence, if it came within `max_length`; then pads."""
    num_tokens: Int[Array, " batch"]
    score: Float[Array, " batch"]
    """Sum of the tokens' log-probabilities under the model (nats), as teacher-forced scoring gives it."""
    num_steps: Int[Array, " batch"] | None = None
    """Decoding steps until the row ended; None where every token takes one."""


@runtime_checkable
class Search(Protocol):
    """How sequences are chosen. Implementations are hashable: they are part of what is compiled."""

    reads_inputs: ClassVar[bool]
    """Whether the decoder that it is given has the ids of the inputs (`CachedDecoder.inputs`)."""

    def search(self, decoder: CachedDecoder, row_keys: RowKeys | None, max_length: int) -> Generated: ...


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Takes the most probable token at every step, of several the one with the lowest id.

    Examples:
      >>> model.generate(["#Hello"], search=mrt5_jax.Greedy()) == model.generate(["#Hello"])
      True
    """

    reads_inputs: ClassVar[bool] = False

    def search(self, decoder: CachedDecoder, row_keys: RowKeys | None, max_length: int) -> Generated:
        return decode_tokens(decoder, max_length, lambda logits, slot: jnp.argmax(logits, axis=-1))


class _State(NamedTuple):
    slot: Int[Array, ""]
    last: Int[Array, " batch"]
    ended: Bool[Array, " batch"]
    generated: Generated
    past: Past


def decode_tokens(
    decoder: CachedDecoder,
    max_length: int,
    choose: Callable[[Float[Array, "batch vocab"], Int[Array, ""]], Int[Array, " batch"]],
) -> Generated:
    """Generates one sequence a row, each token chosen from the model's logits given those before it.

    Args:
      max_length: the most tokens, end of sequence included; static.
      choose: (logits, slot) -> tokens; `slot` counts the tokens chosen before.
    """
    batch = decoder.keys.mask.shape[0]

    def running(state: _State) -> Bool[Array, ""]:
        return (state.slot < max_length) & ~jnp.all(state.ended)

    def step(state: _State) -> _State:
        stepped = decoder.step(state.last[:, None], state.slot, state.past)
        logits = stepped.logits[:, 0]
        token = jnp.where(state.ended, PAD_ID, choose(logits, state.slot).astype(jnp.int32))
        log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        tokens, num_tokens, score, _ = state.generated
        generated = Generated(
            tokens=jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], state.slot, 1),
            num_tokens=num_tokens + ~state.ended,
            score=score + jnp.where(state.ended, 0, log_probability),
        )
        return _State(state.slot + 1, token, state.ended | (token == EOS_ID), generated, stepped.past)

    score_dtype = jnp.promote_types(jnp.dtype(decoder.config.dtype), jnp.float32)
    nothing = Generated(
        tokens=jnp.full((batch, max_length), PAD_ID, jnp.int32),
        num_tokens=jnp.zeros(batch, jnp.int32),
        score=jnp.zeros(batch, score_dtype),
    )
    start = jnp.full(batch, START_ID, jnp.int32)
    state = _State(jnp.int32(0), start, ~decoder.active, nothing, decoder.empty_past(batch, max_length))
    return jax.lax.while_loop(running, step, state).generated
