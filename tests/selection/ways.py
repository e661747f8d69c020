"""The toys' gradients in every way that a staged computation runs, and how far they are from the naive function's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import OnHost
from mrt5_jax.compaction.staged import Part, in_graph
from mrt5_jax.parallel.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.training.staged_gradients import Cuts, gradient_stages

from . import naive, toys
from .toys import RUNGS, Batch, Params, Shared, Toy, make_shared, naive_loss, stages_of

TOYS: dict[str, tuple[Toy, str]] = {
    "soft gate": (Toy(toys.select_softly, toys.gated_second, naive.soft_gate), "gate"),
    "mean pooling": (Toy(toys.select_boundaries, toys.pooled_second, naive.mean_pooling), "boundaries"),
    "strided convolution": (Toy(toys.select_every_third, toys.convolved_second, naive.strided_convolution), "energy"),
    "expanding": (Toy(toys.select_by_similarity, toys.expanded_second, naive.expanding), "ratio"),
}
"""Each with the name of its penalty."""


def cuts_for(num_chunks: int, shards: RowShards = ONE_SHARD) -> Cuts:
    return Cuts(Ladder(RUNGS), shards, num_chunks)


def naive_gradient(name: str, params: Params, batch: Batch) -> tuple[jax.Array, Params]:
    toy, penalty = TOYS[name]
    shared = make_shared(toy, penalty, params, batch)
    return jax.jit(jax.value_and_grad(lambda params: naive_loss(toy, params, batch, shared)))(params)


def staged_gradient(name: str, params: Params, batch: Batch, cuts: Cuts, dispatch: str) -> tuple[Part, int | None]:
    """The result, and the temporaries where there is one program."""
    toy, penalty = TOYS[name]
    staged = gradient_stages(stages_of(toy, penalty), cuts)
    shared: Shared = make_shared(toy, penalty, params, batch)
    if dispatch == "host":
        return OnHost(staged).start(params, shared, batch)(), None
    compiled = jax.jit(in_graph(staged)).lower(params, shared, batch).compile()
    memory: Any = compiled.memory_analysis()
    return compiled(params, shared, batch), memory.temp_size_in_bytes


def largest_difference(loss: Any, gradients: list[Any], expected: tuple[Any, Params]) -> float:
    """Of the loss or a gradient, absolutely; gradients are of the order of 0.01 to 1."""
    pairs = zip([loss, *gradients], [expected[0], *jax.tree.leaves(expected[1])], strict=True)
    return max(float(np.max(np.abs(np.asarray(one) - np.asarray(other)))) for one, other in pairs)


def arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)
