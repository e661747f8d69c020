"""A run that decides by itself: from soft to saturated deletion, and in how many chunks; the same when resumed."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import CompactionConfig, ExecutionConfig, GateConfig, MonitorConfig, RunConfig, TrainingConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.objectives.kept_lengths import BINS, KeptLengths
from mrt5_jax.parallel.axis_rules import RowShards
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.runs.run_files import claim, read_run
from mrt5_jax.training import platform_costs, programs
from mrt5_jax.training.choosing import Choices
from mrt5_jax.training.hooks import Monitor
from mrt5_jax.training.loop import train
from mrt5_jax.training.monitor import Checked
from mrt5_jax.training.state import TrainState, initial_monitor
from mrt5_jax.training.step import Learning, TrainStep, make_train_step

from .auto_runs import FREE, INTERVAL, LENGTH, STEPS, SWITCHES, Gate, auto_run
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


def test_the_monitor_is_not_asked_before_saturated_deletion_saves_anything() -> None:
    def check(state: TrainState, batch: Any) -> Checked:
        raise AssertionError("it takes two forward passes")

    state = TrainState(jnp.int32(0), {}, (), (), initial_monitor())
    monitor = Monitor(MonitorConfig(), check, state, wanted=lambda: False)
    assert monitor.before(1, state, {}) is state
    with pytest.raises(AssertionError, match="two forward passes"):
        Monitor(MonitorConfig(), check, state, wanted=lambda: True).before(1, state, {})


def choices_of(run: RunConfig, counts: list[float] | None = None) -> tuple[Choices, TrainState]:
    """With the state of a run that has seen such rows."""
    nothing = KeptLengths(jnp.zeros((1, BINS)), jnp.zeros(1, jnp.int32))
    seen = nothing if counts is None else nothing._replace(counts=jnp.asarray([counts]))
    state = TrainState(jnp.int32(0), {}, (), (), None, {"hard": nothing, "saturated": seen})
    ladders = {LENGTH: Ladder(tuple(range(4, LENGTH + 1, 4)))}
    return Choices(run, make_mesh(run.execution.mesh), ladders, state), state


def kept(*shares: float) -> list[float]:
    counts = [0.0] * BINS
    for share in shares:
        counts[round(share * BINS) - 1] += 100
    return counts


def seen(state: TrainState, counts: list[float]) -> TrainState:
    assert state.kept is not None
    saturated = state.kept["saturated"]._replace(counts=jnp.asarray([counts]))
    return state._replace(kept={**state.kept, "saturated": saturated})


def test_choices_follow_what_rows_keep_and_each_change_is_one_line(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alike and short: one chunk; very different: several; everything kept: soft again. Nothing in between steps."""
    monkeypatch.setitem(platform_costs.TIMED, "cpu", FREE._replace(branch=0.1))
    choices, state = choices_of(auto_run(tmp_path, "task"))
    expected = [
        (kept(1.0), (False, 1), ""),
        (kept(0.25), (True, 1), "step 4: saturated steps run in one chunk from here on"),
        (kept(0.25, 0.5, 0.75, 1.0), (True, 8), "step 7: saturated steps run in 8 chunks from here on"),
        (kept(0.25, 0.5, 0.75, 1.0), (True, 8), ""),
        (kept(1.0), (False, 8), "step 13: steps delete by soft again"),
        (kept(0.25), (True, 1), "step 16: saturated steps run in one chunk from here on"),
    ]
    for number, (counts, (removes, num_chunks), line) in enumerate(expected):
        state = seen(state, counts)
        for step in range(INTERVAL * number + 1, INTERVAL * (number + 1) + 1):
            state = choices.before(step, state, {})
        assert choices.removes(LENGTH) == removes
        if removes:
            assert choices.num_chunks("saturated", LENGTH) == num_chunks
        assert choices.num_chunks("soft", LENGTH) == 1
        said = capfd.readouterr().err
        assert said.startswith(line)
        assert said.count("\n") == bool(line)
    assert state.kept is not None
    assert state.kept["saturated"].num_chunks.tolist() == [1]


def test_a_line_says_what_is_kept_expected_and_saved(tmp_path: Path, capfd: Any) -> None:
    choices, state = choices_of(auto_run(tmp_path, "task"), kept(0.25, 0.5, 0.75, 1.0))
    choices.before(1, state, {})
    line = capfd.readouterr().err
    assert "it keeps 8 to 32 of 32 positions in 8 of 10 rows" in line
    slots, saved, exact = map(float, re.findall(r"([\d.]+) slots.* saves (\d+)%.*would save (\d+)%", line)[0])
    assert 20 <= slots < 22, "rows keep 20 on average"
    assert 0 < saved <= exact


def test_a_run_goes_on_with_as_many_chunks_as_its_rows_allow(tmp_path: Path) -> None:
    """Eight were chosen; of six rows there can be six chunks."""
    run = auto_run(tmp_path, "task")
    _, state = choices_of(run)
    chosen = {name: of._replace(num_chunks=jnp.asarray([8], jnp.int32)) for name, of in (state.kept or {}).items()}
    six = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=6))
    for how, expected in ((run, 8), (six, 6)):
        ladders = {LENGTH: Ladder((16, LENGTH))}
        choices = Choices(how, make_mesh(how.execution.mesh), ladders, state._replace(kept=chosen))
        assert choices.num_chunks("saturated", LENGTH) == expected
        assert expected in choices.possible_chunks("saturated", LENGTH)
        assert choices.possible_chunks("soft", LENGTH) == (1,)


def test_a_gate_that_cannot_saturate_stays_soft_with_one_line(tmp_path: Path, capfd: Any) -> None:
    run = auto_run(tmp_path, "task")
    weak = dataclasses.replace(run, model=dataclasses.replace(run.model, gate=GateConfig(layer=1, scale=-10.0)))
    choices, state = choices_of(weak, kept(0.25))
    assert "steps delete softly throughout, since gate values never fall below" in capfd.readouterr().err
    choices.before(1, state, {})
    assert choices.possible_chunks("soft", LENGTH) == (1,)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("capacity", [None, 0.5])
def test_hard_deletion_chooses_chunks_too_but_has_one_rung_under_a_capacity(
    capacity: float | None, tmp_path: Path
) -> None:
    run = dataclasses.replace(
        auto_run(tmp_path, "task"),
        training=TrainingConfig(STEPS, "hard"),
        compaction=CompactionConfig(capacity=capacity),
    )
    _, state = choices_of(run)
    counts = jnp.asarray([kept(0.25, 0.5, 0.75, 1.0)])
    state = state._replace(kept={"hard": KeptLengths(counts, jnp.zeros(1, jnp.int32))})
    ladders = {LENGTH: Ladder((8, 16, LENGTH) if capacity is None else (16,), LENGTH)}
    choices = Choices(run, make_mesh(run.execution.mesh), ladders, state)
    choices.before(1, state, {})
    assert choices.num_chunks("hard", LENGTH) == (8 if capacity is None else 1)


def test_a_run_that_named_its_choices_keeps_them(tmp_path: Path, capfd: Any) -> None:
    """Its recipe says "auto" by now; what a user names, a number of chunks, still counts."""
    from mrt5_jax.runs.run_files import with_saved_choices

    auto = auto_run(tmp_path, "task")
    assert with_saved_choices(auto) == auto, "a new run"
    old = dataclasses.replace(
        auto, training=TrainingConfig(STEPS, "soft", eval_every=STEPS, eval_batches=1), execution=ExecutionConfig()
    )
    claim(old, "")
    kept_run = with_saved_choices(auto)
    assert (kept_run.training.deletion, kept_run.execution.chunks) == ("soft", 1)
    said = capfd.readouterr().err
    assert "begun with config.TrainingConfig.deletion = 'soft' and config.ExecutionConfig.chunks = 1" in said
    assert said.count("\n") == 1
    four = dataclasses.replace(auto, execution=ExecutionConfig(chunks=4))
    assert with_saved_choices(four).execution.chunks == 4
    values = json.loads((tmp_path / "run_config.json").read_text())
    del values["training"]["deletion"], values["execution"]["chunks"]
    (tmp_path / "run_config.json").write_text(json.dumps(values))
    kept_run = with_saved_choices(auto)
    assert (kept_run.training.deletion, kept_run.execution.chunks) == ("soft", 1), "what a file without them meant"


def test_what_is_auto_is_read_back(tmp_path: Path) -> None:
    run = auto_run(tmp_path, "task")
    claim(run, "")
    saved = read_run(tmp_path)
    assert saved is not None
    assert (saved.training, saved.execution) == (run.training, run.execution)


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
    assert alone["saturated"] == [2], "two rows on a device, in two chunks"
    assert two == [alone, alone]
    ours, theirs = (metrics_of(tmp_path / name) for name in ("one", "two"))
    rungs = [[line["rung"] for line in lines if "rung" in line] for lines in (ours, theirs)]
    assert rungs[0] == rungs[1]
    assert min(rungs[0]) < LENGTH
