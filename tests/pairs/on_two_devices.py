"""Trains runs of some options on two simulated devices, and prints each one's metrics as JSON.

python -m tests.pairs.on_two_devices '{"folder": ..., "runs": [{"deletion": "hard", ...}, ...]}'
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(order: dict[str, Any]) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", 2)

    from mrt5_jax.tasks.diagnostics import diagnostic_task
    from mrt5_jax.training import platform_costs
    from mrt5_jax.training.loop import train
    from mrt5_jax.validation import validate

    from .options import LENGTH, make_run

    # Nothing but products costs anything: else nothing that decides by itself would ever change, so small are the runs.
    platform_costs.TIMED["cpu"] = platform_costs.PlatformCosts(0.0, 0.0, 0.0, 0.0, 0.0)
    task = diagnostic_task("copy", length=LENGTH, num_train=200, num_validation=8)
    metrics = []
    for number, options in enumerate(order["runs"]):
        jax.config.update("jax_enable_x64", options.get("dtype") == "float64")
        run = make_run(options, str(Path(order["folder"]) / str(number)), task)
        validate(run)
        train(run)
        lines = [json.loads(line) for line in (Path(run.model_dir) / "metrics.jsonl").read_text().splitlines()]
        metrics.append([line for line in lines if "total_loss" in line])
    print(json.dumps(metrics))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
