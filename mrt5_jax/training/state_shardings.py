"""Where every array of a training state lies, and programs that leave it there."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from mrt5_jax.parallel.mesh import replicated
from mrt5_jax.parallel.shardings import param_shardings, unbox
from mrt5_jax.training.monitor import Check, Checked
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import StepResult


def jit_step(step: Callable[..., StepResult], abstract: TrainState) -> Any:
    """Jits `step` so that the next state lies where the last one lay, which it replaces in memory.

    Args:
        step: (state, batch) -> StepResult.
        abstract: what `abstract_state` returns.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    mesh = jax.tree.leaves(shardings)[0].mesh
    places: Any = StepResult(shardings, replicated(mesh), replicated(mesh))  # pyright: ignore[reportArgumentType]
    return jax.jit(step, donate_argnums=0, out_shardings=places)


def jit_check(check: Check, abstract: TrainState) -> Any:
    """Jits a monitor's check likewise."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    everywhere: Any = replicated(jax.tree.leaves(shardings)[0].mesh)
    return jax.jit(check, donate_argnums=0, out_shardings=Checked(shardings, everywhere, everywhere))


def state_shardings(boxed_state: TrainState, mesh: Mesh) -> TrainState:
    """Returns a whole state's shardings, from `jax.eval_shape` of a function that makes it with boxed parameters.

    An optimizer's moment has its parameter's path and shape, and lies where its parameter lies. Everything else
    (counts, Adafactor's factors, the controller) is replicated.
    """
    shardings = param_shardings(boxed_state.params, mesh)
    shapes = jax.tree.map(lambda leaf: leaf.shape, unbox(boxed_state.params))
    by_path = {
        path: (shape, sharding)
        for (path, sharding), shape in zip(
            jax.tree_util.tree_leaves_with_path(shardings),
            jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)),
            strict=True,
        )
    }

    def like_its_parameter(path: tuple, leaf: Any) -> NamedSharding:
        for start in range(len(path)):
            shape, sharding = by_path.get(path[start:], (None, None))
            if shape == leaf.shape and sharding is not None:
                return sharding
        return replicated(mesh)

    rest = jax.tree_util.tree_map_with_path(like_its_parameter, unbox(boxed_state._replace(params=None)))
    return rest._replace(params=shardings)


def init_sharded(make_state: Callable[..., TrainState], mesh: Mesh, *args: Any) -> TrainState:
    """Calls `make_state(*args)` so that every array is made where it will live: no device ever holds the whole state.

    Args:
        make_state: pure; returns a state whose parameters are still boxed in their logical names.
        mesh: the mesh.
        *args: arrays for `make_state`, such as a random key.

    Returns:
        The unboxed state, the same values on every mesh.
    """
    return jit_init(make_state, abstract_state(make_state, mesh, *args))(*args)


def jit_init(make_state: Callable[..., TrainState], abstract: TrainState) -> Any:
    """Jits `init_sharded` for a state that is to lie as `abstract`, what `abstract_state` returns, says."""

    def make(*args: Any) -> TrainState:
        return unbox(make_state(*args))

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))


def abstract_state(make_state: Callable[..., TrainState], mesh: Mesh, *args: Any) -> TrainState:
    """Returns shapes, types and shardings of what `init_sharded` would make: what a checkpoint is restored to."""
    boxed = jax.eval_shape(make_state, *args)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unbox(boxed),
        state_shardings(boxed, mesh),
    )
