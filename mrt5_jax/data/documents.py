"""Documents in JSON lines, TFRecords and Parquet files, one after the other, and which language a file is of."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mrt5_jax.data.formats import Format, damaged
from mrt5_jax.data.hashing import HashedStream
from mrt5_jax.data.lines import lines_of
from mrt5_jax.data.parquet import explained_rows, read_batches
from mrt5_jax.data.tensorflow_on_demand import import_tensorflow
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath, rereadable

_decode = json.JSONDecoder().decode  # a third quicker than json.loads, which guesses the encoding of every line
_C4_SHARD = re.compile(r"c4-(?P<language>.+?)(-validation)?\.tfrecord-.*")
_SHARD = re.compile(
    r"(?<=.)[-_.](?:part|shard|chunk|split)?[-_]?\d+"  # en-00000, en_part1
    r"(?:[-_.]of[-_.]\d+)?"  # -of-00002
    r"(?:-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})?(?:[-.]c\d+)?$",  # what Spark adds
    re.IGNORECASE,
)


Fields = str | tuple[str, ...]
"""The field that holds a document's text; or several, whose values' JSON list is the document."""


def language_of(path: FilePath) -> str:
    """Reads a file's language off its name: what comes before the first dot, without the number of a shard.

    Of a C4 shard, it is the language in the name; of a name that is only a number, the folder's name.
    """
    shard = _C4_SHARD.fullmatch(path.name)
    name = shard["language"] if shard else path.name.lstrip(".").partition(".")[0]
    name = _SHARD.sub("", name) or name
    if name.isdecimal():
        name = path.absolute().parent.name or name
    return name.encode(errors="backslashreplace").decode()  # names of files may be no text


def former_language_of(path: FilePath) -> str:
    """Returns what versions that did not know of shards took for a file's language."""
    shard = _C4_SHARD.fullmatch(path.name)
    return shard["language"] if shard else path.name.partition(".")[0]


def read_documents(path: FilePath, found: Format, field: Fields, stream: HashedStream) -> Iterator[bytes]:
    """Reads the documents of a file that is not plain text, in order, without empty ones.

    Args:
        field: that holds the text, or several.
        stream: of the file's bytes; Parquet and TFRecords, which are not read from beginning to end, are opened again.

    Raises:
        UserError: the file is damaged, or a line, record or row has no such field, with its number; or several fields
            of TFRecords are asked for, of which one is read.
    """
    if found.kind == "parquet":
        documents = _parquet(path, field)
    elif found.kind == "tfrecord":
        if not isinstance(field, str):
            raise UserError(f"{path}: TFRecords, of which one feature is read: write records as JSON lines or Parquet")
        documents = _tfrecords(path, found, field)
    else:
        documents = _json_lines(path, found, field, stream)
    return (document for document in documents if document)


def _json_lines(path: FilePath, found: Format, field: Fields, stream: HashedStream) -> Iterator[bytes]:
    for number, line in lines_of(stream, found, str(path)):
        try:
            value = _decode(line.decode(errors="surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from None
        yield _text(value, field, path, number) if isinstance(field, str) else _values(value, field, path, number)


def _text(value: Any, field: str, path: FilePath, number: int) -> bytes:
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number}: no JSON object with a field '{field}'")
    text = value.get(field)
    if not isinstance(text, str):
        fields = f"; the fields are {', '.join(value) or 'none'}"
        held = f", which holds {json.dumps(text)[:40]}" if field in value else fields
        raise UserError(f"{path}, line {number}: no text in field '{field}'{held}")
    return text.encode(errors="surrogatepass")


def _values(value: Any, fields: Sequence[str], path: FilePath, number: int) -> bytes:
    """The JSON list of several fields' values."""
    if not isinstance(value, dict):
        raise UserError(f"{path}, line {number}: no JSON object with the fields {', '.join(fields)}")
    for field in fields:
        if field not in value:
            raise UserError(f"{path}, line {number}: no field '{field}'; the fields are {', '.join(value) or 'none'}")
    return json.dumps([value[field] for field in fields]).encode()


def _parquet(path: FilePath, field: Fields) -> Iterator[bytes]:
    """Strings as the bytes that they are: Parquet promises UTF-8, and does not always keep it."""
    import pyarrow as pa

    if not isinstance(field, str):
        for first, rows in read_batches(path, columns=list(field)):
            with explained_rows(str(path), first):
                records = rows.to_pylist()
            yield from (json.dumps([record[name] for name in field], default=_jsonable).encode() for record in records)
        return
    for first, rows in read_batches(path, columns=[field]):
        with explained_rows(str(path), first):
            column = rows.column(0)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            if not _holds_bytes(pa, column.type):
                raise UserError(f"{path}, row {first + 1}: no text in column '{field}', which holds {column.type}")
            values = column.cast(pa.large_binary()).to_pylist()
        yield from (value or b"" for value in values)


def _jsonable(value: Any) -> str:
    """Parquet's bytes as text; its dates and decimals as they are printed."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _holds_bytes(pa: Any, kind: Any) -> bool:
    types = pa.types
    strings = (types.is_string, types.is_large_string, types.is_string_view)
    binaries = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return types.is_null(kind) or any(test(kind) for test in strings + binaries)


def _tfrecords(path: FilePath, found: Format, field: str) -> Iterator[bytes]:
    if found.compression not in ((), ("gzip",)):
        raise UserError(f"{path}: TFRecords in {found.compression[0]}: unpack them, or use gzip")

    tf = import_tensorflow(f"{path}: reading TFRecords")

    with rereadable(path) as local:  # TensorFlow opens it
        yield from _features(path, tf, tf.data.TFRecordDataset(local, "GZIP" if found.compression else ""), field)


def _features(path: FilePath, tf: Any, dataset: Any, field: str) -> Iterator[bytes]:
    """Yields a feature of every record."""
    from google.protobuf.message import DecodeError

    number, records = 0, iter(dataset)
    while True:
        place = f"{path}, after record {number}"
        try:
            record = next(records, None)
            features = None if record is None else tf.train.Example.FromString(record.numpy()).features.feature
        except DecodeError:
            raise UserError(f"{path}, record {number + 1}: no tf.train.Example") from None
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
            raise damaged(place, "a record that is cut or changed") from error
        except tf.errors.OpError as error:
            raise UserError(f"{place}: cannot be read ({error.message})") from None
        if features is None:
            return
        number += 1
        values = features[field].bytes_list.value if field in features else ()
        if not values:
            names = ", ".join(sorted(features)) or "none"
            raise UserError(f"{path}, record {number}: no text in feature '{field}'; the features are {names}")
        yield values[0]
