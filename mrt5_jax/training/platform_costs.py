"""What chunks and compaction cost on each platform, as timed beforehand: a run never decides by its own clock.

`python -m benchmarks.chunk_costs` times them and prints a line of the table.
"""

from typing import NamedTuple


class PlatformCosts(NamedTuple):
    """Costs of training steps besides their matrix products, in multiply-adds that take as long as these."""

    chunk: float
    """Of each of several chunks: the loop over them, and products of fewer rows at once."""
    added: float
    """Of each number of the gradient after the gate, which every one of several chunks adds to those before it."""
    moved: float
    """Of each number of the hidden states at the gate: sorted, moved into slots, and their gradients moved back."""
    branch: float
    """Of the body, as a share of it: one of several lengths in a program instead of the only one."""
    rung: float
    """Of compiling a program, for each of its rungs."""


TIMED: dict[str, PlatformCosts] = {
    # The dearer of two processors with two cores each, by jax 0.10.2: Intel Xeon (family 6, model 207: AVX-512, AMX)
    # for numbers moved, AMD EPYC (family 25, model 1: AVX2) for chunks.
    "cpu": PlatformCosts(chunk=2.7e8, added=110.0, moved=270.0, branch=0.0, rung=1.9e11),
}
"""By JAX's name of the platform."""

ESTIMATED = PlatformCosts(chunk=1e11, added=200.0, moved=200.0, branch=0.05, rung=1e15)
"""Of platforms that nobody has timed; cautious: where chunks would hardly pay, there are none."""


def platform_costs(platform: str) -> PlatformCosts:
    """Returns the costs on a platform."""
    return TIMED.get(platform, ESTIMATED)


def estimate_line(platform: str) -> str:
    """Says that the costs on a platform are an estimate; empty where they are none."""
    if platform in TIMED:
        return ""
    return (
        f"nobody has timed chunks on the platform {platform!r}: what is 'auto' is decided by a cautious estimate "
        "(mrt5_jax/training/platform_costs.py)"
    )
