"""The digest of a file, made while it is read for something else."""

import hashlib
import io
from concurrent.futures import Future, ThreadPoolExecutor

from mrt5_jax.runs.files import Readable

_BLOCK = 1 << 20


class HashedStream(io.BufferedReader):
    """Reads another stream, which it leaves open, and hashes it in a thread of its own meanwhile."""

    def __init__(self, raw: Readable) -> None:
        self._hashing = _Hashing(raw)
        super().__init__(self._hashing, _BLOCK)

    def hexdigest(self) -> str:
        """SHA-256 of the whole stream: what has not been read yet is read now."""
        while self.read(_BLOCK):
            pass
        return self._hashing.hexdigest()


class _Hashing(io.RawIOBase):
    def __init__(self, raw: Readable) -> None:
        self._raw = raw
        self._digest = hashlib.sha256()
        self._pool: ThreadPoolExecutor | None = None
        self._update: Future[None] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        block = self._raw.read(len(buffer))
        buffer[: len(block)] = block
        self._wait()  # one block at a time: memory stays small
        if len(block) < _BLOCK:  # small files need no thread
            self._digest.update(block)
        else:
            self._pool = self._pool or ThreadPoolExecutor(1)
            self._update = self._pool.submit(self._digest.update, block)
        return len(block)

    def hexdigest(self) -> str:
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        if self._update is not None:
            self._update.result()
            self._update = None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        super().close()
