"""mC4 as prepared by TensorFlow Datasets, cut into chunks as it is read."""

import functools
from typing import TYPE_CHECKING, Any

from mrt5_jax.data.tensorflow_on_demand import import_tensorflow
from mrt5_jax.data.tfds import TfdsSource
from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID

if TYPE_CHECKING:
    import tensorflow as tf

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


def language_source(language: str, chunk_length: int) -> TfdsSource:
    """Makes a source of examples with `ids` (int32 [chunk_length]); documents are joined by EOS, 128 at a time.

    What is left of 128 documents is an example as well, shorter than the others. How many there are is not known.
    """
    return TfdsSource(
        {"train": (NAME, language), "validation": (NAME, f"{language}-validation")},
        make_examples=functools.partial(_chunks, chunk_length=chunk_length),
        shuffle_buffer=_SHUFFLE_BUFFER,
    )


def _chunks(documents: "tf.data.Dataset", chunk_length: int) -> "tf.data.Dataset":
    tf = import_tensorflow(NAME)

    @tf.autograph.experimental.do_not_convert
    def text(document: Any) -> Any:
        return document["text"]

    @tf.autograph.experimental.do_not_convert
    def is_filled(text: Any) -> Any:
        return tf.strings.length(text) > 0

    @tf.autograph.experimental.do_not_convert
    def cut(texts: Any) -> Any:
        ids = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8), tf.int32) + BYTE_OFFSET
        documents = tf.RaggedTensor.from_row_lengths(ids, tf.strings.length(texts))
        ends = tf.fill([tf.size(texts), 1], EOS_ID)
        joined = tf.concat([documents, ends], axis=1).flat_values
        total = tf.size(joined)
        total -= tf.cast(tf.math.floormod(total, chunk_length) == 1, tf.int32)  # no chunk of a single EOS
        limits = tf.minimum(tf.range(0, total, chunk_length) + chunk_length, total)
        return tf.data.Dataset.from_tensor_slices(tf.RaggedTensor.from_row_limits(joined[:total], limits))

    @tf.autograph.experimental.do_not_convert
    def named(ids: Any) -> Any:
        return {"ids": ids}

    filled = documents.map(text, num_parallel_calls=tf.data.AUTOTUNE).filter(is_filled)
    return filled.batch(_DOCUMENTS_TOGETHER).flat_map(cut).map(named, num_parallel_calls=tf.data.AUTOTUNE)
