"""An evaluation in chunks and windows on eight devices: rows stay where they lie, records are those of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.tools.collectives import Collective, collectives
from mrt5_jax.tools.hlo import parse_hlo

CHILD = """
import dataclasses, json, sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from mrt5_jax.config import DataConfig, ExecutionConfig, MeshConfig, RunConfig, TrainingConfig
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.arrangements import ExampleInfo
from mrt5_jax.evaluation import model_dirs
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh, replicated
from tests.model.small import LENGTH, TARGET, make_batch, make_config, make_params

ROWS, BATCHES = 16, 3
config = make_config()

def batch_of(number):
    lengths = tuple(int(size) for size in np.random.default_rng(number).integers(2, LENGTH + 1, ROWS))
    examples = tuple(ExampleInfo("t", "", ROWS * number + row) for row in range(ROWS))
    return EvalBatch(make_batch(number, lengths), examples)

model_dirs.eval_batches = lambda *_, **__: map(batch_of, range(BATCHES))
model_dirs.eval_languages = lambda *_: ()
params = jax.tree.map(lambda leaf: leaf.astype(np.float32), make_params(config, 1))

def records(devices, dispatch, chunks, window):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    loaded = model_dirs.LoadedModel(MrT5(config), jax.device_put(params, replicated(mesh)), 0, mesh)
    execution = ExecutionConfig(rungs=(4, 8), inference_dispatch=dispatch, chunks=chunks, window=window)
    data = DataConfig("t", ("t",), LENGTH, TARGET, ROWS, ROWS)
    run = RunConfig("", config, data, TrainingConfig(num_steps=1), execution=execution)
    return [record._asdict() for record in model_dirs.evaluate_task(loaded, run, "t", "test", ("hard",)).records]

print(json.dumps([records(*case) for case in json.loads(sys.argv[1])]))
"""


def evaluated(repository: Path, cases: list[tuple[int, str, int, int]], *flags: str) -> list[Any]:
    environment = os.environ | {"XLA_FLAGS": " ".join([os.environ["XLA_FLAGS"], *flags])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(cases)],
        env=environment,
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dispatch", "chunks", "window"),
    [("host", 1, 2), *(pytest.param(dispatch, 2, 1, marks=pytest.mark.slow) for dispatch in ("host", "in_graph"))],
)
def test_only_the_chunks_maxima_are_exchanged(
    repository: Path, tmp_path: Path, dispatch: str, chunks: int, window: int
) -> None:
    """In all programs that ran, by the compiler's text: two integers, one for each chunk of a batch or of a window."""
    evaluated(repository, [(8, dispatch, chunks, window)], f"--xla_dump_to={tmp_path}", "--xla_dump_hlo_as_text")
    found: list[Collective] = []
    programs = list(tmp_path.glob("*after_optimizations.txt"))
    for program in programs:
        found += collectives(parse_hlo(program.read_text()))
    assert any("num_partitions=8" in program.read_text() for program in programs)
    assert found, "the maxima"
    assert {(one.kind, one.bytes) for one in found} == {("all-reduce", 2 * 4)}


@pytest.mark.slow
def test_records_are_those_of_one_device(repository: Path) -> None:
    """But for the rung: a device sorts its own rows into chunks, of one batch or of several."""
    cases = [(1, "in_graph", 1, 1), (8, "in_graph", 2, 1), (8, "host", 2, 1), (8, "in_graph", 1, 2), (8, "host", 2, 2)]
    plain, *others = evaluated(repository, cases)
    assert len({record["num_kept_tokens"] for record in plain}) > 3
    for records in others:
        for one, other in zip(plain, records, strict=True):
            assert one | {"nll": 0, "rung": 0} == other | {"nll": 0, "rung": 0}
            assert one["nll"] == pytest.approx(other["nll"], rel=1e-5)
    # Each of two chunks has a row that keeps much on some device; of the four of a window the first has none.
    assert sum(record["rung"] for record in others[-1]) < sum(record["rung"] for record in plain)
