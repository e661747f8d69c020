"""Training from a configuration to a MODEL_DIR: stopped and resumed is as if never stopped, errors are one line."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import (
    CheckpointConfig,
    CompactionConfig,
    ControllerConfig,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    GateConfig,
    LossConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.data.batches import train_batches
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.axis_rules import RowShards
from mrt5_jax.runs.lock import LOCK
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.training import loop, programs
from mrt5_jax.training.loop import Trained, train
from mrt5_jax.training.monitor import Check, Checked
from mrt5_jax.training.programs import deletion_of_step
from mrt5_jax.training.state import MonitorState, TrainState
from mrt5_jax.training.step import Learning, Stepped, TrainStep, make_train_step

STEPS, EVERY = 6, 3
AHEAD = 2
"""Batches that lie ready."""


@pytest.fixture(scope="module", autouse=True)
def _programs_are_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Equal runs share their programs here, which a restarted process would trace and compile again."""
    made: dict[RunConfig, TrainStep] = {}

    def shared_train_step(
        model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, shards: RowShards
    ) -> TrainStep:
        key = dataclasses.replace(run, model_dir="")
        return made.setdefault(key, make_train_step(model, run, learning, ladder, shards))

    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "make_train_step", shared_train_step)
        patch.setattr(programs, "make_evaluator", functools.cache(programs.make_evaluator))
        yield
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture(scope="module")
def task() -> str:
    from mrt5_jax.tasks.diagnostics import diagnostic_task

    return diagnostic_task("copy", length=8, num_train=100, num_validation=6)


def make_run(model_dir: Path, task: str, **changes: Any) -> RunConfig:
    run = RunConfig(
        model_dir=str(model_dir),
        model=ModelConfig(8, 2, 4, 8, 2, 1, gate=GateConfig(layer=1), dropout_rate=0.2),
        data=DataConfig(task, (task,), input_length=8, target_length=8, batch_size=4, eval_batch_size=4),
        training=TrainingConfig(num_steps=STEPS, eval_every=EVERY, eval_batches=2),
        loss=LossConfig(regularizer_delay=1),
        controller=ControllerConfig(target_deletion_rate=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        execution=ExecutionConfig(max_rungs=1, log_every=2),
        checkpoints=CheckpointConfig(every=EVERY),
    )
    return dataclasses.replace(run, **changes)


def metrics_of(model_dir: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(model_dir) / "metrics.jsonl").read_text().splitlines()]


def checkpoints_of(model_dir: Path | str) -> set[int]:
    return {int(path.name) for path in (Path(model_dir) / "checkpoints").iterdir()}


def same_bits(one: Any, other: Any) -> bool:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(left).tobytes() == np.asarray(right).tobytes() for left, right in leaves)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, task: str) -> Trained:
    """A run that nothing disturbs."""
    return train(make_run(tmp_path_factory.mktemp("whole"), task))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, task: str) -> Trained:
    """The same run, killed while it made the batch of step 6: step 4 had been reported, but not saved."""
    run = make_run(tmp_path_factory.mktemp("resumed"), task)
    put, calls = loop.put_batch, []

    def killed(batch: Any, mesh: Any) -> Any:
        calls.append("index" in batch)
        if calls.count(False) == STEPS + AHEAD:
            raise KeyboardInterrupt
        return put(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert [line["step"] for line in metrics_of(run.model_dir)] == [2, 3, 4]
    assert checkpoints_of(run.model_dir) == {3}
    return train(run)


def test_a_resumed_run_is_the_uninterrupted_run(whole: Trained, resumed: Trained) -> None:
    """metrics.jsonl byte for byte; parameters, optimizer and controller bit for bit."""
    texts = [(Path(trained.model_dir) / "metrics.jsonl").read_bytes() for trained in (whole, resumed)]
    assert texts[0] == texts[1]
    assert same_bits(whole.state, resumed.state)
    assert int(whole.state.step) == STEPS


def test_reports_and_evaluations_have_their_rhythms(whole: Trained, task: str) -> None:
    """Every second step is reported, every third evaluated, and saved; hard and soft, with the gap between them."""
    lines = metrics_of(whole.model_dir)
    reports, evaluations = (
        [line for line in lines if name in line] for name in ("total_loss", f"eval/{task}/soft/loss")
    )
    assert [line["step"] for line in reports] == [2, 4, 6]
    assert [line["step"] for line in evaluations] == [3, 6]
    assert checkpoints_of(whole.model_dir) == {3, 6}
    assert reports[0]["alpha"] == 0
    assert reports[-1]["alpha"] > 0, "the controller moves after its delay"
    assert reports[-1]["controller_proportional"] > 0
    assert reports[-1]["controller_integral"] > 0
    for line in evaluations:
        soft, hard = (line[f"eval/{task}/{deletion}/loss"] for deletion in ("soft", "hard"))
        assert line[f"eval/{task}/soft_hard_gap"] == pytest.approx(hard - soft)
        assert {name.split("/")[-1] for name in line} >= {"sequence_accuracy", "deletion_rate", "kept_length"}
    timing = [json.loads(line) for line in (Path(whole.model_dir) / "timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in timing] == [line["step"] for line in lines]


@pytest.mark.slow
def test_batches_of_several_lengths_have_a_program_and_a_ladder_each(tmp_path: Path) -> None:
    """Rows of 2 and of 11 ids, the last step's evaluation included; each bucket's ladder ends with its length."""
    from mrt5_jax.tasks.characters import tsv_task

    rows = [f"{'long row ' * (number % 2)}{number % 10}\tb\n" for number in range(200)]
    (tmp_path / "rows.tsv").write_text("".join(rows))
    (tmp_path / "unseen.tsv").write_text("".join(rows[1:]))
    task = tsv_task("rows", f"{tmp_path}/rows.tsv", f"{tmp_path}/unseen.tsv")
    run = make_run(tmp_path / "model", task, evaluation=EvaluationConfig(deletions=("none",)))
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, input_length=12, length_buckets=(4, 12)))
    shapes = set()

    def pretend(model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, *_: Any) -> TrainStep:
        def step_function(state: TrainState, batch: Any) -> Stepped:
            shapes.add((ladder, batch["encoder_input_tokens"].shape[1]))
            return Stepped(state._replace(step=state.step + 1), {"total_loss": jnp.float32(1.0)})

        return step_function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "make_train_step", pretend)
        train(run)
    assert {length for _, length in shapes} == {4, 12}
    assert all(ladder.rungs[-1] == length for ladder, length in shapes)


def test_it_learns(whole: Trained, task: str) -> None:
    losses = [
        line[f"eval/{task}/soft/loss"] for line in metrics_of(whole.model_dir) if f"eval/{task}/soft/loss" in line
    ]
    assert losses[1] < losses[0]


def test_running_a_finished_run_again_does_nothing(whole: Trained, monkeypatch) -> None:
    """It returns what it had; no step, no line, no checkpoint."""
    run = loop_run(whole)
    monkeypatch.setattr(programs, "make_train_step", lambda *_: lambda *_: pytest.fail("a step was made"))
    before = {path: path.read_bytes() for path in Path(whole.model_dir).glob("*.json*")}
    again = train(run)
    assert same_bits(again.state, whole.state)
    assert {path: path.read_bytes() for path in Path(whole.model_dir).glob("*.json*")} == before
    assert checkpoints_of(whole.model_dir) == {3, 6}


def loop_run(trained: Trained) -> RunConfig:
    """The configuration that a MODEL_DIR has of its run."""
    run = read_run(trained.model_dir)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": ModelConfig(16, 2, 4, 8, 2, 1, gate=GateConfig(layer=1))}, "emb_dim 8 -> 16"),
        ({"optimizer": OptimizerConfig(learning_rate=1.0)}, "learning_rate 0.01 -> 1.0"),
        ({"controller": None}, "controller"),
        ({"training": TrainingConfig(num_steps=9, seed=1)}, "seed 0 -> 1"),
        (
            {
                "compaction": CompactionConfig(capacity=0.5),
                "training": TrainingConfig(num_steps=STEPS, eval_every=EVERY, hard_probability=0.1),
            },
            "compaction.capacity None -> 0.5",
        ),
    ],
)
def test_a_model_dir_of_another_configuration_is_refused(
    whole: Trained, task: str, change: dict[str, Any], named: str
) -> None:
    """One line with the difference; nothing of the other run is touched."""
    before = modified(whole.model_dir)
    with pytest.raises(UserError, match=named) as error:
        train(make_run(Path(whole.model_dir), task, **change))
    assert "\n" not in str(error.value)
    assert modified(whole.model_dir) == before


def test_a_run_goes_on_under_any_execution(whole: Trained, task: str) -> None:
    """It has nothing left to do here; tests/training/test_execution.py compares what it computes."""
    execution = ExecutionConfig("host", "in_graph", 2, "full", 2, "one_by_one", (4,), chunks=2, log_every=1)
    again = train(make_run(Path(whole.model_dir), task, execution=execution))
    assert same_bits(again.state, whole.state)
    assert loop_run(again).execution == execution


def modified(model_dir: str) -> dict[Path, int]:
    """When each file was; not the lock, which whoever looks into a MODEL_DIR holds meanwhile."""
    return {path: path.stat().st_mtime_ns for path in Path(model_dir).rglob("*") if path.name != LOCK}


@pytest.mark.parametrize("deletion", ["soft", "none"])
def test_a_share_of_the_steps_deletes_hard(deletion: TrainingDeletion) -> None:
    """Which ones is a function of seed and step, so that a resumed run makes the same choices."""
    chosen = {}
    for seed in (0, 1):
        training = TrainingConfig(num_steps=1, deletion=deletion, hard_probability=0.2, seed=seed)
        chosen[seed] = [deletion_of_step(training, step) for step in range(1000)]
        assert chosen[seed] == [deletion_of_step(training, step) for step in range(1000)]
        assert set(chosen[seed]) == {deletion, "hard"}
        assert abs(chosen[seed].count("hard") - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5
    assert chosen[0] != chosen[1]
    never = TrainingConfig(num_steps=1, deletion=deletion)
    assert {deletion_of_step(never, step) for step in range(100)} == {deletion}


def test_a_loss_that_is_not_finite_stops_training_before_it_is_saved(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the step, though it was not to be reported, and the checkpoint to go back to."""

    def pretend(*_: Any) -> Callable[[TrainState, Any], Stepped]:
        def step_function(state: TrainState, batch: Any) -> Stepped:
            step = state.step + 1
            return Stepped(state._replace(step=step), {"total_loss": jnp.where(step == 5, jnp.nan, 1.0)})

        return step_function

    monkeypatch.setattr(programs, "make_train_step", pretend)
    training = TrainingConfig(num_steps=STEPS, eval_every=100)
    with pytest.raises(
        UserError, match=r"loss of step 5 is not finite.* the last good checkpoint is that of step 3.*npz"
    ):
        train(make_run(tmp_path, task, training=training))
    batches = train_batches(make_run(tmp_path, task).data, seed=0)
    fifth = [next(batches) for _ in range(5)][-1]
    saved = np.load(tmp_path / "non_finite_batch_5.npz")
    assert set(saved) == set(fifth)
    assert all((saved[name] == rows).all() for name, rows in fifth.items())
    assert checkpoints_of(tmp_path) == {3}
    assert [line["step"] for line in metrics_of(tmp_path)] == [2, 4]


def pretended(monkeypatch: pytest.MonkeyPatch, refused: tuple[int, ...] = (), not_finite: tuple[int, ...] = ()) -> None:
    """Steps that compute nothing; those of these numbers are refused, or have a loss that is not finite."""

    def pretend(*_: Any) -> Callable[[TrainState, Any], Stepped]:
        def step_function(state: TrainState, batch: Any) -> Stepped:
            step = state.step + 1
            loss = jnp.where(jnp.isin(step, jnp.asarray(not_finite, int)), jnp.nan, 1.0)
            metrics = {"total_loss": loss, "refused": jnp.isin(step, jnp.asarray(refused, int)).astype(jnp.float32)}
            return Stepped(state._replace(step=step), metrics)

        return step_function

    monkeypatch.setattr(programs, "make_train_step", pretend)


def test_refused_steps_are_told_and_too_many_in_a_row_end_the_run(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its line of metrics, also where none was due; the run stops where a setting says, and counts anew when
    it is started again."""
    training = TrainingConfig(num_steps=STEPS, eval_every=100, max_refused_steps=2)
    run = make_run(tmp_path, task, training=training, execution=ExecutionConfig(max_rungs=1, log_every=5))
    pretended(monkeypatch, refused=(1, 3, 4))
    with pytest.raises(UserError, match=r"2 steps in a row, up to step 4, is finite.* that of step 3.*batch_4\.npz"):
        train(run)
    told = [line for line in capsys.readouterr().err.splitlines() if "the gradient is not finite" in line]
    assert [line.partition(":")[0] for line in told] == ["step 1", "step 3", "step 4"]
    assert ["2 in a row" in line for line in told] == [False, False, True]
    assert [(line["step"], line["refused"]) for line in metrics_of(tmp_path)] == [(1, 1), (3, 1), (4, 1)]
    assert checkpoints_of(tmp_path) == {3}
    pretended(monkeypatch, refused=(1, 3, 4), not_finite=(6,))
    with pytest.raises(UserError, match="loss of step 6 is not finite"):
        train(run)
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 3, 4, 5]


def test_the_monitor_says_once_that_it_switched(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both losses, either way; a resume in between says nothing."""

    def pretend(*_: Any) -> Check:
        def check(state: TrainState, batch: Any) -> Checked:
            on = (state.step < 2) | (state.step > 3)
            gap = jnp.where(on, 1e-7, 0.25).astype(jnp.float32)
            monitor = MonitorState(on, gap)
            return Checked(state._replace(monitor=monitor), 2 * (1 + gap), jnp.float32(2))

        return check

    monkeypatch.setattr(programs, "make_check", pretend)
    training = TrainingConfig(num_steps=STEPS, deletion="saturated", eval_every=100)
    execution = ExecutionConfig(max_rungs=1, log_every=1)
    run = make_run(tmp_path, task, training=training, execution=execution, monitor=MonitorConfig(interval=1))
    lines = []
    for last in (4, 6):
        pretended(monkeypatch, not_finite=(last,))
        with pytest.raises(UserError, match=f"loss of step {last}"):
            train(run)
        lines += [line for line in capsys.readouterr().err.splitlines() if "saturated" in line]
    assert len(lines) == 2
    assert lines[0] == (
        "step 3: saturated deletion's loss is 2.5, soft deletion's 2, a relative difference of 0.25, above the "
        "tolerance 0.0001: steps delete softly until it is at most 5e-05"
    )
    assert lines[1] == (
        "step 5: saturated deletion's loss is 2, soft deletion's 2, a relative difference of 1e-07, at most 5e-05: "
        "steps delete by saturation again"
    )


def test_under_a_capacity_a_packed_row_has_no_more_examples_than_slots(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskedError(Exception):
        """Where the batches come from is far enough."""

    def asked(data: DataConfig, **how: Any) -> Any:
        raise AskedError(how.get("most_examples"))

    monkeypatch.setattr(loop, "train_batches", asked)
    capacity = CompactionConfig(capacity=0.5)
    for rows, compaction, bound in (
        ("packed", capacity, 4),
        ("packed", CompactionConfig(), None),
        ("one_a_row", capacity, None),
    ):
        run = make_run(tmp_path, task, compaction=compaction, execution=ExecutionConfig(rounding=2))
        with pytest.raises(AskedError) as found:
            train(dataclasses.replace(run, data=dataclasses.replace(run.data, rows=rows)))
        assert found.value.args == (bound,)


@pytest.mark.slow
def test_a_learning_rate_without_measure_is_stopped(tmp_path, task: str) -> None:
    """The real thing: parameters explode in the first step, and the second's loss says so."""
    with pytest.raises(UserError, match=r"loss of step [23] is not finite.*the last good checkpoint is none") as error:
        train(make_run(tmp_path, task, optimizer=OptimizerConfig(learning_rate=1e30)))
    assert "\n" not in str(error.value)
    assert checkpoints_of(tmp_path) == set()
