"""How fast a device can multiply matrices at best: published for accelerators, measured for CPUs. And a TPU's clock."""

import functools
import time
from typing import Any

import jax
import numpy as np

PEAKS = {
    "TPU v4": 137.5e12,
    "TPU v5 lite": 98.5e12,
    "TPU v5e": 98.5e12,
    "TPU v5": 229.5e12,
    "TPU v5p": 229.5e12,
    "TPU v6 lite": 459e12,
    "TPU v6e": 459e12,
    "NVIDIA A100": 156e12,
    "NVIDIA H100": 494.5e12,
    "NVIDIA H200": 494.5e12,
}
"""Multiply-adds a second in bfloat16 without sparsity, by the beginning of JAX's `device_kind`.

Half of the vendors' FLOP figures: 197 TFLOP/s for TPU v5e, 459 for v5p, 275 for v4, 918 for v6e, 312 for A100, 989 for
H100 and H200 SXM.
"""

_MULTIPLY_ADDS_A_CYCLE = {"TPU v5 lite": 4 * 128**2, "TPU v5e": 4 * 128**2}
"""Of matrix units: see `clock_rate`."""

_SIDE = 1024

Device = Any
"""A jax.Device: a type that checkers do not know."""


def peak_multiply_adds(device: Device) -> float | None:
    """Returns the multiply-adds a second of one device; None for an accelerator that PEAKS lacks.

    A CPU is measured, in float32, and shared out to the devices that this process has on it.
    """
    if device.platform == "cpu":
        return _measured() / jax.local_device_count()
    name = _name(device)
    return PEAKS[name] if name else None


def clock_rate(device: Device) -> float | None:
    """Returns the cycles a second of a TPU, as the compiler estimates them; None where that is not certain.

    It is the peak divided by what the matrix units do in a cycle. Certain is v5e: four units of 128 x 128 at 1.5 GHz
    (Austin et al., How to Scale Your Model, part 2), a peak that libtpu reckons with too, and large products that it
    estimates at up to 98 % of those units' work. For v5p libtpu reckons with 0.86 of the published peak; on v6e it
    estimates more multiply-adds in a cycle than the published two units of 256 x 256 can do.
    """
    name = _name(device)
    return PEAKS[name] / _MULTIPLY_ADDS_A_CYCLE[name] if name in _MULTIPLY_ADDS_A_CYCLE else None


def _name(device: Device) -> str | None:
    """The longest of PEAKS that the device's kind begins with."""
    return max((name for name in PEAKS if device.device_kind.startswith(name)), key=len, default=None)


@functools.cache
def _measured() -> float:
    """Of square products in NumPy: the best of a few, some hundredths of a second."""
    matrix = np.ones((_SIDE, _SIDE), np.float32)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        np.matmul(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return _SIDE**3 / min(seconds)
