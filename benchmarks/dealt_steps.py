"""Training steps with dealt rows against rows as they come: `python -m benchmarks.dealt_steps MODEL_DIR`.

The model of a MODEL_DIR goes on with training on simulated devices twice at once: one run deals its rows, the other has
the same batches as they come. They take turns, a step each, under saturated deletion, from the same parameters. After
the steps in which the predictor has nothing to go by, printed are the slots that rows ran at, the multiply-adds that
were saved and that exact lengths would have saved, and seconds of a step.
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE
# isort: on

import jax
from rich.table import Table

from benchmarks.machine import this_machine
from mrt5_jax.cli import gin_setup
from mrt5_jax.config import DeviceRows, MeshConfig, RunConfig
from mrt5_jax.data.batches import train_batches
from mrt5_jax.data.expectation import INTERVAL
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.batches import put_batch
from mrt5_jax.parallel.mesh import make_mesh, on_mesh, row_shards
from mrt5_jax.training.dealing import dealing_of
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.programs import training_ladders
from mrt5_jax.training.state_shardings import abstract_state, jit_init, jit_step
from mrt5_jax.training.step import make_state, make_train_step
from mrt5_jax.training.warm_start import warm_start

PRINTED = {"rung": "slots", "saved": "saved", "saved_if_exact": "saved if exact", "deletion_rate": "deleted"}
"""Metrics of steps, and their headings."""


class Steps:
    """A run that goes on from a model; every turn is one step on its next batch."""

    def __init__(self, run: RunConfig, model_dir: str) -> None:
        self._mesh = make_mesh(run.execution.mesh)
        model, learning, ladders = MrT5(run.model, run.execution), make_learning(run), training_ladders(run)
        dealing = dealing_of(run, self._mesh, ladders)
        self._expectation = dealing and dealing.expectation
        self._batches = train_batches(run.data, seed=run.training.seed, dealing=dealing)
        with on_mesh(self._mesh, run.execution.mesh):
            key = jax.random.key(run.training.seed)

            def new(key: Any) -> Any:
                return make_state(model, run, learning, key)

            abstract = abstract_state(new, self._mesh, key)
            state = jit_init(new, abstract)(key)
            self._state = state._replace(params=warm_start(state.params, model_dir).params)
            ladder = ladders[run.data.input_length]
            self._step = jit_step(make_train_step(model, run, learning, ladder, row_shards(self._mesh)), abstract)
        self._mesh_config = run.execution.mesh
        self.seconds: list[float] = []
        self.metrics: list[dict[str, float]] = []

    def __call__(self) -> None:
        with on_mesh(self._mesh, self._mesh_config):
            batch = put_batch(next(self._batches), self._mesh)
            begin = time.perf_counter()
            self._state, metrics, moments = jax.block_until_ready(self._step(self._state, batch))
            self.seconds.append(time.perf_counter() - begin)
        self.metrics.append({name: float(value) for name, value in metrics.items()})
        if self._expectation is not None:
            self._expectation.add(moments)

    def explained(self) -> float:
        """Returns the share of the variance that is expected rightly."""
        return self._expectation.explained() if self._expectation is not None else 0.0


def made_run(args: argparse.Namespace, device_rows: DeviceRows) -> RunConfig:
    """Makes the run of the MODEL_DIR on as many devices, under saturated deletion from the first step on."""
    run = gin_setup.resolve([f"{args.model_dir}/config.gin"]).run
    batch = args.devices * args.rows
    return dataclasses.replace(
        run,
        data=dataclasses.replace(run.data, batch_size=batch, eval_batch_size=batch),
        training=dataclasses.replace(run.training, deletion="saturated", hard_probability=0.0, seed=1),
        execution=dataclasses.replace(
            run.execution, mesh=MeshConfig(), chunks=args.chunks, max_rungs=args.rungs, device_rows=device_rows
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="of a model with a gate, trained on text")
    parser.add_argument("--devices", type=int, default=8, help="simulated ones (default: 8)")
    parser.add_argument("--rows", type=int, default=16, help="of a device (default: 16)")
    parser.add_argument("--chunks", type=int, default=8, help="(default: 8)")
    parser.add_argument("--rungs", type=int, default=8, help="at most (default: 8)")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each that count (default: 20)")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    unlearned = 2 * INTERVAL
    dealt, undealt = (Steps(made_run(args, how), args.model_dir) for how in ("dealt", "as_they_come"))
    for number in range(unlearned + args.rounds):
        for steps in (dealt, undealt) if number % 2 else (undealt, dealt):
            steps()
    table = Table("steps", "rows", *PRINTED.values(), "seconds", "range")
    for label, of in {"first": slice(1, unlearned), "learned": slice(unlearned, None)}.items():
        for name, steps in {"as they come": undealt, "dealt": dealt}.items():
            means = [statistics.mean(line[metric] for line in steps.metrics[of]) for metric in PRINTED]
            times = steps.seconds[of]
            ranged = f"{min(times):.3f} to {max(times):.3f}"
            table.add_row(label, name, *(f"{mean:.3f}" for mean in means), f"{statistics.median(times):.3f}", ranged)
    CONSOLE.print(table)
    ratio = statistics.median(dealt.seconds[unlearned:]) / statistics.median(undealt.seconds[unlearned:])
    losses = [[line["total_loss"] for line in steps.metrics] for steps in (dealt, undealt)]
    apart = max(abs(one / other - 1) for one, other in zip(*losses, strict=True))
    CONSOLE.print(
        f"a dealt step takes {ratio:.3f} of the time; the predictor explains {dealt.explained():.0%} of the variance; "
        f"losses differ by at most {apart:.1e}. {this_machine()}"
    )


if __name__ == "__main__":
    main()
