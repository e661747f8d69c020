"""Local files: links, pipes, disks that are full, and what a path is; the rest is in test_files_everywhere.py."""

import io
import os
import sys
from pathlib import Path

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import LocalFiles, explain, files_for, given_path, rereadable

FILES = LocalFiles()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    FILES.write(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        FILES.write(tmp_path / "a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_a_link_stays_a_link_when_its_file_is_written(tmp_path: Path) -> None:
    FILES.write(tmp_path / "a", b"old")
    (tmp_path / "link").symlink_to("a")
    FILES.write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_status_tells_what_a_path_is(tmp_path: Path) -> None:
    FILES.write(tmp_path / "a", b"12")
    os.mkfifo(tmp_path / "pipe")
    assert [FILES.stat(tmp_path / name).kind for name in ("a", "", "pipe")] == ["file", "folder", "stream"]
    assert FILES.stat(tmp_path / "a").size == 2
    before = FILES.stat(tmp_path / "a").identity
    assert FILES.stat(tmp_path / "a").identity == before
    FILES.write(tmp_path / "a", b"34")
    assert FILES.stat(tmp_path / "a").identity != before


@pytest.mark.parametrize("path", ["az://b/x", "hdfs://h/x", "https://h/x.txt", "abfss://c@a/x"])
def test_a_scheme_that_nothing_serves_is_refused(path: str) -> None:
    for use in (files_for, given_path):
        with pytest.raises(UserError, match=r"nothing here serves \w+://, only gs://, s3:// and local paths are"):
            use(path)


@pytest.mark.parametrize("path", ["gs://", "gs://bucket", "S3://bucket/", "s3:///x"])
def test_a_bucket_without_a_path_is_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"names no path in a bucket: write (gs|s3)://BUCKET/PATH"):
        given_path(path)


def test_schemes_are_written_small() -> None:
    assert given_path("GS://bucket/Ab") == "gs://bucket/Ab"


def test_file_urls_are_refused_with_the_path_to_write() -> None:
    with pytest.raises(UserError, match=r"without a scheme: /data/x$"):
        given_path("file:///data/x")


def test_tilde_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~old").touch()
    assert [given_path(path) for path in ("~", "~/a b", "a~", "~old")] == [
        str(tmp_path),
        f"{tmp_path}/a b",
        "a~",
        "~old",
    ]
    with pytest.raises(UserError, match="there is no user nobodyatall here"):
        given_path("~nobodyatall/x")


def test_a_pipe_can_be_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)
    with rereadable(f"/dev/fd/{read}") as path:
        assert [Path(path).read_bytes() for _ in range(2)] == [b"through a pipe"] * 2
    os.close(read)
    assert not Path(path).exists()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"standard input")))
    with rereadable("-") as path:
        assert Path(path).read_bytes() == b"standard input"


def test_what_a_process_has_open_is_a_stream_also_where_it_is_a_file(tmp_path: Path) -> None:
    FILES.write(tmp_path / "a", b"some text")
    with (tmp_path / "a").open("rb") as file:
        descriptor = f"/dev/fd/{file.fileno()}"
        assert FILES.stat(descriptor).kind == "stream"
        with rereadable(descriptor) as path:
            assert Path(path).read_bytes() == b"some text"


def test_what_cannot_be_read_twice_is_refused(tmp_path: Path) -> None:
    for path, message in {tmp_path: "a folder", "/dev/zero": "a device", tmp_path / "x": "No such file"}.items():
        with pytest.raises(UserError, match=f"{path}: {message}"), rereadable(path):
            pass
    with rereadable("/dev/null") as path:
        assert Path(path).read_bytes() == b""


def test_errors_are_explained_by_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in {"dangling": "a link to nowhere", "loop": "leads back to itself", "": "a folder"}.items():
        with pytest.raises(OSError) as error:  # noqa: PT011
            FILES.open(tmp_path / name)
        assert words in explain(error.value, tmp_path / name)
