"""The lock of a folder in a bucket: one holder, who lives by its heartbeat; what is stale is taken once."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.runs.bucket_lock import HEARTBEAT, BucketLockWatch, bucket_lock, check_held
from mrt5_jax.runs.files import as_path, files_for, read_bytes

EVERY = 0.1


@pytest.fixture
def place(bucket_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(HEARTBEAT, str(EVERY))
    return as_path(bucket_server.url(f"{tmp_path.name}/run/run.lock"))


def dead_lock(place: Any) -> None:
    """What a killed process leaves behind."""
    files_for(place).create(place / "00000007.json", json.dumps({"by": "process 1 on afar", "every": EVERY}).encode())


def test_a_lock_is_held_by_one_and_free_when_it_is_released(place: Any) -> None:
    for _ in range(2):
        with bucket_lock(place, "the run"):
            began = time.monotonic()
            message = r"the run is in use by another run \(process \d+ on .* since .*\)"
            with pytest.raises(UserError, match=message), bucket_lock(place, "the run"):
                pass
            assert time.monotonic() - began < 3, "a sign of life is enough"
            check_held("the run/metrics.jsonl")
    assert files_for(place).below(place) == ["00000001.json", "00000002.json"]


def test_a_lock_without_a_heartbeat_is_taken(place: Any) -> None:
    dead_lock(place)
    with bucket_lock(place, "the run"):
        assert files_for(place).below(place) == ["00000007.json", "00000008.json"]


def test_a_watch_tells_a_live_holder_from_a_dead_one(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a lock without a heartbeat would count as held."""
    monkeypatch.setenv(HEARTBEAT, "0.4")
    is_held = BucketLockWatch(place)
    assert not is_held()
    with bucket_lock(place, "the run"):
        end = time.monotonic() + 2.4
        while time.monotonic() < end:
            assert is_held()
            time.sleep(0.1)
    assert not is_held()
    dead_lock(place)
    assert is_held()
    _until(lambda: not is_held())


def test_of_several_that_take_a_stale_lock_one_wins(place: Any) -> None:
    dead_lock(place)
    done = threading.Event()

    def take(number: int) -> str:
        try:
            with bucket_lock(place, f"run {number}"):
                done.wait(30)
                return "won"
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        takers = [pool.submit(take, number) for number in range(8)]
        _until(lambda: sum(taker.done() for taker in takers) == 7)
        done.set()
        results = [taker.result() for taker in takers]
    assert results.count("won") == 1
    assert all(result == "won" or "is in use by another run" in result for result in results)


def test_a_holder_that_was_overtaken_stops_and_leaves_the_others_lock_alone(place: Any) -> None:
    with bucket_lock(place, "the run"):
        files_for(place).create(place / "00000002.json", b'{"by": "process 9 on elsewhere"}')

        def overtaken() -> bool:
            try:
                check_held("the run/checkpoints/3")
            except UserError as error:
                return "the run was taken over by another run (process 9 on elsewhere)" in str(error)
            return False

        _until(overtaken)
        for path in ("another run", "the run 2/metrics.jsonl"):
            check_held(path)
    assert read_bytes(place / "00000002.json") == b'{"by": "process 9 on elsewhere"}'
    assert "released" not in json.loads(read_bytes(place / "00000001.json"))


def test_a_holder_that_slept_looks_before_it_writes(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a paused machine does: its heart has not beaten, so it has not seen that it lost."""
    monkeypatch.setenv(HEARTBEAT, "0.5")
    with bucket_lock(place, "the run"):
        monkeypatch.setattr("mrt5_jax.runs.bucket_lock._Holder._live", lambda _: None)
    with bucket_lock(place, "the run"):
        time.sleep(1.1)
        files_for(place).create(place / "00000003.json", b'{"by": "process 9 on elsewhere"}')
        with pytest.raises(UserError, match="taken over by another run"):
            check_held("the run/metrics.jsonl")


@pytest.mark.parametrize("methods", [("PUT", "POST"), ("GET", "HEAD", "PUT", "POST")])
def test_a_lock_in_a_bucket_that_cannot_be_written_is_refused_in_one_line(
    bucket_server: Any, place: Any, methods: tuple[str, ...]
) -> None:
    bucket_server.refuse(403, methods)
    try:
        with pytest.raises(UserError, match="they give no right to it"), bucket_lock(place, "the run"):
            pass
    finally:
        bucket_server.refuse(None)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
