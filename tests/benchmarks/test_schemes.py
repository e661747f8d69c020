"""Every scheme of `benchmarks.schemes` keeps exactly what the benchmark forces on it, at a small size."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import dataclasses

from benchmarks import schemes  # first: it sets the allocator

import jax
import numpy as np

from benchmarks.bench_model import make_params
from benchmarks.kept_rows import SMALL, batch_keeping
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward

for kind in {gate.kind for gate in schemes.SCHEMES.values()}:
    schemes.with_forced_choice(kind)
batch, run = batch_keeping([5, 8], 16, 4), jax.jit(forward, static_argnums=0)
for name, gate in schemes.SCHEMES.items():
    config = dataclasses.replace(SMALL, gate=dataclasses.replace(gate, layer=1))
    found = run(ForwardSetting(MrT5(config), "hard", Ladder((8, 16))), make_params(config), batch)
    assert np.asarray(found.at_gate.keep).sum(1).tolist() == [5, 8], name
    assert set(np.asarray(found.rungs).tolist()) == {8}, name
    assert np.isfinite(np.asarray(found.logits)).all(), name
    assert schemes.ideal(config, np.array([5, 8])) > 0, name
"""


@pytest.mark.slow
def test_all_schemes_keep_the_same(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
