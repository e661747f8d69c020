"""Training steps: saturated against soft deletion, ByT5 and PyTorch: `python -m benchmarks.training`.

Inputs of 1024 bytes, targets of 189, batch 8, emb 512, mlp 1024, 9 + 3 layers, 6 heads of 64, AdamW, random weights;
float32, or `--dtype=bfloat16` for our activations, PyTorch's being float32 all the same. The model's own training step,
dropout off, in-graph dispatch and, at 50 %, host dispatch and capacity too.
The gate is set so that the fullest row keeps 31, 50, 69 or 100 % of its positions, with gate values near 0 or -30.
"""

import argparse
import dataclasses
import functools
from typing import Any, Literal

from benchmarks.contest import CONSOLE, Contestant, compete, report  # first: it sets the allocator

# isort: split
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
from benchmarks.torch_model import as_it_comes, torch_training_step
from mrt5_jax.analysis.multiply_adds import BACKWARD
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import Dispatch, ModelConfig, OptimizerConfig, RunConfig, TrainingConfig, TrainingDeletion
from mrt5_jax.forward import Params
from mrt5_jax.network import MrT5
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.partitioning import make_mesh, replicated
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
        self.state, self.metrics = self.step(self.state, self.batch)
        return jax.block_until_ready(self.state.params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default: 3)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our activations")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    args = parser.parse_args()
    gated, plain = (dataclasses.replace(config, dtype=args.dtype) for config in (CONFIG, BYT5))
    batch, params = make_batch(), make_params()
    half = keeping(params, batch, 512, gated)
    trainers: dict[str, tuple[Trainer, int]] = {
        "ByT5": (Trainer(plain, "none", make_params(BYT5), batch), LENGTH),
        "soft": (Trainer(gated, "soft", half, batch), LENGTH),
    }
    for kept in (LENGTH, *reversed(RUNGS)):
        own = keeping(params, batch, kept, gated)
        trainers[f"saturated, {kept / LENGTH:.0%}"] = (Trainer(gated, "saturated", own, batch), kept)
    trainers["saturated, 50%, host"] = (Trainer(gated, "saturated", half, batch, "host"), 512)
    trainers["saturated, 50%, capacity"] = (Trainer(gated, "saturated", half, batch, "capacity"), 512)
    factor = 1 + BACKWARD
    contestants = {
        name: Contestant(trainer, factor * multiply_adds(kept, CONFIG if name != "ByT5" else BYT5))
        for name, (trainer, kept) in trainers.items()
    }
    torch_run, torch_count = torch_training_step(BYT5, batch), factor * multiply_adds(LENGTH, BYT5)
    contestants["PyTorch T5"] = Contestant(torch_run, torch_count)
    contestants["PyTorch T5, as it comes"] = Contestant(as_it_comes(torch_run), torch_count)
    if args.dtype == "bfloat16":
        contestants["PyTorch T5, bfloat16"] = Contestant(torch_training_step(BYT5, batch, narrow=True), torch_count)
    results = compete(contestants, args.rounds)
    report(f"training step, 8 x 1024 -> 189, {args.dtype}", results, "soft", args.json)
    for name, (trainer, kept) in trainers.items():
        assert float(trainer.metrics["rung"]) == kept, (name, trainer.metrics["rung"])
    soft, saturated = (float(trainers[name][0].metrics["total_loss"]) for name in ("soft", "saturated, 50%"))
    CONSOLE.print(f"loss: soft {soft:.7f}, saturated {saturated:.7f}, relative difference {saturated / soft - 1:.1e}")
    for torch in (name for name in results if name.startswith("PyTorch")):
        for name in ("soft", "saturated, 50%"):
            CONSOLE.print(f"{name}: {results[torch].median / results[name].median:.2f} times as fast as {torch}")


if __name__ == "__main__":
    main()
