"""A model that is spread over eight devices answers what it answers on one, and each of them has rows of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = """
import dataclasses, json, pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
from mrt5_jax.config import DataConfig, ExecutionConfig, MeshConfig, RunConfig, TrainingConfig
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.sources import IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.evaluation.generation import generate_answers
from mrt5_jax.evaluation.label_scores import score_labels
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.inference import engine
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.parallel.shardings import param_shardings
from tests.inference.models import random_params, small_config

def example(split, index):
    return {"inputs": f"{7919 * index:0{4 + index}} is it?", "targets": "1"}

name = add_task(TaskSpec("test.devices", IndexedSource(one_by_one(example), {"test": 18}), labels=("0", "1", "2")))
config = small_config(vocab_size=384)
run = RunConfig("", config, DataConfig(name, (name,), 48, 6, 8, 8), TrainingConfig(num_steps=1))
params, ids = random_params(config), jax.ShapeDtypeStruct((1, 1), jnp.int32)

devices_of_rows = set()
spread_rows = engine.spread_rows

def noted(rows, mesh):
    spread = spread_rows(rows, mesh)
    leaf = jax.tree.leaves(spread)[0]
    devices_of_rows.add((len(leaf.sharding.device_set), leaf.addressable_shards[0].data.shape[0]))
    return spread

engine.spread_rows = noted

def answers(mesh_config, devices, dispatch, batch_size, folder):
    data = dataclasses.replace(run.data, eval_batch_size=batch_size)
    own = dataclasses.replace(run, data=data, execution=ExecutionConfig(inference_dispatch=dispatch))
    mesh, model = make_mesh(mesh_config, jax.devices()[:devices]), MrT5(config)
    shardings = param_shardings(jax.eval_shape(model.init, jax.random.key(0), ids, ids)["params"], mesh)
    loaded = LoadedModel(model, jax.device_put(params, shardings), 0, mesh)
    devices_of_rows.clear()
    files = [
        generate_answers(loaded, own, name, "test", "hard", Greedy(), folder),
        score_labels(loaded, own, name, "test", "hard", folder),
    ]
    return sorted(devices_of_rows), [json.loads(line) for file in files for line in file.read_text().splitlines()]

folder = pathlib.Path(sys.argv[1])
cases = [
    (MeshConfig(), 1, "host", 8),
    (MeshConfig(), 8, "host", 8),
    (MeshConfig(fsdp=2, tensor=2), 8, "host", 8),
    (MeshConfig(), 8, "in_graph", 16),
]
print(json.dumps([answers(*case, folder / str(number)) for number, case in enumerate(cases)]))
"""


@pytest.mark.slow
def test_answers_are_those_of_one_device(repository: Path, tmp_path: Path) -> None:
    """The same ids and counts, and scores to 1e-4: with parameters replicated or cut along two axes, whatever the batch
    size and the dispatch."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    placed, (alone, *spread) = zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
    assert list(placed) == [[[1, 8]], [[8, 1]], [[8, 2]], [[8, 2]]], "devices, and rows of a batch on each"
    assert len(alone) == 18 + 3 * 18
    assert len({answer["num_kept_tokens"] for answer in alone}) > 3
    for answers in spread:
        for one, other in zip(alone, answers, strict=True):
            assert _without_score(one) == _without_score(other)
            assert one["score"] == pytest.approx(other["score"], rel=1e-5, abs=1e-4)


def _without_score(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "score"}
