"""A task's own metrics of generated text: against a scorer of the test's own, and where a user's function fails."""

import functools
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mrt5_jax.data import answers
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.data.vocabulary import encode
from mrt5_jax.evaluation.task_metrics import measure_texts, target_text
from mrt5_jax.tasks.question_answering import accepted_answers

SCRIPTS = {
    "en": ["the", "a", "cat", "U.S.", "house", "river", "1984,", "King"],
    "de": ["Straße", "groß", "und", "König", "(Ulm)", "1984", "über", "ein"],
    "el": ["Αθήνα", "και", "πόλη", "«πόλη»", "βιβλίο", "νερό", "ένα", "2010"],
    "ru": ["Москва", "река", "дом", "и", "«Мир»", "книга", "1812", "год"],
    "ar": ["بيت", "كتاب", "ماء،", "مدينة", "و", "ملك", "١٩٨٤", "نهر"],
    "hi": ["पानी", "किताब", "और", "राजा।", "नदी", "घर", "१९८४", "शहर"],
    "th": ["กรุงเทพ", "น้ำ", "บ้าน", "แม่น้ำ", "และ", "เมือง", "2540", "ปี"],
    "zh": ["北京", "河流", "国王。", "和", "房子", "1984年", "城市", "水"],
    "ko": ["서울", "강", "왕", "그리고", "도시,", "물", "1984년", "집"],
    "tr": ["İstanbul", "ev", "su", "kral", "ve", "nehir", "1453'te", "kitap"],
    "vi": ["Hà", "Nội", "và", "sông", "nước,", "vua", "1945", "nhà"],
}


ARTICLES = ("a", "an", "the")


def own_text(text: str) -> str:
    """SQuAD's normalisation, letter by letter."""
    ascii_marks = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    kept = "".join(
        letter for letter in text.lower() if letter not in ascii_marks and unicodedata.category(letter)[0] != "P"
    )
    return " ".join(word for word in kept.split() if word not in ARTICLES)


def own_words(text: str) -> list[str]:
    """A Thai or Han letter is a word."""
    apart = ""
    for letter in own_text(text):
        alone = "\u0e00" <= letter <= "\u0e7f" or "\u4e00" <= letter <= "\u9fff"
        apart += f" {letter} " if alone else letter
    return apart.split()


def own_scores(prediction: str, accepted: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1, per cent, the best of the accepted answers."""
    exact, best = 0.0, 0.0
    for answer in accepted:
        found, wanted = own_words(prediction), own_words(answer)
        exact = max(exact, 100.0 * (own_text(prediction) == own_text(answer)))
        left, same = list(wanted), 0
        for word in found:
            if word in left:
                left.remove(word)
                same += 1
        best = max(best, 200.0 * same / (len(found) + len(wanted)) if found or wanted else 100.0)
    return exact, best


def spec_of(metrics: Sequence[Any], postprocess: Any = None) -> TaskSpec:
    return TaskSpec(
        "t", IndexedSource(one_by_one(lambda split, index: {}), {"test": 1}), unchanged, postprocess, metrics
    )


def unchanged(example: Example) -> Example:
    return example


def rows_of(targets: Sequence[str]) -> list[Example]:
    return [{"targets_pretokenized": target.encode(), "targets": encode(target)} for target in targets]


def test_exact_match_and_f1_of_500_answers_in_11_scripts() -> None:
    """Through the task's postprocessing: several accepted answers, some predictions right, some near, some wrong."""
    generator = np.random.default_rng(0)

    def phrase(words: Sequence[str]) -> str:
        return " ".join(generator.choice(words, size=int(generator.integers(1, 5))))

    examples, expected = [], []
    for number in range(500):
        words = list(SCRIPTS.values())[number % len(SCRIPTS)]
        accepted = [phrase(words) for _ in range(int(generator.integers(1, 4)))]
        prediction = accepted[-1] if number % 3 == 0 else phrase(words)
        examples.append((prediction, rows_of(accepted[:1])[0] | {"answers": accepted}))
        expected.append(own_scores(prediction, accepted))
    found = measure_texts(spec_of((answers.question_answering,), accepted_answers), examples)
    for values, (exact, f1) in zip(found.by_example, expected, strict=True):
        assert values["f1"] == pytest.approx(f1)
        assert values["exact_match"] == exact
    exact, f1 = np.mean(expected, axis=0)
    assert found.together == pytest.approx({"exact_match": exact, "f1": f1})
    assert 30 < exact < f1 < 90, "some are right and some are not"
    assert found.notes == []


def test_a_predictor_that_is_right_on_a_share_comes_out_as_that_share() -> None:
    targets = [str(number % 3) for number in range(50)]
    examples = [
        (target if number < 37 else "9", row)
        for number, (target, row) in enumerate(zip(targets, rows_of(targets), strict=True))
    ]
    found = measure_texts(spec_of((answers.accuracy,)), examples)
    assert found.together == {"accuracy": 74.0}
    assert [values["accuracy"] for values in found.by_example] == [100.0] * 37 + [0.0] * 13


def test_what_raises_is_named_and_the_others_go_on() -> None:
    def broken(targets, predictions):
        raise KeyError("no such thing\nand more")

    def of_two(targets, predictions):
        return {"spread": float(len(targets))} if len(targets) > 1 else 1 / 0

    def scored(targets, scores):
        raise AssertionError("takes no texts")

    metrics = (broken, of_two, functools.partial(scored), answers.accuracy)
    found = measure_texts(spec_of(metrics), [("a", rows_of("a")[0]), ("a", rows_of("b")[0])])
    assert found.by_example == [{"accuracy": 100.0}, {"accuracy": 0.0}]
    assert found.together == {"spread": 2.0, "accuracy": 50.0}
    assert [note.split("task t: its metric ")[1] for note in found.notes] == [
        "broken raised KeyError ('no such thing\\nand more'): left out",
        "of_two: spread is no mean over examples: it is in summary.json alone",
        "scored takes scores, not texts: left out",
    ]


def test_a_postprocess_that_raises_leaves_no_metrics_and_is_named() -> None:
    def postprocess(text, example, is_target):
        raise ValueError("no number")

    found = measure_texts(spec_of((answers.accuracy,), postprocess), [("a", rows_of("a")[0])])
    assert (found.by_example, found.together) == ([{}], {})
    assert found.notes == ["task t: its postprocess raised ValueError (no number): it has no metrics"]


def test_only_finite_numbers_are_values() -> None:
    class Scalar:
        value = np.float32(0.5)

    def many(targets, predictions):
        return {"scalar": Scalar(), "text": "0.5", "nan": math.nan, "list": [1, 2], "whole": 1}

    found = measure_texts(spec_of((many,)), [("a", rows_of("a")[0])])
    assert found.by_example == [{"scalar": 0.5, "whole": 1.0}]


def test_a_target_is_its_text_whole_or_else_its_ids() -> None:
    assert target_text({"targets_pretokenized": "whole", "targets": encode("wh")}) == "whole"
    assert target_text({"targets": np.append(encode("ids é"), 1).astype(np.int32)}) == "ids é"
