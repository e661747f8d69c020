"""Products of bfloat16 matrices on a CPU's tiles (AMX), as a custom call: what `product.cc` computes, for JAX."""

import jax
import numpy as np
from jaxtyping import Array, Float

from mrt5_jax.cpu_kernels.library import PRODUCT, has_tiles

_PANEL, _ROWS = 32, 64
"""product.cc's kPanel and kRows."""

_MANY_PRODUCTS = 2**25
"""Fewer multiply-adds than this are not worth a call of their own."""


def suits_tiles(
    left: tuple[int, ...], right: tuple[int, ...], *, left_transposed: bool, right_transposed: bool
) -> bool:
    """Whether `tile_product` takes arrays of these shapes, is worth it, and can be had here."""
    (rows, inner), columns = left[::-1] if left_transposed else left, right[0 if right_transposed else 1]
    whole = columns % _PANEL == 0
    if left_transposed:
        whole &= rows % _ROWS == 0
    if not left_transposed or right_transposed:
        whole &= inner % _PANEL == 0
    return whole and rows * inner * columns >= _MANY_PRODUCTS and has_tiles()


def tile_product(
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    dtype: jax.typing.DTypeLike,
    *,
    left_transposed: bool,
    right_transposed: bool,
) -> Float[Array, "rows columns"]:
    """left right, or with either one's transpose, read as bfloat16 and added up in float32.

    Args:
      left, right: [rows inner] and [inner columns], or their transposes; bfloat16 or float32.
      dtype: of the result, bfloat16 or float32.
    """
    rows, columns = left.shape[1 if left_transposed else 0], right.shape[0 if right_transposed else 1]
    call = jax.ffi.ffi_call(PRODUCT, jax.ShapeDtypeStruct((rows, columns), dtype), vmap_method="sequential")
    return call(left, right, left_transposed=np.bool_(left_transposed), right_transposed=np.bool_(right_transposed))
