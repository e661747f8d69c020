"""`mrt5 eval` with noise laid over a MODEL_DIR: how accuracy falls, a row for each kind and rate."""

import csv
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main

from .small_run import NUM_TEST, make_model_dir


@pytest.mark.slow
def test_each_noise_has_its_own_figures_beside_those_without(tmp_path: Path) -> None:
    model_dir = make_model_dir(tmp_path / "model")
    flags = ["--gin_file=runs/noise.gin", "--gin.NOISE_KINDS=('drop', 'swap')", "--gin.NOISE_RATES=(0.0, 1.0)"]
    tables = tmp_path / "tables.csv"
    argv = ["eval", f"--model_dir={model_dir}", *flags, "--deletion", "none", "hard", "--tables", str(tables)]
    assert main(argv) == 0
    with tables.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["figure"], row["deletion"]) == ("loss", "none")]
    clean = f"diagnostics.vowel_removal.length12.test{NUM_TEST}"
    noisy = {f"{clean}.{kind}_{rate}" for kind in ("drop", "swap") for rate in (0, 1)}
    found = {row["task"]: float(row["value"]) for row in rows}
    assert set(found) == {f"{clean}.noise", clean, *noisy}
    assert {row["task"]: int(row["num_examples"]) for row in rows} == {
        f"{clean}.noise": 5 * NUM_TEST,
        **dict.fromkeys((clean, *noisy), NUM_TEST),
    }
    for kind in ("drop", "swap"):
        assert found[f"{clean}.{kind}_0"] == pytest.approx(found[clean], rel=1e-5)
        assert abs(found[f"{clean}.{kind}_1"] - found[clean]) > 1e-3
