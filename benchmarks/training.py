"""Training steps: saturated against soft deletion, ByT5 and PyTorch: `python -m benchmarks.training`.

Inputs of 1024 bytes, targets of 189, batch 8, emb 512, mlp 1024, 9 + 3 layers, 6 heads of 64, AdamW, random weights;
float32, and for comparison soft deletion with bfloat16 activations. The model's own training step, dropout off,
in-graph dispatch and, at 50 %, host dispatch and capacity too.
The gate is set so that the fullest row keeps 31, 50, 69 or 100 % of its positions, with gate values near 0 or -30.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE, Contestant, compare, compete, contest_parser, report
# isort: on

import jax
import jax.numpy as jnp

from benchmarks.bench_model import (
    BYT5,
    CONFIG,
    DATA,
    EXECUTION,
    LENGTH,
    RUNGS,
    keeping,
    make_batch,
    make_params,
    multiply_adds,
)
from benchmarks.torch_model import torch_contestants, torch_training_step
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import Dispatch, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig, TrainingDeletion
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import BACKWARD
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import make_train_step


def make_run(config: ModelConfig, deletion: TrainingDeletion) -> RunConfig:
    """With a learning rate of nearly 0: the gate must keep what it was set to keep."""
    optimizer = OptimizerConfig(learning_rate=1e-12)
    return RunConfig("", config, DATA, TrainingConfig(100, deletion), optimizer=optimizer, execution=EXECUTION)


@functools.cache
def graph_step(config: ModelConfig, deletion: TrainingDeletion, ladder: Ladder) -> Any:
    """Compiled once for all shares that are kept."""
    run = make_run(config, deletion)
    return jax.jit(make_train_step(MrT5(config, EXECUTION), run, make_learning(run), ladder), donate_argnums=0)


class Trainer:
    """A model under training; every turn is one step on the same batch."""

    def __init__(
        self,
        config: ModelConfig,
        deletion: TrainingDeletion,
        params: Params,
        batch: Any,
        dispatch: Dispatch | Literal["capacity"] = "in_graph",
    ) -> None:
        run = make_run(config, deletion)
        learning, mesh = make_learning(run), make_mesh(run.execution.mesh)
        state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
        self.state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
        self.batch = jax.device_put(batch, replicated(mesh))
        ladder = Ladder((512,), LENGTH) if dispatch == "capacity" else Ladder((*RUNGS, LENGTH))
        if dispatch == "host":
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), self.state
            )
            self.step: Any = HostTrainStep(MrT5(config, EXECUTION), run, learning, ladder, abstract)
        else:
            self.step = graph_step(config, deletion, ladder)
        self.metrics: Any = None

    def __call__(self) -> Any:
        self.state, self.metrics, _ = self.step(self.state, self.batch)
        return jax.block_until_ready(self.state.params)


def main() -> None:
    args = contest_parser(__doc__, rounds=3).parse_args()
    batch, params = make_batch(), make_params()
    half = keeping(params, batch, 512)
    narrow = dataclasses.replace(CONFIG, dtype="bfloat16")
    made: dict[str, tuple[Callable[[], Trainer], int]] = {
        "ByT5": (lambda: Trainer(BYT5, "none", make_params(BYT5), batch), LENGTH),
        "soft": (lambda: Trainer(CONFIG, "soft", half, batch), LENGTH),
        "soft, bfloat16": (lambda: Trainer(narrow, "soft", half, batch), LENGTH),
    }
    for kept in (LENGTH, *reversed(RUNGS)):
        own = functools.partial(Trainer, CONFIG, "saturated", keeping(params, batch, kept), batch)
        made[f"saturated, {kept / LENGTH:.0%}"] = (own, kept)
    made["saturated, 50%, host"] = (lambda: Trainer(CONFIG, "saturated", half, batch, "host"), 512)
    made["saturated, 50%, capacity"] = (lambda: Trainer(CONFIG, "saturated", half, batch, "capacity"), 512)
    # Only those that run: each holds a state of the whole model.
    trainers = {name: (make(), kept) for name, (make, kept) in made.items() if args.only is None or name in args.only}
    factor = 1 + BACKWARD
    contestants = {
        name: Contestant(trainer, factor * multiply_adds(kept, CONFIG if name != "ByT5" else BYT5))
        for name, (trainer, kept) in trainers.items()
    }
    contestants |= torch_contestants(
        lambda setting: torch_training_step(BYT5, batch, setting), factor * multiply_adds(LENGTH, BYT5)
    )
    results = compete(contestants, args.rounds, args.only)
    report("training step, 8 x 1024 -> 189, float32", results, "soft", args.json)
    ran = {name: trainer for name, (trainer, _) in trainers.items() if name in results}
    for name, trainer in ran.items():
        assert float(trainer.metrics["rung"]) == trainers[name][1], (name, trainer.metrics["rung"])
    if {"soft", "saturated, 50%"} <= ran.keys():
        soft, saturated = (float(ran[name].metrics["total_loss"]) for name in ("soft", "saturated, 50%"))
        CONSOLE.print(f"loss: soft {soft:.7f}, saturated {saturated:.7f}, difference {saturated / soft - 1:.1e}")
    compare(results, ("soft", "saturated, 50%", "saturated, 50%, capacity"))


if __name__ == "__main__":
    main()
