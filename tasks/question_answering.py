"""Extractive question answering as generation: SQuAD, XQuAD (Artetxe et al. 2020), TyDi QA GoldP (Clark et al. 2020).

The mixture `xquad` trains on SQuAD and is validated on `xquad.<language>`; the mixture `tydiqa` trains on TyDi's
languages together and is validated on `tydiqa.<language>`. `squad` has SQuAD's own two splits.
"""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mrt5_jax.data import answers, sources, text_pairs, tfds
from mrt5_jax.data.sources import Example

XQUAD_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
TYDI_LANGUAGES = {
    "ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ko": "korean",
    "ru": "russian", "sw": "swahili", "te": "telugu",
}  # fmt: skip

_SQUAD = "squad/v1.1:3.0.0"
_XQUAD = "xquad/{}:3.0.0"
_TYDI = "tydi_qa/goldp:3.0.0"


def to_texts(example: Example, language: str | None) -> Example:
    """`Question: ... Context: ...` and the first answer; `answers` (strings) has all that are accepted.

    Args:
        language: None reads it off the example's id, as TyDi QA writes it.
    """
    accepted = example["answers"]["text"]
    return {
        "inputs": tf.strings.join(["Question: ", example["question"], " Context: ", example["context"]]),
        "targets": tf.cond(tf.size(accepted) > 0, lambda: accepted[0], lambda: tf.constant("")),
        "answers": accepted,
        "language": _tydi_language(example["id"]) if language is None else tf.constant(language),
        "index": example["index"],
    }


def _tydi_language(identifier: tf.Tensor) -> Any:
    name = tf.strings.regex_replace(identifier, "-.*", "")
    codes = tf.constant(list(TYDI_LANGUAGES))
    return codes[tf.argmax(tf.cast(tf.constant(list(TYDI_LANGUAGES.values())) == name, tf.int32))]


def accepted_answers(decoded: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """seqio's postprocessing: of a target, all accepted answers."""
    if not is_target or example is None:
        return decoded
    return [answer.decode() if isinstance(answer, bytes) else answer for answer in example["answers"]]


def _add(name: str, language: str | None, splits: dict[str, tuple[str, str]]) -> str:
    text_pairs.add_task(
        name,
        tfds.source(splits),
        to_texts=functools.partial(to_texts, language=language),
        postprocess=accepted_answers,
        metrics=[answers.question_answering],
    )
    return name


def _xquad_splits(language: str) -> dict[str, tuple[str, str]]:
    own = (_XQUAD.format(language), "test")  # all that XQuAD has
    return {"validation": own, "test": own} | ({"train": (_SQUAD, "train")} if language == "en" else {})


_add("squad", "en", {split: (_SQUAD, split) for split in ("train", "validation")})
sources.add_mixture(
    "xquad", {_add(f"xquad.{language}", language, _xquad_splits(language)): 1.0 for language in XQUAD_LANGUAGES}
)
_add("tydiqa.train", None, {"train": (_TYDI, "train")})
for _code in TYDI_LANGUAGES:
    _add(f"tydiqa.{_code}", _code, {"validation": (_TYDI, f"validation-{_code}")})
sources.add_mixture("tydiqa", {f"tydiqa.{own}": 1.0 for own in ("train", *TYDI_LANGUAGES)})
