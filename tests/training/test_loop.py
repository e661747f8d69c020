"""Training from a configuration to a MODEL_DIR: stopped and resumed is as if never stopped, errors are one line."""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import (
    CompactionConfig,
    DataConfig,
    EvaluationConfig,
    ExecutionConfig,
    GateConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.runs.files import files_for, read_bytes
from mrt5_jax.runs.lock import LOCK
from mrt5_jax.runs.restoring import best_step, restore_params
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.training import loop, programs
from mrt5_jax.training.hooks import Every, Hook
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import Learning, StepResult, TrainStep

from .small_runs import (
    EVERY,
    STEPS,
    Trained,
    checkpoints_of,
    lines_of,
    make_run,
    metrics_of,
    same_bits,
    trained,
)

AHEAD = 2
"""Batches that lie ready."""


@pytest.fixture(scope="module", autouse=True)
def _programs_are_shared(shared_programs: None) -> None:
    """In all of these tests."""


@pytest.fixture(scope="module")
def trackers() -> dict[str, mock.Mock]:
    """What stands in for the libraries of trackers."""
    return {"wandb": mock.Mock(), "mlflow": mock.Mock()}


def documented_trackers() -> list[Hook]:
    """The hooks that docs/TRAINING.md defines for them."""
    documentation = (Path(__file__).parents[2] / "docs" / "TRAINING.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", documentation, re.DOTALL):
        if "(Hook)" in block:
            assert block.count("\n") <= 25
            exec(block, names)
    return [names["WandbTracker"]("bytes", "a run"), names["MlflowTracker"]()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, task: str, trackers: dict[str, mock.Mock]) -> Trained:
    """A run that nothing disturbs, with trackers as docs/TRAINING.md shows them."""
    run = make_run(tmp_path_factory.mktemp("whole"), task)
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in trackers.items():
            patch.setitem(sys.modules, name, stub)
        return trained(run, hooks=documented_trackers())


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, task: str) -> Trained:
    """The same run, killed and begun again."""
    return killed_and_resumed(make_run(tmp_path_factory.mktemp("resumed"), task))


def killed_and_resumed(run: RunConfig) -> Trained:
    """Killed while it made the batch of step 6: step 4 had been reported, but not saved."""
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
    return trained(run)


def test_a_resumed_run_is_the_uninterrupted_run(whole: Trained, resumed: Trained) -> None:
    """metrics.jsonl byte for byte; parameters, optimizer and controller bit for bit."""
    texts = [(Path(one.model_dir) / "metrics.jsonl").read_bytes() for one in (whole, resumed)]
    assert texts[0] == texts[1]
    assert same_bits(whole.state, resumed.state)
    assert int(whole.state.step) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["segment_mean", "convolution"])
def test_a_resumed_run_of_a_model_that_pools_is_the_uninterrupted_one(
    reduction: Any, task: str, tmp_path: Path
) -> None:
    model = ModelConfig(
        8, 2, 4, 8, 2, 1, gate=GateConfig(1, "every_kth", stride=3, reduction=reduction), dropout_rate=0.2
    )
    changes: dict[str, Any] = {
        "model": model,
        "training": TrainingConfig(STEPS, "hard", eval_every=EVERY, eval_batches=2),
        "evaluation": EvaluationConfig(deletions=("hard",)),
        "loss": LossConfig(),
        "controller": None,
    }
    whole = trained(make_run(tmp_path / "whole", task, **changes))
    resumed = killed_and_resumed(make_run(tmp_path / "resumed", task, **changes))
    texts = [(Path(one.model_dir) / "metrics.jsonl").read_bytes() for one in (whole, resumed)]
    assert texts[0] == texts[1]
    assert same_bits(whole.state, resumed.state)


@pytest.mark.parametrize("bucket_server", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_run_that_is_stopped_and_resumed_in_a_bucket_is_that_of_a_folder(
    bucket_server: Any, tmp_path: Path, task: str, whole: Trained
) -> None:
    model_dir = bucket_server.url(f"{tmp_path.name}/run")
    run = dataclasses.replace(make_run(tmp_path, task), model_dir=model_dir)

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, hooks=[Every(EVERY + 1, stop)])
    state = train(run)
    files, folder = files_for(model_dir), Path(whole.model_dir)
    assert read_bytes(f"{model_dir}/metrics.jsonl") == (folder / "metrics.jsonl").read_bytes()
    assert same_bits(state, whole.state)
    for step in (None, EVERY):
        assert same_bits(restore_params(model_dir, step).params, restore_params(folder, step).params)
    assert best_step(model_dir) == best_step(folder)
    assert {name.partition("/")[0] for name in files.below(model_dir)} == {path.name for path in folder.iterdir()}
    assert any("tfevents" in name for name in files.below(f"{model_dir}/events"))


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
        def step_function(state: TrainState, batch: Any) -> StepResult:
            shapes.add((ladder, batch["encoder_input_tokens"].shape[1]))
            return StepResult(state._replace(step=state.step + 1), {"total_loss": jnp.float32(1.0)})

        return step_function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "make_train_step", pretend)
        train(run)
    assert {length for _, length in shapes} == {4, 12}
    assert all(ladder.rungs[-1] == length for ladder, length in shapes)


def test_a_tracker_is_a_hook(whole: Trained, trackers: dict[str, mock.Mock]) -> None:
    """As documented: it is told what metrics.jsonl and timing.jsonl say, each number once, and is closed."""
    said: dict[int, dict[str, float]] = {}
    for line in metrics_of(whole.model_dir) + lines_of(whole.model_dir, "timing.jsonl"):
        said.setdefault(line.pop("step"), {}).update(line)
    tracker = trackers["wandb"].init.return_value
    told = {call.kwargs["step"]: call.args[0] for call in tracker.log.call_args_list}
    assert tracker.log.call_count == len(told) == 4
    assert {
        step: {name.removeprefix("timing/"): value for name, value in of.items()} for step, of in told.items()
    } == said
    tracker.finish.assert_called_once_with()
    assert trackers["mlflow"].log_metrics.call_args_list == tracker.log.call_args_list
    trackers["mlflow"].end_run.assert_called_once_with()


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
    again = trained(run)
    assert same_bits(again.state, whole.state)
    assert {path: path.read_bytes() for path in Path(whole.model_dir).glob("*.json*")} == before
    assert checkpoints_of(whole.model_dir) == {3, 6}


def loop_run(of: Trained) -> RunConfig:
    """The configuration that a MODEL_DIR has of its run."""
    run = read_run(of.model_dir)
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
    again = trained(make_run(Path(whole.model_dir), task, execution=execution))
    assert same_bits(again.state, whole.state)
    assert loop_run(again).execution == execution


def modified(model_dir: str) -> dict[Path, int]:
    """When each file was; not the lock, which whoever looks into a MODEL_DIR holds meanwhile."""
    return {path: path.stat().st_mtime_ns for path in Path(model_dir).rglob("*") if path.name != LOCK}


@pytest.mark.parametrize("deletion", ["soft", "none"])
def test_a_share_of_the_steps_deletes_hard(deletion: TrainingDeletion, tmp_path: Path, task: str) -> None:
    """Which ones is a function of seed and step, so that a resumed run makes the same choices."""
    run = make_run(tmp_path, task)

    def chosen(share: float, seed: int) -> list[TrainingDeletion]:
        training = TrainingConfig(num_steps=1, deletion=deletion, hard_probability=share, seed=seed)
        deletions = step_deletions(dataclasses.replace(run, training=training))
        return [deletions.of_step(step, True) for step in range(1000)]

    for seed in (0, 1):
        assert chosen(0.2, seed) == chosen(0.2, seed)
        assert set(chosen(0.2, seed)) == {deletion, "hard"}
        assert abs(chosen(0.2, seed).count("hard") - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5
    assert chosen(0.2, 0) != chosen(0.2, 1)
    assert set(chosen(0.0, 0)) == {deletion}


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
