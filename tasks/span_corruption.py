"""Span corruption over the user's own text, for gin:

train_task = @span_corruption.text_task()
span_corruption.text_task.files = "corpus/*.txt"
span_corruption.text_task.input_length = 1024
"""

import functools
import hashlib
from collections.abc import Sequence

import seqio

from mrt5_jax.data import corpora, sources, span_corruption, vocabulary


def text_task(
    files: str | Sequence[str],
    validation_files: str | Sequence[str] | None = None,
    input_length: int = 1024,
    noise_density: float = 0.15,
    mean_span_length: float = 20.0,
    sentinels: vocabulary.Sentinels = "bytes",
) -> str:
    """Registers span corruption over text files, once for each set of arguments, and returns the task's name.

    A file's documents are its lines; its language is its name without the suffix. Files of one language are read one
    after the other, cut in chunks whose corrupted inputs have `input_length` ids.

    Args:
        files: globs.
        validation_files: globs; None holds out the last part of every language.

    Raises:
        UserError: no usable file, or a length that span corruption cannot have.
    """
    corruption = span_corruption.Corruption(noise_density, mean_span_length, sentinels)
    lengths = corruption.lengths_for_inputs(input_length)
    corpus = corpora.TextCorpus.from_files(files, validation_files, chunk_length=lengths.raw)
    key = hashlib.sha256(repr((corpus.fingerprint, corruption, lengths)).encode()).hexdigest()[:12]
    name = f"span_corruption.files_{key}"
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=sources.IndexedSource(corpus.example, corpus.num_examples),
            preprocessors=[
                functools.partial(span_corruption.corrupt, corruption=corruption, num_sentinels=lengths.spans),
                sources.without_seed,
                seqio.preprocessors.append_eos_after_trim,
            ],
            output_features=sources.byte_features(),
            shuffle_buffer_size=None,
        )
    return name
