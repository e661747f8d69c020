"""A stream of text files reads as its lines joined by EOS, wherever one begins to read."""

import codecs
import gzip
import itertools
import json
import os
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mrt5_jax.data.file_index import index_file
from mrt5_jax.data.line_scan import LineScan
from mrt5_jax.data.text_files import SourceFile, TextStream, check_no_overlap, find_files
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError

PIECES = [b"\n", b"\n\n", b"a", b"\xff", "ö".encode(), b"\r", b"\r\n", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"long line"]
contents = st.lists(st.sampled_from(PIECES)).map(b"".join)


def expected_ids(data: bytes) -> list[int]:
    lines = [re.sub(b"^(" + codecs.BOM_UTF8 + b")+", b"", line) for line in data.splitlines()]
    return [i for line in lines if line for i in [*encode(line), EOS_ID]]


@given(files=st.lists(contents, min_size=1, max_size=4), data=st.data())
def test_any_stretch_equals_the_joined_lines(files: list[bytes], data: st.DataObject, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("text")
    paths = [folder / str(number) for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    stream = TextStream([path for path, content in zip(paths, files, strict=True) if content])
    expected = [i for content in files for i in expected_ids(content)]
    assert stream.length == len(expected)
    if expected:
        begin = data.draw(st.integers(0, len(expected) - 1))
        end = data.draw(st.integers(begin + 1, len(expected)))
        np.testing.assert_array_equal(stream.read(begin, end), expected[begin:end])


@given(content=contents, data=st.data())
def test_a_scan_does_not_depend_on_how_a_text_is_cut_into_blocks(content: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    scan = LineScan()
    for begin, end in itertools.pairwise([0, *cuts, len(content)]):
        scan.add(content[begin:end])
    scan.finish()
    expected = expected_ids(content)
    dropped = scan.dropped_before + np.arange(len(scan.dropped_before))
    assert len(content) - len(dropped) + scan.ends_open == len(expected)
    assert scan.num_documents == expected.count(EOS_ID)
    kept = np.delete(np.frombuffer(content, np.uint8), dropped)
    assert [i for i in expected if i != EOS_ID] == [*encode(bytes(kept[~np.isin(kept, [10, 13])]))]


DOCUMENTS = [b"one document", b"and another"]
EQUAL = {
    "copy.txt": b"\n".join(DOCUMENTS),
    "crlf.txt": codecs.BOM_UTF8 + b"\r\n\r\n".join(DOCUMENTS) + b"\r\n",
    "en.txt.gz": gzip.compress(b"\n".join(DOCUMENTS)),
    "en.jsonl": b"".join(json.dumps({"text": text.decode()}).encode() + b"\n" for text in DOCUMENTS),
}
OTHERS = {
    "one_more.txt": b"one document\nand another\nx",
    "as_long.txt": b"one document\nand anothex",
    "blank.txt": b"\n",
}


@pytest.mark.parametrize("name", [*EQUAL, *OTHERS])
def test_documents_of_the_train_split_are_in_no_other(name: str, tmp_path: Path) -> None:
    """In whatever form they lie there."""
    contents = {"train.txt": b"\n".join(DOCUMENTS) + b"\n", "train_blank.txt": b"\n\n", name: (EQUAL | OTHERS)[name]}
    files = []
    for path, content in ((tmp_path / name, content) for name, content in contents.items()):
        path.write_bytes(content)
        split = "train" if path.name.startswith("train") else "validation"
        files.append(SourceFile(split, "en", path, index_file(path)))
    if name in OTHERS:
        check_no_overlap(files)
        return
    with pytest.raises(UserError, match=rf"{name} \(which equals .*train\.txt\): in the train and in the validation"):
        check_no_overlap(files)


def test_files_are_sorted_and_found_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "empty.txt"):
        (tmp_path / name).write_bytes(b"" if name == "empty.txt" else b"text\n")
    found = find_files([f"{tmp_path}/*.txt", f"{tmp_path}/a*"])
    assert [path.name for path in found] == ["a.txt", "b.txt"]


def test_a_glob_without_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches '.*/\*\.txt'"):
        find_files(f"{tmp_path}/*.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"all 1 files that match '.*/\*\.txt' are empty"):
        find_files(f"{tmp_path}/*.txt")


@pytest.mark.parametrize("name", ["a[1].txt", "with space.txt", "ünïcödé.txt", "star*.txt"])
def test_existing_names_win_over_globs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("text")
    (tmp_path / "a1.txt").write_text("other")
    (tmp_path / "starred.txt").write_text("other")
    assert find_files(f"{tmp_path}/{name}") == [tmp_path / name]


def test_paths_that_cannot_be_read_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(tmp_path / "pipe")
    for pattern, message in {
        "folder": r"a folder: name the files in it, as in '.*/folder/\*'",
        "folder/": "a folder: name the files in it",
        "fol*": "a folder: name the files in it",
        "dangling.txt": "a link to nowhere, which is not there",
        "dang*": "a link to nowhere, which is not there",
        "loop.txt": "a link that leads back to itself",
        "pipe": "a pipe or a device, which can be read only once",
        "file.txt/": "leave out the slash at the end",
    }.items():
        with pytest.raises(UserError, match=message):
            find_files(f"{tmp_path}/{pattern}")
    with pytest.raises(UserError, match=r"az://b/\*: nothing here serves az://"):
        find_files("az://b/*")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files("~/f*.txt") == [tmp_path / "file.txt"]
