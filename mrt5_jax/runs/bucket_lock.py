"""One process at a time in a folder of a bucket, where the system has no lock: numbered objects with a heartbeat.

FOLDER/NUMBER.json says who holds it. Whoever wants it creates the next number, which succeeds once; the holder rewrites
its own object every few seconds, and stops where it sees a higher number. A number whose heart has not beaten for
several beats, while it was watched, is stale: clocks of different machines are not compared.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from mrt5_jax.errors import InUseError, UserError
from mrt5_jax.runs.buckets import BucketPath, seconds_of
from mrt5_jax.runs.files import AnyPath, explained, files_for, read_bytes

HEARTBEAT = "MRT5_HEARTBEAT_SECONDS"
"""Environment variable: seconds from beat to beat."""
_DEFAULT_HEARTBEAT = 15.0
_BEATS_TO_STALE = 4
_log = logging.getLogger(__name__)
_held: dict[str, "_Holder"] = {}
"""By folder, what this process holds."""


@contextlib.contextmanager
def bucket_lock(place: BucketPath, what: str) -> Iterator[None]:
    """Holds a folder of lock objects.

    Args:
        what: is held, for the message.

    Raises:
        UserError: another process holds it, and lives; or the bucket cannot be written.
    """
    with explained(place):
        holder = _Holder(place, what, _take(place, what))
    _held[what] = holder
    try:
        yield
    finally:
        del _held[what]
        holder.release()


def check_held(path: AnyPath) -> None:
    """Refuses to write where this process holds the place of `path` no longer; to be asked before a write counts.

    Raises:
        UserError: another process has taken it over.
    """
    for what, holder in list(_held.items()):
        if f"{path}/".startswith(f"{what}/"):
            holder.check()


def _take(place: BucketPath, what: str) -> int:
    """Creates the next number, and returns it."""
    files, last = files_for(place), _last_number(place)
    if last:
        _wait_until_stale(place, last, what)
    number = last + 1
    try:
        files.create(_object(place, number), _state(beat=0))
    except FileExistsError:
        raise _in_use(what, _holder_of(place, number)) from None
    for name in files.below(place):
        if int(name.partition(".")[0]) < last:
            with contextlib.suppress(FileNotFoundError):
                files.remove(place / name)
    return number


def _wait_until_stale(place: BucketPath, number: int, what: str) -> None:
    """Returns when a lock is released, or has shown no life for long enough.

    Raises:
        UserError: its holder lives.
    """
    state = _read(place, number)
    if state.get("released"):
        return
    by, every = state.get("by", "?"), float(state.get("every", _DEFAULT_HEARTBEAT))
    _log.warning("%s is held by %s: waiting up to %g s for a sign of life", what, by, _BEATS_TO_STALE * every)
    deadline = time.monotonic() + _BEATS_TO_STALE * every
    while time.monotonic() < deadline:
        time.sleep(every / 3)
        if _last_number(place) != number:
            raise _in_use(what, _holder_of(place, number + 1))
        now = _read(place, number)
        if now.get("released"):
            return
        if now != state:
            raise _in_use(what, by)


class BucketLockWatch:
    """Says whether anybody holds a folder of lock objects, by the heartbeats between its looks; takes nothing."""

    def __init__(self, place: BucketPath) -> None:
        self._place = place
        self._seen: tuple[int, dict[str, Any]] | None = None
        self._since = 0.0

    def __call__(self) -> bool:
        """Returns False where the lock is released, or has shown no life for as long as makes it stale.

        Raises:
            UserError: the bucket cannot be read.
        """
        with explained(self._place):
            number = _last_number(self._place)
            state = _read(self._place, number) if number else {"released": True}
        if state.get("released"):
            return False
        if (number, state) != self._seen:
            self._seen, self._since = (number, state), time.monotonic()
        every = float(state.get("every", _DEFAULT_HEARTBEAT))
        return time.monotonic() - self._since <= _BEATS_TO_STALE * every


class _Holder:
    """Keeps a lock object alive until it is released."""

    def __init__(self, place: BucketPath, what: str, number: int) -> None:
        self._place, self._what, self._number = place, what, number
        self._every = _heartbeat()
        self._stop, self._lost = threading.Event(), threading.Event()
        self._seen = time.monotonic()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """See `check_held`."""
        if not self._lost.is_set() and time.monotonic() - self._seen > 2 * self._every:
            with explained(self._place):  # this process may have been asleep
                self._look()
        if self._lost.is_set():
            by = _holder_of(self._place, self._number + 1)
            raise UserError(f"{self._what} was taken over by another run ({by}): this one stopped, and writes no more")

    def release(self) -> None:
        """Frees the lock, unless it is another's by now."""
        self._stop.set()
        self._thread.join()
        if not self._lost.is_set():
            with contextlib.suppress(OSError):  # then it becomes stale
                files_for(self._place).write(_object(self._place, self._number), _state(released=True))

    def _live(self) -> None:
        beat = 0
        while not self._stop.wait(self._every) and not self._lost.is_set():
            beat += 1
            try:
                self._look()
                if not self._lost.is_set():
                    files_for(self._place).write(_object(self._place, self._number), _state(beat=beat))
            except OSError as error:
                _log.warning("%s: no heartbeat (%s)", self._place, error.strerror)

    def _look(self) -> None:
        if _last_number(self._place) > self._number:
            self._lost.set()
        self._seen = time.monotonic()


def _object(place: BucketPath, number: int) -> BucketPath:
    return place / f"{number:08}.json"


def _last_number(place: BucketPath) -> int:
    return max((int(name.partition(".")[0]) for name in files_for(place).below(place)), default=0)


def _read(place: BucketPath, number: int) -> dict[str, Any]:
    try:
        return json.loads(read_bytes(_object(place, number)))
    except (ValueError, FileNotFoundError):
        return {}


def _holder_of(place: BucketPath, number: int) -> str:
    return str(_read(place, number).get("by", "?"))


def _in_use(what: str, by: str) -> UserError:
    return InUseError(f"{what} is in use by another run ({by}): stop it, or give another place")


_SINCE = time.strftime("%Y-%m-%d %H:%M:%S")
_ID = uuid.uuid4().hex


def _state(**fields: object) -> bytes:
    by = f"process {os.getpid()} on {socket.gethostname()} since {_SINCE}"
    return json.dumps({"by": by, "id": _ID, "every": _heartbeat(), **fields}).encode()


def _heartbeat() -> float:
    return seconds_of(HEARTBEAT, _DEFAULT_HEARTBEAT)
