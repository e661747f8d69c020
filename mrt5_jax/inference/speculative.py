"""Greedy search in fewer steps, for outputs that copy from their input: speculative decoding without a second model.

Before each step a draft of the next ids is looked up in the row's input, where the last ids that were emitted stand.
The step runs the decoder over the draft as well and emits what greedy search chooses, as far as the draft agrees and
one id further (Leviathan et al. 2023, arXiv 2211.17192; drafts from a text at hand: Yang et al. 2023, arXiv
2304.04487). Rows agree to different lengths, so each stands at a position of its own; shapes stay static.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.inference.decoding import START_ID, Generated
from mrt5_jax.inference.incremental import CachedDecoder, Past
from mrt5_jax.model.dropout import RowKeys

LONGEST_MATCH = 3
"""The most emitted ids that are looked up together."""

Draft = Callable[[Int[Array, "batch target"], Int[Array, " batch"]], Int[Array, "batch draft"]]
"""(tokens so far, how many of each row) -> ids that may come next."""


@dataclasses.dataclass(frozen=True)
class Speculative:
    """Takes the most probable token at every step, as `Greedy` does, and verifies `draft_length` more ids in each step.

    Tokens are those of `Greedy` to rounding: where the two most probable ones are nearly equal, a product over several
    positions may prefer the other. A step costs more than one of `Greedy`, so this can pay only where outputs copy much
    from their inputs, as in correction of spelling. `Generated.num_steps` tells how many steps a row took.

    Raises:
      UserError: a draft of less than one id.

    Examples:
      >>> drafted, plain = (model.generate(["#Hello"], search=one) for one in (mrt5_jax.Speculative(4), None))
      >>> drafted[0].ids == plain[0].ids
      True
    """

    draft_length: int
    reads_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.draft_length < 1:
            raise UserError(f"draft length {self.draft_length}: must be at least 1")

    def search(self, decoder: CachedDecoder, row_keys: RowKeys | None, max_length: int) -> Generated:
        inputs = decoder.inputs
        if inputs is None:
            raise ValueError("drafts are copied from the inputs, which this decoder does not have")
        length = min(self.draft_length, max_length)
        return decode_drafts(decoder, max_length, lambda tokens, count: copied_draft(inputs, tokens, count, length))


class _State(NamedTuple):
    last: Int[Array, " batch"]
    ended: Bool[Array, " batch"]
    generated: Generated
    past: Past


def decode_drafts(decoder: CachedDecoder, max_length: int, draft: Draft) -> Generated:
    """Generates each row's most probable tokens one after another, several in a step where the draft has them.

    Args:
      max_length: the most tokens, end of sequence included; static.
      draft: whatever it returns, the tokens are the same; how many steps they take depends on it.
    """
    batch = decoder.keys.mask.shape[0]

    def running(state: _State) -> Bool[Array, ""]:
        return ~jnp.all(state.ended)

    def step(state: _State) -> _State:
        tokens, num_tokens, score, num_steps = state.generated
        assert num_steps is not None
        drafted = draft(tokens, num_tokens)
        # A row's last token stands at position num_tokens of the decoder's input, the draft after it.
        stepped = decoder.extend(jnp.concatenate([state.last[:, None], drafted], axis=1), num_tokens, state.past)
        chosen = jnp.argmax(stepped.logits, axis=-1).astype(jnp.int32)
        place = jnp.arange(chosen.shape[1], dtype=jnp.int32)[None]
        agrees = jnp.cumprod((chosen[:, :-1] == drafted).astype(jnp.int32), axis=1)
        ends = chosen == EOS_ID
        num_ends_before = jnp.cumsum(ends, axis=1, dtype=jnp.int32) - ends.astype(jnp.int32)
        emitted = (place <= jnp.sum(agrees, axis=1, keepdims=True)) & (num_ends_before == 0)
        emitted = emitted & (num_tokens[:, None] + place < max_length) & ~state.ended[:, None]
        count = jnp.sum(emitted, axis=1, dtype=jnp.int32)

        log_probabilities = jnp.take_along_axis(jax.nn.log_softmax(stepped.logits), chosen[:, :, None], axis=2)[:, :, 0]
        generated = Generated(
            tokens=_put(tokens, chosen, num_tokens, count),
            num_tokens=num_tokens + count,
            score=score + jnp.sum(jnp.where(emitted, log_probabilities, 0), axis=1),
            num_steps=num_steps + ~state.ended,
        )
        last = jnp.take_along_axis(chosen, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
        ended = state.ended | jnp.any(emitted & ends, axis=1) | (generated.num_tokens == max_length)
        return _State(last, ended, generated, stepped.past)

    nothing = Generated(
        tokens=jnp.full((batch, max_length), PAD_ID, jnp.int32),
        num_tokens=jnp.zeros(batch, jnp.int32),
        score=jnp.zeros(batch, jnp.promote_types(jnp.dtype(decoder.config.dtype), jnp.float32)),
        num_steps=jnp.zeros(batch, jnp.int32),
    )
    start = jnp.full(batch, START_ID, jnp.int32)
    draft_length = jax.eval_shape(draft, nothing.tokens, nothing.num_tokens).shape[1]
    past = decoder.empty_past(batch, max_length + draft_length)
    return jax.lax.while_loop(running, step, _State(start, ~decoder.active, nothing, past)).generated


def copied_draft(
    inputs: Int[Array, "batch length"],
    tokens: Int[Array, "batch target"],
    num_tokens: Int[Array, " batch"],
    draft_length: int,
) -> Int[Array, "batch draft"]:
    """Returns the ids of each row's input from the place where its output seems to go on.

    That is the place after which most of the last emitted ids, at most `LONGEST_MATCH`, stand one after another. Of
    several places it is the one nearest to the output's own; so where nothing matches, as before the first id, the
    output's own place itself.

    Args:
      inputs: ids with pads (0) at the end, which match nothing; after them the draft has pads.
      tokens: the ids emitted so far, the first `num_tokens` of each row.
    """
    length = inputs.shape[1]
    matches = jnp.ones(inputs.shape, bool)
    num_matching = jnp.zeros(inputs.shape, jnp.int32)
    for back in range(1, LONGEST_MATCH + 1):
        before = jnp.pad(inputs, ((0, 0), (back, 0)), constant_values=PAD_ID)[:, :length]
        emitted = jnp.take_along_axis(tokens, jnp.maximum(num_tokens - back, 0)[:, None], axis=1)
        matches = matches & (before == emitted) & (before != PAD_ID) & (num_tokens >= back)[:, None]
        num_matching = num_matching + matches
    distance = jnp.abs(jnp.arange(length, dtype=jnp.int32)[None] - num_tokens[:, None])
    farther_than_any = length + tokens.shape[1]
    start = jnp.argmax(num_matching * farther_than_any - distance, axis=1)
    places = start[:, None] + jnp.arange(draft_length)[None]
    return jnp.take_along_axis(jnp.pad(inputs, ((0, 0), (0, draft_length))), places, axis=1)


def _put(
    tokens: Int[Array, "batch target"],
    new: Int[Array, "batch width"],
    starts: Int[Array, " batch"],
    count: Int[Array, " batch"],
) -> Int[Array, "batch target"]:
    """Puts the first `count` new tokens of each row at its start."""
    offset = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] - starts[:, None]
    there = jnp.take_along_axis(new, jnp.clip(offset, 0, new.shape[1] - 1), axis=1)
    return jnp.where((offset >= 0) & (offset < count[:, None]), there, tokens)
