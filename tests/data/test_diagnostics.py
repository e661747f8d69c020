"""The diagnostic rules against plain Python, and splits that cannot meet."""

import re

import numpy as np
import pytest

from mrt5_jax.data import diagnostics, vocabulary
from mrt5_jax.errors import UserError

RULES = {
    "copy": lambda text: text,
    "vowel_removal": lambda text: re.sub("[aeiouAEIOU]", "", text),
    "contextual_vowel_removal": lambda text: re.sub("(?<=[bcdfghjklmnpqrstvwxyz])[aeiouAEIOU]", "", text),
    "merge_abc": lambda text: text.replace("ABC", "D"),
}

RECORDED = (
    ("copy", "train", 0, "#aQsOPuFmfAkFFfaeDn"),
    ("vowel_removal", "test", 12345, "#hmVADzjYdINHKwmtam"),
    ("contextual_vowel_removal", "train", 0, "#XIHUHUfelEGuhiJeDK"),
    ("contextual_vowel_removal", "test", 12345, "#MimajISuNIhoDUkEaP"),
    ("merge_abc", "train", 0, "#aQsOABCmfAkABCaeDk"),
    ("merge_abc", "test", 12345, "#hmVABCjABCNABCmtaB"),
)
"""Strings of 20 ids that earlier versions drew."""


def strings(kind: diagnostics.DiagnosticKind, split: str, count: int, length: int = 64) -> list[tuple[str, str]]:
    examples = diagnostics.make_examples(kind, length)(split, np.arange(count))
    return [
        (vocabulary.decode(pair["inputs"]).decode(), vocabulary.decode(pair["targets"]).decode()) for pair in examples
    ]


@pytest.mark.parametrize("length", [8, 31, 64])
@pytest.mark.parametrize("kind", RULES)
def test_targets_follow_the_rule(kind: diagnostics.DiagnosticKind, length: int) -> None:
    for text, target in strings(kind, "train", 100, length):
        assert re.fullmatch("#[a-zA-Z]+", text)
        assert len(text) == length - 1
        assert target == RULES[kind](text)


def test_letters_are_uniform() -> None:
    text = "".join(text[1:] for text, _ in strings("copy", "train", 1000))
    counts = np.array([text.count(letter) for letter in diagnostics.LETTERS.decode()])
    expected = len(text) / 52
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 51 + 4 * np.sqrt(2 * 51)


@pytest.mark.parametrize(("kind", "pattern", "mean", "deviation"), [
    # Normal(25, 12.5) pairs, but no more than the 30 that fit; letters that pair by chance fill the rest
    ("contextual_vowel_removal", "(?i)[bcdfghjklmnpqrstvwxyz][aeiou]", 25.0, 6.3),
    ("merge_abc", "ABC", 5.0, 2.5),
])  # fmt: skip
def test_patterns_are_planted_about_as_often_as_in_the_paper(
    kind: diagnostics.DiagnosticKind, pattern: str, mean: float, deviation: float
) -> None:
    found = [len(re.findall(pattern, text)) for text, _ in strings(kind, "train", 1000)]
    assert np.mean(found) == pytest.approx(mean, rel=0.1)
    assert np.std(found) == pytest.approx(deviation, rel=0.15)


def residue(text: str) -> int:
    """Sum of letter numbers, a = 0, ..., Z = 51."""
    return sum(diagnostics.LETTERS.index(letter.encode()) for letter in text[1:]) % 52


@pytest.mark.parametrize("kind", RULES)
def test_no_string_can_be_in_two_splits(kind: diagnostics.DiagnosticKind) -> None:
    # The residue is a function of the string, so disjoint sets of residues mean disjoint sets of strings.
    residues = {
        split: {residue(text) for text, _ in strings(kind, split, 300)} for split in ("train", "validation", "test")
    }
    assert residues["train"] <= set(range(48))
    assert residues["validation"] == {48, 49}
    assert residues["test"] == {50, 51}


def test_strings_do_not_repeat() -> None:
    texts = [text for text, _ in strings("copy", "train", 2000, length=32)]
    assert len(set(texts)) == len(texts)


def test_too_short_a_length_is_refused() -> None:
    with pytest.raises(UserError, match=r"length 7 is too short .* at least 8"):
        diagnostics.make_examples("copy", 7)


def test_the_strings_are_those_that_earlier_versions_drew_with_tensorflow() -> None:
    """So runs of theirs go on with the same strings, with and without it."""
    for kind, split, index, text in RECORDED:
        (example,) = diagnostics.make_examples(kind, 20)(split, np.array([index]))
        assert vocabulary.decode(example["inputs"]).decode() == text
