"""XNLI (Conneau et al. 2018): does a premise entail a hypothesis, in 15 languages.

`xnli.<language>` has the splits validation and test, `xnli.en` trains on MultiNLI; the mixture `xnli` is all of them,
so it trains on English and is validated by language. `xnli_translated` trains on XTREME's translations as well.
"""

import functools

import tensorflow as tf

from mrt5_jax.data import answers, sources, text_pairs, tfds
from mrt5_jax.data.sources import Example

LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

_XNLI = "xnli:1.1.0"
_TRANSLATED = "xtreme_xnli:1.1.0"
_ENGLISH = "multi_nli:1.1.0"


def to_premise_and_hypothesis(example: Example, language: str) -> Example:
    """`Premise: ... Hypothesis: ...` and the label's number as a digit: entailment, neutral, contradiction."""
    premise, hypothesis = example["premise"], example["hypothesis"]
    if isinstance(premise, dict):  # translations: a column a language, and a list with the languages' names
        premise = premise[language]
        place = tf.argmax(tf.cast(hypothesis["language"] == language, tf.int32))
        hypothesis = hypothesis["translation"][place]
    texts = {
        "inputs": tf.strings.join(["Premise: ", premise, " Hypothesis: ", hypothesis]),
        "targets": tf.strings.as_string(example["label"]),
        "language": tf.constant(language),
    }
    return {**texts, "index": example["index"]}


def _add(name: str, language: str, splits: dict[str, tuple[str, str]]) -> str:
    text_pairs.add_task(
        name,
        tfds.source(splits),
        to_texts=functools.partial(to_premise_and_hypothesis, language=language),
        metrics=[answers.accuracy],
    )
    return name


_EVALUATION = {"validation": (_XNLI, "validation"), "test": (_XNLI, "test")}
_TRAINING = {"xnli": {"en": (_ENGLISH, "train")}, "xnli_translated": dict.fromkeys(LANGUAGES, (_TRANSLATED, "train"))}

for _name, _train in _TRAINING.items():
    _tasks = {language: {"train": _train[language]} if language in _train else {} for language in LANGUAGES}
    sources.add_mixture(
        _name, {_add(f"{_name}.{language}", language, _EVALUATION | own): 1.0 for language, own in _tasks.items()}
    )
