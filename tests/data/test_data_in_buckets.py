"""Data files in buckets: the same ids as in a folder, read once, and known again by the storage's own checksum."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

from mrt5_jax.data.lines import read_text
from mrt5_jax.data.source_files import record_of
from mrt5_jax.data.tables import Table
from mrt5_jax.data.text_files import SourceFile, TextStream, find_files
from mrt5_jax.data.text_pairs import former_name, pair_source
from mrt5_jax.errors import UserError
from mrt5_jax.runs.buckets import BucketFiles
from mrt5_jax.runs.files import files_for

DOCUMENTS = ["the first one", "ein zweites: \u00e4\u00f6\u00fc", "last"]


def _write_everything(folder: Path) -> None:
    """The documents in every kind of file."""
    text = "".join(f"{document}\n\n" for document in DOCUMENTS).encode()
    (folder / "plain.txt").write_bytes(text)
    (folder / "packed.txt.gz").write_bytes(gzip.compress(text))
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    pyarrow.parquet.write_table(pa.table({"text": DOCUMENTS}), folder / "rows.parquet")
    with tf.io.TFRecordWriter(str(folder / "c4-en.tfrecord-00000-of-00001")) as writer:
        for document in DOCUMENTS:
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[document.encode()]))
            writer.write(tf.train.Example(features=tf.train.Features(feature={"text": feature})).SerializeToString())


def test_files_give_the_same_ids_as_in_a_folder(
    bucket_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_everything(tmp_path)
    root = bucket_server.url(f"{tmp_path.name}-data")
    for path in tmp_path.iterdir():
        files_for(root).write(f"{root}/{path.name}", path.read_bytes())
    ours, theirs = find_files(f"{root}/*"), find_files(f"{tmp_path}/*")
    assert [str(path) for path in ours] == [f"{root}/{path.name}" for path in theirs]
    for one, other in zip(ours, theirs, strict=True):
        mine, local = TextStream([one]), TextStream([other])
        assert mine.identity == local.identity
        np.testing.assert_array_equal(mine.read(0, mine.length), local.read(0, local.length))
    record = record_of([SourceFile("train", "", ours[0], TextStream([ours[0]]).files[0].index)])
    assert record[0]["path"] == str(ours[0])

    def refuse(*_: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(BucketFiles, "open", refuse)
    for path in ours:
        assert TextStream([path]).length


def test_tables_and_gin_files_are_read_from_buckets(bucket_server: Any, tmp_path: Path) -> None:
    root = bucket_server.url(tmp_path.name)
    files_for(root).write(f"{root}/rows.tsv", b"a\tb\nc\td\n")
    files_for(root).write(f"{root}/run.gin", b"A = 1\n")
    (path,) = find_files(f"{root}/rows.tsv")
    assert [Table(path).row(number) for number in range(2)] == [(b"a", b"b"), (b"c", b"d")]
    assert former_name("pairs", pair_source({"train": f"{root}/rows.tsv"}))
    files_for(root).write(f"{root}/rows.jsonl", b'{"inputs": "a", "targets": "b"}\n')
    assert len(pair_source({"train": f"{root}/rows.jsonl"}).files) == 1
    assert read_text(f"{root}/run.gin", "a gin file") == "A = 1\n"


def test_what_cannot_be_read_is_named(bucket_server: Any, tmp_path: Path) -> None:
    root = bucket_server.url(tmp_path.name)
    files_for(root).write(f"{root}/folder/a.txt.gz", gzip.compress(b"some text\n" * 1000)[:-20])
    with pytest.raises(UserError, match=rf"{root}/folder: a folder: name the files in it, as in '{root}/folder/\*'"):
        find_files(f"{root}/folder")
    with pytest.raises(UserError, match=f"no file matches '{root}/other"):
        find_files(f"{root}/other/*.txt")
    (path,) = find_files(f"{root}/folder/*")
    with pytest.raises(UserError, match=rf"{root}/folder/a.txt.gz.*: damaged"):
        TextStream([path])
    bucket_server.refuse(403)
    try:
        with pytest.raises(UserError, match=rf"{root}/\*: there are no credentials for it"):
            find_files(f"{root}/*")
    finally:
        bucket_server.refuse(None)
