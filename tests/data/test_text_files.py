"""A stream of text files reads as its lines joined by EOS, wherever one begins to read."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mrt5_jax.data import text_files
from mrt5_jax.data.text_files import TextFile, TextStream, find_files
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError

contents = st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"\xff", "ö".encode(), b"\r", b"long line"])).map(b"".join)


def expected_ids(data: bytes) -> list[int]:
    return [i for line in data.split(b"\n") if line for i in [*encode(line), EOS_ID]]


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


@given(content=contents.filter(bool), window=st.integers(1, 7))
def test_empty_lines_are_found_across_scanning_windows(content: bytes, window: int, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("text") / "file"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_WINDOW", window)
        assert TextFile(path).length == len(expected_ids(content))


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
