"""Files in gs:// and s3:// buckets: ranges with read-ahead, listings, whole and conditional writes, with retries.

A bucket has no folders: a path is a folder as long as an object lies below it.
"""

import errno
import fnmatch
import functools
import glob
import io
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from mrt5_jax.errors import UserError
from mrt5_jax.runs.bucket_clients import Client, TransientError, connect
from mrt5_jax.runs.file_status import AnyPath, FileStatus

Result = TypeVar("Result")

PATIENCE = "MRT5_STORAGE_PATIENCE"
"""Environment variable: for how many seconds a request that fails is made again."""
_DEFAULT_PATIENCE = 180.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_FIRST_BLOCK, _LARGEST_BLOCK = 1 << 18, 1 << 23


class BucketPath(PurePosixPath):
    """A path such as gs://bucket/folder/name; only a name, as everything else goes through `Files`."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> "BucketPath":
        """Returns itself: there is no working folder in a bucket."""
        return self

    resolve = absolute  # nor are there links


class BucketFiles:
    """The objects of one scheme, "gs" or "s3"; see `Files`."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self._away = False
        """Whether the last request was given up: then the next ones are made once, or a run would take long to end."""

    def open(self, path: AnyPath, start: int = 0) -> BinaryIO:
        """See `Files`. Reads ahead; an object that changes meanwhile raises OSError, for nothing is mixed of two."""
        stream = _Ranges(self, str(path), self._object(path))
        stream.seek(start)
        return cast(BinaryIO, io.BufferedReader(stream, _FIRST_BLOCK))

    def read(self, path: AnyPath) -> bytes:
        """See `Files`. One request, so that an object that is being replaced is the old one or the new one."""
        return self._ask(path, lambda client: client.system.cat_file(_name(path)))

    def list(self, pattern: AnyPath) -> list[str]:
        """See `Files`."""
        text = str(pattern).rstrip("/")
        if self.exists(text) or not glob.has_magic(text):
            return [str(pattern)] if self.exists(text) else []
        bucket, *parts = text.partition("://")[2].split("/")
        return sorted(f"{self._scheme}://{name}" for name in self._matching(bucket, parts))

    def write(self, path: AnyPath, data: bytes) -> None:
        """See `Files`."""
        self._ask_bucket(path, lambda client: client.system.pipe_file(_name(path), data))

    def create(self, path: AnyPath, data: bytes) -> None:
        """See `Files`."""
        attempts = 0

        def put(client: Client) -> None:
            nonlocal attempts
            attempts += 1
            client.system.pipe_file(_name(path), data, mode="create")

        try:
            self._ask_bucket(path, put)
        except FileExistsError:
            if attempts == 1:
                raise
            with self.open(path) as file:  # an earlier attempt may have been made, and its answer lost
                if file.read() != data:
                    raise

    def remove(self, path: AnyPath) -> None:
        """See `Files`."""
        self._object(path)
        self._ask(path, lambda client: client.system.rm_file(_name(path)))

    def stat(self, path: AnyPath) -> FileStatus:
        """See `Files`. The checksum that the storage keeps is the identity."""

        def look(client: Client) -> FileStatus:
            info = client.system.info(_name(path).rstrip("/"))
            if info["type"] == "directory":
                return FileStatus(0, "folder", ())
            return FileStatus(int(info["size"]), "file", client.content_of(info))

        return self._ask(path, look)

    def exists(self, path: AnyPath) -> bool:
        """Says whether there is an object of this name, or one below it."""
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def below(self, folder: AnyPath) -> Sequence[str]:
        """See `Files`."""
        root = _name(folder).rstrip("/")
        found = self._ask_bucket(folder, lambda client: client.system.find(root))
        return sorted(name[len(root) + 1 :] for name in found if name.startswith(f"{root}/") and name[-1] != "/")

    def upload(self, source: str | os.PathLike[str], path: AnyPath) -> None:
        """Writes a whole object from a local file, which is never held in memory as a whole."""
        self._ask_bucket(path, lambda client: client.system.put_file(os.fspath(source), _name(path)))

    def copy(self, source: AnyPath, target: AnyPath) -> None:
        """Copies an object within the storage."""
        self._ask(source, lambda client: client.system.cp_file(_name(source), _name(target)))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Reads the bytes from `start` to `end`, or raises OSError."""

        def read(client: Client) -> bytes:
            data = client.system.cat_file(_name(path), start=start, end=end)
            if len(data) != end - start:
                raise ConnectionResetError(errno.ECONNRESET, f"{len(data)} bytes came of {end - start}")
            return data

        return self._ask(path, read)

    def _object(self, path: AnyPath) -> FileStatus:
        status = self.stat(path)
        if status.kind == "folder":
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        return status

    def _ask_bucket(self, path: AnyPath, request: Callable[[Client], Result]) -> Result:
        """Asks as `_ask`, for what only a bucket that is not there can refuse as not found."""
        try:
            return self._ask(path, request)
        except FileNotFoundError as error:
            words = "there is no such bucket: create it, or name another"
            raise FileNotFoundError(errno.ENOENT, words, str(path)) from error

    def _ask(self, path: AnyPath, request: Callable[[Client], Result]) -> Result:
        """Returns the answer to a request, which is made again as long as what fails may pass.

        Raises:
            OSError: of the kind that a disk would raise, or TimeoutError where the storage did not answer for long.
        """
        client, patience = connect(self._scheme), seconds_of(PATIENCE, _DEFAULT_PATIENCE)
        deadline = time.monotonic() + (0 if self._away else patience)
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = request(client)
                self._away = False
                return answer
            except Exception as error:  # the libraries have many of their own
                found = client.explain(error)
                if not isinstance(found, TransientError):
                    self._away = False
                    if isinstance(found, OSError):
                        raise type(found)(found.errno, found.strerror, str(path)) from error
                    raise
                if time.monotonic() + pause > deadline:
                    self._away = True
                    words = f"the storage does not answer ({found}); see to the network or the server, and start again"
                    raise TimeoutError(errno.ETIMEDOUT, words, str(path)) from error
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _matching(self, folder: str, pattern: Sequence[str]) -> Iterator[str]:
        """Yields the names below a folder that match a glob's parts; a part that names a folder is that folder."""
        head, rest = pattern[0], pattern[1:]
        if head == "**":
            below = [name.split("/") for name in self.below(f"{self._scheme}://{folder}")]
            folders = {tuple(name[:length]) for name in below for length in range(1, len(name))}
            yield from (f"{folder}/{'/'.join(name)}" for name in [*below, *folders] if _fits(name, pattern))
            return
        if rest and (not glob.has_magic(head) or self.exists(f"{self._scheme}://{folder}/{head}")):
            yield from self._matching(f"{folder}/{head}", rest)
            return
        try:
            entries = self._ask(f"{self._scheme}://{folder}", lambda client: client.system.ls(folder, detail=True))
        except FileNotFoundError:
            return
        for entry in entries:
            name = entry["name"].rstrip("/")
            if name == folder or not _fits([name.rpartition("/")[2]], [head]):
                continue
            if not rest:
                yield name
            elif entry["type"] == "directory":
                yield from self._matching(name, rest)


class _Ranges(io.RawIOBase):
    """Reads an object by ranges, which grow as one reads on; the next one is asked for before it is wanted."""

    mode = "rb"

    def __init__(self, files: BucketFiles, path: str, status: FileStatus) -> None:
        self._files, self._path, self._status = files, path, status
        self.name = path
        self._place, self._size = 0, _FIRST_BLOCK
        self._block, self._block_start = b"", 0
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._status.size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        if self._place >= self._status.size:
            return 0
        if not self._block_start <= self._place < self._block_start + len(self._block):
            self._block, self._block_start = self._fetch(self._place), self._place
        offset = self._place - self._block_start
        part = self._block[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _fetch(self, start: int) -> bytes:
        if self._ahead is not None and self._ahead[0] == start:
            block = self._ahead[1].result()
            self._size = min(4 * self._size, _LARGEST_BLOCK)
        else:
            self._size = _FIRST_BLOCK
            block = self._read(start, self._size)
        self._ahead = None
        following = start + len(block)
        if following < self._status.size:
            if self._block and self._block_start + len(self._block) == start:  # one reads on
                self._pool = self._pool or ThreadPoolExecutor(1)
                self._ahead = following, self._pool.submit(self._read, following, min(4 * self._size, _LARGEST_BLOCK))
        elif self._files.stat(self._path).identity != self._status.identity:
            raise OSError(errno.ESTALE, "changed while it was read: start again when it is complete", self._path)
        return block

    def _read(self, start: int, size: int) -> bytes:
        return self._files.read_range(self._path, start, min(start + size, self._status.size))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


def seconds_of(variable: str, default: float) -> float:
    """Returns what an environment variable says, in seconds.

    Raises:
        UserError: it is no number from 0 on.
    """
    text = os.environ.get(variable) or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UserError(f"{variable}={text}: should be a number of seconds, from 0 on")
    return seconds


def _name(path: AnyPath) -> str:
    """Returns bucket/name, as fsspec calls it."""
    return str(path).partition("://")[2]


def _fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_fits(name[cut:], pattern[1:]) for cut in range(len(name) + 1))
    if not name or (name[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return _part(pattern[0])(name[0]) is not None and _fits(name[1:], pattern[1:])


@functools.lru_cache(maxsize=256)
def _part(pattern: str) -> Callable[[str], Any]:
    return re.compile(fnmatch.translate(pattern)).match
