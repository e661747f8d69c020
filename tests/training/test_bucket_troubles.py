"""Runs in buckets that are killed, or whose storage goes away or is damaged, end with the numbers of undisturbed ones.

Real processes, on data that need no TensorFlow; see test_killed_runs.py, which has the same for folders.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.runs.bucket_checkpoints import committed_steps
from mrt5_jax.runs.bucket_lock import HEARTBEAT
from mrt5_jax.runs.buckets import PATIENCE, BucketPath
from mrt5_jax.runs.files import as_path, files_for, read_bytes

pytestmark = pytest.mark.slow
CHILD = Path(__file__).parent / "without_seqio.py"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Processes share what they compile."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        HEARTBEAT: "0.25",
    }


def start(programs: dict[str, str], model_dir: Any, **order: Any) -> subprocess.Popen[str]:
    order["model_dir"] = str(model_dir)
    command = [sys.executable, str(CHILD), json.dumps(order)]
    return subprocess.Popen(command, env=os.environ | programs, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error."""
    _, said = process.communicate(timeout=900)
    return process.returncode, said


@pytest.fixture(scope="module")
def expected(programs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The numbers of a run that nothing disturbed, in a folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert end(start(programs, folder))[0] == 0
    return (folder / "metrics.jsonl").read_bytes()


@pytest.fixture
def model_dir(bucket_server: Any, tmp_path: Path) -> BucketPath:
    path = as_path(bucket_server.url(f"{tmp_path.name}/run"))
    assert isinstance(path, BucketPath)
    return path


def steps_of(model_dir: BucketPath) -> set[int]:
    return {step for step, whole in committed_steps(model_dir / "checkpoints").items() if whole}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_killed_ten_times_writes_what_an_undisturbed_one_writes(
    programs: dict[str, str], expected: bytes, model_dir: BucketPath
) -> None:
    for at, number, saved in (("step", 3, [set()]), ("sent", 6, [{3}]), ("step", 5, [{3}, {3, 6}])):
        code, said = end(start(programs, model_dir, kill={"at": at, "number": number}))
        assert code == -signal.SIGKILL, said
        assert steps_of(model_dir) in saved
    generator = random.Random(0)
    for _ in range(7):
        process = start(programs, model_dir)
        time.sleep(generator.uniform(2, 8))
        process.kill()
        code, said = end(process)
        assert code in (0, -signal.SIGKILL), said
    assert end(start(programs, model_dir))[0] == 0
    assert read_bytes(model_dir / "metrics.jsonl") == expected
    assert steps_of(model_dir) == {6, 9, 12}


@pytest.mark.parametrize("seconds", [20])
def test_a_storage_that_is_away_for_a_while_is_waited_for(
    programs: dict[str, str], expected: bytes, bucket_server: Any, model_dir: BucketPath, seconds: float
) -> None:
    process = start(programs, model_dir)
    wait_until(lambda: 3 in steps_of(model_dir))
    bucket_server.stop()
    time.sleep(seconds)
    bucket_server.start()
    assert end(process)[0] == 0
    assert read_bytes(model_dir / "metrics.jsonl") == expected


def test_a_storage_that_stays_away_ends_the_run_in_one_line_and_loses_nothing(
    programs: dict[str, str], expected: bytes, bucket_server: Any, model_dir: BucketPath
) -> None:
    process = start(programs | {PATIENCE: "2"}, model_dir)
    wait_until(lambda: 3 in steps_of(model_dir))
    bucket_server.stop()
    try:
        code, said = end(process)
    finally:
        bucket_server.start()
    assert code == 1
    assert "UserError: " in said
    assert "the storage does not answer" in said
    assert end(start(programs, model_dir))[0] == 0
    assert read_bytes(model_dir / "metrics.jsonl") == expected


def test_of_two_runs_at_once_the_second_is_refused(
    programs: dict[str, str], expected: bytes, model_dir: BucketPath
) -> None:
    first = start(programs, model_dir, training={"num_steps": 10**6})
    wait_until(lambda: 3 in steps_of(model_dir))
    code, said = end(start(programs, model_dir))
    assert code == 1
    assert f"{model_dir} is in use by another run" in said
    first.kill()
    first.communicate()


def test_a_truncated_object_is_damage_and_the_step_before_it_goes_on(
    programs: dict[str, str], expected: bytes, model_dir: BucketPath
) -> None:
    assert end(start(programs, model_dir))[0] == 0
    files, step = files_for(model_dir), model_dir / "checkpoints" / "12"
    largest = max(files.below(step / "params"), key=lambda name: files.stat(step / "params" / name).size)
    files.write(step / "params" / largest, read_bytes(step / "params" / largest)[:-7])
    assert end(start(programs, model_dir))[0] == 0
    assert read_bytes(model_dir / "metrics.jsonl") == expected
    assert any(name.startswith("12-") for name in files.below(model_dir / "damaged_checkpoints"))


def test_two_processes_write_what_one_writes(repository: Path, model_dir: BucketPath, tmp_path: Path) -> None:
    """2 processes x 4 devices by the command line, stopped by the number of steps, and resumed."""
    flags = [
        "--gin_file=runs/quickstart.gin",
        *("--gin.INPUT_LENGTH=12", "--gin.TARGET_LENGTH=12", "--gin.BATCH_SIZE=8"),
        *("--gin.config.ExecutionConfig.max_rungs=1", "--gin.config.OptimizerConfig.warmup_steps=1"),
        *(f"--gin.config.ModelConfig.{name}=8" for name in ("emb_dim", "head_dim", "mlp_dim")),
        "--gin.config.ExecutionConfig.log_every=1",
        "--gin.config.CheckpointConfig.every=2",
        "--gin.config.MeshConfig.fsdp=2",
    ]
    for place in (model_dir, tmp_path / "folder"):
        for steps in (4, 6):
            here = [f"--gin.MODEL_DIR={str(place)!r}", f"--gin.TRAIN_STEPS={steps}"]
            command = [sys.executable, str(repository / "launch" / "local.py"), "--", *flags, *here]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
            assert done.returncode == 0, done.stderr
    assert read_bytes(model_dir / "metrics.jsonl") == (tmp_path / "folder" / "metrics.jsonl").read_bytes()
    assert steps_of(model_dir) == {int(path.name) for path in (tmp_path / "folder" / "checkpoints").iterdir()}
