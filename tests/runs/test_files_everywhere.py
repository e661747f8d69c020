"""What `Files` promises, on this machine and in both kinds of bucket, by the same cases."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrt5_jax.errors import UserError
from mrt5_jax.runs.buckets import PATIENCE
from mrt5_jax.runs.files import as_path, exists, explained, files_for, rereadable

Place = Callable[[str], str]
"""From a name to a path of this test alone."""


@pytest.fixture(params=["local", "gs", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "local":
        yield lambda name: str(tmp_path / name) if name else str(tmp_path)
        return
    server = request.getfixturevalue("bucket_servers")[request.param]
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield lambda name: server.url(f"{tmp_path.name}/{name}".rstrip("/"))


def test_files_are_read_from_any_place(place: Place) -> None:
    files = files_for(place("a"))
    files.write(place("a"), b"0123456789")
    with files.open(place("a"), 4) as file:
        assert file.read(3) == b"456"
        assert file.seek(1) == 1
        assert file.read() == b"123456789"
        assert file.read() == b""


@given(cuts=st.lists(st.integers(0, 1_500_000), max_size=6))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_large_files_are_the_same_however_they_are_read(place: Place, cuts: list[int]) -> None:
    files, data = files_for(place("large")), bytes(range(256)) * 5_000 + b"\r"
    if not exists(place("large")):
        files.write(place("large"), data)
    with files.open(place("large")) as file:
        assert file.read() == data
        for cut in cuts:
            file.seek(cut)
            assert file.read(70_000) == data[cut : cut + 70_000]


def test_names_win_over_globs(place: Place) -> None:
    files = files_for(place(""))
    for name in ("a[1]", "a1", "b", ".hidden"):
        files.write(place(name), b"")
    assert files.list(place("a[1]")) == [place("a[1]")]
    assert files.list(place("*")) == [place(name) for name in ("a1", "a[1]", "b")]
    assert files.list(place("c*")) == files.list(place("d")) == []


def test_folders_that_exist_win_over_globs_too(place: Place) -> None:
    files = files_for(place(""))
    for name in ("a[1]/en.txt", "a[1]/de.txt", "a1/fr.txt", "a[1]/b*/it.txt", "bb/x.txt"):
        files.write(place(name), b"")
    assert files.list(place("a[1]/*.txt")) == [place(f"a[1]/{name}") for name in ("de.txt", "en.txt")]
    assert files.list(place("a[1]/b*/*")) == [place("a[1]/b*/it.txt")]
    assert files.list(place("a[12]/f*")) == [place("a1/fr.txt")]
    assert len(files.list(place("**/*.txt"))) == 5
    assert files.below(place("a[1]")) == ["b*/it.txt", "de.txt", "en.txt"]
    assert files.below(place("nowhere")) == []


def test_a_file_is_created_once(place: Place) -> None:
    files = files_for(place("lock"))
    files.create(place("lock"), b"mine")
    for data in (b"yours", b"mine"):
        with pytest.raises(FileExistsError):
            files.create(place("lock"), data)
    with files.open(place("lock")) as file:
        assert file.read() == b"mine"
    files.remove(place("lock"))
    assert not exists(place("lock"))
    with pytest.raises(FileNotFoundError):
        files.remove(place("lock"))


def test_of_50_that_create_a_file_at_once_one_does(place: Place) -> None:
    files = files_for(place("lock"))

    def create(number: int) -> bool:
        try:
            files.create(place("lock"), b"%d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(50) as pool:
        won = list(pool.map(create, range(50)))
    assert won.count(True) == 1
    with files.open(place("lock")) as file:
        assert file.read() == b"%d" % won.index(True)


def test_status_tells_content_apart(place: Place) -> None:
    files = files_for(place("f/a"))
    files.write(place("f/a"), b"12")
    assert [files.stat(place(name)).kind for name in ("f/a", "f")] == ["file", "folder"]
    before = files.stat(place("f/a"))
    assert before.size == 2
    assert files.stat(place("f/a")) == before
    files.write(place("f/a"), b"34")
    assert files.stat(place("f/a")).identity != before.identity


def test_what_is_not_there_is_told_in_one_line(place: Place) -> None:
    files = files_for(place("f/a"))
    files.write(place("f/a"), b"")
    for path, error in {place("b"): FileNotFoundError, place("f"): IsADirectoryError}.items():
        with pytest.raises(error), files.open(path):
            pass
    with pytest.raises(UserError, match="a folder: name a file in it"), rereadable(place("f")):
        pass


def test_parts_of_paths_keep_their_scheme(place: Place) -> None:
    path = as_path(place("f")) / "a.txt"
    assert str(path) == os.fspath(path) == place("f/a.txt")
    assert str(path.parent) == place("f")
    assert str(path.with_name("b")) == place("f/b")
    assert (path.name, path.suffix) == ("a.txt", ".txt")
    assert as_path(str(path)) == path == path.absolute() == path.resolve()


def test_the_same_content_has_the_same_identity_anywhere_in_a_bucket(bucket_server: Any, tmp_path: Path) -> None:
    files = files_for(bucket_server.url("a"))
    for name in ("a", "b"):
        files.write(bucket_server.url(f"{tmp_path.name}/{name}"), b"the same")
    one, other = (files.stat(bucket_server.url(f"{tmp_path.name}/{name}")) for name in ("a", "b"))
    assert one == other


def test_an_object_that_changes_while_it_is_read_is_not_mixed(bucket_server: Any, tmp_path: Path) -> None:
    path = bucket_server.url(f"{tmp_path.name}/changing")
    files = files_for(path)
    files.write(path, bytes(3_000_000))
    with files.open(path) as file:
        file.read(10)
        files.write(path, b"1" * 3_000_000)
        with pytest.raises(OSError, match="changed while it was read"):
            file.read()


def test_a_server_that_is_away_for_a_moment_is_asked_again(
    bucket_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bucket_server.url(f"{tmp_path.name}/a")
    files, pauses = files_for(path), []
    files.write(path, b"before")

    def come_back(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 2:
            bucket_server.start()

    monkeypatch.setattr("mrt5_jax.runs.buckets.time.sleep", come_back)
    bucket_server.stop()
    files.write(path, b"after")
    bucket_server.refuse(503)
    monkeypatch.setattr("mrt5_jax.runs.buckets.time.sleep", lambda _: bucket_server.refuse(None))
    with files.open(path) as file:
        assert file.read() == b"after"
    assert len(pauses) == 2
    assert pauses[0] < pauses[1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stays_away_is_named_in_time(
    bucket_server: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    path = bucket_server.url("a")
    bucket_server.refuse(status)
    try:
        with pytest.raises(UserError, match=rf"^{path}: the storage does not answer \("), explained(path):
            files_for(path).stat(path)
    finally:
        bucket_server.refuse(None)


def test_after_a_request_was_given_up_the_next_ones_are_made_once_until_one_succeeds(
    bucket_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pauses = bucket_server.url("a"), []
    files_for(path).write(path, b"")
    monkeypatch.setattr("mrt5_jax.runs.buckets.time.sleep", pauses.append)
    for patience, expected in (("0.8", 1), ("100", 1)):
        monkeypatch.setenv(PATIENCE, patience)
        bucket_server.refuse(503)
        with pytest.raises(TimeoutError):
            files_for(path).stat(path)
        bucket_server.refuse(None)
        assert len(pauses) == expected
    files_for(path).stat(path)
    bucket_server.refuse(503)
    monkeypatch.setattr("mrt5_jax.runs.buckets.time.sleep", lambda _: bucket_server.refuse(None))
    files_for(path).stat(path)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_patience_that_is_no_time_is_refused(bucket_server: Any, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, value)
    with pytest.raises(UserError, match=f"^{PATIENCE}={value}: should be a number of seconds"):
        files_for(bucket_server.url("a")).exists(bucket_server.url("a"))


@pytest.mark.parametrize("status", [401, 403])
def test_missing_rights_are_not_asked_for_twice(bucket_server: Any, status: int) -> None:
    path = bucket_server.url("a")
    bucket_server.refuse(status)
    try:
        for use in (lambda: files_for(path).stat(path), lambda: files_for(path).write(path, b"")):
            with pytest.raises(UserError, match=rf"^{path}: there are no credentials for it, or"), explained(path):
                use()
    finally:
        bucket_server.refuse(None)


def test_a_bucket_that_is_not_there_is_named(bucket_server: Any) -> None:
    path = f"{bucket_server.scheme}://no-such-bucket/a"
    files, there = files_for(path), "there is no such bucket: create it, or name another"
    for use, message in {
        lambda: files.open(path): "No such object, or no such bucket",
        lambda: files.write(path, b""): there,
        lambda: files.create(path, b""): there,
        lambda: files.below(path): there,
    }.items():
        with pytest.raises(UserError, match=rf"^{path}: {message}$"), explained(path):
            use()


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for scheme, module, extra in (("gs", "gcsfs.core", "gcs"), ("s3", "s3fs", "s3")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"nowhere-{scheme}")  # no client of another test
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://nowhere")
        with pytest.raises(UserError, match=rf"{scheme}:// needs the extra {extra}: pip install 'mrt5-jax\[{extra}\]'"):
            files_for(f"{scheme}://b/a").stat(f"{scheme}://b/a")
