"""The rows of a batch over the mesh, and over the processes that read them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.config import ControllerConfig, DataConfig, RunConfig
from mrt5_jax.data.arrangements import FEATURES, INDEX, LANGUAGE_IDS, LANGUAGE_TOKENS, ROW
from mrt5_jax.errors import UserError
from mrt5_jax.parallel.axis_rules import MESH_AXES
from mrt5_jax.parallel.mesh import batch_sharding, row_shards

CONTROLLER_IDS = "controller_ids"
"""Key in a training batch of the controllers that steer the rows, int32 [batch], where languages have their own: places
in `ControllerConfig.language_targets`, and the one after them for all other languages."""


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
    """Returns which rows this process reads. Processes whose devices need the same rows share them (a tensor axis).

    Raises:
        UserError: some processes share some of their rows only.
    """
    return _row_shares(mesh)[jax.process_index()]


def own_places(mesh: Mesh) -> tuple[int, ...]:
    """Returns the places along the batch axes whose rows this process's devices need."""
    return _parts_by_process(mesh)[jax.process_index()]


def abstract_batch(
    data: DataConfig, mesh: Mesh, num_features: int = 0, controller: ControllerConfig | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, types and shardings of a training batch.

    Args:
        num_features: of rows that are dealt; 0 where they are not.
        controller: the run's.
    """
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
    batch = {
        name: jax.ShapeDtypeStruct((data.batch_size, length), jnp.int32, sharding=sharding)
        for name, length in lengths.items()
    }
    if num_features:
        batch[ROW] = jax.ShapeDtypeStruct((data.batch_size,), jnp.int32, sharding=sharding)
        batch[FEATURES] = jax.ShapeDtypeStruct((data.batch_size, num_features), jnp.uint8, sharding=sharding)
    if controller is not None and controller.language_targets:
        batch[CONTROLLER_IDS] = jax.ShapeDtypeStruct((data.batch_size,), jnp.int32, sharding=sharding)
    return batch


def abstract_eval_batch(data: DataConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, types and shardings of an evaluation's batch, the examples' indices included."""
    one_a_row = dataclasses.replace(data, rows="one_a_row", batch_size=data.eval_batch_size)
    index = jax.ShapeDtypeStruct((data.eval_batch_size,), jnp.int32, sharding=batch_sharding(mesh))
    return {**abstract_batch(one_a_row, mesh), INDEX: index}


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Spreads a batch over the mesh as global arrays [batch ...], from the rows that this process has read.

    The rows come in the order of reading, which does not depend on how many processes there are: neither do the
    results. With several processes that takes an exchange of token ids. Rows that were dealt stay where they are.
    """
    sharding = batch_sharding(mesh)
    arrays = {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in _for_programs(batch).items()
    }
    if row_share(mesh).count == 1 or ROW in batch:
        return arrays
    return _in_reading_order(mesh, next(iter(arrays.values())).shape[0])(arrays)


def put_whole_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Does what `put_batch` does, where every process has all rows."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, rows.shape)
        for name, rows in _for_programs(batch).items()
    }


def _for_programs(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch without its languages, which no program reads."""
    return {name: rows for name, rows in batch.items() if name not in (LANGUAGE_IDS, LANGUAGE_TOKENS)}


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


def check_parts(run: RunConfig, mesh: Mesh | AbstractMesh) -> None:
    """Refuses microbatches and chunks that the rows on a device cannot be cut into.

    Raises:
        UserError: naming the sizes.
    """
    microbatches, chunks, rows = run.execution.microbatches, fixed_chunks(run.execution), run.data.batch_size
    parts = row_shards(mesh).count * microbatches * chunks
    if rows % parts:
        raise UserError(
            f"batch_size={rows} does not divide over {row_shards(mesh).count} parts of the mesh x "
            f"microbatches={microbatches} x chunks={chunks}: give a multiple of {parts}"
        )
