"""An evaluation by several processes: each evaluates some of the batches, and together they have the records of one."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from mrt5_jax.config import DataConfig, MeshConfig, RunConfig, TrainingConfig
from mrt5_jax.data import registry
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation import shares
from mrt5_jax.evaluation.costs import Costs, WindowTime
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.records import Record
from mrt5_jax.evaluation.shares import evaluate_together
from mrt5_jax.inference.shards import WHOLE
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import row_cost
from mrt5_jax.parallel.mesh import make_mesh

from ..inference.models import small_config

TASK, SPLIT, LENGTH, BATCH = "test.shares", "test", 48, 4
CONFIG = small_config(vocab_size=384)
DATA = DataConfig(TASK, (TASK,), LENGTH, 6, BATCH, BATCH)
RUN = RunConfig("", CONFIG, DATA, TrainingConfig(num_steps=1))
DELETIONS = ("soft", "hard")
COST = row_cost(CONFIG, DATA.target_length)
NUM_EXAMPLES = 16 * BATCH + 6
"""With buckets, a window and a part of another, whose last batch is not full."""


@pytest.fixture
def loaded() -> LoadedModel:
    """Nothing asks for its parameters."""
    return LoadedModel(MrT5(CONFIG), {}, 7, make_mesh(MeshConfig(), jax.devices()[:1]), name="m", digest="0123456789ab")


def example(split: str, index: int) -> Example:
    return {"inputs": "x" * (1 + 7919 * index % 60), "targets": str(index)}


def add_made_task(patch: pytest.MonkeyPatch, make: Callable[[str, int], Example] = example) -> None:
    source = IndexedSource(one_by_one(make), {SPLIT: NUM_EXAMPLES})
    patch.setitem(registry._tasks, TASK, TaskSpec(TASK, source))


@pytest.fixture
def num_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches were evaluated, call by call; records tell where they come from in the place of a model."""
    add_made_task(monkeypatch)
    found: list[int] = []

    def evaluate(
        loaded: Any, run: RunConfig, task: str, split: str, deletions: Any, watch: Any, rounds: int
    ) -> Evaluation:
        batches = list(watch(eval_batches(task, run.data, split=split, num_examples=run.evaluation.num_examples)))
        found.append(len(batches))
        records = [
            Record(info.task, info.language, info.index, deletion, 0.1 * info.index, 2, 2, True, 9, 9, 9, False, "é",
                   input_length=batch.arrays["encoder_input_tokens"].shape[1])
            for batch in batches for deletion in deletions for info in batch.examples
        ]  # fmt: skip
        cut = sum(info.input_cut for batch in batches for info in batch.examples)
        times = tuple(
            WindowTime("soft", float(batch.examples[0].index), {"": len(batch.examples)}) for batch in batches
        )
        return Evaluation(records, dict.fromkeys(deletions, 1.5), cut, costs=Costs(times, COST))

    monkeypatch.setattr(shares, "evaluate_task", evaluate)
    return found


def evaluate_share(
    loaded: LoadedModel,
    folder: Path,
    shard: Shard,
    run: RunConfig = RUN,
    deletions: Any = DELETIONS,
    rounds: int = 1,
) -> Evaluation:
    return evaluate_together(loaded, run, TASK, SPLIT, deletions, folder, shard, rounds=rounds)


@pytest.mark.parametrize("buckets", [(), (16, LENGTH)])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_shares_of_all_processes_are_the_evaluation_of_one(
    loaded, num_batches: list[int], tmp_path: Path, count: int, buckets: tuple[int, ...]
) -> None:
    """Every example once and in order, also where there are more processes than batches; the first one has all."""
    run = dataclasses.replace(RUN, data=dataclasses.replace(DATA, length_buckets=buckets))
    whole = evaluate_share(loaded, tmp_path, WHOLE, run)
    assert not list(tmp_path.iterdir())
    for index in range(1, count):
        with pytest.raises(UserError, match=f"the records of 0/{count}.* are not there: MODEL_DIR has to lie in"):
            evaluate_share(loaded, tmp_path, Shard(index, count), run)
    found = evaluate_share(loaded, tmp_path, Shard(0, count), run)
    assert found.records == whole.records
    assert sorted(record.index for record in found.records) == sorted(2 * [*range(NUM_EXAMPLES)])
    assert found.num_inputs_cut == whole.num_inputs_cut > 0
    assert found.milliseconds == whole.milliseconds
    assert sorted(found.costs.times, key=str) == sorted(whole.costs.times, key=str)
    assert found.costs.row == COST
    all_batches, *of_shares = num_batches
    assert sum(of_shares) == all_batches
    assert max(of_shares) - min(of_shares) <= 1


def test_a_finished_share_is_read(loaded, num_batches: list[int], tmp_path: Path, monkeypatch) -> None:
    """Until model, settings or data are others, or it is not whole: a process that died has left none."""
    with pytest.raises(UserError, match="the records of 1/2 are not there"):
        evaluate_share(loaded, tmp_path, Shard(0, 2))
    evaluate_share(loaded, tmp_path, Shard(1, 2))
    assert len(num_batches) == 2
    first = evaluate_share(loaded, tmp_path, Shard(0, 2))
    assert len(num_batches) == 2
    assert len(first.records) == 2 * NUM_EXAMPLES

    def is_evaluated_again(model: LoadedModel = loaded, **changes: Any) -> bool:
        before = len(num_batches)
        with contextlib.suppress(UserError):  # the other share is not of these changes
            evaluate_share(model, tmp_path, Shard(1, 2), **changes)
        return len(num_batches) > before

    share = tmp_path / "records.jsonl-00001-of-00002"
    share.write_bytes(share.read_bytes()[:-1])
    assert is_evaluated_again()
    share.with_name(f"{share.name}.json").unlink()
    assert is_evaluated_again()
    assert not is_evaluated_again()
    assert is_evaluated_again(dataclasses.replace(loaded, digest="another"))
    assert is_evaluated_again(deletions=("soft",))
    assert is_evaluated_again(rounds=2)
    other_seed = dataclasses.replace(RUN.evaluation, seed=3)
    assert is_evaluated_again(run=dataclasses.replace(RUN, evaluation=other_seed))
    assert is_evaluated_again()
    add_made_task(monkeypatch, lambda split, index: {"inputs": "y", "targets": "z"})
    assert is_evaluated_again()


def test_what_a_share_refuses_is_refused(loaded, num_batches: list[int], tmp_path: Path, monkeypatch) -> None:
    def refuse(*args: Any) -> Evaluation:
        raise UserError("step 7: the model's numbers are not finite")

    monkeypatch.setattr(shares, "evaluate_task", refuse)
    with pytest.raises(UserError, match="step 7: the model's numbers are not finite"):
        evaluate_share(loaded, tmp_path, Shard(0, 2))
    assert not list(tmp_path.iterdir())
