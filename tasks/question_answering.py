"""Extractive question answering as generation: SQuAD, XQuAD (Artetxe et al. 2020), TyDi QA GoldP (Clark et al. 2020).

The mixture `xquad` trains on SQuAD and is validated on `xquad.<language>`; the mixture `tydiqa` trains on TyDi's
languages together and is validated on `tydiqa.<language>`. `squad` has SQuAD's own two splits.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mrt5_jax.data import answers, text_pairs, tfds
from mrt5_jax.data.registry import add_mixture, add_task
from mrt5_jax.data.sources import Example, ExampleSource
from mrt5_jax.data.task_specs import TaskSpec

XQUAD_LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
TYDI_LANGUAGES = {
    "ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ko": "korean",
    "ru": "russian", "sw": "swahili", "te": "telugu",
}  # fmt: skip

_SQUAD = "squad/v1.1:3.0.0"
_XQUAD = "xquad/{}:3.0.0"
_TYDI = "tydi_qa/goldp:3.0.0"


def to_texts(example: Example, language: str | None = None) -> Example:
    """Writes `Question: ... Context: ...` and the first answer; `answers` has all that are accepted.

    Args:
        language: None reads it off the example's id, as TyDi QA writes it.
    """
    accepted = _answers(example["answers"])
    texts = f"Question: {tfds.text(example['question'])} Context: {tfds.text(example['context'])}"
    found = {
        "inputs": texts.encode(errors="surrogateescape"),
        "targets": (accepted[0] if accepted else "").encode(errors="surrogateescape"),
        "answers": accepted,
        "index": example["index"],
    }
    return found if language else {**found, "language": _tydi_language(tfds.text(example["id"]))}


def _answers(value: Any) -> list[str]:
    """SQuAD's `{"text": [...]}`, a list of texts, or one text."""
    value = value["text"] if isinstance(value, Mapping) else value
    return [value] if isinstance(value, str) else tfds.texts(value)


def _tydi_language(identifier: str) -> str:
    names = {name: code for code, name in TYDI_LANGUAGES.items()}
    return names.get(identifier.partition("-")[0], "ar")


def question_task(
    name: str,
    language: str,
    train_files: str | Sequence[str],
    validation_files: str | Sequence[str],
    test_files: Mapping[str, str | Sequence[str]] | None = None,
) -> str:
    """Registers question answering over JSON lines or Parquet files, and returns the task's name.

    Their fields are `question`, `context` and `answers` (a text, a list of texts, or SQuAD's `{"text": [...]}`).

    Args:
        name: what the task is called in tables.
        train_files: globs.
        test_files: globs, by the names of the splits.

    Raises:
        UserError: no usable file, a record without a field, a train file that is in another split as well.
    """
    files = {"train": train_files, "validation": validation_files, **(test_files or {})}
    source = text_pairs.record_source(files, ("question", "context", "answers"), language)
    return add_task(_spec(text_pairs.content_name(f"qa.{name}", source, language), source, language))


def accepted_answers(decoded: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """Returns all accepted answers of a target, and a prediction as it is: seqio's postprocessing."""
    if not is_target or example is None:
        return decoded
    return [answer.decode() if isinstance(answer, bytes) else answer for answer in example["answers"]]


def _spec(name: str, source: ExampleSource, language: str | None) -> TaskSpec:
    return TaskSpec(
        name,
        source,
        functools.partial(to_texts, language=language),
        accepted_answers,
        (answers.question_answering,),
        (language,) if language else tuple(TYDI_LANGUAGES),
    )


def _add(name: str, language: str | None, splits: dict[str, tuple[str, str]]) -> str:
    return add_task(_spec(name, tfds.TfdsSource(splits), language))


def _xquad_splits(language: str) -> dict[str, tuple[str, str]]:
    own = (_XQUAD.format(language), "test")  # all that XQuAD has
    return {"validation": own, "test": own} | ({"train": (_SQUAD, "train")} if language == "en" else {})


_add("squad", "en", {split: (_SQUAD, split) for split in ("train", "validation")})
add_mixture(
    "xquad", {_add(f"xquad.{language}", language, _xquad_splits(language)): 1.0 for language in XQUAD_LANGUAGES}
)
_add("tydiqa.train", None, {"train": (_TYDI, "train")})
for _code in TYDI_LANGUAGES:
    _add(f"tydiqa.{_code}", _code, {"validation": (_TYDI, f"validation-{_code}")})
add_mixture("tydiqa", {f"tydiqa.{own}": 1.0 for own in ("train", *TYDI_LANGUAGES)})
