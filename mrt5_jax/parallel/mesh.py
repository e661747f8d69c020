"""The mesh of devices and where every array lives on it.

The mesh has three named axes. `data`: each device has other rows of the batch and all parameters. `fsdp`: other rows
too, but the parameters are spread over it and gathered where they are used. `tensor`: one row's matrix products are
spread over it. Modules name the axes of their parameters logically (embed, mlp, ...); rules as in T5X map those names
to mesh axes. One device is a mesh too.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.spmd import logical_to_mesh_axes
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mrt5_jax.config import DataConfig, MeshConfig, RunConfig
from mrt5_jax.data.arrangements import INDEX
from mrt5_jax.errors import UserError
from mrt5_jax.parallel.axis_rules import BATCH_AXES, LOGICAL_AXIS_RULES, MESH_AXES, RowShards, axis_rules
from mrt5_jax.training.monitor import Check, Checked
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import Stepped

_log = logging.getLogger(__name__)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `config` over `devices` (None: all there are); at most one axis is -1 and fills with what is left.

    Of several TPU slices, each has a part of the data axis and all of the others.

    Raises:
        UserError: the axes do not multiply to the number of devices, or the data axis not to that of slices; or see
            `axis_rules`, whose rules are used later, when MODEL_DIR is this run's.
    """
    axis_rules(config)
    devices = jax.devices() if devices is None else devices
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    written = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 for size in sizes.values() if size != -1):
        raise UserError(f"mesh {written}: sizes are positive, and at most one is -1 (what is left of the devices)")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % fixed or (not free and fixed != len(devices)):
        raise UserError(
            f"mesh {written} does not fit {len(devices)} device(s): the sizes must multiply to {len(devices)}"
            f"{'' if free else '; -1 fills an axis with what is left'}"
        )
    shape = tuple(len(devices) // fixed if size == -1 else size for size in sizes.values())
    auto = (AxisType.Auto,) * len(MESH_AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(shape, MESH_AXES, axis_types=auto, devices=devices)
    if shape[0] % slices:
        raise UserError(
            f"mesh {written}: {slices} TPU slices are joined by a slow network, which the data axis has to span: give "
            f"data a multiple of {slices}"
        )
    within = (shape[0] // slices, *shape[1:])
    return Mesh(mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices), MESH_AXES, axis_types=auto)


@contextlib.contextmanager
def on_mesh(mesh: Mesh, config: MeshConfig) -> Iterator[None]:
    """Arrays are laid out, and activations constrained, on `mesh` by the rules of `config` while the context lasts.

    Raises:
        UserError: see `axis_rules`.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(axis_rules(config)):
        yield


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def row_shards(mesh: Mesh | AbstractMesh) -> RowShards:
    """How many parts the rows of a batch are spread over."""
    return RowShards(*(mesh.shape[axis] for axis in BATCH_AXES))


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh, name: str) -> None:
    """Refuses a batch that the mesh cannot cut into equal parts; `name` is how the user calls it.

    Raises:
        UserError: naming the sizes that would do.
    """
    parts = row_shards(mesh).count
    if batch_size % parts:
        raise UserError(
            f"{name}={batch_size} does not divide over data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']} devices: "
            f"give a multiple of {parts}"
        )


class RowShare(NamedTuple):
    """The rows of every batch that a process reads: index, index + count, index + 2 count, ..."""

    index: int
    count: int


def row_share(mesh: Mesh) -> RowShare:
    """Which rows this process reads. Processes whose devices need the same rows (a tensor axis over them) share them.

    Raises:
        UserError: some processes share some of their rows only.
    """
    return _row_shares(mesh)[jax.process_index()]


def abstract_batch(data: DataConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of a training batch."""
    lengths = {
        "encoder_input_tokens": data.input_length,
        "decoder_input_tokens": data.target_length,
        "decoder_target_tokens": data.target_length,
        "decoder_loss_weights": data.target_length,
    }
    if data.rows == "packed":
        for side, length in (("encoder", data.input_length), ("decoder", data.target_length)):
            lengths |= {f"{side}_segment_ids": length, f"{side}_positions": length}
    sharding = batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((data.batch_size, length), jnp.int32, sharding=sharding)
        for name, length in lengths.items()
    }


def abstract_eval_batch(data: DataConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of an evaluation's batch, the examples' indices included."""
    one_a_row = dataclasses.replace(data, rows="one_a_row", batch_size=data.eval_batch_size)
    index = jax.ShapeDtypeStruct((data.eval_batch_size,), jnp.int32, sharding=batch_sharding(mesh))
    return {**abstract_batch(one_a_row, mesh), INDEX: index}


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays [batch ...] spread over the mesh, from the rows that this process has read (see `row_share`).

    The rows come in the order of reading, which does not depend on how many processes there are: neither do the
    results. With several processes that takes an exchange of token ids.
    """
    sharding = batch_sharding(mesh)
    arrays = {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
    if row_share(mesh).count == 1:
        return arrays
    return _in_reading_order(mesh, next(iter(arrays.values())).shape[0])(arrays)


def put_whole_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """As `put_batch`, where every process has all rows."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows, rows.shape) for name, rows in batch.items()}


@functools.cache
def _in_reading_order(mesh: Mesh, batch_size: int) -> Callable[[dict[str, jax.Array]], dict[str, jax.Array]]:
    """Rows as they lie on the devices, process by process -> rows in the order of reading."""
    groups = _row_groups(mesh)
    rows_of_a_part = batch_size // sum(map(len, groups))
    lie_at = np.array(
        [[part * rows_of_a_part + row for part in parts for row in range(rows_of_a_part)] for parts in groups]
    )
    order = lie_at.T.reshape(-1)  # the k-th row that group g has read is row k * groups + g

    def reorder(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: jnp.take(rows, order, axis=0) for name, rows in arrays.items()}

    return jax.jit(reorder, out_shardings=batch_sharding(mesh))


def _row_shares(mesh: Mesh) -> dict[int, RowShare]:
    """Of every process."""
    groups = _row_groups(mesh)
    return {process: RowShare(groups.index(parts), len(groups)) for process, parts in _parts_by_process(mesh).items()}


def _row_groups(mesh: Mesh) -> list[tuple[int, ...]]:
    """The parts of a batch that belong together, each group being read by one process or by several alike."""
    groups = sorted(set(_parts_by_process(mesh).values()))
    if len({len(group) for group in groups}) > 1 or sum(map(len, groups)) != math.prod(mesh.devices.shape[:2]):
        raise UserError(
            f"mesh {dict(mesh.shape)}: processes would share some of their rows only; "
            "let the tensor axis divide the devices of a process, or be a multiple of them"
        )
    return groups


@functools.cache
def _parts_by_process(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """The parts of a batch, one for each place along the batch axes, that a process's devices need."""
    tensor = mesh.shape[MESH_AXES[-1]]
    parts: dict[int, set[int]] = {}
    for place, device in enumerate(mesh.devices.flat):
        parts.setdefault(device.process_index, set()).add(place // tensor)
    return {process: tuple(sorted(own)) for process, own in parts.items()}


def jit_step(step: Callable[..., Stepped], abstract: TrainState) -> Any:
    """`step` to be compiled so that the next state lies where the last one lay, which it replaces in memory.

    Args:
        step: (state, batch) -> Stepped.
        abstract: what `abstract_state` returns.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    mesh = jax.tree.leaves(shardings)[0].mesh
    places: Any = Stepped(shardings, replicated(mesh))  # pyright: ignore[reportArgumentType]
    return jax.jit(step, donate_argnums=0, out_shardings=places)


def jit_check(check: Check, abstract: TrainState) -> Any:
    """A monitor's check to be compiled likewise."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    everywhere: Any = replicated(jax.tree.leaves(shardings)[0].mesh)
    return jax.jit(check, donate_argnums=0, out_shardings=Checked(shardings, everywhere, everywhere))


def check_parts(run: RunConfig, mesh: Mesh | AbstractMesh) -> None:
    """Refuses microbatches and chunks that the rows on a device cannot be cut into.

    Raises:
        UserError: naming the sizes.
    """
    microbatches, chunks, rows = run.execution.microbatches, run.execution.chunks, run.data.batch_size
    parts = row_shards(mesh).count * microbatches * chunks
    if rows % parts:
        raise UserError(
            f"batch_size={rows} does not divide over {row_shards(mesh).count} parts of the mesh x "
            f"microbatches={microbatches} x chunks={chunks}: give a multiple of {parts}"
        )


def param_shardings(boxed_params: Any, mesh: Mesh) -> Any:
    """Shardings of parameters by the logical names they are boxed in, in the structure of the unboxed tree.

    By the rules of `on_mesh`, where one is open.

    A dimension that its mesh axes do not divide is replicated, with a logged warning. Parameters without names are
    replicated.

    Args:
        boxed_params: arrays or ShapeDtypeStructs, boxed by `flax.linen.with_logical_partitioning`.
        mesh: the mesh.

    Raises:
        ValueError: a logical name that has no rule.
    """
    rules = nn.get_logical_axis_rules() or LOGICAL_AXIS_RULES
    known = {name for name, _ in rules}

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.Partitioned):
            return replicated(mesh)
        if unknown := {name for name in leaf.names if name is not None} - known:
            raise ValueError(f"{jax.tree_util.keystr(path)}: no rule for the logical axes {sorted(unknown)}")
        wanted = tuple(logical_to_mesh_axes(leaf.names, rules) or ())
        sizes = leaf.value.shape
        spec = [axes if _divides(axes, size, mesh) else None for axes, size in zip(wanted, sizes, strict=True)]
        if tuple(spec) != wanted:
            _log.warning(
                "%s %s: mesh %s does not divide it as %s; replicated along that axis",
                jax.tree_util.keystr(path, simple=True, separator="/"), sizes, dict(mesh.shape), wanted,
            )  # fmt: skip
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(
        sharding, boxed_params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )


def _unbox(tree: Any) -> Any:
    """Takes the logical names off, and does nothing else.

    Flax's own also constrains each array by its names under `jax.set_mesh`. Here that is the business of the shardings,
    which know what the mesh does not divide, and that Adafactor's factors have fewer axes than their parameters.
    """

    def unbox(leaf: Any) -> Any:
        return leaf.unbox(apply_constraint=False) if isinstance(leaf, nn.Partitioned) else leaf

    return jax.tree.map(unbox, tree, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def _divides(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> bool:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return size % math.prod(mesh.shape[name] for name in names) == 0


def state_shardings(boxed_state: TrainState, mesh: Mesh) -> TrainState:
    """Shardings of a whole state, from `jax.eval_shape` of a function that makes it with boxed parameters.

    An optimizer's moment has its parameter's path and shape, and lies where its parameter lies. Everything else
    (counts, Adafactor's factors, the controller) is replicated.
    """
    shardings = param_shardings(boxed_state.params, mesh)
    shapes = jax.tree.map(lambda leaf: leaf.shape, _unbox(boxed_state.params))
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

    rest = jax.tree_util.tree_map_with_path(like_its_parameter, _unbox(boxed_state._replace(params=None)))
    return rest._replace(params=shardings)


def init_sharded(make_state: Callable[..., TrainState], mesh: Mesh, *args: Any) -> TrainState:
    """`make_state(*args)` with every array made where it will live: no device ever holds the whole state.

    Args:
        make_state: pure; returns a state whose parameters are still boxed in their logical names.
        mesh: the mesh.
        *args: arrays for `make_state`, such as a random key.

    Returns:
        The unboxed state, the same values on every mesh.
    """
    return jit_init(make_state, abstract_state(make_state, mesh, *args))(*args)


def jit_init(make_state: Callable[..., TrainState], abstract: TrainState) -> Any:
    """`init_sharded` to be compiled, for a state that is to lie as `abstract`, what `abstract_state` returns, says."""

    def make(*args: Any) -> TrainState:
        return _unbox(make_state(*args))

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))


def abstract_state(make_state: Callable[..., TrainState], mesh: Mesh, *args: Any) -> TrainState:
    """Shapes, types and shardings of what `init_sharded` would make: what a checkpoint is restored to."""
    boxed = jax.eval_shape(make_state, *args)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        _unbox(boxed),
        state_shardings(boxed, mesh),
    )
