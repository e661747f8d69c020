"""What a step tells of how many positions rows keep: sums from which it can be learned what to expect of a row.

Everything is rounded to whole units, so that the sums are exact, and the same in whatever order devices add them up.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, UInt8


def row_moments(
    features: UInt8[Array, "batch features"],
    kept: Mapping[str, Int[Array, " batch"]],
    has_input: Bool[Array, " batch"],
    unit: float,
    dtype: DTypeLike,
) -> Float[Array, "moments moments"]:
    """Sums over rows the products of all pairs of: a row's features, what it keeps in units, and 1.

    Args:
        features: in units.
        kept: positions that each row keeps, by deletion; rows are described by their mean.
        has_input: rows without count nothing.
        unit: positions that make one.
        dtype: of the sums.
    """
    of_all = sum(kept.values(), jnp.zeros(features.shape[:1], jnp.int32)).astype(dtype) / len(kept)
    kept_units = jnp.round(of_all / unit)
    values = jnp.concatenate([features.astype(dtype), kept_units[:, None], jnp.ones_like(kept_units)[:, None]], axis=1)
    values = jnp.where(has_input[:, None], values, 0)
    return jnp.matmul(values.T, values, precision="highest")
