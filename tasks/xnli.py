"""XNLI (Conneau et al. 2018): does a premise entail a hypothesis, in 15 languages.

`xnli.<language>` has the splits validation and test, `xnli.en` trains on MultiNLI; the mixture `xnli` is all of them,
so it trains on English and is validated by language. `xnli_translated` trains on XTREME's translations as well.
"""

import functools
from collections.abc import Mapping, Sequence

from mrt5_jax.data import answers, text_pairs, tfds
from mrt5_jax.data.registry import add_mixture, add_task
from mrt5_jax.data.sources import Example, ExampleSource
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.errors import UserError

LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

_XNLI = "xnli:1.1.0"
_TRANSLATED = "xtreme_xnli:1.1.0"
_ENGLISH = "multi_nli:1.1.0"


LABELS = ("entailment", "neutral", "contradiction")


def to_premise_and_hypothesis(example: Example, language: str) -> Example:
    """Writes `Premise: ... Hypothesis: ...` and the label's number as a digit: entailment, neutral, contradiction."""
    premise, hypothesis = example["premise"], example["hypothesis"]
    if isinstance(premise, Mapping):  # translations: a column a language, and a list with the languages' names
        premise = premise[language]
        place = tfds.texts(hypothesis["language"]).index(language)
        hypothesis = hypothesis["translation"][place]
    return {
        "inputs": f"Premise: {tfds.text(premise)} Hypothesis: {tfds.text(hypothesis)}".encode(errors="surrogateescape"),
        "targets": str(_label(example["label"])),
        "index": example["index"],
    }


def _label(value: object) -> int:
    """Of a number, or of one of LABELS."""
    label = LABELS.index(value.lower()) if isinstance(value, str) and value.lower() in LABELS else value
    try:
        return int(label)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise UserError(f"label {value!r} is neither a number nor one of {', '.join(LABELS)}") from None


def inference_task(
    name: str,
    language: str,
    train_files: str | Sequence[str],
    validation_files: str | Sequence[str],
    test_files: Mapping[str, str | Sequence[str]] | None = None,
) -> str:
    """Registers natural language inference over JSON lines or Parquet files, and returns the task's name.

    Their fields are `premise`, `hypothesis` and `label` (0, 1, 2 or the label's name).

    Args:
        name: what the task is called in tables.
        train_files: globs.
        test_files: globs, by the names of the splits.

    Raises:
        UserError: no usable file, a record without a field, a train file that is in another split as well.
    """
    files = {"train": train_files, "validation": validation_files, **(test_files or {})}
    source = text_pairs.record_source(files, ("premise", "hypothesis", "label"), language)
    full_name = text_pairs.content_name(f"xnli.{name}", source, language)
    return add_task(_spec(full_name, source, language))


def _spec(name: str, source: ExampleSource, language: str) -> TaskSpec:
    to_language = functools.partial(to_premise_and_hypothesis, language=language)
    digits = tuple(map(str, range(len(LABELS))))
    return TaskSpec(name, source, to_language, metrics=(answers.accuracy,), languages=(language,), labels=digits)


def _add(name: str, language: str, splits: dict[str, tuple[str, str]]) -> str:
    return add_task(_spec(name, tfds.TfdsSource(splits), language))


_EVALUATION = {"validation": (_XNLI, "validation"), "test": (_XNLI, "test")}
_TRAINING = {"xnli": {"en": (_ENGLISH, "train")}, "xnli_translated": dict.fromkeys(LANGUAGES, (_TRANSLATED, "train"))}

for _name, _train in _TRAINING.items():
    _tasks = {language: {"train": _train[language]} if language in _train else {} for language in LANGUAGES}
    add_mixture(
        _name, {_add(f"{_name}.{language}", language, _EVALUATION | own): 1.0 for language, own in _tasks.items()}
    )
