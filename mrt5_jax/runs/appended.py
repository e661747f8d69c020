"""Text that grows at its end. A bucket cannot append: there the whole object is written again, behind the run."""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

from mrt5_jax.runs.bucket_lock import check_held
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import FilePath, exists, explained, files_for, read_bytes

_SECONDS_BETWEEN_WRITES = 5.0
"""Storages take about one write of an object a second."""


@runtime_checkable
class Appended(Protocol):
    """An open file that one writes to at its end."""

    def write(self, text: str) -> None:
        """Takes text, which survives the end of the process: at once on a disk, soon in a bucket."""
        ...

    def flush(self) -> None:
        """Returns when what was written cannot be lost."""
        ...

    def close(self) -> None:
        """Ends writing: the last call."""
        ...


def open_to_append(path: FilePath) -> Appended:
    """Opens a file, which need not exist, to write at its end."""
    return _Object(path) if isinstance(path, BucketPath) else _File(path)


class _File:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Object:
    def __init__(self, path: BucketPath) -> None:
        self._path = path
        self._text = bytearray(read_bytes(path) if exists(path) else b"")
        self._stored, self._last = len(self._text), time.monotonic()
        self._pool = ThreadPoolExecutor(1)
        self._storing: Future[None] | None = None

    def write(self, text: str) -> None:
        self._text += text.encode()
        idle = self._storing is None or self._storing.done()
        if idle and time.monotonic() - self._last > _SECONDS_BETWEEN_WRITES:
            self._wait()
            self._storing = self._pool.submit(self._store, bytes(self._text))

    def flush(self) -> None:
        self._wait()
        if self._stored < len(self._text):
            with explained(self._path):
                self._store(bytes(self._text))

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._pool.shutdown()

    def _store(self, text: bytes) -> None:
        check_held(self._path)
        files_for(self._path).write(self._path, text)
        self._stored, self._last = len(text), time.monotonic()

    def _wait(self) -> None:
        if self._storing is not None:
            storing, self._storing = self._storing, None
            with explained(self._path):
                storing.result()
