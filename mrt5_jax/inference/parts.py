"""Lines that are written to a bucket in parts, which are put together when all are there."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from mrt5_jax.runs import folders
from mrt5_jax.runs.bucket_lock import check_held
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import FilePath, exists, explained, files_for, read_bytes

MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_BYTES_OF_A_PART, _SECONDS_OF_A_PART = 1 << 20, 10.0


class _Part(NamedTuple):
    name: str
    begin: int
    """Lines before it."""
    lines: int


class Parts:
    """OUTPUT, and OUTPUT.parts/ beside it with what was added since: numbered objects and a manifest that lists them.

    A part counts when the manifest lists it; `finish` makes one object of everything.
    """

    def __init__(self, path: BucketPath) -> None:
        self._path, self._folder = path, path.with_name(f"{path.name}.parts")
        whole = count_lines(path)
        manifest = self._folder / MANIFEST
        listed = [_Part(**part) for part in json.loads(read_bytes(manifest))["parts"]] if exists(manifest) else []
        self._parts = [part for part in listed if part.begin >= whole]  # others are in OUTPUT already
        self._begin = whole + sum(part.lines for part in self._parts)
        self._pending: list[str] = []
        self._last = time.monotonic()

    @property
    def num_lines(self) -> int:
        """How many lines are there or about to be written."""
        return self._begin + len(self._pending)

    def append(self, lines: list[str]) -> None:
        """Takes lines, which have no ends; they are written with the next part, some seconds later at most.

        Raises:
          UserError: the bucket does not take them.
        """
        self._pending += lines
        late = time.monotonic() - self._last > _SECONDS_OF_A_PART
        if late or sum(map(len, self._pending)) > _BYTES_OF_A_PART:
            with explained(self._path):
                self.flush()

    def flush(self) -> None:
        """Writes what is pending as a part."""
        if self._pending:
            check_held(self._path)
            part = _Part(f"{self._begin:012}.jsonl", self._begin, len(self._pending))
            text = "".join(f"{line}\n" for line in self._pending)
            files_for(self._path).write(self._folder / part.name, text.encode())
            self._parts.append(part)
            self._write_manifest()
            self._begin += part.lines
            self._pending = []
        self._last = time.monotonic()

    def finish(self) -> None:
        """Makes one object of OUTPUT and its parts, and removes these."""
        self.flush()
        if self._parts or not exists(self._path):
            files = files_for(self._path)
            with tempfile.TemporaryDirectory(prefix="mrt5-") as scratch:
                together = Path(scratch) / self._path.name
                with together.open("wb") as file:
                    sources = [self._path] if exists(self._path) else []
                    for source in [*sources, *(self._folder / part.name for part in self._parts)]:
                        with files.open(source) as stream:
                            while block := stream.read(_BLOCK):
                                file.write(block)
                check_held(self._path)
                folders.send(together.parent, self._path.parent, [together.name])
        folders.remove(self._folder)

    def _write_manifest(self) -> None:
        manifest: dict[str, Any] = {"parts": [part._asdict() for part in self._parts]}
        files_for(self._path).write(self._folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def count_lines(path: FilePath) -> int:
    """Counts the ends of lines in a file; 0 where there is none."""
    if not exists(path):
        return 0
    with files_for(path).open(path) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
