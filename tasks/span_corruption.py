"""Span corruption over text: the user's own files, mC4's published shards, or mC4 from TensorFlow Datasets.

    train_task = @span_corruption.text_task()
    span_corruption.text_task.files = "corpus/*.txt"
    span_corruption.text_task.input_length = 1024

`span_corruption.<language>` and `span_corruption.multilingual` are the paper's (1024 -> 189) over TFDS c4/multilingual.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import seqio

from mrt5_jax.data import corpora, mc4, sources, span_corruption, vocabulary
from mrt5_jax.errors import UserError

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
    A file's language is its name up to the first dot. Files of one language are read one after the other, cut in
    chunks whose corrupted inputs have `input_length` ids.

    Args:
        files: globs.
        validation_files: globs; None holds out the last part of every language.
        field: of JSON lines, TFRecords and Parquet files, that holds the text.

    Raises:
        UserError: no usable file, or a length that span corruption cannot have.
    """
    corruption = span_corruption.Corruption(noise_density, mean_span_length, sentinels)
    lengths = corruption.lengths_for_inputs(input_length)
    splits = corpora.open_corpus(files, validation_files, chunk_length=lengths.raw, field=field)
    name = f"span_corruption.files_{_key(splits, corruption, lengths)}"
    _add(name, corpora.chunk_source(splits, lengths.raw), corruption, lengths)
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
        UserError: no usable file, a language without files, or a length that span corruption cannot have.
    """
    corruption = span_corruption.Corruption(noise_density, mean_span_length, sentinels)
    lengths = corruption.lengths_for_inputs(input_length)
    splits = corpora.open_corpus(files, validation_files, chunk_length=lengths.raw, field=field)
    tasks = {}
    for language in _check_languages(languages, [region.language for region in splits["train"]]):
        own = {
            split: [region for region in regions if region.language == language] for split, regions in splits.items()
        }
        name = f"span_corruption.files_{_key(own, corruption, lengths)}.{_identifier(language)}"
        _add(name, corpora.chunk_source(own, lengths.raw), corruption, lengths)
        tasks[name] = 1.0 if temperature is None else functools.partial(_rate, temperature=temperature)
    key = hashlib.sha256(repr((sorted(tasks), temperature)).encode()).hexdigest()[:12]
    return sources.add_mixture(f"span_corruption.files_{key}", tasks)


def c4_mixture(
    folder: str,
    languages: Sequence[str] = PAPER_LANGUAGES,
    input_length: int = 1024,
    temperature: float | None = None,
) -> str:
    """`text_mixture` over the published shards `c4-<language>[-validation].*.json.gz` in a folder.

    Raises:
        UserError: a language without shards there, or broken ones.
    """
    for language in languages:
        if not any(Path(folder).glob(f"c4-{language}.*.json.gz")):
            raise UserError(f"{folder} has no shard c4-{language}.*.json.gz: fetch one, or take it out of languages")
    train = [f"{folder}/c4-{language}.*.json.gz" for language in languages]
    validation = [f"{folder}/c4-{language}-validation.*.json.gz" for language in languages]
    held_out = all(any(Path(folder).glob(Path(pattern).name)) for pattern in validation)
    return text_mixture(
        train, validation if held_out else None, input_length, languages=languages, temperature=temperature
    )


def _key(splits: corpora.Splits, *settings: object) -> str:
    regions = {
        split: [(region.language, region.stream.identity, region.begin, region.end) for region in regions]
        for split, regions in splits.items()
    }
    return hashlib.sha256(repr((regions, *settings)).encode()).hexdigest()[:12]


def _check_languages(wanted: Sequence[str] | None, found: Sequence[str]) -> Sequence[str]:
    for language in wanted or ():
        if language not in found:
            raise UserError(f"no file is of the language '{language}': there are {', '.join(found)}")
    return found if wanted is None else wanted


def _identifier(language: str) -> str:
    """seqio's names have no hyphen."""
    return "".join(letter if letter.isalnum() else "_" for letter in language)


def _rate(task: seqio.Task, temperature: float) -> float:
    return (task.num_input_examples("train") or 0) ** (1 / temperature)


def _add(
    name: str,
    source: sources.PositionedSource,
    corruption: span_corruption.Corruption,
    lengths: span_corruption.Lengths,
) -> None:
    if name in seqio.TaskRegistry.names():
        return
    seqio.TaskRegistry.add(
        name,
        source=source,  # pyright: ignore[reportArgumentType]
        preprocessors=[
            functools.partial(span_corruption.corrupt, corruption=corruption, num_sentinels=lengths.spans),
            sources.end_rows,
        ],
        output_features=sources.byte_features(),
        shuffle_buffer_size=None,
    )


_PAPER = span_corruption.Corruption()
_PAPER_LENGTHS = _PAPER.lengths_for_inputs(1024)

for _language in mc4.LANGUAGES:
    _add(
        f"span_corruption.{_identifier(_language)}",
        mc4.chunk_source(_language, _PAPER_LENGTHS.raw),
        _PAPER,
        _PAPER_LENGTHS,
    )
sources.add_mixture(
    "span_corruption.multilingual", {f"span_corruption.{language}": 1.0 for language in PAPER_LANGUAGES}
)
