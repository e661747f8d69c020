"""Runs whose rows are dealt to the devices: they compute what others compute, at shorter lengths."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import RunConfig
from mrt5_jax.data import expectation
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.axis_rules import MESH_AXES, RowShards
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.training import programs
from mrt5_jax.training.dealing import dealing_of, features_dealt_by
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import Learning, TrainStep, make_train_step

from .dealt_runs import INTERVAL, LENGTH, STEPS, text_run, write_text
from .small_runs import checkpoints_of, metrics_of, same_bits
from .test_devices import two_places

pytestmark = pytest.mark.usefixtures("kept_programs")

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def task(text: str) -> str:
    from mrt5_jax.tasks.span_corruption import text_task

    return text_task(text, input_length=LENGTH, mean_span_length=4.0)


@pytest.fixture(scope="module", autouse=True)
def _soon_learned() -> Iterator[None]:
    """And equal runs share their programs, so that they are traced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expectation, "INTERVAL", INTERVAL)
        made: dict[RunConfig, TrainStep] = {}

        def shared(model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, shards: RowShards) -> TrainStep:
            key = dataclasses.replace(run, model_dir="")
            return made.setdefault(key, make_train_step(model, run, learning, ladder, shards))

        patch.setattr(programs, "make_train_step", shared)
        patch.setattr(programs, "evaluation_program", functools.cache(programs.evaluation_program))
        yield


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory, task: str) -> tuple[TrainState, Path]:
    """On one device, to which nothing need be dealt."""
    run = text_run(tmp_path_factory.mktemp("dealt"), task, 1, "dealt", rungs=(32,), chunks=2)
    return train(run, writers=()), Path(run.model_dir)


def test_a_dealt_run_computes_what_others_compute(dealt: tuple[TrainState, Path], task: str, tmp_path: Path) -> None:
    """Dropout follows the rows; the predictor's state is in the checkpoint."""
    run = text_run(tmp_path, task, 1, "as_they_come", rungs=(32,), chunks=2)
    state = train(run, writers=())
    ours, theirs = ([line["total_loss"] for line in metrics_of(of) if "loss" in line] for of in (dealt[1], tmp_path))
    assert len(ours) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert not same_bits(dealt[0].params, state.params), "sums are taken in another order"


def test_a_resumed_dealt_run_is_the_uninterrupted_run(
    dealt: tuple[TrainState, Path], task: str, tmp_path: Path
) -> None:
    state, model_dir = dealt
    shutil.copytree(model_dir, tmp_path / "resumed")
    for step in checkpoints_of(model_dir):
        if step > 15:
            shutil.rmtree(tmp_path / f"resumed/checkpoints/{step}")
    run = text_run(tmp_path / "resumed", task, 1, "dealt", rungs=(32,), chunks=2)
    assert same_bits(state, train(run, writers=()))
    assert (tmp_path / "resumed/metrics.jsonl").read_bytes() == (model_dir / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "is_dealt"),
    [
        ({}, True),
        ({"chunks": "auto"}, True),
        ({"chunks": 1}, False),
        ({"chunks": 1, "microbatches": 2}, True),
        ({"device_rows": "as_they_come"}, False),
    ],
)
def test_rows_are_dealt_where_that_can_save_something(task: str, change: dict[str, Any], is_dealt: bool) -> None:
    eight = AbstractMesh((4, 2, 1), MESH_AXES)
    run = text_run(Path("unused"), task, 8, "as_they_come")
    execution = dataclasses.replace(run.execution, **{"device_rows": "auto"} | change)
    run = dataclasses.replace(run, execution=execution)
    ladders = {LENGTH: Ladder((32, LENGTH))}
    assert bool(features_dealt_by(run, eight, ladders)) == is_dealt
    soft = dataclasses.replace(run.training, deletion="soft")
    assert not features_dealt_by(dataclasses.replace(run, training=soft), eight, ladders)
    assert not features_dealt_by(run, eight, {LENGTH: Ladder((LENGTH,))})
    assert dealing_of(run, make_mesh(run.execution.mesh), ladders) is None, "one device"


class SeenInRun(NamedTuple):
    """By one process, see `dealt_runs.Seen`."""

    rows: list[list[str]]
    compiled: list[str]
    num_compiled: list[int]


def run_on(orders: list[dict[str, Any]], killed: bool = False) -> list[SeenInRun]:
    """What each process saw."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.dealt_runs", json.dumps({"x64": True} | order)],
            cwd=REPOSITORY,
            env=os.environ | {"JAX_ENABLE_X64": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for order in orders
    ]
    outputs = [process.communicate() for process in processes]
    if killed:
        assert all(process.returncode == -9 for process in processes), outputs
        return []
    assert all(process.returncode == 0 for process in processes), [errors[-3000:] for _, errors in outputs]
    return [SeenInRun(**json.loads(out.splitlines()[-1])) for out, _ in outputs]


def steps_of(model_dir: Path) -> list[dict[str, float]]:
    return [line for line in metrics_of(model_dir) if "total_loss" in line]


@pytest.fixture(scope="module")
def undealt_on_eight(text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SeenInRun]:
    model_dir = tmp_path_factory.mktemp("undealt")
    (seen,) = run_on([{"devices": 8, "model_dir": str(model_dir), "text": text, "device_rows": "as_they_come"}])
    return model_dir, seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "execution"),
    [
        (1, {}),
        (2, {}),
        (1, {"dispatch": "host"}),
        (1, {"chunks": 1, "microbatches": 4, "microbatch_rows": "sorted"}),
        (2, {"mesh": [2, 2, 2]}),
    ],
)
def test_dealing_changes_the_slots_and_nothing_else(
    processes: int, execution: dict[str, Any], text: str, undealt_on_eight: tuple[Path, SeenInRun], tmp_path: Path
) -> None:
    """In float64: losses, deletion rates, which rows each batch has, and what is compiled."""
    order = {"text": text, "model_dir": str(tmp_path / "dealt"), "device_rows": "dealt", "execution": execution}
    if processes == 1:
        found = run_on([order | {"devices": 8}])
    else:
        found = run_on([order | {"devices": 4, "process": place} for place in two_places()])
    model_dir, as_they_come = undealt_on_eight
    dealt, undealt = steps_of(tmp_path / "dealt"), steps_of(model_dir)
    assert len(dealt) == len(undealt) == STEPS
    for one, other in zip(dealt, undealt, strict=True):
        assert one["total_loss"] == pytest.approx(other["total_loss"], rel=1e-9)
        assert one["deletion_rate"] == pytest.approx(other["deletion_rate"], abs=1e-9)
    if "mesh" not in execution:  # else several devices have the same rows
        for number, rows in enumerate(as_they_come.rows):
            assert sorted(itertools.chain(*(of.rows[number] for of in found))) == sorted(rows)
    for seen in found:
        assert seen.num_compiled[-1] == seen.num_compiled[1], "nothing is compiled after the first step"
    if processes == 1 and not execution:
        assert Counter(found[0].compiled) == Counter(as_they_come.compiled)
        print(dict(Counter(found[0].compiled)))
    learned = slice(2 * INTERVAL, STEPS)
    slots = [float(np.mean([line["rung"] for line in of[learned]])) for of in (dealt, undealt)]
    kept = float(np.mean([line["kept_length"] for line in dealt[learned]]))
    print(f"{processes} processes, {execution}: {slots[0]:.2f} slots dealt, {slots[1]:.2f} undealt, kept {kept:.2f}")
    assert slots[0] < slots[1]


@pytest.mark.slow
def test_a_killed_dealt_run_goes_on_byte_for_byte(text: str, tmp_path: Path) -> None:
    order = {"devices": 8, "text": text, "device_rows": "dealt"}
    run_on([order | {"model_dir": str(tmp_path / "whole")}])
    run_on([order | {"model_dir": str(tmp_path / "killed"), "kill": 18}], killed=True)
    run_on([order | {"model_dir": str(tmp_path / "killed")}])
    whole, killed = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


@pytest.mark.slow
def test_dealing_is_switched_on_and_off_at_a_resume(text: str, tmp_path: Path) -> None:
    """In float64: losses are those of the run that never deals."""
    order = {"devices": 8, "text": text}
    run_on([order | {"model_dir": str(tmp_path / "whole"), "device_rows": "as_they_come"}])
    for first, later in (("dealt", "as_they_come"), ("as_they_come", "dealt")):
        model_dir = tmp_path / f"{first} first"
        run_on([order | {"model_dir": str(model_dir), "device_rows": first, "kill": 12}], killed=True)
        (seen,) = run_on([order | {"model_dir": str(model_dir), "device_rows": later}])
        assert len(seen.rows) < STEPS, "it went on"
        for one, other in zip(steps_of(model_dir), steps_of(tmp_path / "whole"), strict=True):
            assert one["total_loss"] == pytest.approx(other["total_loss"], rel=1e-9)
