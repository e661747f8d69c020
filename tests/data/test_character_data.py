"""The generated character tasks: rows of the stated size, solvable, and split without overlap."""

import random
import unicodedata
from collections import Counter
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


LETTERS = {
    "Russian": "абвгдежзиклмнопрст",
    "Greek": "αβγδεζηθικλμνξοπρστ",
    "Arabic with marks": [letter + mark for letter in "بتثجحخدذرز" for mark in "\u064e\u0650"],
    "Hindi with marks": [letter + mark for letter in "कखगघचजतद" for mark in "\u093e\u093f"],
    "Amharic": "ሀለሐመሠረሰሸቀበተ",
    "Adlam, four bytes": [chr(0x1E922 + number) for number in range(28)],
    "Latin, decomposed": [letter + mark for letter in "aeiou" for mark in "\u0301\u0308"],
}  # fmt: skip


@pytest.mark.parametrize("script", LETTERS)
def test_words_of_every_script_are_hidden(script: str) -> None:
    """In letters of the script, whole ones, in rows of the stated size."""
    generator, letters = random.Random(0), list(LETTERS[script])
    words = {"".join(generator.choices(letters, k=generator.randrange(3, 8))) for _ in range(200)}
    left_out: Counter[str] = Counter()
    pairs = [
        pair for split in character_data.SPLITS for pair in character_data.word_search_pairs(words, split, left_out)
    ]
    assert sorted(pair.target for pair in pairs) == sorted(words)
    assert not left_out
    width = len(letters[0])
    for pair in pairs:
        hidden = pair.input.partition(": ")[2]
        backwards = "".join(reversed([pair.target[at : at + width] for at in range(0, len(pair.target), width)]))
        assert pair.target in hidden or backwards in hidden
        assert all(hidden[at : at + width] in letters for at in range(0, len(hidden), width))
        assert len(pair.target.encode()) < len(hidden.encode())
        assert len(pair.input.encode()) <= 127


def test_what_is_left_out_is_counted_by_reason() -> None:
    left_out: Counter[str] = Counter()
    words = ["ab", "да", "a1b", "और।", "x" * 16, "word", ""]
    rows = [
        pair for split in character_data.SPLITS for pair in character_data.word_search_pairs(words, split, left_out)
    ]
    assert [pair.target for pair in rows] == ["word"]
    assert sorted(left_out.values()) == [1, 2, 2]
    assert sum(left_out.values()) == len(words) - 2


@pytest.mark.parametrize(
    "line",
    [
        "Многие слова этого предложения достаточно длинные чтобы в них ошибиться",
        "इस वाक्य के कई शब्द इतने लंबे हैं कि उनमें गलती हो सकती है और फिर",
        "这个句子没有空格但是它足够长可以切成很多段每一段都有足够多的字可以写错我们再多写一些字",
    ],
)
def test_lines_of_every_script_give_rows(line: str) -> None:
    """Misspelt with letters of their own, and no mark comes loose from its letter."""
    lines = [f"{line} {word}" for word in line.split() * 9]
    pairs = [pair for split in character_data.SPLITS for pair in character_data.spelling_pairs(lines, split)]
    assert len(pairs) >= len(set(lines))
    for pair in pairs:
        assert set(pair.input) <= {*line, " "}
        assert len(pair.input.encode()) <= 63
        assert pair.target in " ".join(lines)
        assert not any(unicodedata.category(word[0]).startswith("M") for word in pair.input.split())


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


def test_a_split_without_rows_has_no_file_neither_a_new_nor_an_old_one(tmp_path: Path) -> None:
    pairs = {"train": [Pair("a", "b")], "test": []}
    assert character_data.write_splits(tmp_path, pairs) == {"train": 1, "test": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["train.tsv"]
    assert (tmp_path / "train.tsv").read_text() == "a\tb\n"
    (tmp_path / "test.tsv").write_text("of another list\tx\n")
    with pytest.raises(UserError, match="no test rows to replace it: remove it"):
        character_data.write_splits(tmp_path, pairs | {"train": [Pair("c", "d")]})
    assert (tmp_path / "train.tsv").read_text() == "a\tb\n"
