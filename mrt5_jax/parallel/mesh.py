"""The mesh of devices and where every array lives on it.

The mesh has three named axes. `data`: each device has other rows of the batch and all parameters. `fsdp`: other rows
too, but the parameters are spread over it and gathered where they are used. `tensor`: one row's matrix products are
spread over it. Modules name the axes of their parameters logically (embed, mlp, ...); rules as in T5X map those names
to mesh axes. One device is a mesh too.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from mrt5_jax.config import MeshConfig
from mrt5_jax.errors import UserError
from mrt5_jax.parallel.axis_rules import BATCH_AXES, MESH_AXES, RowShards, axis_rules


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the mesh over `devices` (None: all there are); at most one axis is -1 and fills with what is left.

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
    """Lays arrays out, and constrains activations, on `mesh` by the rules of `config` while the context lasts.

    Raises:
        UserError: see `axis_rules`.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(axis_rules(config)):
        yield


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def row_shards(mesh: Mesh | AbstractMesh) -> RowShards:
    """Returns how many parts the rows of a batch are spread over."""
    return RowShards(*(mesh.shape[axis] for axis in BATCH_AXES))
