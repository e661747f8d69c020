"""A file is read once: its index is kept as long as it does not change, and tells one content from another."""

import gzip
import hashlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest

from mrt5_jax.data.file_index import index_file
from mrt5_jax.data.text_files import TextStream
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import LocalFiles


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened to be read."""
    names: list[str] = []
    open_file = LocalFiles.open

    def counting(self: LocalFiles, path: str | Path, start: int = 0) -> BinaryIO:
        names.append(Path(path).name)
        return open_file(self, path, start)

    monkeypatch.setattr(LocalFiles, "open", counting)
    return names


CONTENTS = {"en.txt": b"one\ntwo\n", "en.txt.gz": gzip.compress(b"one\r\ntwo\n"), "en.jsonl": b'{"text": "one"}\n'}


@pytest.mark.parametrize("name", CONTENTS)
def test_the_second_start_opens_nothing(name: str, tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / name).write_bytes(CONTENTS[name])
    first = index_file(tmp_path / name)
    assert opened == [name, name], "once to see what it is, once to read it"
    assert first.sha256 == hashlib.sha256(CONTENTS[name]).hexdigest()
    second = index_file(tmp_path / name)
    assert opened == [name, name]
    assert second._replace(places=first.places) == first
    assert second.places.tolist() == first.places.tolist()


def test_a_file_rewritten_at_the_same_size_and_time_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "en.txt"
    path.write_bytes(b"one\n")
    before, times = index_file(path), os.stat(path)
    path.write_bytes(b"two\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert index_file(path).sha256 != before.sha256


def test_a_file_in_a_moved_folder_is_not_read_again(tmp_path: Path, opened: list[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "en.txt").write_bytes(b"one\n")
    before = index_file(tmp_path / "a" / "en.txt")
    (tmp_path / "a").rename(tmp_path / "b")
    opened.clear()
    assert index_file(tmp_path / "b" / "en.txt").sha256 == before.sha256
    assert not opened


@pytest.mark.parametrize("damage", ["facts.json", "text", "places.npy"])
def test_an_index_that_is_not_whole_is_made_again(damage: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "en.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "two"}\n')
    stream = TextStream([path])
    expected = stream.read(0, stream.length).tolist()
    (found,) = cache.rglob(damage)
    found.write_bytes(found.read_bytes()[:-5])
    again = TextStream([path])
    assert again.read(0, again.length).tolist() == expected


def test_without_a_cache_text_is_read_and_what_has_to_be_unpacked_refused(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file where the folder should be")
    (tmp_path / "en.txt").write_bytes(b"one\n")
    assert TextStream([tmp_path / "en.txt"]).length == 4
    assert "takes no index" in capsys.readouterr().err
    (tmp_path / "en.txt.gz").write_bytes(gzip.compress(b"one\n"))
    with pytest.raises(UserError, match="set MRT5_CACHE_DIR"):
        TextStream([tmp_path / "en.txt.gz"])


def test_a_full_disk_is_told_of_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "en.txt.gz").write_bytes(gzip.compress(b"one\n"))
    with monkeypatch.context() as patch:
        patch.setattr("numpy.save", full)
        patch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(UserError, match=r"No space left on device: set MRT5_CACHE_DIR"):
            TextStream([tmp_path / "en.txt.gz"])
    assert not list((cache / "files").iterdir())
    assert TextStream([tmp_path / "en.txt.gz"]).length == 4


def test_a_copy_has_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_bytes(b"one\n")
    shutil.copy(tmp_path / "en.txt", tmp_path / "copy.txt")
    assert index_file(tmp_path / "en.txt").sha256 == index_file(tmp_path / "copy.txt").sha256
