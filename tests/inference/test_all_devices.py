"""Generating, scoring and encoding on eight devices: what one device answers, and no row leaves its device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrt5_jax.tools.collectives import Collective, collectives
from mrt5_jax.tools.hlo import parse_hlo

pytestmark = pytest.mark.slow

Cases = list[tuple[int, str, int, int]]


def answered(
    repository: Path, cases: Cases, searches: tuple[str, ...], *flags: str, float64: bool = False
) -> list[dict[str, Any]]:
    xla_flags = " ".join([os.environ["XLA_FLAGS"], *flags])
    done = subprocess.run(
        [sys.executable, "-m", "tests.inference.on_devices", json.dumps(cases), json.dumps(searches)],
        env=os.environ | {"XLA_FLAGS": xla_flags, "JAX_NUM_CPU_DEVICES": "8", "JAX_ENABLE_X64": str(int(float64))},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("float64", "relative", "absolute"), [(False, 1e-6, 1e-4), (True, 0, 1e-10)])
def test_answers_are_those_of_one_device(repository: Path, float64: bool, relative: float, absolute: float) -> None:
    """Ids are equal, log-probabilities to rounding; in windows, chunks and single batches, under both dispatches.

    In float32 the targets that are scored, which this random model finds improbable, have log-probabilities down to
    -60: there 1e-4 is a few units in the last place, which other shapes of a product may differ by.
    """
    cases = [(1, "host", 1, 2), (8, "host", 1, 2), (8, "host", 2, 1), (8, "in_graph", 1, 2)]
    searches = "greedy", "speculative", "sampling", "beam"
    one, *others = answered(repository, cases, searches, float64=float64)
    assert len({kept for *_, kept in one["greedy"]}) > 3
    for found in others:
        np.testing.assert_allclose(found["scores"], one["scores"], rtol=relative, atol=absolute)
        for search in searches:
            for (ids, score, *counts), (same_ids, same_score, *same_counts) in zip(
                found[search], one[search], strict=True
            ):
                assert (ids, counts) == (same_ids, same_counts)
                assert score == pytest.approx(same_score, rel=0, abs=absolute)
        assert found["positions"] == one["positions"]
        np.testing.assert_allclose(found["hidden"], one["hidden"], rtol=0, atol=absolute)


def test_no_row_leaves_its_device(repository: Path, tmp_path: Path) -> None:
    """In all programs that ran, by the compiler's text; devices tell each other maxima of kept counts, and whether all
    rows have ended. Beams are left out: whether top_k is computed where its rows lie is the compiler's choice."""
    answered(
        repository,
        [(8, "host", 1, 2)],
        ("greedy", "speculative", "sampling"),
        f"--xla_dump_to={tmp_path}",
        "--xla_dump_hlo_as_text",
    )
    found: list[Collective] = []
    for program in tmp_path.glob("*after_optimizations.txt"):
        found += collectives(parse_hlo(program.read_text()))
    assert found, "the maxima"
    assert {one.kind for one in found} == {"all-reduce"}
    assert max(one.bytes for one in found) <= 8 * 4
