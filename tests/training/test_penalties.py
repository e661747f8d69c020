"""A selector's penalties add the same to loss and gradient, whatever a batch is cut into."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from .penalties import largest_difference

TOLERANCE = 1e-12
WAYS = [
    ("soft", 1, 1, "in_graph"),
    ("hard", 4, 2, "in_graph"),
    pytest.param("soft", 1, 4, "in_graph", marks=pytest.mark.slow),
    pytest.param("hard", 4, 2, "host", marks=pytest.mark.slow),
    pytest.param("saturated", 4, 1, "in_graph", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("deletion", "chunks", "parts", "dispatch"), WAYS)
def test_the_mean_gate_value_is_that_of_the_batch(deletion: Any, chunks: int, parts: int, dispatch: str) -> None:
    """Of packed rows, in chunks and microbatches, in float64."""
    with jax.enable_x64(True):
        assert largest_difference(deletion, chunks, parts, dispatch) < TOLERANCE


@pytest.mark.parametrize(
    ("chunks", "parts", "dispatch"), [(4, 2, "in_graph"), pytest.param(4, 2, "host", marks=pytest.mark.slow)]
)
def test_each_row_is_weighed_by_its_own_controller(chunks: int, parts: int, dispatch: str) -> None:
    with jax.enable_x64(True):
        assert largest_difference("hard", chunks, parts, dispatch, several=True) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("chunks", [1, 4])
def test_the_mean_gate_value_is_that_of_the_batch_on_eight_devices(
    repository: Path, chunks: int, *, several: bool
) -> None:
    order = json.dumps({"deletion": "hard", "chunks": chunks, "parts": 1, "several": several})
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.penalties", order],
        env=os.environ,
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < TOLERANCE
