"""benchmarks.scheme_runs: the flags of every run make one."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.cli.gin_setup import resolve
from mrt5_jax.selection.selectors import SELECTORS
from mrt5_jax.validation import validate


@pytest.fixture
def runs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the benchmark, which is no part of the package."""
    monkeypatch.syspath_prepend(str(repository))
    return importlib.import_module("benchmarks.scheme_runs")


def test_every_run_can_be(runs: Any, tmp_path: Path) -> None:
    """At the seed and length of all, with its penalties and without."""
    (tmp_path / "en.txt").write_text("a few words\n" * 9)
    masks = tmp_path / "masks.jsonl"
    masks.write_text('{"inputs": "a few words", "mask": "100000000001"}\n')
    for name, (scheme, bound) in runs.runs().items():
        files = ["runs/pretrain_text.gin", *([] if scheme.file is None else [f"models/{scheme.file}.gin"])]
        paths = [f"TEXT_FILES='{tmp_path}/en.txt'", f"MODEL_DIR='{tmp_path}/run'"]
        paths += [f"MASKS='{masks}'"] if scheme.file == "oracle_t5" else []
        run = resolve(files, bindings=[*paths, *bound]).run
        validate(run)
        gate = run.model.gate
        assert gate is not None
        assert gate.kind in SELECTORS, name
        assert (run.training.seed, run.training.num_steps, gate.layer) == (runs.SEED, runs.STEPS, 1), name
        weights = dict(run.loss.penalties)
        assert run.controller is None or not name.endswith("no penalty"), name
        assert not (name.endswith("no penalty") and weights), name
