"""What lies in a MODEL_DIR, and its plain-text part: the model's configuration as JSON.

MODEL_DIR/
    model_config.json    the ModelConfig
    run_config.json      the RunConfig, compared at every resume
    data_files.json      the user's files that it is trained on, with their digests
    config.gin           the operative gin configuration (written by the command line)
    checkpoints/STEP/    parameters, optimizer, controller, data iterator (see checkpoints.py)
    metrics.jsonl        what is computed; the same bytes in every run of the same configuration
    timing.jsonl         what is clocked
    events/              TensorBoard
    run.lock             the run that is writing here, while it lives
"""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import socket
import time
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explain, explained, files_for, read_bytes

MODEL_CONFIG = "model_config.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
EVENTS = "events"
LOCK = "run.lock"

EXECUTION_FIELDS = ("remat", "scan_unroll", "attention_rows")
"""Fields of ModelConfig that say how the same numbers are computed: a run may be resumed with others."""

Config = TypeVar("Config")
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def run_lock(model_dir: str | Path) -> Iterator[None]:
    """Holds MODEL_DIR for this run. The system frees it when the process ends, however it ends.

    To be held by one process of a run: the one that writes.

    Raises:
        UserError: another run holds it; the message names that run.
    """
    path = Path(model_dir) / LOCK
    with explained(model_dir, "MODEL_DIR "):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{model_dir} is in use by another run ({file.read().strip()}): stop it, or give another MODEL_DIR"
            ) from None
        except OSError as error:
            _log.warning("%s cannot be locked (%s): see that no other run uses this MODEL_DIR", path, error)
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or, if anything stops it, leaves the old one as it was."""
    files_for(path).write(path, text.encode())


def write_model_config(model_dir: str | Path, config: ModelConfig) -> None:
    """Writes MODEL_DIR/model_config.json, or checks the one that is there.

    Raises:
        UserError: MODEL_DIR belongs to another model; the message lists every difference. Nothing is written.
    """
    path = Path(model_dir) / MODEL_CONFIG
    if path.exists():
        check_same_config(read_model_config(model_dir), config, str(path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read_model_config(model_dir: str | Path) -> ModelConfig:
    """The model of a MODEL_DIR.

    Raises:
        UserError: there is none, or it has a field that is unknown, missing or of a wrong type.
    """
    path = Path(model_dir) / MODEL_CONFIG
    try:
        values = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not there: {model_dir} is not a MODEL_DIR made by train or convert") from None
    except OSError as error:
        raise UserError(f"{path}: {explain(error, path)}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return config_from_json(ModelConfig, values, str(path))


def config_from_json(cls: type[Config], values: Any, place: str) -> Config:
    """A configuration dataclass from what `json.loads` gives; fields with a default may be left out.

    Raises:
        UserError: a field is unknown, missing or of a wrong type; the message names it and `place`.
    """
    if not isinstance(values, dict):
        raise UserError(f"{place}: expected the fields of {cls.__name__}, found {values!r}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(f"{place}: unknown field(s) {', '.join(unknown)}; {cls.__name__} has {', '.join(fields)}")
    required = (name for name, field in fields.items() if field.default is dataclasses.MISSING)
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{place}: missing field(s) {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _from_json(hints[name], value, f"{place}: {name}") for name, value in values.items()})


def _from_json(hint: Any, value: Any, place: str) -> Any:
    """`value` as the annotation `hint` wants it: dataclasses, Literals, optionals, tuples and scalars."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{place} is {value!r}, not one of {', '.join(map(repr, arguments))}")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _from_json(hint, value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_from_json(arguments[0], item, place) for item in value)
    if dataclasses.is_dataclass(hint):
        return config_from_json(typing.cast(type, hint), value, place)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{place} is {value!r}, not of type {getattr(hint, '__name__', hint)}")
    return value


def config_differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Fields in which two configurations of one class differ, as "gate.layer 3 -> 2"; not EXECUTION_FIELDS."""
    differences = []
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in EXECUTION_FIELDS:
            continue
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
