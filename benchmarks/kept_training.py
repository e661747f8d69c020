"""Training steps on rows of natural lengths: `python -m benchmarks.kept_training --kept=FILE`.

Soft deletion at full length against saturated deletion in one chunk and in several, at each chunk's own rung, on one
batch of rows that keep what those in FILE do (`benchmarks.kept_rows`). Float32, AdamW, dropout off. The ideal is every
row at its own exact length. Where the batch does not fit the memory, `--microbatches` cuts it for all contestants, and
one more has microbatches of rows that are alike.
"""

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE, Contestant, compete, contest_parser, report
# isort: on

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.kept_rows import KEPT_LENGTHS, MODELS, batch_keeping, draw_counts, keeping_model, read_kept
from mrt5_jax.compaction.ladder import make_ladder
from mrt5_jax.config import (
    DataConfig,
    ExecutionConfig,
    OptimizerConfig,
    RowsInParts,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import BACKWARD, body_multiply_adds, forward_multiply_adds
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import make_train_step


class Trainer:
    """A model under training; every turn is one step on the same batch, at a learning rate of nearly 0."""

    def __init__(self, run: RunConfig, params: Params, batch: Any) -> None:
        learning, mesh = make_learning(run), make_mesh(run.execution.mesh)
        model = MrT5(run.model, run.execution)
        cost = body_multiply_adds(run.model, run.data.target_length)
        ladder = make_ladder(run.data.input_length, run.execution, jax.default_backend(), body_cost=cost)
        state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
        self.state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
        self.batch = jax.device_put(batch, replicated(mesh))
        self.step = jax.jit(make_train_step(model, run, learning, ladder), donate_argnums=0)
        self.metrics: Any = None

    def __call__(self) -> Any:
        self.state, self.metrics, _ = self.step(self.state, self.batch)
        return jax.block_until_ready(self.state.params)


def main() -> None:
    parser = contest_parser(__doc__, rounds=7)
    parser.add_argument(
        "--kept", default=KEPT_LENGTHS, metavar="FILE", help="a file of kept lengths (default: our own)"
    )
    parser.add_argument("--script", help="rows of this script alone (default: all)")
    parser.add_argument("--model", choices=MODELS, default="small", help="(default: small)")
    parser.add_argument("--length", type=int, default=64, help="of inputs (default: 64)")
    parser.add_argument("--rows", type=int, default=32, help="of the batch (default: 32)")
    parser.add_argument("--target", type=int, help="of targets (default: half the inputs' length)")
    parser.add_argument("--chunks", type=int, nargs="+", default=(1, 2, 4), help="(default: 1 2 4)")
    parser.add_argument("--microbatches", type=int, default=1, help="(default: 1)")
    args = parser.parse_args()
    config, target = MODELS[args.model], args.target or args.length // 2
    counts = draw_counts(read_kept(args.kept, args.script), args.rows, args.length)
    batch, params = batch_keeping(counts, args.length, target), keeping_model(config)
    data = DataConfig("", (), args.length, target, args.rows, args.rows)

    def make_run(deletion: TrainingDeletion, chunks: int, rows: RowsInParts = "as_they_come") -> RunConfig:
        execution = ExecutionConfig(
            scan_unroll=config.num_encoder_layers, chunks=chunks, microbatches=args.microbatches, microbatch_rows=rows
        )
        training, optimizer = TrainingConfig(100, deletion), OptimizerConfig(learning_rate=1e-12)
        return RunConfig("", config, data, training, optimizer=optimizer, execution=execution)

    def work(slots: np.ndarray) -> float:
        return float((1 + BACKWARD) * sum(forward_multiply_adds(config, data, int(each)).total for each in slots))

    trainers = {"soft": Trainer(make_run("soft", 1), params, batch)}
    for chunks in args.chunks:
        trainers[f"saturated, {chunks}"] = Trainer(make_run("saturated", chunks), params, batch)
    if args.microbatches > 1:
        trainers["saturated, sorted"] = Trainer(make_run("saturated", 1, "sorted"), params, batch)
    exact = work(counts)
    results = compete({name: Contestant(trainer, exact) for name, trainer in trainers.items()}, args.rounds, args.only)
    full = work(np.full(args.rows, args.length))
    report(f"training step, {args.model}, {args.rows} x {args.length}", results, "soft", args.json)
    CONSOLE.print(f"kept: mean {counts.mean():.1f} of {args.length}; exact lengths: {full / exact:.2f} times as fast")
    base = results["soft"].median
    for name in results:
        slots = float(trainers[name].metrics["rung"])
        share = (1 - results[name].median / base) / (1 - exact / full)
        CONSOLE.print(f"{name}: {slots:.1f} slots, {share:.0%} of the time that exact lengths would save")


if __name__ == "__main__":
    main()
