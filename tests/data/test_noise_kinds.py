"""Kinds of noise: each does what its name says, as often as was asked for, and nothing else."""

import doctest
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mrt5_jax.data import noise_kinds
from mrt5_jax.data.character_data import split_letters
from mrt5_jax.data.noise_kinds import NEIGHBOURS, NOISES, noisy_example
from mrt5_jax.data.task_specs import unchanged
from mrt5_jax.data.vocabulary import encode
from mrt5_jax.errors import UserError

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cf")), max_size=40)
"""Of letters of any script, marks, white space; without joiners, which tie what comes to stand beside them."""
BYTES = st.binary(max_size=60)
RATES = st.floats(0, 1)
SEEDS = st.integers(0, 1000)


def noisy(text: str, kind: str, rate: float, seed: int = 0) -> str:
    return NOISES[kind](text, rate, np.random.default_rng(seed))


def is_part(part: Iterable[object], whole: Iterable[object]) -> bool:
    """Whether the parts come in the whole, in their order."""
    rest = iter(whole)
    return all(one in rest for one in part)


def example(inputs: Any, index: int = 0) -> dict[str, Any]:
    return {"inputs": inputs, "targets": "clean", "index": index, "seed": np.array([0, index])}


@pytest.mark.parametrize("kind", NOISES)
@given(data=BYTES, seed=SEEDS)
def test_a_rate_of_0_changes_nothing_not_even_what_is_no_text(kind: str, data: bytes, seed: int) -> None:
    found = noisy(data.decode(errors="surrogateescape"), kind, 0.0, seed)
    assert found.encode(errors="surrogateescape") == data


@pytest.mark.parametrize("kind", NOISES)
@given(text=TEXTS, rate=RATES, seed=SEEDS)
def test_the_same_seed_gives_the_same_noise(kind: str, text: str, rate: float, seed: int) -> None:
    assert noisy(text, kind, rate, seed) == noisy(text, kind, rate, seed)


@given(TEXTS, RATES, SEEDS)
def test_what_is_dropped_is_whole_letters(text: str, rate: float, seed: int) -> None:
    found = noisy(text, "drop", rate, seed)
    assert is_part(split_letters(found), split_letters(text))
    assert [one for one in found if one.isspace()] == [one for one in text if one.isspace()]


@given(TEXTS, st.tuples(RATES, RATES), SEEDS)
def test_what_one_rate_drops_a_higher_one_drops_too(text: str, rates: tuple[float, float], seed: int) -> None:
    fewer, more = (noisy(text, "drop", rate, seed) for rate in sorted(rates))
    assert is_part(more, fewer)


def test_as_many_are_dropped_as_the_rate_says() -> None:
    """Of 20,000 letters, within 4 standard deviations."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    assert 1 - len(noisy(text, "drop", 0.3)) / len(text) == pytest.approx(0.3, abs=4 * 0.00324)
    assert noisy("a b\u0301,\nc", "drop", 1.0) == " \n"


@given(TEXTS, RATES, SEEDS)
def test_swapping_keeps_every_letter(text: str, rate: float, seed: int) -> None:
    found = noisy(text, "swap", rate, seed)
    assert Counter(split_letters(found)) == Counter(split_letters(text))


@given(st.lists(st.characters(categories=("L",)), unique=True, max_size=30), RATES, SEEDS)
def test_no_letter_moves_further_than_one_place(letters: list[str], rate: float, seed: int) -> None:
    found = noisy("".join(letters), "swap", rate, seed)
    assert all(abs(found.index(letter) - place) <= 1 for place, letter in enumerate(letters))


def test_swapping_stays_within_words_and_takes_marks_along() -> None:
    assert noisy("abcde fg h", "swap", 1.0) == "badce gf h"
    assert noisy("e\u0301a", "swap", 1.0) == "ae\u0301"
    assert noisy("\u0301ab", "swap", 1.0) == "\u0301ba", "a mark whose letter was cut off"


@given(st.text(st.characters(max_codepoint=127)), RATES, SEEDS)
def test_only_the_case_changes(text: str, rate: float, seed: int) -> None:
    assert noisy(text, "case", rate, seed).casefold() == text.casefold()


def test_every_case_changes_at_a_rate_of_1() -> None:
    assert noisy("aB ÄöΣ жЖ 漢 1", "case", 1.0) == "Ab äÖσ Жж 漢 1"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Thế giới naïve", "The gioi naive"),
        ("e\u0301a\u0323\u0302", "ea"),
        ("Ёлка май", "Елка маи"),
        ("שָׁלוֹם", "שלום"),
        ("مُحَمَّد", "محمد"),
        *((same, same) for same in ("ASCII 1!", "ø đ ł", "किताब", "ที่นี่", "がぎ", "각", "漢字")),
    ],
)
def test_diacritics_are_removed_and_letters_that_look_like_them_are_not(text: str, bare: str) -> None:
    assert noisy(text, "diacritics", 1.0) == bare


@given(BYTES, RATES, SEEDS)
def test_bytes_come_once_or_twice(data: bytes, rate: float, seed: int) -> None:
    found = noisy(data.decode(errors="surrogateescape"), "repeat_bytes", rate, seed).encode(errors="surrogateescape")
    runs = [[(byte, len(list(own))) for byte, own in itertools.groupby(of)] for of in (data, found)]
    assert [byte for byte, _ in runs[0]] == [byte for byte, _ in runs[1]]
    assert all(once <= now <= 2 * once for (_, once), (_, now) in zip(*runs, strict=True))


@given(BYTES)
def test_all_bytes_but_those_that_utf8_never_has_come_twice_at_a_rate_of_1(data: bytes) -> None:
    found = noisy(data.decode(errors="surrogateescape"), "repeat_bytes", 1.0).encode(errors="surrogateescape")
    assert found == b"".join(bytes([byte]) * (1 if byte >= 0xF5 else 2) for byte in data)


def test_neighbours_are_those_of_a_keyboard() -> None:
    assert set(NEIGHBOURS["g"]) == set("tyfhvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert set(NEIGHBOURS["P"]) == set("OL")
    assert len(NEIGHBOURS) == 2 * 26
    assert all(one in NEIGHBOURS[other] for one, near in NEIGHBOURS.items() for other in near)


@given(st.text(st.characters(max_codepoint=127)), SEEDS)
def test_mistyped_letters_are_neighbours(text: str, seed: int) -> None:
    found = noisy(text, "keyboard", 1.0, seed)
    assert len(found) == len(text)
    for letter, typed in zip(text, found, strict=True):
        assert typed in NEIGHBOURS[letter] if letter in NEIGHBOURS else typed == letter


def test_other_scripts_and_letters_with_marks_are_not_mistyped() -> None:
    text = "Привет 漢字 é e\u0301 1;"
    assert noisy(text, "keyboard", 1.0) == text


def test_bytes_that_are_no_utf8_stay_where_they_are() -> None:
    """Such as the sentinels of span corruption."""
    text = b"\xffab\xfecd".decode(errors="surrogateescape")
    assert noisy(text, "swap", 1.0).encode(errors="surrogateescape") == b"\xffba\xfedc"
    assert noisy(text, "drop", 1.0).encode(errors="surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize("inputs", ["größer", "größer".encode(), encode("größer")])
def test_inputs_of_every_form_get_the_same_noise_and_targets_none(inputs: Any) -> None:
    found = noisy_example(example(inputs), unchanged, "swap", 1.0, 0)
    assert found["inputs"] == "rgßöre".encode()
    assert (found["targets"], found["index"]) == ("clean", 0)


def test_noise_follows_from_its_seed_and_the_examples() -> None:
    text = "abcdefghij" * 5
    calls = [(0, 0), (0, 1), (1, 0), (0, 0)]
    found = [noisy_example(example(text, index), unchanged, "drop", 0.5, seed)["inputs"] for index, seed in calls]
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_a_task_may_leave_the_examples_seed_out() -> None:
    def shout(own: dict[str, Any]) -> dict[str, Any]:
        return {"inputs": own["inputs"].upper(), "targets": own["targets"]}

    assert noisy_example(example("ab"), shout, "swap", 1.0, 0) == {"inputs": b"BA", "targets": "clean"}


def test_ids_that_are_no_bytes_are_refused() -> None:
    with pytest.raises(UserError, match="id 300, which is no byte: noise takes tasks whose inputs are text"):
        noisy_example(example(np.array([100, 300], np.int32)), unchanged, "drop", 0.5, 0)


def test_the_documented_example() -> None:
    assert doctest.testmod(noise_kinds, extraglobs=vars(noise_kinds)).failed == 0
