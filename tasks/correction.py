"""Correction of noisy text, over the user's own files.

    train_task = @correction.noisy_text_task()
    correction.noisy_text_task.files = "corpus/*.txt"
    correction.noisy_text_task.input_length = 64

What a character was before it was changed is in the inputs, so that deletion costs a model that reads them. A small
model of span corruption learns to continue its targets long before it reads, and deletion then costs it nothing.
"""

import functools
from collections.abc import Sequence

from mrt5_jax.data import corpora, noising, task_names
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.errors import UserError

_SHORTEST = 16
"""Inputs, in ids."""


def noisy_text_task(
    files: str | Sequence[str],
    validation_files: str | Sequence[str] | None = None,
    input_length: int = 64,
    noise: float = 0.1,
    field: str = "text",
) -> str:
    """Registers the correction of noisy text, once for each set of arguments, and returns the task's name.

    Files are read as by `span_corruption.text_task`, one language a file name, and cut in chunks. In the inputs some
    characters are dropped, doubled or replaced by others of the chunk; the targets are the chunk.

    Args:
        files: globs.
        validation_files: globs; None holds out the last part of every language.
        input_length: in ids. Chunks are a sixteenth shorter, since doubled characters make inputs longer.
        noise: the share of characters that are changed.
        field: of JSON lines, TFRecords and Parquet files, that holds the text.

    Raises:
        UserError: no usable file, train and validation files that are the same, inputs that are too short, or a share
            that is none.
    """
    if input_length < _SHORTEST:
        raise UserError(f"correction.noisy_text_task.input_length = {input_length}: should be at least {_SHORTEST}")
    if not 0 <= noise < 1:
        raise UserError(f"correction.noisy_text_task.noise = {noise:g}: should be a share, from 0 to less than 1")
    raw = input_length - 1 - input_length // 16
    splits = corpora.open_corpus(files, validation_files, chunk_length=raw, field=field)
    regions = {
        split: [(region.language, region.stream.identity, region.begin, region.end) for region in own]
        for split, own in splits.items()
    }
    languages = corpora.languages_of(splits)
    label = f"correction.{task_names.languages_label([region.language for region in splits['train']])}"
    name = task_names.name_with_key(label, task_names.key_of((regions, raw, noise)))
    source = corpora.chunk_source(splits, raw)
    return add_task(
        TaskSpec(name, source, preprocess=functools.partial(noising.with_noise, noise=noise), languages=languages)
    )
