"""Documents in compressed text, JSON lines, TFRecords and Parquet files, unpacked once into files to read anywhere.

Such files cannot be read from the middle. So each is unpacked at its first use, into one file of text and one of the
places where documents end, in a cache folder; then it is as good as a plain text file.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.vocabulary import EOS_ID, bytes_to_ids
from mrt5_jax.errors import UserError
from mrt5_jax.user_cache import cache_folder

_TFRECORD = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$")
_C4_SHARD = re.compile(r"c4-(?P<language>.+?)(-validation)?\.tfrecord-.*")


def is_plain_text(path: Path) -> bool:
    """Whether the file's lines can be read where they lie."""
    name = path.name
    return not (name.endswith((".gz", ".json", ".jsonl", ".parquet")) or _TFRECORD.search(name))


def language_of(path: Path) -> str:
    """The file's name up to its first dot; of a C4 shard, the language that its name gives."""
    shard = _C4_SHARD.fullmatch(path.name)
    return shard["language"] if shard else path.name.partition(".")[0]


class UnpackedFile:
    """The documents of one file as a sequence of ids, each ended by EOS.

    Args:
        field: of a JSON line, a TFRecord's example or a Parquet row, that holds the text.
    """

    def __init__(self, path: Path, field: str):
        folder = _unpacked(path, field)
        size = (folder / "text").stat().st_size
        self._bytes = np.memmap(folder / "text", np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        self._ends = np.load(folder / "ends.npy", mmap_mode="r")  # int64 [documents]: the places of the EOS ids
        self.length = size + len(self._ends)

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        """int32 ids of the places begin..end, within the file."""
        first, last = (int(np.searchsorted(self._ends, place)) for place in (begin, end))
        ids = bytes_to_ids(np.asarray(self._bytes[begin - first : end - last]))
        # Where an EOS goes among the bytes alone: its place less the EOS ids before it.
        places = np.asarray(self._ends[first:last]) - np.arange(first, last) - (begin - first)
        return np.insert(ids, places, EOS_ID)


def _unpacked(path: Path, field: str) -> Path:
    status = path.stat()
    key = repr((str(path.resolve()), status.st_size, status.st_mtime_ns, field))
    folder = cache_folder() / "unpacked" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _write(temporary, read_documents(path, field))
            os.rename(temporary, folder)
            print(f"unpacked {path} into {cache_folder()}", file=sys.stderr)
        except OSError:
            if not folder.is_dir():  # else another process was quicker
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(folder: Path, documents: Iterable[bytes]) -> None:
    ends = []
    place = 0
    with (folder / "text").open("wb") as text:
        for document in documents:
            text.write(document)
            place += len(document)
            ends.append(place)
            place += 1
    np.save(folder / "ends.npy", np.array(ends, np.int64))


def read_documents(path: Path, field: str) -> Iterator[bytes]:
    """The documents of a file that is not plain text, in order, without empty ones.

    Raises:
        UserError: the file is broken, or a line, record or row has no such field; with the number of the line.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        documents = _parquet(path, field)
    elif _TFRECORD.search(name):
        documents = _tfrecords(path, field)
    elif name.endswith((".json", ".jsonl")):
        documents = _json_lines(path, field)
    else:
        documents = (line.rstrip(b"\n") for line in _lines(path))
    return (document for document in documents if document)


def _lines(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            for line in file:
                number += 1
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}, after line {number}: broken gzip ({error}): fetch the file again") from None


def _json_lines(path: Path, field: str) -> Iterator[bytes]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
        yield _text(value, field, f"{path}, line {number}")


def _text(value: Any, field: str, place: str) -> bytes:
    if not isinstance(value, dict):
        raise UserError(f"{place}: no JSON object with a field '{field}'")
    text = value.get(field)
    if not isinstance(text, str):
        raise UserError(f"{place}: no text in field '{field}'; the fields are {', '.join(value) or 'none'}")
    return text.encode(errors="surrogatepass")


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError(f"{path}: reading Parquet takes the package pyarrow: pip install pyarrow") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: broken Parquet file ({error})") from None
    names = file.schema_arrow.names
    if field not in names:
        raise UserError(f"{path}: no column '{field}'; the columns are {', '.join(names)}")
    row = 0
    for batch in file.iter_batches(columns=[field]):
        for value in batch.column(0).to_pylist():
            row += 1
            if not isinstance(value, str | bytes | None):
                raise UserError(f"{path}, row {row}: no text in column '{field}'")
            yield value.encode() if isinstance(value, str) else value or b""


def _tfrecords(path: Path, field: str) -> Iterator[bytes]:
    import tensorflow as tf

    compression = "GZIP" if path.name.endswith(".gz") else ""
    number = 0
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path), compression), start=1):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            values = features[field].bytes_list.value if field in features else ()
            if not values:
                found = ", ".join(sorted(features)) or "none"
                raise UserError(f"{path}, record {number}: no text in feature '{field}'; the features are {found}")
            yield values[0]
    except tf.errors.DataLossError:
        raise UserError(f"{path}, after record {number}: broken TFRecord file: fetch it again") from None
