"""TensorFlow Datasets as sources, and what to do about one that is not there."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from mrt5_jax.data.sources import SequentialSource
from mrt5_jax.errors import UserError

SHUFFLE_BUFFER = 1 << 17
"""In examples: all of SQuAD, TyDi QA and a third of MultiNLI, some 100 MB of text."""


def source(splits: Mapping[str, tuple[str, str]], *, shuffle_buffer: int = SHUFFLE_BUFFER) -> SequentialSource:
    """A source whose splits are splits of TensorFlow Datasets, {"train": ("squad/v1.1:3.0.0", "train"), ...}.

    Nothing is opened before it is read.
    """
    return SequentialSource(lambda split: read(*splits[split]), splits, shuffle_buffer=shuffle_buffer)


def read(name: str, split: str) -> tf.data.Dataset:
    """A split in its own order.

    Raises:
        UserError: it is not prepared; with the command that prepares it.
    """
    builder: Any = _builder(name)
    order = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        return builder.as_dataset(split=split, shuffle_files=False, read_config=order)
    except (AssertionError, OSError):
        if builder.is_prepared():
            raise
        command = f"tfds build {name}" if "c4" not in name else "see docs/DATA.md, or read the published shards"
        raise UserError(
            f"the dataset {builder.info.full_name} is not prepared in {builder.data_dir.rpartition('/')[0]}: {command}"
        ) from None


@functools.cache
def _builder(name: str) -> tfds.core.DatasetBuilder:
    return tfds.builder(name)
