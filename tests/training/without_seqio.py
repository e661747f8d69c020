"""`train()` in a process of its own that starts in seconds: tasks are NumPy arrays, so neither seqio nor TensorFlow.

    python tests/training/without_seqio.py '{"model_dir": ..., "kill": {"at": "step", "number": 5}, ...}'

Everything else is as in `mrt5 train`: the loop, its files, its checkpoints, its signals.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

BATCH, LENGTH = 8, 8


class Copying:
    """Random strings to be copied; an arrangement of `data.batches.TrainBatches`."""

    def __init__(self, index: int, count: int) -> None:
        self._rows = slice(index, None, count)

    def read(self, position: int) -> Iterator[Any]:
        from mrt5_jax.data.arrangements import Located

        while True:
            batch = copying_batch(np.random.default_rng((0, position)), self._rows)
            position += 1
            yield Located(batch, position)


def copying_batch(rng: np.random.Generator, rows: slice) -> dict[str, np.ndarray]:
    from mrt5_jax.data.arrangements import model_batch

    ids = rng.integers(3, 30, (BATCH, LENGTH)).astype(np.int32)
    ids[np.arange(LENGTH) >= rng.integers(3, LENGTH + 1, BATCH)[:, None]] = 0
    return model_batch(ids[rows], ids[rows])


def pretend_data(loop: Any, hooks: Any) -> None:
    """Takes the place of what would import TensorFlow."""
    from mrt5_jax.data.arrangements import ExampleInfo
    from mrt5_jax.data.batches import EvalBatch, TrainBatches

    def train_batches(data: Any, *, seed: int, shard_index: int, num_shards: int, dealing: Any) -> TrainBatches:
        return TrainBatches(Copying(shard_index, num_shards), {"seed": seed, "num_shards": num_shards})

    def eval_batches(task: str, *_: Any, **__: Any) -> Iterator[EvalBatch]:
        examples = tuple(ExampleInfo(task, "", row) for row in range(BATCH))
        yield EvalBatch(copying_batch(np.random.default_rng(1), slice(None)), examples)

    loop.train_batches, hooks.eval_batches = train_batches, eval_batches
    loop.check_evaluation = lambda _: None


def kill_at(loop: Any, at: str, number: int, by: str = "SIGKILL") -> None:
    """A signal when the batch of the `number`th step is made, or when the save of step `number` is about to be done.

    at: "step", "commit" in a folder, "sent" in a bucket.
    """

    def kill() -> None:
        os.kill(os.getpid(), signal.Signals[by])

    if at == "step":
        put, made = loop.put_batch, []

        def killing(*arguments: Any) -> Any:
            made.append(None)
            if len(made) == number:
                kill()
            return put(*arguments)

        loop.put_batch = killing
    if at == "commit":

        def hook(event: str, arguments: Any) -> None:
            if event == "os.rename" and f"/checkpoints/{number}." in str(arguments[0]):
                kill()

        sys.addaudithook(hook)
    if at == "sent":
        from mrt5_jax.runs import folders

        send = folders.send

        def sending(folder: Any, target: Any, names: Any) -> None:
            send(folder, target, names)
            if str(target).endswith(f"/checkpoints/{number}"):
                kill()

        folders.send = sending


def make_run(model_dir: str, **training: Any) -> Any:
    from mrt5_jax import config

    return config.RunConfig(
        model_dir=model_dir,
        model=config.ModelConfig(8, 2, 4, 8, 2, 1, gate=config.GateConfig(layer=1), dropout_rate=0.2),
        data=config.DataConfig("copying", ("copying",), LENGTH, LENGTH, BATCH, BATCH),
        training=config.TrainingConfig(**{"num_steps": 12, "eval_every": 6} | training),
        loss=config.LossConfig(regularizer_delay=1),
        controller=config.ControllerConfig(target_deletion_rate=0.5),
        optimizer=config.OptimizerConfig(learning_rate=1e-2),
        execution=config.ExecutionConfig(max_rungs=1, log_every=1),
        checkpoints=config.CheckpointConfig(every=3),
        evaluation=config.EvaluationConfig(deletions=("hard",)),
    )


def main(order: dict[str, Any]) -> int:
    from mrt5_jax.errors import PREEMPTED_EXIT_CODE, Preempted
    from mrt5_jax.training import hooks, loop

    pretend_data(loop, hooks)
    if "kill" in order:
        kill_at(loop, **order["kill"])
    try:
        loop.train(make_run(order["model_dir"], **order.get("training", {})), writers=())
    except Preempted:
        return PREEMPTED_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
