"""A run that decides by itself: from soft to saturated deletion, and in how many chunks; the same when resumed."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import (
    Dispatch,
    RunConfig,
)
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.axis_rules import RowShards
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.training import platform_costs, programs
from mrt5_jax.training.choice import step_shape
from mrt5_jax.training.hooks import Every, Hook, Moment
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import Learning, TrainStep, make_train_step

from ..compaction.compilations import compilations
from ..model.small import param_shapes
from .auto_runs import FREE, LENGTH, STEPS, SWITCHES, Gate, auto_run, kept, seen
from .small_runs import checkpoints_of, metrics_of, same_bits
from .test_devices import two_places

pytestmark = pytest.mark.usefixtures("kept_programs")

CHILD = Path(__file__).parent / "auto_on_devices.py"


@pytest.fixture(scope="module", autouse=True)
def _small_runs_can_choose() -> Iterator[None]:
    """Nothing but products costs anything; and equal runs share their programs, so that they are traced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(platform_costs.TIMED, "cpu", FREE)
        made: dict[RunConfig, TrainStep] = {}

        def shared(model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, shards: RowShards) -> TrainStep:
            key = dataclasses.replace(run, model_dir="")
            return made.setdefault(key, make_train_step(model, run, learning, ladder, shards))

        patch.setattr(programs, "make_train_step", shared)
        patch.setattr(programs, "evaluation_program", functools.cache(programs.evaluation_program))
        yield


@pytest.fixture(scope="module")
def task() -> str:
    from mrt5_jax.tasks.diagnostics import diagnostic_task

    return diagnostic_task("copy", length=LENGTH, num_train=100, num_validation=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, task: str) -> tuple[TrainState, Path]:
    run = auto_run(tmp_path_factory.mktemp("whole"), task)
    return train(run, hooks=[Gate()], writers=()), Path(run.model_dir)


def test_a_run_switches_to_saturated_deletion_in_chunks_when_that_saves(whole: tuple[TrainState, Path]) -> None:
    """Before, it is soft at full length."""
    state, model_dir = whole
    lines = [line for line in metrics_of(model_dir) if "total_loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert {line["rung"] for line in lines[: SWITCHES - 1]} == {LENGTH}
    assert lines[SWITCHES - 2]["deletion_rate"] > 0.2
    assert all(line["rung"] < LENGTH for line in lines[SWITCHES - 1 :])
    assert state.kept is not None
    assert state.kept["saturated"].num_chunks.tolist() == [8]


def test_what_was_saved_is_in_every_line(whole: tuple[TrainState, Path]) -> None:
    _, model_dir = whole
    for line in metrics_of(model_dir):
        if "total_loss" in line:
            assert (line["saved"] == 0) == (line["rung"] == LENGTH)
            assert line["saved"] <= line["saved_if_exact"] + 1e-6
        else:
            assert any(name.endswith("/soft/saved") for name in line)
            assert any(name.endswith("/soft/saved_if_exact") for name in line)


@pytest.mark.parametrize(
    "stopped",
    [
        pytest.param(SWITCHES - 1, id="before it switches"),
        pytest.param(STEPS - 1, id="afterwards", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_run(
    stopped: int, whole: tuple[TrainState, Path], task: str, tmp_path: Path
) -> None:
    """Byte for byte, choices included: the second start has no other memory than the checkpoint."""
    state, model_dir = whole
    shutil.copytree(model_dir, tmp_path / "resumed")
    for step in checkpoints_of(model_dir):
        if step > stopped:
            shutil.rmtree(tmp_path / f"resumed/checkpoints/{step}")
    resumed = train(auto_run(tmp_path / "resumed", task), hooks=[Gate()], writers=())
    assert same_bits(state, resumed)
    assert (tmp_path / "resumed/metrics.jsonl").read_bytes() == (model_dir / "metrics.jsonl").read_bytes()


class Distribution(Hook):
    """Puts another histogram into the state: what rows keep changes twice, and comes back."""

    def before(self, step: int, state: TrainState, batch: Any) -> TrainState:
        alike, mixed = kept(0.25), kept(0.25, 0.5, 0.75, 1.0)
        return seen(state, kept(1.0) if step <= 100 else mixed if step <= 200 or step > 350 else alike)

    def due(self, moment: Moment) -> bool:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["in_graph", "host"])
def test_a_stream_whose_distribution_changes_compiles_each_program_once(
    dispatch: Dispatch, tmp_path: Path, task: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soft, saturated in four chunks, in one, in four again; on the host all is there before the first step."""
    run = auto_run(tmp_path, task)
    shape = step_shape(run, Ladder((8, 16, 24, LENGTH)), make_mesh(run.execution.mesh), param_shapes(run.model))
    monkeypatch.setitem(platform_costs.TIMED, "cpu", FREE._replace(chunk=0.01 * shape.rows * shape.full))
    how = dataclasses.replace(run.execution, rungs=(8, 16, 24), dispatch=dispatch, log_every=500)
    training = dataclasses.replace(run.training, num_steps=500, eval_every=500)
    checkpoints = dataclasses.replace(run.checkpoints, every=500)
    run = dataclasses.replace(run, training=training, execution=how, checkpoints=checkpoints)
    compiled_before: dict[int, int] = {}
    with compilations() as compiled:

        def note(moment: Moment) -> None:
            compiled_before[moment.step] = len(compiled)

        state = train(run, hooks=[Distribution(), Every(1, note)], writers=())
    assert state.kept is not None
    assert state.kept["saturated"].num_chunks.tolist() == [4]
    said = capfd.readouterr().err
    assert (said.count("run in 4 chunks from here on"), said.count("run in one chunk from here on")) == (2, 1)
    grew = [step for step in range(2, 500) if compiled_before[step] > compiled_before[step - 1]]
    print(dispatch, "compiled after steps", grew, compiled[compiled_before[1] : compiled_before[499]])
    if dispatch == "host":
        assert all("check" in name for name in compiled[compiled_before[1] : compiled_before[499]])
    else:
        assert [step // 50 for step in grew] == [2, 4], "at the first change and at the second, not at the third"
        steps = [name for name in compiled[: compiled_before[499]] if "train_step" in name]
        assert len(steps) == 3, "soft, in four chunks, in one"


def chosen_on(orders: list[dict[str, Any]]) -> list[Any]:
    """What each of the processes says of the choices of its run."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.auto_on_devices", json.dumps(order)],
            cwd=CHILD.parents[2],
            env=os.environ | {"JAX_ENABLE_X64": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for order in orders
    ]
    outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), [errors[-3000:] for _, errors in outputs]
    return [json.loads(out.splitlines()[-1]) for out, _ in outputs]


@pytest.mark.slow
def test_eight_devices_choose_alike_in_one_process_and_in_two(tmp_path: Path) -> None:
    (alone,) = chosen_on([{"devices": 8, "model_dir": str(tmp_path / "one")}])
    two = chosen_on([{"devices": 4, "model_dir": str(tmp_path / "two"), "process": place} for place in two_places()])
    assert alone["saturated"][0] > 1, "of 8 rows on a device"
    assert two == [alone, alone]
    ours, theirs = (metrics_of(tmp_path / name) for name in ("one", "two"))
    steps = [pair for pair in zip(ours, theirs, strict=True) if "rung" in pair[0]]
    # Two processes add gradients up in another order: after some steps of so steep a gate other positions stay.
    alike = [(one["rung"], other["rung"]) for one, other in steps if one["kept_length"] == other["kept_length"]]
    assert len(alike) >= 4
    assert all(one == other for one, other in alike)
    assert min(line["rung"] for line, _ in steps) < LENGTH
