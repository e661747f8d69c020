"""A run goes on under another execution: what it computes stays, to rounding."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

STEPS, STOPPED = 20, 10
SMALL = [
    f"TRAIN_STEPS={STEPS}",
    "INPUT_LENGTH=16",
    "TARGET_LENGTH=16",
    "BATCH_SIZE=8",
    "DROPOUT_RATE=0.1",
    *(f"config.ModelConfig.{name}=16" for name in ("emb_dim", "mlp_dim")),
    "config.ModelConfig.num_heads=2",
    "config.ModelConfig.head_dim=8",
    "config.ModelConfig.num_encoder_layers=2",
    "config.ModelConfig.num_decoder_layers=1",
    "config.GateConfig.bias_init=0.0",
    "config.TrainingConfig.hard_probability=0.5",
    "config.TrainingConfig.eval_batches=1",
    "config.OptimizerConfig.warmup_steps=0",
    "config.OptimizerConfig.schedule='constant'",
    f"config.CheckpointConfig.every={STOPPED}",
    "config.ExecutionConfig.log_every=1",
    "config.ExecutionConfig.scan_unroll=1",
]
DOUBLE = ["config.ModelConfig.dtype='float64'", "config.ModelConfig.param_dtype='float64'"]
OTHER = [
    "config.ExecutionConfig.dispatch='host'",
    "config.ExecutionConfig.microbatches=4",
    "config.ExecutionConfig.remat='dots'",
    "config.ExecutionConfig.max_rungs=2",
]


def run(model_dir: Path, bindings: list[str], *, double: bool) -> list[dict[str, float]]:
    """Trains in a process of its own; the reports of its steps."""
    flags = [f"--gin.{binding}" for binding in (f"MODEL_DIR={str(model_dir)!r}", *SMALL, *bindings)]
    subprocess.run(
        [sys.executable, "-m", "mrt5_jax", "train", "--gin_file=runs/quickstart.gin", *flags],
        env=os.environ | {"JAX_ENABLE_X64": "1" if double else "0"},
        capture_output=True,
        check=True,
    )
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("double", "bound"), [(False, 1e-6), (True, 1e-12)], ids=["float32", "float64"])
def test_a_run_goes_on_on_the_host_in_microbatches(double: bool, bound: float, tmp_path: Path) -> None:
    dtype = DOUBLE if double else []
    whole = run(tmp_path / "whole", dtype, double=double)
    shutil.copytree(tmp_path / "whole", tmp_path / "other")
    shutil.rmtree(tmp_path / f"other/checkpoints/{STEPS}")
    other = run(tmp_path / "other", [*dtype, *OTHER], double=double)
    assert [line["step"] for line in other] == [line["step"] for line in whole] == list(range(1, STEPS + 1))
    losses = np.array([[line["total_loss"] for line in lines] for lines in (whole, other)])
    differences = np.abs(losses[1] / losses[0] - 1)
    print(f"largest relative difference of a loss in steps {STOPPED + 1} to {STEPS}: {differences[STOPPED:].max():.1e}")
    np.testing.assert_array_equal(losses[0][:STOPPED], losses[1][:STOPPED], "steps before it went on")
    assert (losses[0] != losses[1]).any(), "another execution rounds otherwise"
    assert differences[STOPPED:].max() < bound
    rates = [[line["deletion_rate"] for line in lines] for lines in (whole, other)]
    np.testing.assert_allclose(*rates, rtol=0, atol=1e-6)
