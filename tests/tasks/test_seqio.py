"""A user's own seqio task and mixture, and the package's tasks as seqio's."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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


def without_sevens(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.filter(lambda example: not tf.strings.regex_full_match(example["targets"], ".*7.*"))


PREPROCESSORS = (without_sevens, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim)


def add(
    name: str,
    features: dict[str, seqio.Feature],
    preprocessors: Sequence[Callable] = PREPROCESSORS,
    shuffle_buffer_size: int | None = 1000,
) -> str:
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(numbers, splits=["train", "validation"]),
        preprocessors=preprocessors,
        output_features=features,
        metric_fns=[accuracy],
        shuffle_buffer_size=shuffle_buffer_size,
    )
    return name


@contextlib.contextmanager
def added(name: str, *arguments: Any, **more: Any) -> Iterator[str]:
    """A task of a user's, while the context lasts."""
    add(name, *arguments, **more)
    try:
        yield name
    finally:
        seqio.TaskRegistry.remove(name)


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


def test_a_users_mixture_draws_at_its_rates_and_keeps_the_order_that_seqio_gives_each_task(names: list[str]) -> None:
    data = DataConfig(names[2], (names[0],), 64, 64, 1400, 4)
    batch = next(batches.train_batches(data, seed=3))
    theirs = batch["encoder_input_tokens"][:, 0] == ord("n") + 3
    assert np.mean(theirs) == pytest.approx(0.75, abs=0.05)  # four standard deviations
    assert (batch["encoder_input_tokens"][~theirs, 0] == ord("#") + 3).all()
    lengths = {"inputs": 64, "targets": 64}
    for name, own in ((names[0], theirs), ("diagnostics.copy", ~theirs)):
        alone = seqio.get_mixture_or_task(name).get_dataset(lengths, "train", shuffle=True, seed=3, num_epochs=None)
        for row, expected in zip(batch["encoder_input_tokens"][own], alone.as_numpy_iterator(), strict=False):
            np.testing.assert_array_equal(row[: np.count_nonzero(row)], expected["inputs"])


def write_cache(folder: Path, split: str, numbers: Sequence[int]) -> None:
    """What `seqio_cache_tasks` leaves of a task."""
    folder.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord-00000-of-00001")) as file:
        for number in numbers:
            ids = [byte + 3 for byte in str(number).encode()]
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
            features = tf.train.Features(feature={"inputs": feature, "targets": feature})
            file.write(tf.train.Example(features=features).SerializeToString())
    feature = {"dtype": "int32", "shape": [None]}
    info = {"num_shards": 1, "features": {"inputs": feature, "targets": feature}, "seqio_version": "0.0.20"}
    (folder / f"info.{split}.json").write_text(json.dumps(info))
    (folder / f"stats.{split}.json").write_text(json.dumps({"examples": len(numbers)}))
    (folder / "COMPLETED").touch()


def test_an_offline_cache_is_read_where_there_is_one_and_asked_for_where_a_task_requires_it(tmp_path: Path) -> None:
    cached = [seqio.CacheDatasetPlaceholder(required=True), seqio.preprocessors.append_eos_after_trim]
    folders = seqio.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(tmp_path)])
    try:
        with added("test.user.cached", byte_features(), cached) as name:
            with pytest.raises(UserError, match=r"takes an offline cache: make it \(seqio_cache_tasks\)"):
                tasks_of(name)
            write_cache(tmp_path / name, "train", [70, 71, 72])
            (task,) = tasks_of(name)
            found = task.read("train", every(), Order(0, shuffle=False, num_epochs=1), LENGTHS)
            assert [example["inputs"].tolist() for example in found] == [[58, 51 + last, 1] for last in range(3)]
    finally:
        seqio.set_global_cache_dirs(folders)


def test_a_task_whose_order_is_fixed_is_read_in_it_or_refused() -> None:
    with added("test.user.fixed", byte_features(), shuffle_buffer_size=None) as name:
        with pytest.raises(UserError, match=r"'test.user.fixed' cannot be shuffled: give it a shuffle_buffer_size"):
            next(batches.train_batches(DataConfig(name, (name,), 8, 8, 4, 4), seed=0))
        batch = next(batches.train_batches(DataConfig(name, (name,), 8, 8, 4, 4, shuffle=False), seed=0))
        assert batch["encoder_input_tokens"][:, 1].tolist() == [byte + 3 for byte in b"0123"]


def test_a_task_that_cannot_be_read_is_refused() -> None:
    def broken(dataset: tf.data.Dataset) -> tf.data.Dataset:
        raise KeyError("no such column")

    with (
        added("test.user.broken", byte_features(), [broken]) as name,
        pytest.raises(UserError, match=r"'test.user.broken': its train split cannot be read: 'no such column'"),
    ):
        batches.train_batches(DataConfig(name, (name,), 8, 8, 4, 4), seed=0)


def test_a_foreign_vocabulary_and_missing_features_are_refused() -> None:
    words = seqio.Feature(seqio.PassThroughVocabulary(500))
    for features, message in (
        (
            {"inputs": words, "targets": words},
            "inputs are in PassThroughVocabulary of 500 ids, not in ByT5's bytes",
        ),
        ({"targets": byte_features()["targets"]}, "has no feature 'inputs'"),
    ):
        with added("test.user.foreign", features) as name, pytest.raises(UserError, match=message):
            batches.train_batches(DataConfig(name, (name,), 8, 8, 4, 4), seed=0)


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
