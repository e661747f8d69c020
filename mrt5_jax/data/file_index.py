"""What is known of a data file after it was read once: its digest, its documents, and where they are.

The first use of a file reads it from beginning to end, once. What that gives is kept in the user's cache under the
file's identity, so the next start reads nothing of it. Compressed text, JSON lines, TFRecords and Parquet, which cannot
be read from the middle, are unpacked there.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from mrt5_jax.data.documents import Fields, read_documents
from mrt5_jax.data.formats import Compression, Format, Kind, decompressed, explained_damage, recognize
from mrt5_jax.data.hashing import HashedStream
from mrt5_jax.data.line_scan import LineScan
from mrt5_jax.errors import UserError
from mrt5_jax.runs.file_status import FileStatus
from mrt5_jax.runs.files import FilePath, explain, explained, files_for, in_bucket
from mrt5_jax.user_cache import cache_folder

VERSION = 1
"""Bump when a change makes an index of the same file look different."""

_BLOCK, _COMPRESSED_BLOCK = 1 << 20, 1 << 17
_SETTLED_NANOSECONDS = 20_000_000
"""A file that changes again within this time may keep its time stamp."""

_FACTS, _TEXT, _PLACES = "facts.json", "text", "places.npy"


class FileIndex(NamedTuple):
    """What one reading of a file tells."""

    sha256: str
    """Of the file's bytes."""
    num_bytes: int
    format: Format
    num_documents: int
    ends_open: bool
    """Of plain text: whether the last line has no end of its own."""
    has_former_meaning: bool
    """Whether versions that knew names alone, and no line ends but line feeds, read the same documents."""
    text: FilePath
    """Bytes of the documents: the file itself or its unpacked copy. What lies in a bucket is copied once."""
    places: np.ndarray
    """int64, increasing. Of text: of each byte that is not read, its place less the number of such bytes before it; so
    the ids from that place on lie behind it. Else: where in the ids the EOS of each document is."""


def index_file(path: FilePath, field: Fields = "text") -> FileIndex:
    """Returns the index of a file, from the cache where the file has not changed since.

    Args:
        field: of a JSON line, a TFRecord's example or a Parquet row, that holds the text. Several fields make a
            document of a record: the JSON list of their values.

    Raises:
        UserError: the file is damaged or of a kind that is not read here, or the cache cannot take what it has to.
    """
    with explained(path):
        status = _settled(path)
    key = repr((status.identity, path.name, field, VERSION))
    folder = cache_folder() / "files" / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
    return _load(folder, path, status) or _build(folder, path, status, field)


def _settled(path: FilePath) -> FileStatus:
    """The file's status, once the next change would show in it."""
    status = files_for(path).stat(path)
    age = -1 if status.changed is None else time.time_ns() - status.changed
    if 0 <= age < _SETTLED_NANOSECONDS:
        time.sleep((_SETTLED_NANOSECONDS - age) / 1e9)
        status = files_for(path).stat(path)
    return status


def _load(folder: Path, path: FilePath, status: FileStatus) -> FileIndex | None:
    """None where the cache has no index of the file, or not all of it."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        places = np.load(folder / _PLACES, mmap_mode="r") if facts["num_places"] else np.zeros(0, np.int64)
        text, unpacked = path, facts["unpacked_bytes"]
        if unpacked is not None:
            text = folder / _TEXT
            if text.stat().st_size != unpacked:
                return None
        found = Format(cast(tuple[Compression, ...], tuple(facts["compression"])), cast(Kind, facts["kind"]))
        return FileIndex(
            facts["sha256"], status.size, found, facts["num_documents"], facts["ends_open"],
            facts["has_former_meaning"], text, places,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(folder: Path, path: FilePath, status: FileStatus, field: Fields) -> FileIndex:
    found = recognize(path)
    unpacks = found != Format((), "text") or in_bucket(path)
    with _scratch_folder(folder.parent, needed=unpacks) as scratch:
        with explained(path), files_for(path).open(path) as raw, HashedStream(raw) as stream:
            if found.kind == "text":
                scan = _scan_text(path, found, stream, scratch / _TEXT if scratch and unpacks else None)
                places, num_documents, ends_open = scan.dropped_before, scan.num_documents, scan.ends_open
                former = scan.has_only_line_feeds
            else:
                assert scratch is not None
                places = _write_documents(scratch / _TEXT, read_documents(path, found, field, stream))
                num_documents, ends_open, former = len(places), False, True
            sha256 = stream.hexdigest()
            if files_for(path).stat(path).identity != status.identity:
                raise UserError(f"{path}: changed while it was read: start again when it is complete")
        former = former and found == _former_format(path.name)
        index = FileIndex(sha256, status.size, found, num_documents, ends_open, former, path, places)
        if scratch is None:
            return index
        try:
            _write_index(scratch, index, unpacks)
            if _load(folder, path, status) is None:
                shutil.rmtree(folder, ignore_errors=True)  # what is there is not whole
                _move(scratch, folder)
        except OSError as error:
            if unpacks:
                raise _no_cache(error, folder.parent) from None
            _say_not_kept(error, folder.parent)
            return index
    if unpacks:
        print(f"unpacked {path} into {cache_folder()}", file=sys.stderr)
    loaded = _load(folder, path, status)
    assert loaded is not None, f"{folder} was just written"
    return loaded


@contextlib.contextmanager
def _scratch_folder(parent: Path, needed: bool) -> Iterator[Path | None]:
    """A folder to write an index in; None where the cache takes nothing, and nothing has to be unpacked."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        if needed:
            raise _no_cache(error, parent) from None
        _say_not_kept(error, parent)
        yield None
        return
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _say_not_kept(error: OSError, folder: Path) -> None:
    print(f"{folder} takes no index ({error.strerror}): files are read again at the next start", file=sys.stderr)


def _no_cache(error: OSError, folder: Path) -> UserError:
    return UserError(f"{folder}: {explain(error, folder)}: set MRT5_CACHE_DIR to a folder with room for unpacked files")


def _scan_text(path: FilePath, found: Format, stream: HashedStream, copy: Path | None) -> LineScan:
    """Reads a text to its end, and writes what was compressed into `copy`."""
    scan = LineScan()
    place, done, size = str(path), 0, _BLOCK
    if found.compression:  # damage is told to so many bytes
        place, size = f"{path}, after byte 0 of what it holds", _COMPRESSED_BLOCK
    with contextlib.ExitStack() as opened:
        opened.callback(scan.close)
        out = opened.enter_context(_unpacking(copy)) if copy else None
        text = opened.enter_context(decompressed(stream, found.compression))
        while True:
            with explained_damage(place):
                block = text.read(size)
            if not block:
                return scan.finish()
            scan.add(block)
            if out is not None:
                out.write(block)
                done += len(block)
                place = f"{path}, after byte {done:,} of what it holds"


def _write_documents(text: Path, documents: Iterable[bytes]) -> np.ndarray:
    """Writes the documents one after the other; int64 [documents]: the places of their EOS ids."""
    lengths = []
    with _unpacking(text) as file:
        for document in documents:
            file.write(document)
            lengths.append(len(document))
    return np.cumsum(np.array(lengths, np.int64) + 1) - 1


@contextlib.contextmanager
def _unpacking(text: Path) -> Iterator[BinaryIO]:
    """A file in the cache to write to. What reads the source explains its own errors."""
    try:
        with text.open("wb", buffering=_BLOCK) as file:
            yield file
    except OSError as error:
        raise _no_cache(error, text.parent.parent) from None


def _write_index(scratch: Path, index: FileIndex, unpacks: bool) -> None:
    facts = {
        "path": str(index.text.absolute()),
        "sha256": index.sha256,
        "compression": index.format.compression,
        "kind": index.format.kind,
        "num_documents": index.num_documents,
        "ends_open": index.ends_open,
        "has_former_meaning": index.has_former_meaning,
        "num_places": len(index.places),
        "unpacked_bytes": (scratch / _TEXT).stat().st_size if unpacks else None,
    }
    if len(index.places):
        np.save(scratch / _PLACES, index.places)
    (scratch / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _move(scratch: Path, folder: Path) -> None:
    try:
        os.rename(scratch, folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise


_FORMER_TFRECORD = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$")


def _former_format(name: str) -> Format:
    """What versions that looked at names alone took a file for."""
    bare = name.removesuffix(".gz")
    compression: tuple[Compression, ...] = ("gzip",) if bare != name else ()
    if bare.endswith(".parquet"):
        return Format(compression, "parquet")
    if _FORMER_TFRECORD.search(bare):
        return Format(compression, "tfrecord")
    return Format(compression, "json" if bare.endswith((".json", ".jsonl")) else "text")
