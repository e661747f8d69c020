"""Memory of the CPU backend, kept by the process instead of returned to the system after every operation.

XLA allocates each intermediate array anew, and the temporaries of a program in one piece. glibc maps large ones afresh
every time or gives them back once they are freed, so the system clears every page again before it is written: on two
cores that doubled the time of large matrix products, and a tenth of a step with 5 GB of temporaries was the system's.
"""

import ctypes
import glob
import os
import sys

_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD, _ARENA_MAX = -4, -1, -2, -8
"""glibc's numbers for mallopt(3)."""

_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def reuse_host_memory() -> bool:
    """Lets the allocator keep what was freed, where JAX computes on the CPU; call it before JAX is imported.

    The process then holds on to the most memory that it ever used at once. Returns whether it was done.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if not platforms.startswith("cpu") and any(glob.glob(pattern) for pattern in _ACCELERATORS):
        return False
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # C libraries other than glibc have none
    if mallopt is None:
        return False
    # No mappings of their own for large arrays, nothing given back, growth in big steps; and one arena, since only the
    # main one can grow beyond 64 MB without mappings.
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26, _ARENA_MAX: 1}
    return all(mallopt(option, value) == 1 for option, value in options.items())
