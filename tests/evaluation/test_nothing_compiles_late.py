"""A long evaluation compiles what it needs while it begins."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.config import DataConfig, Dispatch, ExecutionConfig, MeshConfig, RunConfig, TrainingConfig
from mrt5_jax.data import registry
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.evaluation.generation import generate_answers
from mrt5_jax.evaluation.label_scores import score_labels
from mrt5_jax.evaluation.model_dirs import LoadedModel, evaluate_task
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh

from ..inference.models import random_params, small_config

TASK, SPLIT, NUM = "test.mixed_lengths", "test", 5000
CONFIG = small_config(vocab_size=384)
LABELS = ("0", "11")


def mixed_example(split: str, index: int) -> Example:
    """Inputs of 1 to 46 letters, in an order without a pattern."""
    draw = np.random.default_rng(index)
    return {
        "inputs": "".join(map(chr, draw.integers(97, 123, draw.integers(1, 47)))),
        "targets": LABELS[index % 2],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("dispatch", "buckets"), [("host", (16, 32, 48)), ("host", ()), ("in_graph", ())])
def test_nothing_compiles_in_the_second_half_of_5000_examples(
    dispatch: Dispatch, buckets: tuple[int, ...], compilations: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher-forced under three deletions, generated, and by labels."""
    source = IndexedSource(one_by_one(mixed_example), {SPLIT: NUM})
    monkeypatch.setitem(registry._tasks, TASK, TaskSpec(TASK, source, labels=LABELS))
    data = DataConfig(TASK, (TASK,), 48, 4, 50, 50, length_buckets=buckets)
    execution = ExecutionConfig(inference_dispatch=dispatch, max_rungs=3, window=4)
    run = RunConfig("", CONFIG, data, TrainingConfig(num_steps=1), execution=execution)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    loaded = LoadedModel(MrT5(CONFIG, execution), random_params(CONFIG), 0, mesh)
    half: list[int] = []

    with compilations() as programs:

        def batches_seen(batches: Iterable[Any]) -> Iterator[Any]:
            for number, batch in enumerate(batches):
                if number == NUM // 50 // 2:
                    half.append(len(programs))
                yield batch

        def answers_seen(done: int) -> None:
            if done <= NUM // 2:
                half[-1] = len(programs)

        evaluation = evaluate_task(loaded, run, TASK, SPLIT, ("none", "hard", "random"), batches_seen)
        assert len(evaluation.records) == 3 * NUM
        assert half == [len(programs)]
        assert len({record.rung for record in evaluation.records}) > 2

        half.append(0)
        generate_answers(loaded, run, TASK, SPLIT, "hard", Greedy(), tmp_path, answers_seen)
        assert 0 < half[-1] == len(programs)

        half.append(0)
        score_labels(loaded, run, TASK, SPLIT, "hard", tmp_path, answers_seen)
        assert 0 < half[-1] == len(programs)
