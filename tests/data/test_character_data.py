"""The generated character tasks: rows of the stated size, solvable, and split without overlap."""

from pathlib import Path

import pytest

from mrt5_jax.data import character_data
from mrt5_jax.data.character_data import Pair
from mrt5_jax.errors import UserError

LINES = [
    f"Sentence number {number} has several words that are long enough to be misspelt, naïve ones too."
    for number in range(60)
]
WORDS = [f"{a}{b}{c}" for a in ("gar", "mon", "été") for b in "aeiou" for c in ("den", "ster", "ling")]


def spelling(split: str) -> list[Pair]:
    return list(character_data.spelling_pairs(LINES, split))


def test_spelling_rows_fit_and_differ_from_the_text_that_they_come_from() -> None:
    pairs = spelling("train")
    text = " ".join(LINES)
    for pair in pairs:
        assert pair.input != pair.target
        assert len(pair.input.encode()) <= 63
        assert pair.target in text
        assert len(pair.input.split()) == len(pair.target.split())
    wrong = [a != b for pair in pairs for a, b in zip(pair.input.split(), pair.target.split(), strict=True)]
    assert 0.08 < sum(wrong) / len(wrong) < 0.25


def test_words_hide_in_their_letters_under_a_hint() -> None:
    for pair in character_data.word_search_pairs(WORDS, "train"):
        hint, letters = pair.input.split(": ")
        assert hint == "".join(sorted(pair.target))
        assert pair.target in letters or pair.target[::-1] in letters
        assert len(letters) == 80
        assert len(pair.input.encode()) <= 127
    (pair, *_) = character_data.word_search_pairs([f"{word}\tits hint" for word in WORDS], "train")
    assert pair.input.startswith("its hint: ")


def test_splits_share_no_word_and_no_line() -> None:
    words = {
        split: {pair.target for pair in character_data.word_search_pairs(WORDS, split)}
        for split in character_data.SPLITS
    }
    assert set.union(*words.values()) == set(WORDS)
    assert sum(map(len, words.values())) == len(WORDS)
    numbers = {
        split: {pair.target.split()[2] for pair in spelling(split) if pair.target.startswith("Sentence")}
        for split in character_data.SPLITS
    }
    assert sum(map(len, numbers.values())) == len(set.union(*numbers.values())) == len(LINES)


def test_the_same_seed_makes_the_same_rows() -> None:
    assert spelling("test") == spelling("test")
    assert spelling("test") != list(character_data.spelling_pairs(LINES, "test", seed=1))


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too little to make a test split of"):
        character_data.write_splits(tmp_path, {"train": [Pair("a", "b")], "test": []})
    assert (tmp_path / "train.tsv").read_text() == "a\tb\n"
