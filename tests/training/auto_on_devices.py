"""A run that decides by itself, on simulated devices, in one process or several; prints what it chose, as JSON.

python -m tests.training.auto_on_devices '{"devices": 8, "model_dir": ...}'
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any


def main(order: dict[str, Any]) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", order["devices"])
    if "process" in order:
        jax.distributed.initialize(**order["process"])

    from mrt5_jax.tasks.diagnostics import diagnostic_task
    from mrt5_jax.training import platform_costs
    from mrt5_jax.training.loop import train

    from .auto_runs import FREE, LENGTH, Gate, auto_run

    platform_costs.TIMED["cpu"] = FREE
    task = diagnostic_task("copy", length=LENGTH, num_train=100, num_validation=16)
    run = auto_run(Path(order["model_dir"]), task)
    execution = dataclasses.replace(run.execution, rungs=(8, 12, 16, 20, 24, 28))
    data = dataclasses.replace(run.data, batch_size=64, eval_batch_size=16)
    state = train(dataclasses.replace(run, data=data, execution=execution), hooks=[Gate(decides=1)], writers=())
    assert state.kept is not None
    print(json.dumps({deletion: kept.num_chunks.tolist() for deletion, kept in state.kept.items()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
