"""What fits into the memory of a device."""

import contextlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp

from mrt5_jax.config import ExecutionConfig, ModelConfig
from mrt5_jax.errors import UserError

USUAL_WINDOW = 32
"""With 32 rows a batch and the kept lengths of five languages, windows twice as large shorten the mean length by less
than a position."""

_LEFT_TO_THE_REST = 4
"""A window that nobody asked for takes at most the inverse of this of the memory."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def batches_in_window(
    model: ModelConfig, execution: ExecutionConfig, batch_size: int, length: int, num_shards: int = 1
) -> int:
    """Returns how many batches are regrouped together, by `ExecutionConfig.window` and the devices' memory.

    Args:
        length: of the longest inputs.
        num_shards: devices that the rows of a batch are spread over.

    Raises:
        UserError: the rows at the gate of so many batches are larger than the memory.
    """
    of_a_batch = batch_size * length * model.emb_dim * jnp.dtype(model.dtype).itemsize / num_shards
    memory = device_memory()
    if execution.window is None:
        return (
            USUAL_WINDOW if memory is None else max(1, min(USUAL_WINDOW, int(memory / _LEFT_TO_THE_REST / of_a_batch)))
        )
    if memory is not None and execution.window > 1 and execution.window * of_a_batch > memory:
        raise UserError(
            f"ExecutionConfig.window = {execution.window}: at the gate, so many batches of {batch_size} x {length} "
            f"take {execution.window * of_a_batch / 2**30:,.1f} GiB, and a device has {memory / 2**30:,.1f} GiB: give "
            f"at most {max(1, int(memory / of_a_batch))}"
        )
    return execution.window


def device_memory() -> int | None:
    """Returns the bytes of a device of this process; None where they are not known.

    Devices of the CPU share what the machine has, or what the process may have of it.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        limits.append(int(_CGROUP_LIMIT.read_text()))
    return min(limits) // jax.local_device_count()
