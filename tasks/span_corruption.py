"""Span corruption over text: the user's own files, mC4's published shards, or mC4 from TensorFlow Datasets.

    train_task = @span_corruption.text_task()
    span_corruption.text_task.files = "corpus/*.txt"
    span_corruption.text_task.input_length = 1024

`span_corruption.<language>` and `span_corruption.multilingual` are the paper's (1024 -> 189) over TFDS c4/multilingual.
"""

import functools
import glob
from collections.abc import Sequence

from mrt5_jax.data import corpora, mc4, span_corruption, task_names, vocabulary
from mrt5_jax.data.registry import add_mixture, add_task
from mrt5_jax.data.sources import ExampleSource
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import files_for, given_path

PAPER_LANGUAGES = ("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur")


def text_task(
    files: str | Sequence[str],
    validation_files: str | Sequence[str] | None = None,
    input_length: int = 1024,
    noise_density: float = 0.15,
    mean_span_length: float = 20.0,
    sentinels: vocabulary.Sentinels = "bytes",
    field: str = "text",
) -> str:
    """Registers span corruption over text files, once for each set of arguments, and returns the task's name.

    A plain text file's documents are its lines; compressed text, JSON lines, TFRecords and Parquet are read as well.
    A file's language is its name up to the first dot, without a shard's number. Files of one language are read one
    after the other, cut in chunks whose corrupted inputs have `input_length` ids.

    Args:
        files: globs.
        validation_files: globs; None holds out the last part of every language.
        field: of JSON lines, TFRecords and Parquet files, that holds the text.

    Raises:
        UserError: no usable file, train and validation files that are the same, or a length that span corruption cannot
            have.
    """
    corruption = span_corruption.Corruption(noise_density, mean_span_length, sentinels)
    lengths = corruption.lengths_for_inputs(input_length)
    splits = corpora.open_corpus(files, validation_files, chunk_length=lengths.raw, field=field)
    name = _add_corpus(splits, corruption, lengths)
    former = corpora.open_former_corpus(files, validation_files, chunk_length=lengths.raw, field=field)
    if former is not None:
        task_names.add_former_name(_add_former_corpus(former, corruption, lengths), name)
    return name


def text_mixture(
    files: str | Sequence[str],
    validation_files: str | Sequence[str] | None = None,
    input_length: int = 1024,
    noise_density: float = 0.15,
    mean_span_length: float = 20.0,
    sentinels: vocabulary.Sentinels = "bytes",
    field: str = "text",
    languages: Sequence[str] | None = None,
    temperature: float | None = None,
) -> str:
    """Registers a task for every language of some text files, and their mixture; returns the mixture's name.

    The arguments are those of `text_task`, and:

    Args:
        languages: which ones; None takes all that the files have.
        temperature: T draws languages at rates proportional to their numbers of examples to the power 1 / T; None at
            equal rates, as in the paper.

    Raises:
        UserError: no usable file, train and validation files that are the same, a language without files, or a length
            that span corruption cannot have.
    """
    corruption = span_corruption.Corruption(noise_density, mean_span_length, sentinels)
    lengths = corruption.lengths_for_inputs(input_length)
    rate = 1.0 if temperature is None else functools.partial(_rate, temperature=temperature)
    splits = corpora.open_corpus(files, validation_files, chunk_length=lengths.raw, field=field)
    by_language = _by_language(splits, _check_languages(languages, [region.language for region in splits["train"]]))
    tasks = [_add_corpus(own, corruption, lengths) for own in by_language.values()]
    label = f"span_corruption.{task_names.languages_label(list(by_language))}"
    key = task_names.key_of((sorted(tasks), temperature))
    name = add_mixture(task_names.name_with_key(f"{label}.mixture", key), dict.fromkeys(tasks, rate))
    former = corpora.open_former_corpus(files, validation_files, chunk_length=lengths.raw, field=field)
    if former is not None and set(by_language) <= {region.language for region in former["train"]}:
        tasks = [
            _add_former_corpus(own, corruption, lengths, language)
            for language, own in _by_language(former, list(by_language)).items()
        ]
        key = task_names.key_of((sorted(tasks), temperature))
        mixture = add_mixture(f"span_corruption.files_{key}", dict.fromkeys(tasks, rate))
        task_names.add_former_name(mixture, name)
    return name


def c4_mixture(
    folder: str,
    languages: Sequence[str] = PAPER_LANGUAGES,
    input_length: int = 1024,
    temperature: float | None = None,
) -> str:
    """Registers a `text_mixture` of the published shards `c4-<language>[-validation].*.json.gz` in a folder.

    Unless every language has validation shards, none of them are read, and the last part of each language is held out.

    Raises:
        UserError: a language without shards there, or broken ones.
    """
    folder = glob.escape(given_path(folder))
    train = [f"{folder}/c4-{language}.*.json.gz" for language in languages]
    for language, pattern in zip(languages, train, strict=True):
        if not files_for(pattern).list(pattern):
            raise UserError(f"{folder} has no shard c4-{language}.*.json.gz: fetch one, or take it out of languages")
    validation = [f"{folder}/c4-{language}-validation.*.json.gz" for language in languages]
    held_out = all(files_for(pattern).list(pattern) for pattern in validation)
    return text_mixture(
        train, validation if held_out else None, input_length, languages=languages, temperature=temperature
    )


def _add_corpus(
    splits: corpora.Splits, corruption: span_corruption.Corruption, lengths: span_corruption.Lengths
) -> str:
    """Registers a task that is named by its languages and what its files hold."""
    regions = {
        split: [(region.language, region.stream.identity, region.begin, region.end) for region in own]
        for split, own in splits.items()
    }
    label = f"span_corruption.{task_names.languages_label([region.language for region in splits['train']])}"
    name = task_names.name_with_key(label, task_names.key_of((regions, corruption, lengths)))
    _add(name, corpora.chunk_source(splits, lengths.raw), corruption, lengths, corpora.languages_of(splits))
    return name


def _add_former_corpus(
    splits: corpora.Splits,
    corruption: span_corruption.Corruption,
    lengths: span_corruption.Lengths,
    language: str | None = None,
) -> str:
    """Registers a task under the name that earlier versions made of its files' paths and sizes."""
    regions = {
        split: [
            (
                region.language,
                tuple((str(file.path.resolve()), file.index.num_bytes) for file in region.stream.files),
                region.begin,
                region.end,
            )
            for region in own
        ]
        for split, own in splits.items()
    }
    name = f"span_corruption.files_{task_names.key_of((regions, corruption, lengths))}"
    if language is not None:
        name = f"{name}.{task_names.identifier(language)}"
    _add(name, corpora.chunk_source(splits, lengths.raw), corruption, lengths, corpora.languages_of(splits))
    return name


def _by_language(splits: corpora.Splits, languages: Sequence[str]) -> dict[str, corpora.Splits]:
    return {
        language: {
            split: [region for region in regions if region.language == language] for split, regions in splits.items()
        }
        for language in languages
    }


def _check_languages(wanted: Sequence[str] | None, found: Sequence[str]) -> Sequence[str]:
    for language in wanted or ():
        if language not in found:
            raise UserError(f"no file is of the language '{language}': there are {', '.join(found)}")
    return found if wanted is None else wanted


def _rate(task: TaskSpec, temperature: float) -> float:
    return (task.source.num_examples("train") or 0) ** (1 / temperature)


def _add(
    name: str,
    source: ExampleSource,
    corruption: span_corruption.Corruption,
    lengths: span_corruption.Lengths,
    languages: tuple[str, ...],
) -> None:
    corrupt = functools.partial(span_corruption.corrupt, corruption=corruption, num_sentinels=lengths.spans)
    add_task(TaskSpec(name, source, preprocess=corrupt, languages=languages))


_PAPER = span_corruption.Corruption()
_PAPER_LENGTHS = _PAPER.lengths_for_inputs(1024)

for _language in mc4.MC4_LANGUAGES:
    _add(
        f"span_corruption.{task_names.identifier(_language)}",
        mc4.language_source(_language, _PAPER_LENGTHS.raw),
        _PAPER,
        _PAPER_LENGTHS,
        (_language,),
    )
add_mixture("span_corruption.multilingual", {f"span_corruption.{language}": 1.0 for language in PAPER_LANGUAGES})
