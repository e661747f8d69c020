"""What chunks and compaction cost besides matrix products: `python -m benchmarks.chunk_costs`.

Times training steps of two models on this platform: soft at full length, and saturated where all rows keep everything
but one position, and where they keep half of them, in one chunk and in several. What the times have beyond the
multiply-adds, at the rate of the soft step, is put down to chunks, to numbers moved and to the branch, by least squares
without negative costs; the last line is this platform's of `mrt5_jax/training/platform_costs.py`.
"""

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE, Contestant, compete, contest_parser, report
# isort: on

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import nnls

from benchmarks.kept_rows import MODELS, batch_keeping, keeping_model
from benchmarks.kept_training import Trainer
from benchmarks.machine import this_machine
from mrt5_jax.config import (
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.model.multiply_adds import BACKWARD, forward_multiply_adds
from mrt5_jax.training.platform_costs import PlatformCosts


class Shape(NamedTuple):
    """A model of `kept_rows`, and a batch for it."""

    model: str
    rows: int
    length: int
    chunks: tuple[int, ...]


SHAPES = (Shape("small", 32, 64, (4, 16)), Shape("bench", 16, 256, (4,)))


def make_run(config: ModelConfig, data: DataConfig, deletion: TrainingDeletion, chunks: int) -> RunConfig:
    execution = ExecutionConfig(rungs=(data.input_length // 2,), chunks=chunks, scan_unroll=config.num_encoder_layers)
    training, optimizer = TrainingConfig(100, deletion), OptimizerConfig(learning_rate=1e-12)
    return RunConfig("", config, data, training, optimizer=optimizer, execution=execution)


def times_of(shape: Shape, rounds: int) -> tuple[list[list[float]], list[float]]:
    """Times the steps of a shape.

    Returns:
        Of each saturated step the costs that it has (chunks, numbers moved, multiply-adds of a branch), and what its
        time has beyond its multiply-adds, both as shares of the soft step's.
    """
    config, half = MODELS[shape.model], shape.length // 2
    data = DataConfig("", (), shape.length, half, shape.rows, shape.rows)
    params = keeping_model(config)

    def trainer(deletion: TrainingDeletion, chunks: int, kept: int) -> Any:
        batch = batch_keeping(np.full(shape.rows, kept), shape.length, half)
        return Trainer(make_run(config, data, deletion, chunks), params, batch)

    def work(slots: int) -> tuple[float, float]:
        """Of a step, and of its body."""
        counted = forward_multiply_adds(config, data, slots)
        return tuple((1 + BACKWARD) * shape.rows * each for each in (counted.total, counted.suffix + counted.decoder))

    steps = {"soft": (1, shape.length), "saturated, nothing removed": (1, shape.length - 1)}
    steps |= {f"saturated, half, {chunks}": (chunks, half) for chunks in (1, *shape.chunks)}
    contestants = {}
    for name, (chunks, kept) in steps.items():
        slots = half if kept == half else shape.length
        contestants[name] = Contestant(trainer("soft" if name == "soft" else "saturated", chunks, kept), work(slots)[0])
    results = compete(contestants, rounds)
    report(f"training step, {shape.model}, {shape.rows} x {shape.length}", results, "soft", None)
    whole, seconds = work(shape.length)[0], results.pop("soft").median
    costs, beyond = [], []
    for name, result in results.items():
        chunks, kept = steps[name]
        total, body = work(half if kept == half else shape.length)
        moved = shape.rows * shape.length * config.emb_dim
        costs.append([chunks / whole, moved / whole, body / whole])
        beyond.append((result.median / seconds * whole - total) / whole)
    return costs, beyond


def main() -> None:
    args = contest_parser(__doc__, rounds=7).parse_args()
    costs, beyond = map(np.concatenate, zip(*(times_of(shape, args.rounds) for shape in SHAPES), strict=True))
    found, residual = nnls(costs, beyond)
    CONSOLE.print(f"left unexplained: {residual / len(beyond) ** 0.5:.1%} of a soft step (root of the mean square)")
    chunk, moved, branch = (float(f"{cost:.2g}") for cost in found)
    CONSOLE.print(f"    # {this_machine()}")
    CONSOLE.print(f"    {jax.default_backend()!r}: {PlatformCosts(chunk, moved, branch)},")


if __name__ == "__main__":
    main()
