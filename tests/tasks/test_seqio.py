"""A user's own seqio task and mixture, and the package's tasks as seqio's."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mrt5_jax.config import DataConfig
from mrt5_jax.data import batches, registry
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.seqio_tasks import byte_features
from mrt5_jax.data.sources import Order, every
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import diagnostics

LENGTHS = {"inputs": 12, "targets": 8}


def accuracy(targets: list[str], predictions: list[str]) -> dict[str, float]:
    return {"accuracy": float(np.mean([a == b for a, b in zip(targets, predictions, strict=True)]))}


def numbers(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
    texts = tf.data.Dataset.range(700).map(tf.strings.as_string)
    return texts.map(lambda text: {"inputs": tf.strings.join(["n", text]), "targets": text})


def add(name: str, features: dict[str, seqio.Feature]) -> str:
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(numbers, splits=["train", "validation"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features=features,
        metric_fns=[accuracy],
    )
    return name


@pytest.fixture
def names():
    found = [add(f"test.user.{place}", byte_features()) for place in range(2)]
    found.append("test.user.mixture")
    seqio.MixtureRegistry.add(found[2], [(found[0], 3.0), ("diagnostics.copy", 1.0)])
    yield found
    seqio.MixtureRegistry.remove(found[2])
    for name in found[:2]:
        seqio.TaskRegistry.remove(name)


def test_a_users_task_gives_what_seqio_gives(names: list[str]) -> None:
    (task,) = tasks_of(names[0])
    assert task.metrics == (accuracy,)
    own = task.read("train", every(), Order(seed=3, shuffle=True), LENGTHS)
    alone = seqio.get_mixture_or_task(names[0]).get_dataset(LENGTHS, "train", shuffle=True, seed=3, num_epochs=None)
    pairs = itertools.islice(zip(own, alone.as_numpy_iterator(), strict=False), 1000)
    for number, (found, expected) in enumerate(pairs):
        for key in LENGTHS:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=str(number))
    assert number == 999


def test_a_users_mixture_trains_at_its_rates_with_tasks_of_both_kinds(names: list[str]) -> None:
    data = DataConfig(names[2], (names[0],), 64, 64, 200, 4)
    batch = next(batches.train_batches(data, seed=0))
    theirs = batch["encoder_input_tokens"][:, 0] == ord("n") + 3
    assert np.mean(theirs) == pytest.approx(0.75, abs=0.13)  # four standard deviations
    assert (batch["encoder_input_tokens"][~theirs, 0] == ord("#") + 3).all()


def test_a_foreign_vocabulary_and_missing_features_are_refused() -> None:
    words = seqio.Feature(seqio.PassThroughVocabulary(500))
    for features, message in (
        (
            {"inputs": words, "targets": words},
            "inputs are in PassThroughVocabulary of 500 ids, not in ByT5's bytes",
        ),
        ({"targets": byte_features()["targets"]}, "has no feature 'inputs'"),
    ):
        name = add("test.user.foreign", features)
        try:
            with pytest.raises(UserError, match=message):
                batches.train_batches(DataConfig(name, (name,), 8, 8, 4, 4), seed=0)
        finally:
            seqio.TaskRegistry.remove(name)


def test_the_packages_tasks_are_seqios_too() -> None:
    name = diagnostics.diagnostic_task("vowel_removal", length=16, num_train=20, num_test=3)
    registry.register_all_with_seqio()
    dataset = seqio.TaskRegistry.get(name).get_dataset(LENGTHS, "train", shuffle=True, seed=5)
    (task,) = tasks_of(name)
    own = list(task.read("train", every(), Order(5, shuffle=True, num_epochs=1), LENGTHS))
    found = list(dataset.as_numpy_iterator())
    assert len(found) == len(own) == 20
    for one, other in zip(found, own, strict=True):
        np.testing.assert_array_equal(one["inputs"], other["inputs"])
        assert (len(one["inputs"]), one["inputs"][-1], one["inputs_cut"]) == (12, 1, True)
