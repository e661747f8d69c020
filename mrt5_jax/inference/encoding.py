"""The encoder's output as a result of its own: the hidden states of what a row keeps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.staged import Part
from mrt5_jax.model.encoder_decoder import Encoded
from mrt5_jax.model.forward import ForwardSetting, GateRows
from mrt5_jax.model.parameters import Params


class EncodedRows(NamedTuple):
    """The encoder's output for each row, at the full length whatever the rung."""

    hidden: Float[Array, "batch length embed"]
    positions: Int[Array, "batch length"]
    """Original positions in the row."""
    mask: Bool[Array, "batch length"]
    """Slots in use. Where nothing was moved they are at their own positions, else they come first."""


def encoded_rows(
    setting: ForwardSetting, length: int
) -> Callable[[int], Callable[[Params, tuple[()], GateRows], Part]]:
    """Returns a function from a rung to the encoder's output for some rows, padded to `length`."""

    def at(slots: int) -> Callable[[Params, tuple[()], GateRows], Part]:
        def run(params: Params, shared: tuple[()], rows: GateRows) -> Part:
            variables: Any = {"params": params}
            encoded: Encoded = setting.model.apply(variables, rows.compact(slots), method="suffix")  # pyright: ignore
            mask = encoded.keys.mask
            filler = (0, 0), (0, length - slots)
            # Counted by `arange` at full length, so int64 where JAX has 64 bits: windows need one type of all rungs.
            positions = jnp.broadcast_to(encoded.positions, mask.shape).astype(jnp.int32)
            padded = jnp.pad(encoded.hidden, (*filler, (0, 0))), jnp.pad(positions, filler), jnp.pad(mask, filler)
            return Part((), EncodedRows(*padded))

        return run

    return at
