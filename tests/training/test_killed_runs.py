"""Runs that are killed (SIGKILL) go on as if they had not been: metrics.jsonl is the same, byte for byte.

Real processes. Three moments here, on data that need no TensorFlow; `make soak` has 20 random ones of `mrt5 train`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.errors import PREEMPTED_EXIT_CODE

CHILD = Path(__file__).parent / "without_seqio.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Processes share what they compile."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def train(environment: dict[str, str], model_dir: Path, **order: Any) -> int:
    order["model_dir"] = str(model_dir)
    command = [sys.executable, str(CHILD), json.dumps(order)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, PREEMPTED_EXIT_CODE, -signal.SIGKILL), done.stderr
    return done.returncode


def saved_steps(model_dir: Path) -> set[int]:
    return {int(path.name) for path in (model_dir / "checkpoints").iterdir() if path.name.isdigit()}


def test_a_run_killed_three_times_writes_what_an_undisturbed_one_writes(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Killed before anything was saved, in the middle of a save, and between two saves."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train(environment, whole) == 0
    expected = (whole / "metrics.jsonl").read_bytes()
    assert saved_steps(whole) == {6, 9, 12}

    moments = [("step", 3, [set()]), ("commit", 6, [{3}]), ("step", 5, [{3}, {3, 6}])]
    for at, number, saved in moments:
        assert train(environment, killed, kill={"at": at, "number": number}) == -signal.SIGKILL
        assert saved_steps(killed) in saved
        written = (killed / "metrics.jsonl").read_bytes()
        assert expected.startswith(written)
        assert written != expected
        if at == "commit":
            assert list((killed / "checkpoints").glob("6.*")), "a save was under way"
    assert train(environment, killed) == 0
    assert (killed / "metrics.jsonl").read_bytes() == expected
    assert saved_steps(killed) == saved_steps(whole)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_loses_no_step(environment: dict[str, str], tmp_path: Path) -> None:
    """SIGTERM while batch 7 is made ahead of its step: the step under way ends, is saved, and is not made again."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(environment, whole) == 0
    at_seven = {"at": "step", "number": 7, "by": "SIGTERM"}
    assert train(environment, stopped, kill=at_seven) == PREEMPTED_EXIT_CODE
    steps = [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert steps in ([1, 2, 3, 4], [1, 2, 3, 4, 5]), "batches are made one or two steps ahead"
    assert saved_steps(stopped) == {3, steps[-1]}, "not a step at which it saves anyway"
    assert train(environment, stopped) == 0
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


FLAGS = [
    "--gin_file=runs/quickstart.gin",
    *("--gin.INPUT_LENGTH=12", "--gin.TARGET_LENGTH=12", "--gin.BATCH_SIZE=8", "--gin.TRAIN_STEPS=400"),
    "--gin.DROPOUT_RATE=0.1",
    "--gin.config.ExecutionConfig.max_rungs=2",
    *(f"--gin.config.ModelConfig.{name}=8" for name in ("emb_dim", "head_dim", "mlp_dim")),
    "--gin.config.ExecutionConfig.log_every=1",
    "--gin.config.TrainingConfig.eval_every=100",
    "--gin.config.TrainingConfig.eval_batches=1",
    "--gin.config.CheckpointConfig.every=10",
]


def start(environment: dict[str, str], model_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "mrt5_jax", "train", *FLAGS, f"--gin.MODEL_DIR='{model_dir}'"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(model_dir: Path) -> int:
    path = model_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(model_dir: Path) -> bool:
    return any(not path.name.isdigit() for path in (model_dir / "checkpoints").glob("*.*"))


@pytest.mark.soak
def test_mrt5_train_killed_at_twenty_random_moments(environment: dict[str, str], tmp_path: Path) -> None:
    """Every second one during a save; the moments are drawn anew each time, from a seed that is printed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with start(environment, whole) as process:
        assert process.wait() == 0
    expected = (whole / "metrics.jsonl").read_bytes()
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng, during_saves = random.Random(seed), 0
    for number in range(20):
        with start(environment, killed) as process:
            before = lines(killed)
            target = (number + 1) * 400 // 21 + rng.randint(-5, 5)  # later each time, so that the run gets on
            while process.poll() is None and lines(killed) <= max(target, before):
                time.sleep(0.001)
            if number % 2:
                while process.poll() is None and not saving(killed):
                    time.sleep(0.0002)
                during_saves += saving(killed)
            else:
                time.sleep(rng.random() * 0.3)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            process.kill()
        assert expected.startswith((killed / "metrics.jsonl").read_bytes()), number
    assert during_saves >= 5
    with start(environment, killed) as process:
        assert process.wait() == 0
    assert (killed / "metrics.jsonl").read_bytes() == expected
