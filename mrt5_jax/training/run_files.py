"""The configuration of a run in its MODEL_DIR: written once, compared at every resume."""

import dataclasses
import json
from pathlib import Path

from mrt5_jax.config import RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.training.model_dir import (
    check_same_config,
    config_from_json,
    write_atomically,
    write_model_config,
)

RUN_CONFIG = "run_config.json"
CONFIG_GIN = "config.gin"


def claim(run: RunConfig, config_text: str) -> None:
    """Writes what MODEL_DIR says of the run or, where there is a run already, checks that it is this one.

    Raises:
        UserError: MODEL_DIR belongs to another run; the message lists every difference. Nothing is written.
    """
    folder = Path(run.model_dir)
    try:
        before = folder / RUN_CONFIG
        if before.exists():
            old = config_from_json(RunConfig, json.loads(before.read_text(encoding="utf-8")), str(before))
            check_same_config(_what_matters(old), _what_matters(run), str(before))
        write_model_config(folder, run.model)
        write_atomically(before, json.dumps(dataclasses.asdict(run), indent=2) + "\n")
        write_atomically(folder / CONFIG_GIN, config_text)
    except OSError as error:
        raise UserError(f"MODEL_DIR {folder}: {error.strerror}; give a folder that can be written") from None


def _what_matters(run: RunConfig) -> RunConfig:
    """The run without what may change from one start to the next.

    That is where it lies and runs, what is kept, traced and evaluated, how long it goes on, and when it gives up: more
    steps continue a run (a decaying schedule is then that of the longer run).
    """
    blank = RunConfig(run.model_dir, run.model, run.data, run.training)
    return dataclasses.replace(
        run,
        model_dir="",
        mesh=blank.mesh,
        checkpoints=blank.checkpoints,
        evaluation=blank.evaluation,
        training=dataclasses.replace(run.training, num_steps=0, profile_steps=None, max_refused_steps=0),
        data=dataclasses.replace(run.data, eval_tasks=(), eval_batch_size=0),
    )
