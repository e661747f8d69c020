"""What chunks and compaction cost besides matrix products: `python -m benchmarks.chunk_costs`.

Times training steps of two models on this platform: soft at full length, and saturated where all rows keep everything
but one position, and where they keep half of them, in one chunk and in several. What a step takes longer than another
with the same multiply-adds is put down to chunks and the gradients that they add up, or to numbers moved and the
branch, by least squares without negative costs. A program's price is the seconds that compiling one with two rungs
takes, of the smaller model. The last line is this platform's of `mrt5_jax/training/platform_costs.py`.
"""

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE, Contestant, compete, contest_parser, report
# isort: on

import dataclasses
import time
from typing import NamedTuple

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
from mrt5_jax.model.parameters import split_stages
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


def compile_seconds(shape: Shape) -> float:
    """Compiles the program of saturated steps as runs do, its layers in a loop; returns the seconds for a rung."""
    config, half = MODELS[shape.model], shape.length // 2
    run = make_run(config, DataConfig("", (), shape.length, half, shape.rows, shape.rows), "saturated", 1)
    run = dataclasses.replace(run, execution=dataclasses.replace(run.execution, scan_unroll=1))
    trainer = Trainer(run, keeping_model(config), batch_keeping(np.full(shape.rows, half), shape.length, half))
    start = time.perf_counter()
    trainer.step.lower(trainer.state, trainer.batch).compile()
    return (time.perf_counter() - start) / 2


def times_of(shape: Shape, rounds: int) -> tuple[list[list[float]], list[float], float]:
    """Times the steps of a shape.

    Returns:
        Of each saturated step what it has besides another one with the same multiply-adds: its costs (chunks, numbers
        added up and moved, multiply-adds of a branch), and its time; all as shares of the soft step's. And the
        multiply-adds that the soft step does in a second.
    """
    config, half = MODELS[shape.model], shape.length // 2
    data = DataConfig("", (), shape.length, half, shape.rows, shape.rows)
    params = keeping_model(config)
    gradient = sum(leaf.size for leaf in jax.tree.leaves(split_stages(params)[1]))

    def work(slots: int) -> tuple[float, float]:
        """Of a step, and of its body."""
        counted = forward_multiply_adds(config, data, slots)
        return tuple((1 + BACKWARD) * shape.rows * each for each in (counted.total, counted.suffix + counted.decoder))

    def contestant(deletion: TrainingDeletion, chunks: int, kept: int) -> Contestant:
        batch = batch_keeping(np.full(shape.rows, kept), shape.length, half)
        slots = half if kept == half else shape.length
        return Contestant(Trainer(make_run(config, data, deletion, chunks), params, batch), work(slots)[0])

    soft, branch, one = "soft", "saturated, nothing removed", "saturated, half, 1"
    contestants = {
        soft: contestant("soft", 1, shape.length),
        branch: contestant("saturated", 1, shape.length - 1),
        one: contestant("saturated", 1, half),
    }
    several = {f"saturated, half, {chunks}": chunks for chunks in shape.chunks}
    contestants |= {name: contestant("saturated", chunks, half) for name, chunks in several.items()}
    results = compete(contestants, rounds)
    report(f"training step, {shape.model}, {shape.rows} x {shape.length}", results, soft, None)

    (whole, body), seconds = work(shape.length), results[soft].median
    costs = [[0.0, 0.0, shape.rows * shape.length * config.emb_dim / whole, body / whole]]
    beyond = [(results[branch].median - seconds) / seconds]
    for name, chunks in several.items():
        costs.append([chunks / whole, chunks * gradient / whole, 0.0, 0.0])
        beyond.append((results[name].median - results[one].median) / seconds)
    return costs, beyond, whole / seconds


def main() -> None:
    args = contest_parser(__doc__, rounds=7).parse_args()
    timed = [times_of(shape, args.rounds) for shape in SHAPES]
    costs, beyond = (np.concatenate([each[place] for each in timed]) for place in (0, 1))
    found, residual = nnls(costs, beyond)
    rung = compile_seconds(SHAPES[0]) * timed[0][2]
    CONSOLE.print(f"left unexplained: {residual / len(beyond) ** 0.5:.1%} of a soft step (root of the mean square)")
    rounded = PlatformCosts(*(float(f"{cost:.2g}") for cost in (*found, rung)))
    CONSOLE.print(f"    # {this_machine()}")
    CONSOLE.print(f"    {jax.default_backend()!r}: {rounded},")


if __name__ == "__main__":
    main()
