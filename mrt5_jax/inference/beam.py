"""Beam search with a length penalty."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.inference.decoding import START_ID, Generated
from mrt5_jax.inference.incremental import CachedDecoder, Past
from mrt5_jax.model.dropout import RowKeys


class _Hypotheses(NamedTuple):
    """Sequences of each row."""

    tokens: Int[Array, "batch beams target"]
    num_tokens: Int[Array, "batch beams"]
    log_probability: Float[Array, "batch beams"]
    rank: Float[Array, "batch beams"]
    """What they are ordered by, the highest first; -inf where there is no hypothesis."""


class _State(NamedTuple):
    slot: Int[Array, ""]
    live: _Hypotheses
    finished: _Hypotheses
    ended: Bool[Array, " batch"]
    past: Past


@dataclasses.dataclass(frozen=True)
class Beam:
    """The best sequence that a beam of `size` finds.

    At every step the live hypotheses of a row are continued by every token, and the continuations ordered by their sum
    of log-probabilities. Of the first `size` continuations those with the end of sequence are finished; the `size` best
    of those without it live on. A row ends when it has `size` finished hypotheses, or at the maximal length, where what
    is alive counts as finished. Its result is the finished hypothesis with the highest

        sum of log-probabilities / num_tokens^length_penalty

    where num_tokens counts the end of sequence. This is Hugging Face's beam search with `early_stopping=True`; a beam
    of size 1 is greedy search.

    Raises:
      UserError: a size below 1 or a penalty that is not finite.

    Examples:
      >>> [one.length for one in model.generate(["#Hello"], search=mrt5_jax.Beam(2))]
      [7]
    """

    size: int
    length_penalty: float = 1.0
    reads_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"beam size {self.size}: must be at least 1")
        if not abs(self.length_penalty) < float("inf"):
            raise UserError(f"length penalty {self.length_penalty}: must be finite")

    def search(self, decoder: CachedDecoder, row_keys: RowKeys | None, max_length: int) -> Generated:
        def running(state: _State) -> Bool[Array, ""]:
            return (state.slot < max_length) & ~jnp.all(state.ended)

        def step(state: _State) -> _State:
            last = jnp.take(state.live.tokens, jnp.maximum(state.slot - 1, 0), axis=2)
            stepped = decoder.step(jnp.where(state.slot == 0, START_ID, last), state.slot, state.past)
            # At most `size` of twice as many continuations end the sequence, so `size` are left to live on.
            continued, parents = _continue(state.live, jax.nn.log_softmax(stepped.logits), state.slot, 2 * self.size)
            sums = continued.log_probability
            ends = jnp.take(continued.tokens, state.slot, axis=2) == EOS_ID
            ends = ends | (state.slot == max_length - 1)
            live, chosen = _best(continued._replace(rank=jnp.where(ends, -jnp.inf, sums)), self.size)
            parents = jnp.take_along_axis(parents, chosen, axis=1)

            first = jnp.arange(sums.shape[1])[None] < self.size
            penalised = sums / (state.slot + 1).astype(sums.dtype) ** self.length_penalty
            candidates = continued._replace(rank=jnp.where(ends & first, penalised, -jnp.inf))
            both = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), state.finished, candidates)
            finished, _ = _best(both, self.size)
            # A row that has ended keeps its result while others go on.
            finished = jax.tree.map(
                lambda old, new: jnp.where(_expand(state.ended, old.ndim), old, new), state.finished, finished
            )
            ended = state.ended | jnp.all(finished.rank > -jnp.inf, axis=1)
            return _State(state.slot + 1, live, finished, ended, _follow(stepped.past, parents))

        batch = decoder.keys.mask.shape[0]
        none = _no_hypotheses(batch, self.size, max_length, jnp.promote_types(decoder.config.dtype, jnp.float32))
        # All beams begin alike: only the first may be continued.
        first = jnp.where(jnp.arange(self.size) == 0, 0.0, -jnp.inf)[None]
        live = none._replace(log_probability=none.log_probability + first)
        past = decoder.empty_past(batch * self.size, max_length)
        start = _State(jnp.int32(0), live, none, ~decoder.active, past)
        finished = jax.lax.while_loop(running, step, start).finished
        return Generated(finished.tokens[:, 0], finished.num_tokens[:, 0], finished.log_probability[:, 0])


def _no_hypotheses(batch: int, beams: int, max_length: int, dtype: Any) -> _Hypotheses:
    return _Hypotheses(
        tokens=jnp.full((batch, beams, max_length), PAD_ID, jnp.int32),
        num_tokens=jnp.zeros((batch, beams), jnp.int32),
        log_probability=jnp.zeros((batch, beams), dtype),
        rank=jnp.full((batch, beams), -jnp.inf, dtype),
    )


def _continue(
    live: _Hypotheses, log_probabilities: Float[Array, "batch beams vocab"], slot: Int[Array, ""], count: int
) -> tuple[_Hypotheses, Int[Array, "batch chosen"]]:
    """Returns the `count` best continuations by one token, and which hypothesis each continues."""
    vocab = log_probabilities.shape[-1]
    sums = live.log_probability[:, :, None] + log_probabilities
    best, flat_index = jax.lax.top_k(sums.reshape(sums.shape[0], -1), count)
    parents, token = flat_index // vocab, flat_index % vocab
    continued = _take(live, parents)
    tokens = jax.lax.dynamic_update_slice_in_dim(continued.tokens, token[:, :, None], slot, 2)
    return _Hypotheses(tokens, continued.num_tokens + 1, best, best), parents


def _best(hypotheses: _Hypotheses, count: int) -> tuple[_Hypotheses, Int[Array, "batch chosen"]]:
    """Returns the `count` hypotheses of highest rank, and where they were."""
    index = jax.lax.top_k(hypotheses.rank, count)[1]
    return _take(hypotheses, index), index


def _take(hypotheses: _Hypotheses, index: Int[Array, "batch chosen"]) -> _Hypotheses:
    return jax.tree.map(lambda array: jnp.take_along_axis(array, _expand(index, array.ndim), axis=1), hypotheses)


def _follow(past: Past, parents: Int[Array, "batch beams"]) -> Past:
    """Every hypothesis gets the cache of the one that it continues."""
    batch, beams = parents.shape
    chosen = jax.vmap(lambda own, at: own[at])  # a gather within each row stays on the row's device

    def follow(cache: Float[Array, "rows heads slots head_dim"]) -> Float[Array, "rows heads slots head_dim"]:
        return chosen(cache.reshape(batch, beams, *cache.shape[1:]), parents).reshape(cache.shape)

    return jax.tree.map(follow, past)


def _expand(array: Array, ndim: int) -> Array:
    """`array` with axes of size 1 at its end."""
    return array.reshape(array.shape + (1,) * (ndim - array.ndim))
