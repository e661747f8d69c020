"""Whether training may begin at step 0: not where MODEL_DIR shows that it went further, until a person decides."""

import json
import time
from collections.abc import Sequence

from mrt5_jax.config import RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.bucket_checkpoints import committed_steps
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, exists, files_for, read_bytes
from mrt5_jax.runs.folders import move
from mrt5_jax.runs.model_dir import CHECKPOINTS, DAMAGED, EVENTS, METRICS, TIMING

SET_ASIDE = "set_aside"
"""Of a MODEL_DIR: a folder for each time that --start_over moved something."""


def check_beginning(model_dir: AnyPath, before: RunConfig | None, *, start_over: bool) -> None:
    """Refuses to begin where checkpoints have been lost; with `start_over`, sets aside what is left of the run.

    Args:
        before: the run as MODEL_DIR has it.

    Raises:
        UserError: MODEL_DIR has no checkpoint of training, but was trained.
    """
    folder = as_path(model_dir)
    try:
        entries = _entries(folder / CHECKPOINTS)
    except OSError as error:
        raise UserError(f"{folder / CHECKPOINTS} cannot be read: {error.strerror}; nothing was changed") from None
    if entries is not None and any(name.isdigit() and int(name) > 0 for name in entries):
        return
    if not (sign := _sign_of_training(folder, entries, before)):
        return
    if not start_over:
        raise UserError(
            f"{folder / CHECKPOINTS} has no checkpoint of training, but {sign}: put the checkpoints back, give "
            "--start_over to set aside what is left and begin at step 0, or another MODEL_DIR"
        )
    set_aside(folder, ())


def _entries(checkpoints: FilePath) -> list[str] | None:
    """Lists the folder of checkpoints, where a step that is not whole has not its number alone; None without it."""
    if isinstance(checkpoints, BucketPath):
        steps = committed_steps(checkpoints)
        return [str(step) if whole else f"{step} (unfinished)" for step, whole in steps.items()] or None
    try:
        return [entry.name for entry in checkpoints.iterdir()]
    except FileNotFoundError:
        return None


def _sign_of_training(folder: FilePath, entries: list[str] | None, before: RunConfig | None) -> str:
    """What tells that a checkpoint was saved once; empty where a run was stopped before its first."""
    if files_for(folder).list(folder / DAMAGED / "*"):
        return f"{folder / DAMAGED} has damaged ones"
    for name in (METRICS, TIMING):
        last = _last_step(folder / name)
        if last is None:
            continue
        if entries is not None and before is not None:
            if last < min(before.checkpoints.every, before.training.num_steps):
                continue
            if any(not entry.isdigit() for entry in entries):  # killed in the middle of its first save
                continue
        return f"{folder / name} goes to step {last}"
    return ""


def _last_step(path: FilePath) -> int | None:
    """Of the last whole line; None where there is none."""
    try:
        lines = read_bytes(path).split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; nothing was changed") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: its last line is not one that training wrote: fix or remove it") from None


def set_aside(folder: FilePath, steps: Sequence[int]) -> None:
    """Moves the numbers of a run, what was set aside as damaged, and the checkpoints of `steps` to a folder of its own.

    To be called by one process of a run.
    """
    aside = folder / SET_ASIDE / f"{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() % 10**9:09}"
    for name in (METRICS, TIMING, EVENTS, DAMAGED, *(f"{CHECKPOINTS}/{step}" for step in steps)):
        if exists(folder / name):
            move(folder / name, aside / name)
    print(f"set aside: {aside}; training begins at step 0", flush=True)
