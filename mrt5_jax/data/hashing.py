"""The digest of a file, made while it is read for something else."""

import hashlib
import io
from concurrent.futures import Future, ThreadPoolExecutor

from mrt5_jax.runs.files import Readable

_AHEAD = 1 << 22  # large, as a thread beside busy Python code gets its turn only every few milliseconds
_BLOCK = 1 << 17


class HashedStream(io.BufferedReader):
    """Reads another stream, which it leaves open; a thread of its own reads it ahead and hashes it."""

    def __init__(self, raw: Readable) -> None:
        self._ahead = _ReadAhead(raw)
        super().__init__(self._ahead, _BLOCK)

    def hexdigest(self) -> str:
        """Returns the SHA-256 of the whole stream: what has not been read yet is read now."""
        while self.read(_BLOCK):
            pass
        return self._ahead.digest.hexdigest()


class _ReadAhead(io.RawIOBase):
    def __init__(self, raw: Readable) -> None:
        self.digest = hashlib.sha256()
        self._raw = raw
        self._pool = ThreadPoolExecutor(1)
        self._next: Future[bytes] | None = None
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        if not self._rest:
            block = self._next.result() if self._next else self._read()
            self._rest = memoryview(block)
            self._next = self._pool.submit(self._read) if len(block) == _AHEAD else None  # small files need no thread
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    def _read(self) -> bytes:
        block = self._raw.read(_AHEAD)
        self.digest.update(block)
        return block

    def close(self) -> None:
        self._pool.shutdown()
        super().close()
