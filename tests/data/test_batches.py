"""Batches: what the model is promised, and that going on equals not having stopped."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mrt5_jax.config import DataConfig
from mrt5_jax.data import batches, mixing, registry, sources
from mrt5_jax.data.seqio_tasks import byte_features
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.errors import UserError


def register(name: str, first: int, size: int) -> str:
    """A task whose example i has the inputs [first + i, a random id, 1] and the targets [first + i, 1]."""

    def example(split: str, index: int) -> sources.Example:
        number = np.array([index + first + (size if split == "validation" else 0)], np.int32)
        return {"inputs": number, "targets": number}

    def add_random_id(row: sources.Example) -> sources.Example:
        noise = np.random.default_rng(row["seed"].astype(np.uint64)).integers(1000, 1_000_000, 1, np.int32)
        return {**row, "inputs": np.append(row["inputs"], noise)}

    source = sources.IndexedSource(sources.one_by_one(example), {"train": size, "validation": 7})
    return registry.add_task(TaskSpec(name, source, add_random_id, languages=(name,)))


def foreign(name: str) -> str:
    """A task that knows nothing of this project: another kind of source, and a transformation that drops examples."""

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.range(3, 43, output_type=tf.int32)

    def rows(numbers: tf.data.Dataset) -> tf.data.Dataset:
        return numbers.filter(lambda i: i % 3 > 0).map(lambda i: {"inputs": tf.stack([i, 1]), "targets": i[None]})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["train"]),
        preprocessors=[rows],
        output_features=byte_features(),
    )
    return name


@pytest.fixture(scope="module", autouse=True)
def _tasks():
    register("test.small", 3, 10)
    registry.add_task(TaskSpec("test.empty", sources.IndexedSource(sources.one_by_one(lambda *_: {}), {"train": 0})))
    register("test.large", 100, 50)
    foreign("test.foreign")
    registry.add_mixture("test.mixture", {"test.small": 1.0, "test.large": 3.0})
    registry.add_mixture("test.unmixed", {"test.small": 0.0, "test.large": 0.0})
    yield
    for name in ("test.mixture", "test.unmixed"):
        seqio.MixtureRegistry.remove(name)
    for name in ("test.foreign", "test.small", "test.large", "test.empty"):
        seqio.TaskRegistry.remove(name)


def config(task: str, batch_size: int = 4, input_length: int = 5, *, shuffle: bool = True) -> DataConfig:
    return DataConfig(task, (task,), input_length, 3, batch_size, 4, shuffle)


def take(iterator: batches.TrainBatches, count: int) -> list[dict[str, np.ndarray]]:
    return [next(iterator) for _ in range(count)]


def assert_same(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> None:
    for one, other in zip(left, right, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_batches_have_static_shapes_and_a_shifted_decoder_input() -> None:
    batch = next(batches.train_batches(config("test.small", shuffle=False), seed=0))
    assert {key: value.shape for key, value in batch.items()} == {
        "encoder_input_tokens": (4, 5),
        "decoder_input_tokens": (4, 3),
        "decoder_target_tokens": (4, 3),
        "decoder_loss_weights": (4, 3),
        "language_ids": (4,),
    }
    assert all(value.dtype == np.int32 for value in batch.values())
    np.testing.assert_array_equal(batch["decoder_target_tokens"][:2], [[3, 1, 0], [4, 1, 0]])
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:2], [[0, 3, 1], [0, 4, 1]])
    np.testing.assert_array_equal(batch["decoder_loss_weights"][:2], [[1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(batch["encoder_input_tokens"][0, [0, 2, 3, 4]], [3, 1, 0, 0])


def test_rows_too_long_are_cut_and_keep_their_eos() -> None:
    batch = next(batches.train_batches(config("test.small", input_length=2, shuffle=False), seed=0))
    np.testing.assert_array_equal(batch["encoder_input_tokens"][:, 1], 1)


def test_an_epoch_has_every_example_once_and_the_next_one_another_order_and_other_draws() -> None:
    found = take(batches.train_batches(config("test.large", 10), seed=0), 10)
    first, second = np.split(np.concatenate([batch["encoder_input_tokens"][:, :2] for batch in found]), 2)
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), np.arange(100, 150))
        assert not np.array_equal(epoch[:, 0], np.arange(100, 150))
    assert not np.array_equal(first[:, 0], second[:, 0])
    assert not set(first[:, 1]) & set(second[:, 1])


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("task", ["test.small", "test.mixture", "test.foreign"])
def test_a_resumed_iterator_gives_what_an_uninterrupted_one_gives(task: str, num_shards: int) -> None:
    def fresh() -> batches.TrainBatches:
        return batches.train_batches(config(task), seed=5, shard_index=num_shards - 1, num_shards=num_shards)

    uninterrupted = fresh()
    states, expected = [], []
    for _ in range(9):
        states.append(json.loads(json.dumps(uninterrupted.state())))
        expected.append(next(uninterrupted))
    resumed = fresh()
    for stop in (1, 7):
        resumed.restore(states[stop])
        assert_same(take(resumed, 9 - stop), expected[stop:])


def test_resuming_crosses_the_blocks_in_which_a_mixture_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "CHOICES", 6)
    test_a_resumed_iterator_gives_what_an_uninterrupted_one_gives("test.mixture", 1)


@pytest.mark.parametrize("num_shards", [2, 5])
def test_shards_share_out_an_epoch_without_overlap(num_shards: int) -> None:
    seen = []
    for shard in range(num_shards):
        iterator = batches.train_batches(config("test.large", 10), seed=0, shard_index=shard, num_shards=num_shards)
        shares = take(iterator, 5)
        assert shares[0]["encoder_input_tokens"].shape[0] == 10 // num_shards
        seen += [share["encoder_input_tokens"][:, 0] for share in shares]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(100, 150))


def test_a_mixture_keeps_its_rates() -> None:
    batch = next(batches.train_batches(config("test.mixture", 1000), seed=0))
    large = batch["encoder_input_tokens"][:, 0] >= 100
    assert np.mean(large) == pytest.approx(0.75, abs=0.055)  # four standard deviations
    np.testing.assert_array_equal(batch["language_ids"], ~large)  # "test.large" comes first


@pytest.mark.parametrize(
    ("trained", "buckets", "expected"),
    [
        ("test.mixture", (), [[1, 1, 1, 1], [1, 1, 1, 0]]),
        ("test.mixture", (4, 5), [[1, 1, 1, 1], [1, 1, 1, 0]]),
        ("test.large", (), [[-1] * 4, [-1, -1, -1, 0]]),
        ("test.foreign", (), [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ("not registered", (), [[0, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_a_language_has_its_number_of_training_when_it_is_evaluated(
    trained: str, buckets: tuple[int, ...], expected: list[list[int]]
) -> None:
    """And its own tasks' where training has no languages; the last row of the seven examples is filler."""
    data = dataclasses.replace(config(trained), length_buckets=buckets)
    found = [batch.arrays["language_ids"] for batch in batches.eval_batches("test.small", data)]
    assert [ids.tolist() for ids in found] == expected
    assert {ids.dtype for ids in found} == {np.dtype(np.int32)}


@pytest.mark.parametrize("task", ["test.small", "test.mixture", "test.foreign"])
@pytest.mark.parametrize("num_shards", [2, 4])
def test_several_hosts_read_what_one_reads(task: str, num_shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its order too: host s has every n-th row from row s on. Also across blocks in which a mixture draws."""
    monkeypatch.setattr(mixing, "CHOICES", 7)
    whole = take(batches.train_batches(config(task, 8), seed=2), 6)
    for shard in range(num_shards):
        own = take(batches.train_batches(config(task, 8), seed=2, shard_index=shard, num_shards=num_shards), 6)
        assert_same(own, [{key: rows[shard::num_shards] for key, rows in batch.items()} for batch in whole])


def test_a_state_of_another_layout_is_refused() -> None:
    state = batches.train_batches(config("test.large", 8), seed=0, num_shards=2).state()
    with pytest.raises(UserError, match="with num_shards 2, now 1: give the run what it had"):
        batches.train_batches(config("test.large", 8), seed=0).restore(state)
    with pytest.raises(UserError, match="with batch_size 8, now 4; num_shards 2, now 1"):
        batches.train_batches(config("test.large", 4), seed=0).restore(state)


def test_a_state_from_before_the_draws_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = batches.train_batches(config("test.large", 8), seed=0).state()
    monkeypatch.setattr(batches, "DATA_ORDER_VERSION", batches.DATA_ORDER_VERSION + 1)
    with pytest.raises(
        UserError,
        match=f"version of the random draws {batches.DATA_ORDER_VERSION - 1}, now {batches.DATA_ORDER_VERSION}",
    ):
        batches.train_batches(config("test.large", 8), seed=0).restore(state)


@pytest.mark.parametrize("task", ["test.mixture", "test.foreign"])
def test_only_what_several_hosts_drew_otherwise_before_is_refused(task: str) -> None:
    for num_shards in (1, 2):
        found = batches.train_batches(config(task), seed=0, num_shards=num_shards)
        state = found.state()
        state["layout"]["version of the random draws"] = 2
        if num_shards == 1:
            found.restore(state)
        else:
            with pytest.raises(
                UserError, match=r"draws 2, now 3: go on with the version .* or begin another MODEL_DIR"
            ):
                found.restore(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: batches.train_batches(config("test.larg"), seed=0), "'test.larg': did you mean test.large"),
        (lambda: batches.train_batches(config("test.empty"), seed=0), "'test.empty' has no train split, nor any other"),
        (
            lambda: batches.train_batches(config("test.unmixed"), seed=0),
            "'test.unmixed' cannot draw at the rates test.large 0, test.small 0: none below 0, and one above",
        ),
        (lambda: batches.train_batches(config("?"), seed=0), "is the module that registers it imported"),
        (
            lambda: batches.train_batches(config("test.small"), seed=0, num_shards=3),
            "4 cannot be shared out evenly to 3",
        ),
        (lambda: next(batches.eval_batches("test.foreign", config("test.foreign"))), "no validation split, only train"),
    ],
)
def test_requests_that_cannot_be_met_are_explained(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_evaluation_sees_every_example_once_and_fills_the_last_batch() -> None:
    found = list(batches.eval_batches("test.small", config("test.small")))
    assert [len(batch.examples) for batch in found] == [4, 3]
    assert sorted(info.index for batch in found for info in batch.examples) == list(range(7))
    assert {(info.task, info.language) for batch in found for info in batch.examples} == {("test.small", "test.small")}
    for batch in found:
        rows = batch.arrays["encoder_input_tokens"][: len(batch.examples), 0]
        np.testing.assert_array_equal(rows, [info.index + 13 for info in batch.examples])
    assert all(not value[3:].any() for value in found[1].arrays.values())
    assert all(value.shape[0] == 4 for value in found[1].arrays.values())


def test_the_configuration_says_how_rows_are_made() -> None:
    """Packed rows have segments, bucketed batches their lengths; the saved state tells one from the other."""
    plain = dataclasses.replace(config("test.mixture", input_length=12), target_length=9)
    packed = batches.train_batches(dataclasses.replace(plain, rows="packed"), seed=0)
    assert next(packed)["encoder_segment_ids"].max() > 1
    bucketed = batches.train_batches(dataclasses.replace(plain, length_buckets=(3, 12)), seed=0)
    assert next(bucketed)["encoder_input_tokens"].shape == (4, 3)
    with pytest.raises(UserError, match="rows 'packed', now 'one_a_row'; length_buckets"):
        bucketed.restore(packed.state())


def test_evaluation_in_buckets_sees_the_same_examples_in_shorter_rows() -> None:
    data = config("test.small", input_length=12)
    whole = {info: row for batch in batches.eval_batches("test.small", data) for info, row in rows_of(batch)}
    bucketed = list(batches.eval_batches("test.small", dataclasses.replace(data, length_buckets=(3, 12))))
    assert {batch.arrays["encoder_input_tokens"].shape for batch in bucketed} == {(4, 3)}
    found = {info: row for batch in bucketed for info, row in rows_of(batch)}
    assert found.keys() == whole.keys()
    assert all(np.array_equal(found[info], whole[info][:3]) for info in whole)


def rows_of(batch: batches.EvalBatch) -> list[tuple[batches.ExampleInfo, np.ndarray]]:
    inputs = batch.arrays["encoder_input_tokens"][: len(batch.examples)]
    return list(zip(batch.examples, inputs, strict=True))


def test_evaluation_is_always_the_same_and_can_be_cut_short() -> None:
    whole, again = (list(batches.eval_batches("test.mixture", config("test.small"))) for _ in range(2))
    assert_same([batch.arrays for batch in whole], [batch.arrays for batch in again])
    short = list(batches.eval_batches("test.mixture", config("test.small"), num_examples=3))
    assert [info.task for batch in short for info in batch.examples] == ["test.large"] * 3 + ["test.small"] * 3
    np.testing.assert_array_equal(
        short[0].arrays["encoder_input_tokens"][:3], whole[0].arrays["encoder_input_tokens"][:3]
    )
