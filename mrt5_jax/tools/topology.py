"""Devices to compile for that need not be there: TPU slices, and any number of pretended CPU or GPU devices."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from mrt5_jax.errors import UserError

LOCAL = "local"
_EXAMPLES = "give local, TPU slices such as v5e:16x16 or 2*v5p:4x4x4, or a number of devices such as cpu:8 or gpu:8"

_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu would otherwise ask a cloud machine for, and complain about; the topology's name decides, not these."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices, and what they stand for."""

    devices: Sequence[Any]
    backend: str
    """JAX's name of the platform that a run there would have ("cpu", "gpu", "tpu")."""
    description: str


def topology_of(name: str) -> Topology:
    """Returns the devices of a topology.

    Args:
        name: "local": those of this process. "v5e:16x16", "v5p:2x2x4" and the like: a TPU slice, for which the TPU's
            own compiler (`libtpu`) compiles without a TPU; "2*v5e:4x4": two, joined by a slower network. "cpu:8"
            or "gpu:8": so many devices of this machine's CPU; sharding and collectives are those of 8 GPUs, sizes of
            temporaries are not.

    Raises:
        UserError: no such topology, or libtpu is not installed.
    """
    if name == LOCAL:
        devices = jax.devices()
        return Topology(devices, jax.default_backend(), f"{len(devices)} x {devices[0].device_kind}")
    if simulated := re.fullmatch(r"(cpu|gpu):(\d+)", name):
        return _simulated(simulated[1], int(simulated[2]))
    if slices := re.fullmatch(r"(?:(\d+)\*)?(v\d\w*:\d+(?:x\d+)+)", name):
        return _tpu_slices(slices[2], int(slices[1] or 1))
    raise UserError(f"--topology={name}: {_EXAMPLES}")


def _simulated(backend: str, count: int) -> Topology:
    try:
        jax.config.update("jax_num_cpu_devices", count)
        devices = jax.devices("cpu")
    except (RuntimeError, ValueError) as error:  # a backend is there already
        devices = jax.devices("cpu")
        if len(devices) < count:
            raise UserError(f"--topology={backend}:{count}: {str(error).splitlines()[0]}") from None
    if not 0 < count <= len(devices):
        raise UserError(f"--topology={backend}:{count}: {_EXAMPLES}")
    return Topology(devices[:count], backend, f"{count} simulated {backend.upper()} devices")


def _tpu_slices(name: str, count: int) -> Topology:
    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"--topology={name} needs the TPU's compiler: pip install -c constraints.txt 'mrt5-jax[tpu]'"
        ) from None
    from jax.experimental import topologies

    for name_of_variable, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name_of_variable, value)
    several = {"num_slices": count} if count > 1 else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **several).devices
    except Exception as error:  # whatever PJRT makes of a name that it does not know
        raise UserError(f"--topology={name}: {str(error).splitlines()[0]}; {_EXAMPLES}") from None
    return Topology(devices, "tpu", f"{len(devices)} x {devices[0].device_kind}")
