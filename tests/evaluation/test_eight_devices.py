"""An evaluation in chunks on eight devices: every row stays where it lies, and the records are those of one device."""

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

ROWS = 32
config = make_config()
lengths = tuple(int(size) for size in np.random.default_rng(0).integers(2, LENGTH + 1, ROWS))
batch = EvalBatch(make_batch(0, lengths), tuple(ExampleInfo("t", "", row) for row in range(ROWS)))
model_dirs.eval_batches = lambda *_, **__: [batch]
params = jax.tree.map(lambda leaf: leaf.astype(np.float32), make_params(config, 1))

def records(devices, dispatch, chunks):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    loaded = model_dirs.LoadedModel(MrT5(config), jax.device_put(params, replicated(mesh)), 0, mesh)
    execution = ExecutionConfig(rungs=(4, 8), inference_dispatch=dispatch, chunks=chunks)
    data = DataConfig("t", ("t",), LENGTH, TARGET, ROWS, ROWS)
    run = RunConfig("", config, data, TrainingConfig(num_steps=1), execution=execution)
    return [record._asdict() for record in model_dirs.evaluate_task(loaded, run, "t", "test", ("hard",)).records]

print(json.dumps([records(*case) for case in json.loads(sys.argv[1])]))
"""


def evaluated(repository: Path, cases: list[tuple[int, str, int]], *flags: str) -> list[Any]:
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


@pytest.mark.parametrize("dispatch", ["in_graph", pytest.param("host", marks=pytest.mark.slow)])
def test_only_the_chunks_maxima_are_exchanged(repository: Path, tmp_path: Path, dispatch: str) -> None:
    """In all programs that ran, by the compiler's text: two integers, one for each chunk."""
    evaluated(repository, [(8, dispatch, 2)], f"--xla_dump_to={tmp_path}", "--xla_dump_hlo_as_text")
    found: list[Collective] = []
    programs = list(tmp_path.glob("*after_optimizations.txt"))
    for program in programs:
        found += collectives(parse_hlo(program.read_text()))
    assert any("num_partitions=8" in program.read_text() for program in programs)
    assert found, "the maxima"
    assert {(one.kind, one.bytes) for one in found} == {("all-reduce", 2 * 4)}


@pytest.mark.slow
def test_records_are_those_of_one_device(repository: Path) -> None:
    """But for the rung: a device sorts its own rows into chunks."""
    cases = [(1, "in_graph", 1), (8, "in_graph", 2), (8, "host", 2), (8, "host", 4)]
    plain, *others = evaluated(repository, cases)
    assert len({record["num_kept_tokens"] for record in plain}) > 3
    for records in others:
        for one, other in zip(plain, records, strict=True):
            assert one | {"nll": 0, "rung": 0} == other | {"nll": 0, "rung": 0}
            assert one["nll"] == pytest.approx(other["nll"], rel=1e-5)
    # Of two chunks a device each has a row that keeps much on some device; of four the first has none.
    assert sum(record["rung"] for record in others[-1]) < sum(record["rung"] for record in plain)
