"""What a file of text is: how it is compressed, and what lies in it, by content and by name.

Content decides where it can; the name decides between what looks alike, in any letter case. Plain text is what is left.
What cannot be read is refused by its name, with what to do about it.
"""

import bz2
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import AnyPath, Readable, explain, files_for

Compression = Literal["gzip", "bz2", "xz", "zstd", "lz4"]
Kind = Literal["text", "json", "tfrecord", "parquet"]

KIND_NAMES: dict[Kind, str] = {
    "text": "plain text",
    "json": "JSON lines",
    "tfrecord": "TFRecords",
    "parquet": "Parquet",
}

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_HEAD = 1 << 16  # bytes that are looked at
_MOST_LAYERS = 3  # of compression

_COMPRESSED: dict[Compression, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00|\x5d\x00\x00[\x00-\xff]{2}(\xff{8}|[\x00-\xff]{4}\x00{4})"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
}
_COMPRESSED_NAMES: dict[str, Compression] = {
    ".gz": "gzip", ".gzip": "gzip", ".bz2": "bz2", ".bz": "bz2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd",
    ".zstd": "zstd", ".lz4": "lz4",
}  # fmt: skip
_JSON_NAMES = (".json", ".jsonl", ".ndjson", ".jsonlines", ".jsonline", ".ldjson")
_TFRECORD_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$", re.IGNORECASE)

_UNREADABLE: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (rb"PK(\x03\x04|\x05\x06)", "a zip archive: unpack it (unzip), and name the files in it"),
        (rb".{257}ustar", "a tar archive: unpack it (tar -xf), and name the files in it"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it (7z x), and name the files in it"),
        (rb"Rar!\x1a\x07", "a RAR archive: unpack it, and name the files in it"),
        (rb"\x1f\x9d|LZIP|\xff\x06\x00\x00sNaPpY", "compressed in a way that is not read here: unpack it, or use gzip"),
        (rb"\x00\x00\xfe\xff|\xff\xfe\x00\x00", "UTF-32 text: write it as UTF-8 (iconv -f UTF-32 -t UTF-8)"),
        (rb"\xff\xfe|\xfe\xff", "UTF-16 text: write it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
        (rb"ARROW1|\xff\xff\xff\xff.\x00\x00\x00\x10", "an Arrow file: write it as Parquet or JSON lines"),
        (rb"ORC|Obj\x01|PARE|SQLite format 3\x00", "a table of a kind that is not read here: write it as Parquet"),
        (rb"%PDF-|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|\{\\rtf", "a document, not text: extract its text first"),
        (rb"\s*\[\s*[{\[]\s*[\"{\[]", "one JSON array: write one object a line (jq -c '.[]')"),
        (rb"\s*\{\s*\n\s*\"[^\"\n]*\"\s*:", "JSON over several lines: write one object a line (jq -c .)"),
    )
)
_UNREADABLE_NAMES = {
    ".zip": "a zip archive", ".tar": "a tar archive", ".tgz": "a tar archive", ".7z": "a 7z archive",
    ".br": "compressed by brotli", ".z": "compressed by compress", ".lz": "compressed by lzip",
    ".sz": "compressed by snappy",
}  # fmt: skip

_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b"))  # no text has many of them, in whatever encoding
_MOST_CONTROL = 0.02


class Format(NamedTuple):
    """How a file is to be read."""

    compression: tuple[Compression, ...]
    """From the outermost on."""
    kind: Kind

    def __str__(self) -> str:
        return " in ".join([KIND_NAMES[self.kind], *reversed(self.compression)])


def recognize(path: AnyPath, name: str = "") -> Format:
    """Looks at the beginning of a file and at its name.

    Args:
        name: of the file, for the rules and the message, where `path` is a copy.

    Raises:
        UserError: the file is of a kind that is not read here, or cannot be read at all.
    """
    shown = name or str(path)
    with explained_damage(shown), files_for(path).open(path) as raw:
        found: list[Compression] = []
        head = _read(raw, _HEAD)
        while compression := _compression_of(head):
            if len(found) == _MOST_LAYERS:
                raise UserError(f"{shown}: compressed more than {_MOST_LAYERS} times over: unpack it")
            found.append(compression)
            raw.seek(0)
            with decompressed(raw, found) as stream:
                head = _read(stream, _HEAD)
    return Format(tuple(found), _kind(head, Path(shown).name, shown, bool(found)))


@contextmanager
def decompressed(raw: Readable, compression: Sequence[Compression]) -> Iterator[Readable]:
    """Opens the bytes within a compressed stream; damage raises what `explained_damage` explains."""
    with ExitStack() as opened:
        stream: Any = raw
        for layer in compression:
            if layer == "gzip":
                stream = opened.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
            elif layer == "bz2":
                stream = opened.enter_context(bz2.BZ2File(stream))
            elif layer == "xz":
                stream = opened.enter_context(lzma.LZMAFile(stream))
            else:
                import pyarrow

                stream = opened.enter_context(pyarrow.CompressedInputStream(_LeftOpen(stream), layer))
        yield stream


class _LeftOpen:
    """A stream that is not closed by whoever reads it, as pyarrow would."""

    closed = False

    def __init__(self, stream: Readable) -> None:
        self.read = stream.read

    def close(self) -> None:
        """Leaves the stream open."""


@contextmanager
def explained_damage(name: str) -> Iterator[None]:
    """Turns what reading raises into one line: damage of the file, or a storage that does not answer.

    Args:
        name: the file, and the place in it where that is known.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is not None:  # the storage speaks, not a decompressor
            raise UserError(f"{name}: {explain(error, name)}") from None
        raise damaged(name, error) from None
    except (EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise damaged(name, error) from None


def damaged(name: str, error: Exception | str) -> UserError:
    """Makes the error that says that a file is broken at a place that `name` tells."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{name}: damaged ({reason}): fetch or make the file again")


def _read(stream: Readable, size: int) -> bytes:
    """`size` bytes, fewer only at the end: decompressors give what they have."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _compression_of(head: bytes) -> Compression | None:
    return next((name for name, magic in _COMPRESSED.items() if magic.match(head)), None)


def _kind(head: bytes, name: str, shown: str, is_compressed: bool) -> Kind:
    """By the beginning of the bytes within all compression, and by the file's name."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED_NAMES:
        name = name[: -len(suffixes.pop())]
    last = suffixes[-1] if suffixes else ""
    within = "holds " if is_compressed else ""
    if head.startswith(b"PAR1"):
        if is_compressed:
            raise UserError(f"{shown}: holds Parquet, which is compressed within: unpack it first")
        return "parquet"
    for pattern, what in _UNREADABLE:
        if pattern.match(head):
            raise UserError(f"{shown}: {within or 'is '}{what}")
    if last in _UNREADABLE_NAMES:
        raise UserError(f"{shown}: is {_UNREADABLE_NAMES[last]} by its name: unpack it, or name it by what it is")
    if last == ".parquet":
        raise UserError(f"{shown}: damaged (no Parquet file, which begins with PAR1): fetch or make the file again")
    if _looks_like_tfrecords(head) or _TFRECORD_NAME.search(name):
        return "tfrecord"
    if _is_binary(head):
        raise UserError(f"{shown}: {within or 'is '}binary data, not text: is it the right file?")
    return "json" if last in _JSON_NAMES or _looks_like_json_lines(head) else "text"


def _looks_like_tfrecords(head: bytes) -> bool:
    """A length below 4 GB, its checksum, and an Example, whose first field has the tag 0x0a."""
    return len(head) > 12 and head[4:8] == bytes(4) and head[:4] != bytes(4) and head[12] == 0x0A


def _is_binary(head: bytes) -> bool:
    return len(head) - len(head.translate(None, _CONTROL)) > _MOST_CONTROL * len(head)


def _looks_like_json_lines(head: bytes) -> bool:
    """Whether all whole lines are JSON objects; of a first line that is longer, whether it begins like one."""
    lines = head.removeprefix(BYTE_ORDER_MARK).splitlines()
    if len(head) == _HEAD and len(lines) > 1:
        lines.pop()
    filled = [line for line in lines if line.strip()]
    if not filled or not filled[0].lstrip().startswith(b"{"):
        return False
    if len(head) == _HEAD and len(filled) == 1:
        return re.match(rb'\s*\{\s*"([^"\\]|\\.)*"\s*:', filled[0]) is not None
    return all(_is_object(line) for line in filled)


def _is_object(line: bytes) -> bool:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)
