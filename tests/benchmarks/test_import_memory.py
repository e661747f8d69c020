"""benchmarks.import_memory: an import reads the model that it makes, in shards; and all of it at a small size."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from mrt5_jax.interop.hf import read_hf


@pytest.fixture
def import_memory(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, which is no part of the package."""
    monkeypatch.syspath_prepend(str(repository))
    return importlib.import_module("benchmarks.import_memory")


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_the_model_is_read_and_has_the_size_and_shards_it_says(import_memory: Any, tmp_path: Path, stored: str) -> None:
    least = 10**6
    size = import_memory.make_source(tmp_path / "source", "tiny", import_memory.DTYPES[stored], least)
    model = read_hf(tmp_path / "source")
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)) == size
    assert bool(model.notes) == (stored == "bfloat16"), "which is widened"
    *full, _ = sorted(tmp_path.glob("source/*.safetensors"))
    assert full
    assert all(path.stat().st_size >= least for path in full)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's figures of a process")
def test_it_prints_a_row_for_each_type(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.import_memory", "--size=tiny", "--shard=1", f"--folder={tmp_path}"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["float32", "bfloat16"]
    assert all(int(row[3]) > 0 for row in rows)
    assert not list(tmp_path.iterdir())
