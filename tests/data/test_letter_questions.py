"""Questions about letters: each answer is what Python's own strings say, in any script, marks with their letters."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mrt5_jax.data.character_data import script_name
from mrt5_jax.data.corpora import open_regions
from mrt5_jax.data.letter_questions import QUESTIONS, letter_question, read_words, sorted_alphabets

QUESTION = {
    "insert": r'Add an "(.+)" after every "(.+)" in "(.+)"\.',
    "delete": r'Delete every instance of "(.+)" in "(.+)"\.',
    "substitute": r'Substitute "(.+)" with "(.+)" in "(.+)"\.',
    "swap": r'Swap "(.+)" and "(.+)" in "(.+)"\.',
    "count": r'Count "(.+)" in "(.+)"\.',
}
ANSWER: dict[str, Callable[..., str]] = {
    "insert": lambda new, old, word: word.replace(old, old + new),
    "delete": lambda old, word: word.replace(old, ""),
    "substitute": lambda old, new, word: word.replace(old, new),
    "swap": lambda one, other, word: word.translate({ord(one): other, ord(other): one}),
    "count": lambda letter, word: str(word.count(letter)),
}
"""Of the parts of a question, where each letter is a character."""


@st.composite
def words(draw: st.DrawFn) -> tuple[str, str]:
    """A word two of whose letters occur once, and the letters of its script."""
    letters = draw(st.sampled_from(("abcdefghij", "абвгдежзик", "αβγδεζηθικ", "漢字假名交文表記法語")))
    first, second, *rest = draw(st.permutations(list(letters)))
    others = draw(st.lists(st.sampled_from(rest), min_size=1, max_size=13))
    return "".join(draw(st.permutations([first, second, *others]))), letters


def asked(word: str, letters: str, kind: str, index: int = 0, seed: int = 0) -> tuple[str, str]:
    example = {"word": word, "language": "x", "index": index, "seed": np.array([0, index])}
    found = letter_question(example, kind, {script_name(word): sorted(letters)}, seed)
    assert (found["language"], found["index"]) == ("x", index)
    return found["inputs"], found["targets"]


@pytest.mark.parametrize("kind", QUESTIONS)
@given(words(), st.integers(0, 1000))
def test_answers_are_right(kind: str, given_word: tuple[str, str], index: int) -> None:
    word, letters = given_word
    question, answer = asked(word, letters, kind, index)
    parts = re.fullmatch(QUESTION[kind], question)
    assert parts
    *about, of = parts.groups()
    assert of == word
    assert answer == ANSWER[kind](*parts.groups())
    assert set(about) <= set(letters)
    if kind in ("insert", "substitute", "swap"):
        assert about[0] != about[1]
    if kind == "swap":
        assert [word.count(letter) for letter in about] == [1, 1]
    if kind in ("delete", "substitute"):
        assert about[0] in word
        assert answer != word


def test_a_letter_with_a_mark_is_another_letter() -> None:
    found = dict(asked("e\u0301te", "ab", "delete", index) for index in range(50))
    assert found == {
        f'Delete every instance of "{old}" in "e\u0301te".': rest
        for old, rest in (("e", "e\u0301t"), ("e\u0301", "te"), ("t", "e\u0301e"))
    }


def test_counts_that_a_word_allows_are_asked_for_alike() -> None:
    """Of 600, within 4 standard deviations; most letters of a word occur once, so "1" would be a good guess."""
    answers = Counter(asked("alphabet", "abcdefghijklmnop", "count", index)[1] for index in range(600))
    assert set(answers) == {"0", "1", "2"}
    assert all(abs(count - 200) < 4 * 11.6 for count in answers.values())


def test_questions_follow_from_their_seed_and_the_examples() -> None:
    calls = [asked("alphabet", "abcxyz", "insert", index, seed) for index, seed in ((0, 0), (0, 0))]
    assert calls[0] == calls[1]
    assert len({asked("alphabet", "abcxyz", "insert", index) for index in range(20)}) > 5
    assert len({asked("alphabet", "abcxyz", "insert", 0, seed) for seed in range(20)}) > 5


def test_words_are_read_once_and_others_are_counted_by_reason(tmp_path: Path) -> None:
    lines = ["garden\ta hint", "", "ab", "noon", "mama", "x1y", "garden", " Été ", "extraordinarily"[:15] + "x"]
    (tmp_path / "words.txt").write_bytes("\r\n".join(lines).encode() + b"\ngar\xffden\n")
    (region,) = open_regions(str(tmp_path / "words.txt"))
    left_out: Counter[str] = Counter()
    assert read_words(region, left_out) == ["garden", "Été"]
    assert dict(left_out) == {
        "words of fewer than 3 characters": 1,
        "words of more than 15 characters": 1,
        "words with other characters than letters": 2,
        "words with fewer than two letters that occur once": 2,
    }


def test_new_letters_are_of_the_words_script() -> None:
    assert sorted_alphabets(["bad", "лы\u0301жи", "cab"]) == {
        "LATIN": ["a", "b", "c", "d"],
        "CYRILLIC": ["ж", "и", "л", "ы\u0301"],
    }
