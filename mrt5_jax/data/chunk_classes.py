"""How many bytes of each class the chunks of a text have: counted once, kept in the user's cache.

They are the index by which rows are dealt to devices before they are read. They lie there by what the text holds and
where it is cut, so that the same text elsewhere is not counted again.
"""

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt

from mrt5_jax.data.byte_classes import BYTE_CLASSES, count_classes
from mrt5_jax.user_cache import cache_folder

COUNTS_VERSION = 1
"""Bump when a change of the classes makes counts of the same text look different."""

_TOGETHER = 1 << 20
"""Ids that are counted at once."""


def kept_class_counts(
    content: object, num_chunks: int, chunk_length: int, chunk: Callable[[int], Int[np.ndarray, " length"]]
) -> UInt[np.ndarray, "chunks classes"]:
    """Returns how many bytes of each class each chunk has, from the cache where they were counted before.

    Args:
        content: what the chunks' ids follow from.
        chunk_length: of the longest chunk.
        chunk: from a number to ids.
    """
    dtype = np.dtype(np.uint16 if chunk_length < 1 << 16 else np.uint32)
    key = repr((content, BYTE_CLASSES, COUNTS_VERSION))
    path = cache_folder() / "byte_classes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    shape = (num_chunks, len(BYTE_CLASSES))
    if (counts := _load(path, shape, dtype)) is not None:
        return counts
    _say_that_bytes_are_counted()
    counts = np.zeros(shape, dtype)
    step = max(1, _TOGETHER // chunk_length)
    for first in range(0, num_chunks, step):
        numbers = range(first, min(first + step, num_chunks))
        ids = np.zeros((len(numbers), chunk_length), np.int32)
        for row, number in enumerate(numbers):
            own = chunk(number)
            ids[row, : len(own)] = own
        counts[first : first + len(numbers)] = count_classes(ids)
    _save(path, counts)
    return counts


@functools.cache  # once, of however many texts
def _say_that_bytes_are_counted() -> None:
    print("counting the bytes of text, by which rows are dealt to devices; the next start knows them", file=sys.stderr)


def _load(path: Path, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray | None:
    try:
        counts = np.asarray(np.load(path, mmap_mode="r"))  # plain arrays are quicker to read from
    except (OSError, ValueError, EOFError):
        return None
    return counts if counts.shape == shape and counts.dtype == dtype else None


def _save(path: Path, counts: np.ndarray) -> None:
    """Several processes may count at once: the last one's file stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            np.save(file, counts)
        os.replace(file.name, path)
    except OSError as error:
        print(
            f"{path.parent} takes no counts ({error.strerror}): they are made again at the next start", file=sys.stderr
        )
