"""Every file is recognised by content and name, and read as its documents or refused by its name and a remedy."""

import bz2
import gzip
import io
import json
import lzma
import random
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from mrt5_jax.data import lines
from mrt5_jax.data.formats import Format
from mrt5_jax.data.lines import read_lines, read_text
from mrt5_jax.data.text_files import TextStream
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError

TEXTS = ["one", "zwei: ä", "три", "日本語"]
TEXT = "\n".join(TEXTS).encode()
JSON = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS).encode()
EXPECTED = [i for text in TEXTS for i in [*encode(text), EOS_ID]]

LINE_PIECES = [b"a", b" ", b"\n", b"\r", b"\r\n", b"\x0b", b"\x85", b"\xef\xbb\xbf", b"\xef\xbb"]


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        out = pa.BufferOutputStream()
        with pa.CompressedOutputStream(out, codec) as stream:
            stream.write(data)
        return out.getvalue().to_pybytes()

    return compress


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zst": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
}


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("en.txt", data)
    return out.getvalue()


def tarred(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("en.txt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


READ = {
    **{f"en.jsonl.{end}": compress(JSON) for end, compress in COMPRESS.items()},
    **{f"en.TXT.{end.upper()}": compress(TEXT) for end, compress in COMPRESS.items()},
    **{f"plain-{end}.txt": compress(JSON) for end, compress in COMPRESS.items()},
    **dict.fromkeys(("en.ndjson", "en.jsonlines", "en.JSONL", "en.txt", "en", "en.dat", "en.jsonl.gz"), JSON),
    "en.txt.bz2.gz": gzip.compress(bz2.compress(TEXT)),
    "joined.txt.gz": gzip.compress(TEXT[:9]) + gzip.compress(TEXT[9:]),
    "en.gz": TEXT,
    "crlf.txt": TEXT.replace(b"\n", b"\r\n\r\n"),
    "mac.txt": TEXT.replace(b"\n", b"\r"),
    "mark.txt": b"\xef\xbb\xbf" + TEXT,
    "two-marks.txt": b"\xef\xbb\xbf" + TEXT.replace(b"\n", b"\n\xef\xbb\xbf", 1),
    "crlf.jsonl": JSON.replace(b"\n", b"\r\n\r\n"),
    "mark.jsonl": b"\xef\xbb\xbf" + JSON,
    "crlf.txt.zst": by_arrow("zstd")(b"\xef\xbb\xbf" + TEXT.replace(b"\n", b"\r\n")),
}

REFUSED = {
    "a zip archive": ("en.zip", zipped(TEXT)),
    "is a zip archive": ("en.txt", zipped(TEXT)),
    "holds a tar archive": ("en.tar.gz", tarred(TEXT)),
    "compressed by brotli by its name": ("en.txt.br", TEXT),
    "UTF-16 text: write it as UTF-8": ("en.txt", TEXT.decode().encode("utf-16")),
    "holds UTF-16 text": ("en.jsonl.gz", gzip.compress(JSON.decode().encode("utf-16"))),
    "UTF-32 text": ("en.txt", TEXT.decode().encode("utf-32")),
    "binary data": ("en.txt", random.Random(0).randbytes(9999)),
    "is binary data": ("en.jsonl", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(99)),
    "one JSON array": ("en.json", json.dumps([{"text": text} for text in TEXTS]).encode()),
    "JSON over several lines": ("en.json", json.dumps({"text": "a"}, indent=2).encode()),
    "compressed more than 3 times": ("en.gz", gzip.compress(gzip.compress(gzip.compress(gzip.compress(TEXT))))),
    "damaged": ("en.txt.gz", gzip.compress(random.Random(0).randbytes(999).hex().encode())[:-9]),
    "after line ": ("en.jsonl.xz", lzma.compress(JSON * 3000)[:-9]),
    "after byte ": ("en.txt.gz", gzip.compress(TEXT * 99999)[:-9]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_is_read_gives_the_documents_of_the_plain_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(READ[name])
    stream = TextStream([tmp_path / name])
    assert stream.read(0, stream.length).tolist() == EXPECTED
    assert stream.files[0].index.num_documents == len(TEXTS)


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_read_is_refused_in_a_line(message: str, tmp_path: Path) -> None:
    name, content = REFUSED[message]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        TextStream([tmp_path / name])
    assert str(error.value).startswith(f"{tmp_path / name}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_that_only_looks_like_json_stays_text(tmp_path: Path) -> None:
    for content in (b'{"text": "a"}\nand then prose\n', b"{curly}\n", b"[1] a footnote\n[[link]]\n", b"{\n"):
        (tmp_path / "en.txt").write_bytes(content)
        assert str(TextStream([tmp_path / "en.txt"]).files[0].index.format) == "plain text"


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\n\r\n \ntwo\rthree\n\nfour")
    found = list(read_lines(tmp_path / "a", ("text",), "text"))
    assert found == [(1, b"one"), (4, b"two"), (5, b"three"), (7, b"four")]


class Blocks:
    """A stream that ends a read wherever one of its blocks ends."""

    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks = [io.BytesIO(block) for block in blocks]

    def read(self, size: int = -1, /) -> bytes:
        while self._blocks:
            if part := self._blocks[0].read(size):
                return part
            del self._blocks[0]
        return b""


@given(st.lists(st.lists(st.sampled_from(LINE_PIECES), min_size=1).map(b"".join)))
def test_lines_are_those_of_python_wherever_a_block_ends(blocks: list[bytes]) -> None:
    expected = []
    text = io.TextIOWrapper(io.BytesIO(b"".join(blocks)), encoding="latin-1", newline=None)
    for number, line in enumerate(text, start=1):
        data = re.sub(rb"^(\xef\xbb\xbf)+", b"", line.removesuffix("\n").encode("latin-1"))
        if data.strip():
            expected.append((number, data))
    assert list(lines.lines_of(Blocks(blocks), Format((), "text"), "a")) == expected


def test_a_line_that_fits_into_no_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 21)
    (tmp_path / "long.jsonl").write_bytes(b'{"text": "' + b"a" * (5 << 20) + b'"}')
    with pytest.raises(UserError, match=r"long\.jsonl: a line is longer than 2 MB"):
        TextStream([tmp_path / "long.jsonl"])


def test_small_texts_keep_their_lines_and_are_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\n\r\n  two\r\n")
    assert read_text(tmp_path / "a", "a gin file") == "one\n\n  two\n"
    (tmp_path / "a").write_bytes(b"one\ntw\xff")
    with pytest.raises(UserError, match=r"a, line 2: not UTF-8"):
        read_text(tmp_path / "a", "a gin file")
