"""What `mrt5 infer` takes as requests: JSON lines in any form, rows of Parquet; anything else is refused by name."""

import gzip
import io
import json
import lzma
import os
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mrt5_jax.cli.main import main

from .infer_lines import read_lines


def test_requests_of_any_form_have_the_same_answers(command: list[str], tmp_path: Path) -> None:
    """Compressed, with other line ends and blank lines, through a pipe and from standard input."""
    assert main(command) == 0
    expected = read_lines(tmp_path / "out.jsonl")
    content = (tmp_path / "in.jsonl").read_bytes()
    foreign = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n\r\n") + b"  \n\n"
    (tmp_path / "foreign.jsonl").write_bytes(foreign)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "unnamed").write_bytes(lzma.compress(content))
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    thread.start()
    for name in ("foreign.jsonl", "packed.jsonl.gz", "unnamed", "pipe"):
        assert main([*command, f"--input={tmp_path / name}", f"--output={tmp_path / name}.out"]) == 0
        assert read_lines(tmp_path / f"{name}.out") == expected
    thread.join()


def test_standard_input_is_answered(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(command) == 0
    stdin = io.TextIOWrapper(io.BytesIO((tmp_path / "in.jsonl").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main([*command, "--input=-", f"--output={tmp_path / 'piped.jsonl'}"]) == 0
    assert (tmp_path / "piped.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_requests_may_be_rows_of_parquet(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    expected = read_lines(tmp_path / "out.jsonl")
    requests = [{name: line[name] for name in ("inputs", "targets", "id")} for line in expected]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(requests), tmp_path / "in.parquet", row_group_size=3)
    (tmp_path / "in.dat").write_bytes((tmp_path / "in.parquet").read_bytes())
    for name in ("in.parquet", "in.dat"):
        assert main([*command, f"--input={tmp_path}/{name}", f"--output={tmp_path}/{name}.out"]) == 0
        assert read_lines(tmp_path / f"{name}.out") == expected


STRINGS = pyarrow.array([b"ab", b"\xff\xfe"]).cast(pyarrow.binary()).cast(pyarrow.string(), safe=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "row 1: has neither of the fields inputs and input_ids"),
        ({"inputs": ["a", None]}, "row 2: has neither of the fields inputs and input_ids"),
        ({"inputs": ["a", "b"], "seen": [b"x", b"y"]}, "row 1: column 'seen' holds bytes, which JSON cannot repeat"),
        ({"inputs": ["a"], "weight": [float("nan")]}, "row 1: column 'weight' holds float, which JSON cannot repeat"),
        ({"inputs": ["a" * 30]}, "row 1: the input has 31 ids, more than 24"),
        ({"inputs": STRINGS}, "after row 1: damaged ("),
    ],
)
def test_rows_that_are_no_requests_are_named(
    columns: dict[str, Any], message: str, command: list[str], tmp_path: Path, capsys: Any
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    assert main([*command, f"--input={tmp_path}/in.parquet"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/in.parquet, {message}" in error
    assert error.count("\n") == 1


def test_files_of_other_things_are_refused_with_what_to_do(command: list[str], tmp_path: Path, capsys: Any) -> None:
    for name, content, message in (
        ("in.txt", b"\nan input\nanother\n", "in.txt:2: not JSON but plain text: jq -cR '{inputs: .}'"),
        ("in.tsv", b"an input\ttarget\n", "in.tsv:1: not JSON but plain text: jq"),
        ("in.jsonl", json.dumps({"inputs": "a"}).encode("utf-16"), "UTF-16 text: write it as UTF-8"),
        ("in.jsonl", zipped(b'{"inputs": "a"}\n'), "a zip archive: unpack it"),
        ("in.json", b'[{"inputs": "a"}]', "one JSON array: write one object a line"),
        ("in.tfrecord", bytes(8), "in.tfrecord: holds TFRecords, not requests: write them as JSON lines"),
        ("in", gzip.compress(b'{"inputs": "a"}\n' * 99)[:-9], "in: damaged ("),
    ):
        (tmp_path / name).write_bytes(content)
        assert main([*command, f"--input={tmp_path / name}"]) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / name}" in error
        assert message in error
        assert error.count("\n") == 1
    assert main([*command, f"--input={tmp_path}/*.jsonl"]) == 2
    assert "globs are not taken here" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def zipped(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in.jsonl", content)
    return archive.getvalue()
