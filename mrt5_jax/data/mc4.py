"""mC4 as prepared by TensorFlow Datasets, cut into chunks as it is read."""

from typing import Any

import tensorflow as tf

from mrt5_jax.data import tfds
from mrt5_jax.data.sources import SequentialSource, map_examples
from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID

NAME = "c4/multilingual:3.1.0"

# fmt: off
MC4_LANGUAGES = (
    "af", "am", "ar", "az", "be", "bg", "bg-Latn", "bn", "ca", "ceb", "co", "cs", "cy", "da", "de", "el", "el-Latn",
    "en", "eo", "es", "et", "eu", "fa", "fi", "fil", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "haw", "hi", "hi-Latn",
    "hmn", "ht", "hu", "hy", "id", "ig", "is", "it", "iw", "ja", "ja-Latn", "jv", "ka", "kk", "km", "kn", "ko", "ku",
    "ky", "la", "lb", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "no", "ny",
    "pa", "pl", "ps", "pt", "ro", "ru", "ru-Latn", "sd", "si", "sk", "sl", "sm", "sn", "so", "sq", "sr", "st", "su",
    "sv", "sw", "ta", "te", "tg", "th", "tr", "uk", "ur", "uz", "vi", "xh", "yi", "yo", "zh", "zh-Latn", "zu",
)
# fmt: on
"""All of mC4's, by their codes there; those in -Latn are romanised."""

_DOCUMENTS_TOGETHER = 128
_SHUFFLE_BUFFER = 10_000  # chunks, of a language


def language_source(language: str, chunk_length: int) -> SequentialSource:
    """Examples with `ids` (int32 [chunk_length]) and `language`; documents are joined by EOS, 128 at a time.

    What is left of 128 documents is an example as well, shorter than the others. How many there are is not known.
    """
    own = {"train": language, "validation": f"{language}-validation"}

    def read(split: str) -> tf.data.Dataset:
        documents = tfds.read(NAME, own[split])
        chunks = _chunks(documents, chunk_length)
        return map_examples(chunks, lambda ids: {"ids": ids, "language": tf.constant(language)})

    return SequentialSource(read, own, shuffle_buffer=_SHUFFLE_BUFFER)


def _chunks(documents: tf.data.Dataset, chunk_length: int) -> tf.data.Dataset:
    ragged: Any = tf.RaggedTensor  # its type stub knows no constructors

    @tf.autograph.experimental.do_not_convert
    def text(document: dict[str, tf.Tensor]) -> tf.Tensor:
        return document["text"]

    @tf.autograph.experimental.do_not_convert
    def is_filled(text: tf.Tensor) -> tf.Tensor:
        return tf.strings.length(text) > 0

    @tf.autograph.experimental.do_not_convert
    def cut(texts: tf.Tensor) -> tf.data.Dataset:
        ids = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8), tf.int32) + BYTE_OFFSET
        documents = ragged.from_row_lengths(ids, tf.strings.length(texts))
        ends = tf.fill([tf.size(texts), 1], EOS_ID)
        joined = tf.concat([documents, ends], axis=1).flat_values
        total = tf.size(joined)
        total -= tf.cast(tf.math.floormod(total, chunk_length) == 1, tf.int32)  # no chunk of a single EOS
        limits = tf.minimum(tf.range(0, total, chunk_length) + chunk_length, total)
        return tf.data.Dataset.from_tensor_slices(ragged.from_row_limits(joined[:total], limits))

    filled = documents.map(text, num_parallel_calls=tf.data.AUTOTUNE).filter(is_filled)
    return filled.batch(_DOCUMENTS_TOGETHER).flat_map(cut)
