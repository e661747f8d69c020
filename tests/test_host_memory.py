"""The allocator is told to keep memory where JAX computes on the CPU, and nowhere else."""

import subprocess
import sys

import pytest

from mrt5_jax import host_memory

_FAULTS = """
import resource, sys
import numpy as np
how, size = sys.argv[1], int(sys.argv[2])
if how == "reused":
    from mrt5_jax.host_memory import reuse_host_memory
    assert reuse_host_memory()
np.ones(size, np.int8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(size, np.int8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize("size", [2**26, 2**31 + 2**20])
def test_large_arrays_are_made_in_memory_that_is_there(repository, size: int) -> None:
    """Three arrays one after another: the system hands out new pages for each of them, or for none.

    A training step's temporaries may be larger than the 2 GB that glibc's settings can name.
    """

    def page_faults(how: str) -> int:
        command = [sys.executable, "-c", _FAULTS, how, str(size)]
        return int(subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout)

    fresh, reused = page_faults("fresh"), page_faults("reused")
    assert reused < fresh / 10


def test_hosts_of_accelerators_are_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(host_memory.glob, "glob", lambda pattern: ["/dev/nvidia0"] if "nvidia" in pattern else [])
    assert not host_memory.reuse_host_memory()
