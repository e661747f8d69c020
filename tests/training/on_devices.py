"""Training steps on meshes of simulated devices, in one process or several; prints the losses as JSON.

    python tests/training/on_devices.py '{"devices": 8, "steps": 3, "runs": [{"mesh": [4, 2, 1]}, ...]}'

A run may change fields of the model, its gate, training, loss, compaction and controller. Rows come through `row_share`
and `put_batch`.
"""

import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
from without_seqio import make_run

ROWS, LENGTH = 32, 16


def batch_of(step: int, rows: slice) -> dict[str, np.ndarray]:
    from mrt5_jax.data.arrangements import model_batch

    rng = np.random.default_rng(step)
    ids = rng.integers(3, 30, (ROWS, LENGTH)).astype(np.int32)
    ids[np.arange(LENGTH) >= rng.integers(3, LENGTH + 1, ROWS)[:, None]] = 0
    return model_batch(ids[rows], ids[rows])


def changed_run(change: dict[str, Any]) -> Any:
    """Dropout on, a learned gate that deletes from the first step on, AdamW, a controller."""
    from mrt5_jax import config

    run = make_run("unused")
    gate = config.GateConfig(layer=1, **in_tuples(change.get("gate", {"bias_init": 0.0})))
    x64 = {"dtype": "float64", "param_dtype": "float64"} if os.environ.get("JAX_ENABLE_X64") == "1" else {}
    model = dataclasses.replace(run.model, gate=gate, **x64, **change.get("model", {}))
    return dataclasses.replace(
        run,
        model=model,
        data=config.DataConfig("unused", ("unused",), LENGTH, LENGTH, ROWS, ROWS),
        training=dataclasses.replace(run.training, **change.get("training", {})),
        loss=dataclasses.replace(run.loss, **in_tuples(change.get("loss", {}))),
        compaction=config.CompactionConfig(**change.get("compaction", {})),
        controller=config.ControllerConfig(**change["controller"]) if "controller" in change else run.controller,
        execution=config.ExecutionConfig(
            rounding=4, max_rungs=2, mesh=config.MeshConfig(*change["mesh"]), **change.get("execution", {})
        ),
    )


def in_tuples(value: Any) -> Any:
    """What JSON gives as lists, as configurations have it."""
    if isinstance(value, dict):
        return {name: in_tuples(part) for name, part in value.items()}
    return tuple(map(in_tuples, value)) if isinstance(value, list) else value


def losses(change: dict[str, Any], steps: int) -> list[dict[str, float]]:
    """Loss and deletion rate of every step."""
    import jax

    from mrt5_jax.compaction.ladder import make_ladder
    from mrt5_jax.model.encoder_decoder import MrT5
    from mrt5_jax.parallel.batches import CONTROLLER_IDS, put_batch, row_share
    from mrt5_jax.parallel.mesh import make_mesh, on_mesh, row_shards
    from mrt5_jax.training.host_step import HostTrainStep
    from mrt5_jax.training.learning import make_learning
    from mrt5_jax.training.state_shardings import abstract_state, init_sharded, jit_step
    from mrt5_jax.training.steering import controller_names
    from mrt5_jax.training.step import make_state, make_train_step

    run = changed_run(change)
    devices = jax.devices()[: abs(int(np.prod(change["mesh"])))]
    mesh = make_mesh(run.execution.mesh, devices)
    model, learning, key = MrT5(run.model, run.execution), make_learning(run), jax.random.key(0)

    def new_state(key: Any) -> Any:
        return make_state(model, run, learning, key)

    measured = []
    with on_mesh(mesh, run.execution.mesh):
        state, share = init_sharded(new_state, mesh, key), row_share(mesh)
        ladder = make_ladder(LENGTH, run.execution, "cpu", run.compaction.capacity)
        abstract = abstract_state(new_state, mesh, key)
        step_function: Any
        if run.execution.dispatch == "host":
            step_function = HostTrainStep(model, run, learning, ladder, abstract)
        else:
            step_function = make_train_step(model, run, learning, ladder, row_shards(mesh))
            step_function = jit_step(step_function, abstract)
        for step in range(steps):
            rows = slice(share.index, None, share.count)
            batch = batch_of(step, rows)
            if names := controller_names(run.controller):
                batch[CONTROLLER_IDS] = (np.arange(ROWS, dtype=np.int32) % len(names))[rows]
            state, metrics, _ = step_function(state, put_batch(batch, mesh))
            measured.append({name: float(metrics[name]) for name in ("total_loss", "deletion_rate", "rung")})
    return measured


def main(order: dict[str, Any]) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", order["devices"])
    if "process" in order:
        jax.distributed.initialize(**order["process"])
    results = [losses(change, order["steps"]) for change in order["runs"]]
    if jax.process_index() == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
