"""ByT5-small's training step, compiled for a TPU, is within 2 % of the figures in benchmarks/tpu_compiler."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROWS = ("soft in_graph", "saturated in_graph", "saturated capacity", "saturated host")
WITHIN = 0.02


@pytest.fixture(scope="module")
def stored(repository: Path) -> dict[str, Any]:
    """The rows that the installed compiler made before."""
    pytest.importorskip("libtpu")
    compiler = f"jax_{metadata.version('jax')}_libtpu_{metadata.version('libtpu')}"
    path = repository / "benchmarks" / "tpu_compiler" / f"{compiler}.json"
    if not path.exists():
        pytest.skip(f"no figures of {compiler} are stored: those of another compiler are not comparable")
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def compiled(row: str, repository: Path, output: Path) -> dict[str, Any]:
    """The row's figures now, of a process with the compiler's usual options instead of the tests'."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "benchmarks.tpu_figures", f"--deletions={row}", f"--output={output}"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text(encoding="utf-8"))["rows"][row]


def numbers(figures: dict[str, Any]) -> dict[str, float]:
    """Multiply-adds by rung; of each program temporaries, flops, and collectives by kind, axes and branch."""
    found = {f"multiply-adds at {rung}": count for rung, count in figures["multiply_adds"].items()}
    for name, program in figures["programs"].items():
        found |= {f"{name}: {quantity}": program[quantity] for quantity in ("temporaries", "flops")}
        for one in program["collectives"]:
            where = f"{name}: {one['kind']} over {one['axes']} in branch {one['branch'] or 'none'}"
            found |= {f"{where}, {quantity}": one[quantity] for quantity in ("count", "bytes")}
    return found


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("row", ROWS)
def test_the_step_compiles_to_what_is_stored(
    row: str, stored: dict[str, Any], repository: Path, tmp_path: Path
) -> None:
    before, now = numbers(stored[row]), numbers(compiled(row, repository, tmp_path / "now.json"))
    assert before.keys() == now.keys()
    differ = {
        name: (before[name], now[name]) for name in before if now[name] != pytest.approx(before[name], rel=WITHIN)
    }
    assert not differ, f"(stored, now) differ by more than {WITHIN:.0%}"
