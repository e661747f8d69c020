"""Which rung runs, decided inside the compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mrt5_jax.compaction.ladder import Ladder


class Switched(NamedTuple):
    """What the chosen branch returned, and the rung it ran at."""

    result: Any
    rung: Int[Array, ""]


def switch_rung(
    ladder: Ladder, kept_counts: Int[Array, " batch"], branch: Callable[[int], Callable[..., Any]], *operands: Any
) -> Switched:
    """Runs `branch(rung)(*operands)` at the smallest rung that holds every row.

    The rung follows from the maximum over the whole batch, so under data sharding all devices take the same branch
    (that maximum is the only collective added). All branches are compiled into one program and must return the same
    shapes. In training a branch should return gradients rather than be differentiated: reverse mode through
    `lax.switch` keeps every branch's residuals.

    Args:
        ladder: the static lengths.
        kept_counts: kept positions of each row.
        branch: from a rung to the function compiled for it.
        *operands: arrays that the branches take.
    """
    most = jnp.max(kept_counts)
    branches = [branch(rung) for rung in ladder.rungs]
    return Switched(jax.lax.switch(ladder.rung_index(most), branches, *operands), ladder.rung(most))
