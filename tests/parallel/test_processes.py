"""Several real processes make one run: one writes, all stop together, and the numbers are those of one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrt5_jax.errors import PREEMPTED_EXIT_CODE
from mrt5_jax.parallel.processes import from_first_process
from mrt5_jax.runs.lock import run_lock

pytestmark = pytest.mark.slow

FLAGS = [
    "--gin_file=runs/quickstart.gin",
    *("--gin.INPUT_LENGTH=12", "--gin.TARGET_LENGTH=12", "--gin.BATCH_SIZE=16", "--gin.DROPOUT_RATE=0.1"),
    "--gin.config.ExecutionConfig.max_rungs=2",
    *(f"--gin.config.ModelConfig.{name}=8" for name in ("emb_dim", "head_dim", "mlp_dim")),
    "--gin.config.OptimizerConfig.warmup_steps=0",
    "--gin.config.ExecutionConfig.log_every=1",
    "--gin.config.TrainingConfig.eval_every=4",
    "--gin.config.TrainingConfig.eval_batches=2",
    "--gin.config.CheckpointConfig.every=4",
]


@pytest.fixture
def launch(repository: Path, tmp_path: Path):
    """Starts `launch/local.py`: 2 processes with 4 devices each."""

    def start(model_dir: Path, steps: int, *flags: str) -> subprocess.Popen:
        local = [sys.executable, str(repository / "launch" / "local.py"), "--processes=2", "--devices_per_process=4"]
        run = [*FLAGS, f"--gin.MODEL_DIR='{model_dir}'", f"--gin.TRAIN_STEPS={steps}", *flags]
        command = [*local, f"--log_dir={tmp_path / 'logs'}", "--", *run]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def metrics(model_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_are_as_one(launch, tmp_path: Path) -> None:
    """Every metric of every step and evaluation, with dropout and hard steps; the first process alone writes."""
    two = launch(tmp_path / "two", 8, "--gin.config.MeshConfig.tensor=2")
    output, errors = two.communicate()
    assert two.returncode == 0, errors
    assert output.count("trained to step 8") == 1
    assert "step 8/8" not in (tmp_path / "logs" / "process_1.log").read_text()
    command = [sys.executable, "-m", "mrt5_jax", "train", *FLAGS, "--gin.TRAIN_STEPS=8"]
    subprocess.run([*command, f"--gin.MODEL_DIR='{tmp_path / 'one'}'"], check=True, capture_output=True)
    ours, theirs = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert len(ours) == len(theirs)
    for line, other in zip(ours, theirs, strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-4, nan_ok=True)


def test_a_run_that_is_asked_to_stop_leaves_after_the_same_step_everywhere(launch, tmp_path: Path) -> None:
    process = launch(tmp_path / "run", 100_000)
    while not (tmp_path / "run" / "metrics.jsonl").exists() or len(metrics(tmp_path / "run")) < 6:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == PREEMPTED_EXIT_CODE, errors
    (said,) = [line for line in errors.splitlines() if line.startswith("mrt5: asked to stop")]
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"is saved at step {saved};" in said
    assert metrics(tmp_path / "run")[-1]["step"] == saved


def test_all_processes_leave_where_another_run_has_the_model_dir(launch, tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        process = launch(tmp_path / "run", 8)
        _, errors = process.communicate()
    assert process.returncode == 2
    assert f"is in use by another run (process {os.getpid()} on " in errors
    assert "is in use by another run" in (tmp_path / "logs" / "process_1.log").read_text()
    assert "Traceback" not in errors


def test_one_process_is_the_first() -> None:
    assert from_first_process("what it says") == "what it says"
