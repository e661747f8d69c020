"""What lies in a MODEL_DIR, and its plain-text part: the model's configuration as JSON.

MODEL_DIR/
    model_config.json    the ModelConfig
    threshold.json       what its gate values are compared with, if not with the trained threshold (stored_threshold.py)
    run_config.json      the RunConfig, compared at every resume
    data_files.json      the user's files that it is trained on, with their digests
    config.gin           the operative gin configuration (written by the command line)
    checkpoints/STEP/    parameters, optimizer, controller, data iterator (see checkpoints.py)
    metrics.jsonl        what is computed; the same bytes in every run of the same configuration
    timing.jsonl         what is clocked
    events/              TensorBoard
    run.lock             the run that is writing here, while it lives

In a bucket some of them have another form; see docs/buckets.md.
"""

import dataclasses
import json
from typing import Any

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.moved_names import renew_model
from mrt5_jax.runs.files import AnyPath, as_path, exists, files_for, read_bytes
from mrt5_jax.runs.saved_configs import read_config

MODEL_CONFIG = "model_config.json"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged_checkpoints"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
EVENTS = "events"


def write_atomically(path: AnyPath, text: str) -> None:
    """Writes a whole file or, if anything stops it, leaves the old one as it was."""
    files_for(path).write(path, text.encode())


def write_model_config(model_dir: AnyPath, config: ModelConfig) -> None:
    """Writes MODEL_DIR/model_config.json, or checks the one that is there.

    Raises:
        UserError: MODEL_DIR belongs to another model; the message lists every difference. Nothing is written.
    """
    path, text = (
        as_path(model_dir) / MODEL_CONFIG,
        json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n",
    )
    check_model_config(model_dir, config)
    if exists(path) and read_bytes(path) == text.encode():
        return
    write_atomically(path, text)


def check_model_config(model_dir: AnyPath, config: ModelConfig) -> None:
    """Refuses a MODEL_DIR of another model; see `write_model_config`."""
    path = as_path(model_dir) / MODEL_CONFIG
    if exists(path):
        check_same_config(read_model_config(model_dir), config, str(path))


def read_model_config(model_dir: AnyPath) -> ModelConfig:
    """Reads the model of a MODEL_DIR.

    Raises:
        UserError: there is none, or it cannot be read; see `read_config`.
    """
    path = as_path(model_dir) / MODEL_CONFIG
    config = read_config(ModelConfig, path, renew_model)
    if config is None:
        raise UserError(
            f"{path} is not there: {model_dir} is not a MODEL_DIR made by train or convert; of another model "
            "mrt5_jax.load(...).save(...) makes one"
        )
    return config


def config_differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Returns the fields in which two configurations of one class differ, as "gate.layer 3 -> 2"."""
    differences = []
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            differences += config_differences(before, after, f"{name}.")
        elif before != after:
            differences.append(f"{name} {before!r} -> {after!r}")
    return differences


def check_same_config(old: Any, new: Any, place: str) -> None:
    """Refuses to go on under another configuration than that of `place`.

    Raises:
        UserError: listing the differences, old -> new.
    """
    if differences := config_differences(old, new):
        raise UserError(
            f"{place} belongs to another configuration ({'; '.join(differences)}): "
            "give the old values, or another MODEL_DIR"
        )
