"""A folder that libraries write on this machine's disk, and that is kept in a bucket."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mrt5_jax.runs import folders
from mrt5_jax.runs.files import FilePath, LocalFiles

_SECONDS_BETWEEN = 30.0
_log = logging.getLogger(__name__)


class Mirrored:
    """`folder` is where to write: the target itself, or a folder here whose files are sent to it as they are.

    What does not arrive is warned of: a run does not end for its events.
    """

    def __init__(self, target: FilePath) -> None:
        self._target = target
        self._remote = not isinstance(target, Path)
        self.folder = target if isinstance(target, Path) else Path(tempfile.mkdtemp(prefix="mrt5-"))
        self._last, self._sending = time.monotonic(), Future[None]()
        self._sending.set_result(None)
        self._pool = ThreadPoolExecutor(1) if self._remote else None

    def send_soon(self, flush: Callable[[], None]) -> None:
        """Sends the folder behind the run, every half minute; `flush` brings what is written to the disk."""
        if self._pool is None or not self._sending.done() or time.monotonic() - self._last < _SECONDS_BETWEEN:
            return
        flush()
        self._last, self._sending = time.monotonic(), self._pool.submit(self._send)

    def close(self) -> None:
        """Sends the folder, and removes it here."""
        if self._pool is not None:
            self._pool.submit(self._send).result()
            self._pool.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)
            self._pool = None

    def _send(self) -> None:
        assert not isinstance(self._target, Path)
        try:
            folders.send(self.folder, self._target, LocalFiles().below(self.folder))
        except OSError as error:
            _log.warning("%s could not be sent (%s)", self._target, error.strerror)
