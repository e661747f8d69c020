"""Span corruption: T5's lengths, nothing lost, and sentinels that cannot be taken for text."""

from collections.abc import Iterable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mrt5_jax.data.span_corruption import Corruption, corrupt
from mrt5_jax.data.vocabulary import UNK_ID, sentinel_ids
from mrt5_jax.errors import UserError

PAPER = Corruption()


def restore(inputs: np.ndarray, targets: np.ndarray, sentinels: range) -> list[int]:
    """The raw ids, with every sentinel of the inputs replaced by what follows it in the targets."""
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for i in targets.tolist():
        if i in sentinels:
            current = spans.setdefault(i, [])
        else:
            current.append(i)
    assert list(spans) == list(sentinels)[: len(spans)]
    return [raw for i in inputs.tolist() for raw in spans.get(i, [i])]


def corrupted(chunks: Iterable[np.ndarray], corruption: Corruption, num_sentinels: int, seed: int = 0) -> list[dict]:
    examples = ({"ids": chunk.astype(np.int32), "seed": np.array([seed, n])} for n, chunk in enumerate(chunks))
    return [corrupt(example, corruption, num_sentinels) for example in examples]


def t5_lengths(input_length: int, density: float, mean: float) -> tuple[int, int]:
    """T5's search for the raw and the target length, written from its description."""

    def both(raw: int) -> tuple[int, int]:
        noise = round(raw * density)
        spans = round(noise / mean)
        return raw - noise + spans + 1, noise + spans + 1

    raw = input_length
    while both(raw + 1)[0] <= input_length:
        raw += 1
    return raw, both(raw)[1]


@given(st.integers(128, 1300), st.sampled_from([0.1, 0.15, 0.3]), st.sampled_from([3.0, 20.0]))
def test_lengths_are_those_of_t5(input_length: int, density: float, mean: float) -> None:
    found = Corruption(density, mean, "extra_ids")._longest_chunk(input_length)
    assert (found.raw, found.targets) == t5_lengths(input_length, density, mean)


def test_1024_inputs_take_1193_raw_ids_and_189_targets() -> None:
    lengths = PAPER.lengths_for_inputs(1024)
    assert lengths == (1193, 179, 9, 1024, 189)


def test_examples_have_the_stated_lengths_and_lose_nothing() -> None:
    chunks = np.random.default_rng(0).integers(3, 250, (200, 1193))
    examples = corrupted(chunks, PAPER, num_sentinels=9)
    for chunk, example in zip(chunks, examples, strict=True):
        assert (len(example["inputs"]), len(example["targets"])) == (1023, 188)
        assert restore(example["inputs"], example["targets"], sentinel_ids(9)) == chunk.tolist()


@pytest.mark.parametrize(("density", "mean"), [(0.15, 20.0), (0.15, 1.0), (0.5, 3.0), (0.9, 3.0)])
def test_a_chunk_of_any_length_is_restored(density: float, mean: float) -> None:
    corruption = Corruption(density, mean, "extra_ids")
    generator = np.random.default_rng(0)
    chunks = [generator.integers(3, 259, raw) for raw in [*range(2, 40), 399, 400]]
    for ids, example in zip(chunks, corrupted(chunks, corruption, num_sentinels=120), strict=True):
        lengths = corruption.lengths(len(ids))
        assert len(example["inputs"]) + 1 == lengths.inputs
        assert len(example["targets"]) + 1 == lengths.targets
        assert restore(example["inputs"], example["targets"], sentinel_ids(lengths.spans, "extra_ids")) == ids.tolist()


def test_every_split_into_spans_is_equally_likely() -> None:
    # 6 raw ids, 2 corrupted in 2 spans: 3 ways to cut the 4 kept ones
    chunks = np.tile(np.arange(10, 16), (1200, 1))
    examples = corrupted(chunks, Corruption(1 / 3, 1.0), num_sentinels=2)
    inputs, counts = np.unique([example["inputs"] for example in examples], axis=0, return_counts=True)
    assert len(inputs) == 3
    np.testing.assert_allclose(counts, 400, atol=65)  # four standard deviations


def test_draws_follow_the_seed_and_nothing_else() -> None:
    chunks = np.tile(np.arange(400) % 200 + 10, (2, 1))
    first, again, other = (corrupted(chunks, PAPER, 9, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0]["inputs"], again[0]["inputs"])
    assert not np.array_equal(first[0]["inputs"], first[1]["inputs"])
    assert not np.array_equal(first[0]["inputs"], other[0]["inputs"])


def test_bytes_that_serve_as_sentinels_are_replaced_and_counted() -> None:
    chunks = np.arange(3, 259)[None]
    (example,) = corrupted(chunks, PAPER, num_sentinels=9)
    expected = np.where(chunks[0] >= 250, UNK_ID, chunks[0])
    assert restore(example["inputs"], example["targets"], sentinel_ids(9)) == expected.tolist()
    assert example["replaced_bytes"] == 9


def test_too_short_a_length_is_refused_with_the_least_one() -> None:
    with pytest.raises(UserError, match="at least 5"):
        PAPER.lengths_for_inputs(4)
    assert PAPER.lengths_for_inputs(5).noise == 1


def test_a_length_that_runs_out_of_sentinels_is_refused_with_the_longest_safe_one() -> None:
    with pytest.raises(UserError, match=r"takes 18 sentinels, but only 11 .* at most 1312, or sentinels='extra_ids'"):
        PAPER.lengths_for_inputs(2048)
    assert PAPER.lengths_for_inputs(1312).spans == 11
    with pytest.raises(UserError, match="takes 12 sentinels"):
        PAPER.lengths_for_inputs(1313)
    assert PAPER._replace(sentinels="extra_ids").lengths_for_inputs(2048).spans == 18
    with pytest.raises(UserError, match=r"only 125 can be told from text: use an input_length of at most \d+$"):
        PAPER._replace(sentinels="extra_ids").lengths_for_inputs(100_000)


@pytest.mark.parametrize(("density", "mean"), [(0.0, 20.0), (1.0, 20.0), (0.15, 0.5)])
def test_parameters_out_of_range_are_refused(density: float, mean: float) -> None:
    with pytest.raises(UserError, match=r"is not between|is less than"):
        Corruption(density, mean).lengths_for_inputs(1024)
