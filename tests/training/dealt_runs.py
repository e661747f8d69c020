"""A small run over text whose rows are dealt, on simulated devices in one process or several; prints a `Seen`.

python -m tests.training.dealt_runs '{"devices": 8, "model_dir": ..., "text": ..., "device_rows": "dealt"}'
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrt5_jax.config import (
    CheckpointConfig,
    DataConfig,
    DeviceRows,
    EvaluationConfig,
    ExecutionConfig,
    GateConfig,
    MeshConfig,
    RunConfig,
    TrainingConfig,
)
from mrt5_jax.training.hooks import Hook, Moment
from mrt5_jax.training.state import TrainState

from ..compaction.compilations import compilations
from .small_runs import make_run

LENGTH, STEPS, INTERVAL = 64, 20, 8
"""After 2 x INTERVAL steps rows are dealt by what was learned."""
ROWS = 16
"""Of a device."""
TEXTS = {
    "de": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ",
    "el": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ",
    "en": "The quick brown fox jumps over the lazy dog, again and again. ",
    "th": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ",
}


def write_text(folder: Path) -> str:
    """Files of four languages; returns their glob."""
    rng = np.random.default_rng(0)
    for language, text in TEXTS.items():
        words = text.split()
        lines = (" ".join(rng.choice(words, rng.integers(3, 20))) for _ in range(300))
        (folder / f"{language}.txt").write_text("\n".join(lines))
    return f"{folder}/*.txt"


def text_run(model_dir: Path, task: str, devices: int, device_rows: DeviceRows, **execution: Any) -> RunConfig:
    """A gate that deletes by the byte from the first step on, dropout, AdamW."""
    run = make_run(model_dir, task)
    batch = devices * ROWS
    if "mesh" in execution:
        execution["mesh"] = MeshConfig(*execution["mesh"])
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, gate=GateConfig(layer=1, bias_init=0.0)),
        data=DataConfig(task, (task,), LENGTH, LENGTH, batch, batch),
        training=TrainingConfig(STEPS, "hard", eval_every=STEPS, eval_batches=1),
        execution=ExecutionConfig(
            **{"rungs": tuple(range(8, LENGTH, 8)), "chunks": 4} | execution, device_rows=device_rows, log_every=1
        ),
        checkpoints=CheckpointConfig(every=5, keep=STEPS),
        evaluation=EvaluationConfig(deletions=("soft",)),
    )


class Seen(Hook):
    """Notes which rows this process's devices had in each batch, and how much had been compiled before it; may be
    killed before a step.

    Args:
        compiled: grows by the name of each program.
    """

    def __init__(self, compiled: list[str], kill: int | None = None) -> None:
        self._compiled, self._kill = compiled, kill
        self.rows: list[list[str]] = []
        self.num_compiled: list[int] = []

    def before(self, step: int, state: TrainState, batch: Mapping[str, Any]) -> TrainState:
        if step == self._kill:
            os.kill(os.getpid(), signal.SIGKILL)
        shards = [np.asarray(shard.data) for shard in batch["encoder_input_tokens"].addressable_shards]
        self.num_compiled.append(len(self._compiled))
        self.rows.append([hashlib.sha1(row.tobytes()).hexdigest()[:12] for shard in shards for row in shard])
        return state

    def due(self, moment: Moment) -> bool:
        return False


def main(order: dict[str, Any]) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", order["devices"])
    if "process" in order:
        jax.distributed.initialize(**order["process"])

    from mrt5_jax.data import expectation
    from mrt5_jax.tasks.span_corruption import text_task
    from mrt5_jax.training.loop import train

    expectation.INTERVAL = INTERVAL
    task = text_task(order["text"], input_length=LENGTH, mean_span_length=4.0)
    devices = jax.device_count()
    run = text_run(Path(order["model_dir"]), task, devices, order["device_rows"], **order.get("execution", {}))
    if order["x64"]:
        model = dataclasses.replace(run.model, dtype="float64", param_dtype="float64")
        run = dataclasses.replace(run, model=model)
    with compilations() as compiled:
        seen = Seen(compiled, order.get("kill"))
        train(run, hooks=[seen], writers=())
    print(json.dumps({"rows": seen.rows, "compiled": compiled, "num_compiled": seen.num_compiled}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
