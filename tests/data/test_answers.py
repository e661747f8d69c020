"""Answer scores against SQuAD's definition, and in scripts that it was not made for."""

import collections
import math
import re
import string

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mrt5_jax.data import answers

ASCII = st.lists(st.sampled_from(["a", "the", "An", "cat,", "dog", "U.S.", "4-5", "$3", "theory", "  ", "x_y"])).map(
    " ".join
)


def squad_f1(prediction: str, answer: str) -> float:
    """The published definition for English, in other words."""

    def words(text: str) -> list[str]:
        text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    found, wanted = words(prediction), words(answer)
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if not found or not wanted:
        return float(found == wanted)
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


@given(ASCII, ASCII)
def test_f1_in_english_is_squads(prediction: str, answer: str) -> None:
    assert answers.f1(prediction, [answer]) == pytest.approx(squad_f1(prediction, answer))


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("The Cat!", "cat", 1.0, 1.0),
        ("a cat and dog", "cat", 0.0, 0.5),
        ("«Москва»", "москва", 1.0, 1.0),
        ("北京市", "北京", 0.0, 0.8),
        ("北京。", "北京", 1.0, 1.0),
        ("กรุง", "กรุงเทพ", 0.0, 2 * 4 / 11),
        ("2010年", "2010", 0.0, 2 / 3),
        ("", "x", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
    ],
)
def test_scores_of_known_pairs(prediction: str, answer: str, exact: float, f1: float) -> None:
    assert answers.exact_match(prediction, [answer]) == exact
    assert answers.f1(prediction, [answer]) == pytest.approx(f1)


def test_the_best_answer_counts() -> None:
    for score in (answers.exact_match, answers.f1):
        assert score("new york", ["york", "New York City", "NEW YORK"]) == 1.0
        assert score("anything", []) == 0.0


def test_means_are_per_cent_over_examples() -> None:
    found = answers.question_answering([["cat"], ["dog", "hound"]], ["cat", "big dog"])
    assert found == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}
    assert answers.accuracy(["0", "1", "2"], ["0", "1", "0"]) == {"accuracy": pytest.approx(200 / 3)}
    assert math.isnan(answers.accuracy([], [])["accuracy"])
