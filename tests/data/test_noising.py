"""Noise on text: as much as was asked for, whole characters, and nothing but dropping, doubling and replacing."""

import doctest
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mrt5_jax.data import noising
from mrt5_jax.data.noising import LINE_END, add_noise, with_noise
from mrt5_jax.data.vocabulary import EOS_ID, decode, encode

LETTERS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)


def noisy(text: str, noise: float, seed: int = 0) -> str:
    return decode(add_noise(encode(text), noise, np.random.default_rng(seed))).decode()


@given(LETTERS, st.floats(0, 0.99), st.integers(0, 100))
def test_what_comes_is_text_of_the_same_characters(text: str, noise: float, seed: int) -> None:
    """Decoding it as UTF-8 succeeds, so that no character has been cut."""
    assert set(noisy(text, noise, seed)) <= set(text)


@given(LETTERS)
def test_without_noise_a_text_stays_as_it_is(text: str) -> None:
    assert noisy(text, 0.0) == text


def test_a_third_each_is_dropped_doubled_and_replaced() -> None:
    """Of 30,000 characters that all differ, so that each can be told; shares within 4 standard deviations."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    found = noisy(text, 0.3)
    doubled = sum(one == other for one, other in itertools.pairwise(found))
    in_place = len(set(found) & set(text))
    assert doubled / len(text) == pytest.approx(0.1, abs=4 * 0.0022)
    assert len(found) == pytest.approx(len(text), abs=4 * 64)
    # What is dropped or replaced is gone, but for what replaces others.
    gone = 1 - in_place / len(text)
    assert gone == pytest.approx(0.2 * (1 - 0.1), abs=0.01)


def test_bytes_that_are_no_text_are_noised_too() -> None:
    ids = encode(bytes(range(256)))
    assert set(add_noise(ids, 0.5, np.random.default_rng(0))) <= set(ids)
    assert len(add_noise(ids[:0], 0.5, np.random.default_rng(0))) == 0


def test_ends_of_documents_become_line_ends() -> None:
    ids = np.array([100, EOS_ID, 101], np.int32)
    example = with_noise({"ids": ids, "seed": np.array([1, 2]), "language": "en"}, 0.0)
    np.testing.assert_array_equal(example["targets"], [100, LINE_END, 101])
    np.testing.assert_array_equal(example["inputs"], example["targets"])
    assert example["language"] == "en"


def test_noise_follows_from_the_examples_seed_alone() -> None:
    ids = encode("the same text with the same seed")
    first, again, other = (with_noise({"ids": ids, "seed": np.array([0, n])}, 0.5)["inputs"] for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_the_documented_example() -> None:
    assert doctest.testmod(noising, extraglobs=vars(noising)).failed == 0
