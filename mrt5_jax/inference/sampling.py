"""Sampling with temperature, top-k and top-p."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mrt5_jax.errors import UserError
from mrt5_jax.inference.decoding import Generated, decode_tokens
from mrt5_jax.inference.incremental import CachedDecoder
from mrt5_jax.model.dropout import RowKeys


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws every token from softmax(logits / temperature), cut to the `top_k` most probable tokens and then to the
    fewest whose probabilities, renormalised, sum to `top_p` (nucleus sampling, Holtzman et al. 2020).

    A row's draws follow from its own key and the model alone: not from its batch, its place there, or padding.

    Raises:
      UserError: a value out of its range.

    Examples:
      >>> [one.length for one in model.generate(["#Hello"], search=mrt5_jax.Sampling(temperature=0.8), seed=1)]
      [7]
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    reads_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature}: must be positive and finite; greedy search has none")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k {self.top_k}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: must be above 0 and at most 1")

    def search(self, decoder: CachedDecoder, row_keys: RowKeys | None, max_length: int) -> Generated:
        if row_keys is None:
            raise ValueError("sampling needs a random key for every row")

        def draw(key: Key[Array, ""], slot: Int[Array, ""], logits: Float[Array, " vocab"]) -> Int[Array, ""]:
            return jax.random.categorical(jax.random.fold_in(key, slot), logits)

        def choose(logits: Float[Array, "batch vocab"], slot: Int[Array, ""]) -> Int[Array, " batch"]:
            return jax.vmap(draw, in_axes=(0, None, 0))(row_keys, slot, self.restrict(logits))

        return decode_tokens(decoder, max_length, choose)

    def restrict(self, logits: Float[Array, "batch vocab"]) -> Float[Array, "batch vocab"]:
        """Returns the logits of the distribution that is drawn from; tokens that are cut off have -inf.

        Tokens with the same logit as the last one kept are kept too.
        """
        logits = logits / self.temperature
        falling = jnp.sort(logits, axis=-1, descending=True)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            falling = jnp.where(jnp.arange(logits.shape[-1])[None] < self.top_k, falling, -jnp.inf)
        if self.top_p is not None:
            probabilities = jax.nn.softmax(falling)
            # A token stays while those before it have not reached top_p; so the first always does.
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            falling = jnp.where(before < self.top_p, falling, -jnp.inf)
        lowest = jnp.min(falling, axis=-1, keepdims=True, where=falling > -jnp.inf, initial=jnp.inf)
        return jnp.where(logits >= lowest, logits, -jnp.inf)


def row_keys(seed: int, numbers: Int[Array, " batch"]) -> RowKeys:
    """Returns the keys of examples by their numbers (lines of a file): a resumed run draws what it would have drawn."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), numbers)
