"""Span corruption over many examples of real text has the paper's statistics and loses nothing."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.sources import Order, every
from mrt5_jax.data.vocabulary import EOS_ID, sentinel_ids
from mrt5_jax.tasks import span_corruption


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_noise_spans_sentinels_and_lengths(count: int, shared: Path) -> None:
    part = "train" if count > 600 else "validation"
    name = span_corruption.text_task(f"{shared}/data/multilingual/{part}/*.txt")
    (task,) = tasks_of(name)
    found = task.read("train", every(), Order(seed=0, shuffle=True))
    sentinels = np.array(sentinel_ids(9))
    noise, spans, examples = 0, 0, 0
    for example in itertools.islice(found, count):
        inputs, targets = example["inputs"], example["targets"]
        assert (len(inputs), len(targets)) == (1024, 189)
        assert inputs[-1] == targets[-1] == EOS_ID
        np.testing.assert_array_equal(inputs[np.isin(inputs, sentinels)], sentinels)
        np.testing.assert_array_equal(targets[np.isin(targets, sentinels)], sentinels)
        assert example["replaced_bytes"] == 0
        places = np.flatnonzero(np.isin(targets, sentinels))
        lengths = np.diff([*places, len(targets) - 1]) - 1
        assert (lengths > 0).all()
        noise, spans, examples = noise + lengths.sum(), spans + len(lengths), examples + 1
    assert examples == count
    assert noise / (1193 * count) == pytest.approx(0.15, abs=0.002)
    assert noise / spans == pytest.approx(20, abs=0.5)
