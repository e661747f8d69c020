"""Scores of generated answers: accuracy, and SQuAD's exact match and F1 (Rajpurkar et al. 2016) for any script.

SQuAD's normalisation: lower case, no punctuation, no English article, single spaces. In scripts that put no spaces
between words, each character counts as a word, as in MLQA (Lewis et al. 2020).
"""

import collections
import re
import unicodedata
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")  # of which Unicode calls some symbols
_WITHOUT_SPACES = re.compile(
    "([\u0e00-\u0e7f"  # Thai
    "\u0e80-\u0eff"  # Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"  # Han
)


def normalize_answer(text: str) -> str:
    """Returns the text as SQuAD compares it."""
    text = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 where the prediction is one of the accepted answers, 0 elsewhere."""
    return _best(_exact_match, prediction, answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 over words that any of the accepted answers gives, 0 to 1; 0 where there is none."""
    return _best(_f1, prediction, answers)


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Computes the share of predictions that equal their target, in per cent: a seqio metric."""
    equal = [float(target == prediction) for target, prediction in zip(targets, predictions, strict=True)]
    return {"accuracy": _percent(equal)}


def question_answering(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Computes mean exact match and F1 against lists of accepted answers, in per cent; NaN without examples."""
    examples = list(zip(predictions, targets, strict=True))
    return {
        "exact_match": _percent([exact_match(*example) for example in examples]),
        "f1": _percent([f1(*example) for example in examples]),
    }


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values) if values else float("nan")


def _is_punctuation(letter: str) -> bool:
    return letter in _ASCII_PUNCTUATION or unicodedata.category(letter).startswith("P")


def _best(score: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    return max((score(normalize_answer(prediction), normalize_answer(answer)) for answer in answers), default=0.0)


def _exact_match(prediction: str, answer: str) -> float:
    return float(prediction == answer)


def _f1(prediction: str, answer: str) -> float:
    found, wanted = _words(prediction), _words(answer)
    if not found or not wanted:
        return float(found == wanted)
    common = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def _words(text: str) -> list[str]:
    return _WITHOUT_SPACES.sub(r" \1 ", text).split()
