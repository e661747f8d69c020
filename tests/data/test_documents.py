"""Files that have to be unpacked hold the same documents as plain ones, and say where they are broken."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from mrt5_jax.data import documents
from mrt5_jax.data.text_files import TextStream
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError

TEXTS = ["one", "two\nlines", "", "drei: ä", "日本語", "x"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path / "cache"))


def write_json(path: Path, texts: Sequence[str]) -> None:
    lines = "".join(json.dumps({"url": "u", "text": text}) + "\n" for text in texts)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def write_text(path: Path, texts: Sequence[str]) -> None:
    path.write_bytes(gzip.compress("\n".join(texts).encode()))


def write_parquet(path: Path, texts: Sequence[str]) -> None:
    pq.write_table(pa.table({"text": list(texts), "url": ["u"] * len(texts)}), path)


def write_tfrecords(path: Path, texts: Sequence[str]) -> None:
    with tf.io.TFRecordWriter(str(path), "GZIP" if path.suffix == ".gz" else "") as writer:
        for text in texts:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
            example = tf.train.Example(features=tf.train.Features(feature={"text": value}))
            writer.write(example.SerializeToString())


FORMATS = {
    "en.jsonl": write_json,
    "en.json.gz": write_json,
    "en.parquet": write_parquet,
    "en.tfrecord-00000-of-00002": write_tfrecords,
    "en.tfrecords.gz": write_tfrecords,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_documents_joined_by_eos(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, TEXTS)
    stream = TextStream([tmp_path / name])
    expected = [i for text in TEXTS if text for i in [*encode(text), EOS_ID]]
    assert stream.length == len(expected)
    for begin in range(len(expected)):
        for end in range(begin + 1, len(expected) + 1):
            np.testing.assert_array_equal(stream.read(begin, end), expected[begin:end])


def test_compressed_text_reads_as_plain_text_does(tmp_path: Path) -> None:
    data = b"one\n\ntwo \xff\xfe\nlast"
    (tmp_path / "plain.txt").write_bytes(data)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(data))
    plain, packed = (TextStream([tmp_path / name]) for name in ("plain.txt", "packed.txt.gz"))
    assert plain.length == packed.length
    np.testing.assert_array_equal(plain.read(0, plain.length), packed.read(0, packed.length))


def test_a_file_is_unpacked_once_and_again_when_it_changes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "en.jsonl"
    write_json(path, ["one"])
    assert [TextStream([path]).length for _ in range(2)] == [4, 4]
    assert capsys.readouterr().err.count("unpacked ") == 1
    write_json(path, ["another text"])
    assert TextStream([path]).length == 13
    assert len(list((tmp_path / "cache").rglob("text"))) == 2


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("en.txt", "en"),
        ("en.0001.jsonl.gz", "en"),
        ("c4-zh-Latn.tfrecord-00000-of-00010.json.gz", "zh-Latn"),
        ("c4-sw-validation.tfrecord-00000-of-00001.json.gz", "sw"),
        ("train-00000-of-00002.json.gz", "train"),
        ("train-00001-of-00002.parquet", "train"),
        ("en_part3.txt", "en"),
        ("zh-Latn-0007.jsonl", "zh-Latn"),
        ("part-00003-0f2c1a7e-1b2c-4d3e-8f90-0123456789ab-c000.snappy.parquet", "part"),
        ("0003.parquet", "folder.d"),
        ("enwik8.txt", "enwik8"),
    ],
)
def test_a_files_name_tells_its_language(name: str, language: str) -> None:
    assert documents.language_of(Path("folder.d") / name) == language


def broken_gzip(path: Path) -> None:
    write_json(path, [f"some text, number {number}" for number in range(5000)])
    path.write_bytes(path.read_bytes()[:-200])


def other_field(path: Path) -> None:
    path.write_text('{"text": "a"}\n\n{"content": "b", "url": "u"}\n')


def not_an_example(path: Path) -> None:
    write_tfrecords(path, ["fine"])
    with tf.io.TFRecordWriter(str(path.with_name("other"))) as writer:
        writer.write(b"\xff\xff")
    path.write_bytes(path.read_bytes() + path.with_name("other").read_bytes())


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("en.json.gz", broken_gzip, r"en\.json\.gz, after line \d+: damaged"),
        ("en.json.gz", lambda path: path.write_bytes(b"no gzip"), r"en\.json\.gz, line 1: not JSON"),
        ("en.jsonl", other_field, r"en\.jsonl, line 3: no text in field 'text'; the fields are content, url"),
        ("en.jsonl", lambda path: path.write_text('{"text": "a"}\n{"te'), r"line 2: not JSON"),
        ("en.jsonl", lambda path: path.write_text('{"text": 5}\n'), r"line 1: no text in field 'text', which holds 5"),
        ("en.jsonl", lambda path: path.write_text('["a"]\n'), r"line 1: no JSON object with a field 'text'"),
        ("en.jsonl", lambda path: path.write_bytes(b'{"text": "a"}\n' + b"[" * 99999), r"line 2: not JSON"),
        ("en.parquet", lambda path: pq.write_table(pa.table({"a": ["b"]}), path), r"no column 'text'; .* are a"),
        ("en.parquet", lambda path: pq.write_table(pa.table({"text": [7]}), path), r"row 1: no text in column 'text'"),
        ("en.parquet", lambda path: path.write_bytes(b"no parquet"), r"en\.parquet: damaged \(no Parquet file"),
        ("en.parquet", lambda path: path.write_bytes(b"PAR1" + b"no parquet" * 9), r"after row 0: damaged"),
        ("en.tfrecord", lambda path: path.write_bytes(b"no record" * 9), r"after record 0: damaged"),
        ("en.tfrecord", not_an_example, r"en\.tfrecord, record 2: no tf\.train\.Example"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_the_place(
    name: str, write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(UserError, match=message):
        TextStream([tmp_path / name])
    assert not list((tmp_path / "cache").rglob("facts.json"))


def test_parquet_strings_that_are_no_utf_8_are_read_as_bytes(tmp_path: Path) -> None:
    data = pa.array([b"he\xfflo", None, b"\xc3"], pa.binary()).view(pa.string())
    for name, column in {"plain": data, "dictionary": data.dictionary_encode()}.items():
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        stream = TextStream([tmp_path / f"{name}.parquet"])
        expected = [*encode(b"he\xfflo"), EOS_ID, *encode(b"\xc3"), EOS_ID]
        assert stream.read(0, stream.length).tolist() == expected


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view(), pa.large_string(), pa.binary(4)], ids=str)
def test_parquet_columns_of_every_kind_of_text_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([b"text", b"more"]).cast(kind)}), tmp_path / "en.parquet")
    stream = TextStream([tmp_path / "en.parquet"])
    assert stream.read(0, stream.length).tolist() == [*encode(b"text"), EOS_ID, *encode(b"more"), EOS_ID]
