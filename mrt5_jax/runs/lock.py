"""One run at a time in a MODEL_DIR: a lock that a killed process cannot leave behind."""

import contextlib
import fcntl
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mrt5_jax.errors import UserError
from mrt5_jax.runs.bucket_lock import BucketLockWatch, bucket_lock
from mrt5_jax.runs.files import AnyPath, as_path, explain, explained

LOCK = "run.lock"
_SECONDS_OF_A_LOOK = 0.05
"""Far longer than `lock_watch` keeps a run from its lock."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def run_lock(model_dir: AnyPath) -> Iterator[None]:
    """Holds MODEL_DIR for this run. The system frees it when the process ends, however it ends; see also `bucket_lock`.

    To be held by one process of a run: the one that writes.

    Raises:
        UserError: another run holds it; the message names that run.
    """
    path = as_path(model_dir) / LOCK
    if not isinstance(path, Path):
        with bucket_lock(path, str(model_dir)):
            yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+", encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = explain(error, model_dir) if isinstance(error, OSError) else error
        raise UserError(f"MODEL_DIR {model_dir!r} cannot be written ({reason}): give a folder that can") from None
    with opened as file:
        try:
            _take(file)
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
        try:
            yield
        finally:
            file.truncate(0)


def _take(file: io.TextIOWrapper) -> None:
    """Takes the lock, at need on a second try: who only looks has a share in it for a moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_SECONDS_OF_A_LOOK)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_watch(model_dir: AnyPath) -> Callable[[], bool]:
    """Returns a function that says whether a run holds MODEL_DIR now; to look takes it from nobody.

    In a bucket a lock whose holder was killed counts as held until it has shown no life for several heartbeats, from
    the first look on. The function raises UserError where the lock cannot be read.
    """
    path = as_path(model_dir) / LOCK
    return partial(_is_locked, path) if isinstance(path, Path) else BucketLockWatch(path)


def _is_locked(path: Path) -> bool:
    with explained(path):
        try:
            file = path.open(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:  # no locks on this file system, as `run_lock` has said: its note is all there is
                return bool(file.read().strip())
    return False
