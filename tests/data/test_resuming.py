"""A kill at any batch and a resume give the batches of an uninterrupted run, however they are arranged."""

import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mrt5_jax.config import DataConfig
from mrt5_jax.data import registry
from mrt5_jax.data.batches import Batch, train_batches
from mrt5_jax.data.prefetch import Prefetched
from mrt5_jax.tasks import (
    diagnostics,
    question_answering,  # noqa: F401 its tasks are found by name
    span_corruption,
)

from ..tasks.tfds_fixtures import fixture

INPUT_LENGTH, TARGET_LENGTH, BATCH_SIZE = 64, 16, 4
NUM_BATCHES = 20
"""More than a window of buckets, and several epochs of the smaller sources."""


class Case(NamedTuple):
    source: str
    num_shards: int
    shuffle: bool
    rows: str

    def __str__(self) -> str:
        return f"{self.source}-{self.num_shards}-{'shuffled' if self.shuffle else 'in_order'}-{self.rows}"


ALL = list(
    itertools.starmap(
        Case,
        itertools.product(
            ("text", "mixture", "diagnostic", "tfds"), (1, 2), (True, False), ("one_a_row", "packed", "buckets")
        ),
    )
)
FAST = {
    Case("text", 2, True, "packed"),
    Case("mixture", 1, True, "buckets"),
    Case("diagnostic", 2, False, "one_a_row"),
    Case("tfds", 1, False, "packed"),
    Case("tfds", 2, True, "buckets"),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A task of each kind, by the names of `Case.source`."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "en.txt").write_text("".join(f"line {number} of the text\n" for number in range(150)))
    text = span_corruption.text_task(f"{folder}/en.txt", input_length=INPUT_LENGTH)
    short = diagnostics.diagnostic_task("copy", length=12, num_train=30, num_validation=4)
    names = {"text": text, "diagnostic": short, "tfds": "squad"}
    names["mixture"] = registry.add_mixture("test.resuming", {text: 1.0, short: 2.0, "squad": 1.0})
    with tfds.testing.mock_data(as_dataset_fn=fixture):
        yield names


def fresh(task: str, case: Case, shard: int) -> Prefetched:
    data = DataConfig(
        task,
        (task,),
        INPUT_LENGTH,
        TARGET_LENGTH,
        BATCH_SIZE,
        BATCH_SIZE,
        shuffle=case.shuffle,
        rows="packed" if case.rows == "packed" else "one_a_row",
        length_buckets=(16, 48, INPUT_LENGTH) if case.rows == "buckets" else (),
    )
    batches = train_batches(data, seed=7, shard_index=shard, num_shards=case.num_shards)
    return Prefetched(batches, lambda batch: batch)


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow, id=str(c)) for c in ALL])
def test_a_resumed_run_gives_the_batches_of_an_uninterrupted_one(tasks: dict[str, str], case: Case) -> None:
    """States go through JSON, as in a checkpoint; batches that lay ready when the run was killed come again."""
    for shard in range(case.num_shards):
        whole = fresh(tasks[case.source], case, shard)
        states, expected = [], []
        for _ in range(NUM_BATCHES):
            states.append(json.dumps(whole.state()))
            expected.append(next(whole))
        assert not all(same(batch, expected[0]) for batch in expected[1:])
        for stop in (1, 7, 16, 17) if case in FAST else range(NUM_BATCHES):
            resumed = fresh(tasks[case.source], case, shard)
            resumed.restore(json.loads(states[stop]))
            for number, batch in enumerate(expected[stop : stop + 3], start=stop):
                assert same(next(resumed), batch), f"batch {number} after a kill at {stop}"
