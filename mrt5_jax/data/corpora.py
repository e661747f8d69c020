"""Text of several languages, cut into chunks that are found by their number."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mrt5_jax.data.sources import Example
from mrt5_jax.data.text_files import TextStream, find_files
from mrt5_jax.errors import UserError

HELD_OUT_SHARE = 0.02
"""Of every language, where no validation files are given."""

Patterns = str | Sequence[str]


class Region(NamedTuple):
    """A part of a stream that is cut into chunks: ids begin..end of `stream`, all of one language."""

    language: str
    stream: TextStream
    begin: int
    end: int


class TextCorpus:
    """Splits of regions. A region's last chunk is as long as the others: it begins within the one before it."""

    def __init__(self, splits: dict[str, list[Region]], chunk_length: int, fingerprint: tuple):
        self.fingerprint = fingerprint
        """Equal for corpora that hold the same chunks."""
        self._chunk_length = chunk_length
        self._splits = splits
        self._first_chunks = {
            split: np.cumsum([0, *(-(-(region.end - region.begin) // chunk_length) for region in regions)])
            for split, regions in splits.items()
        }

    @classmethod
    def from_files(cls, train: Patterns, validation: Patterns | None, *, chunk_length: int) -> "TextCorpus":
        """From globs.

        Raises:
            UserError: a glob matches nothing, or only empty files.
        """
        paths = {"train": find_files(train)} | ({"validation": find_files(validation)} if validation else {})
        streams = {split: _streams(found) for split, found in paths.items()}
        for split, patterns in (("train", train), ("validation", validation)):
            if split in streams and not streams[split]:
                raise UserError(f"the text files that match '{patterns}' have only empty lines")
        regions = {
            split: [Region(language, stream, 0, stream.length) for language, stream in found.items()]
            for split, found in streams.items()
        }
        if validation is None:
            regions = _hold_out(regions["train"], chunk_length)
        return cls(regions, chunk_length, (chunk_length, tuple((split, *map(str, f)) for split, f in paths.items())))

    @property
    def num_examples(self) -> dict[str, int]:
        return {split: int(first[-1]) for split, first in self._first_chunks.items()}

    def example(self, split: str, index: tf.Tensor) -> Example:
        """`ids` (int32 [chunk_length], shorter only where a whole region is) and `language` of chunk `index`."""
        first_chunks = self._first_chunks[split]
        languages = tf.constant([region.language for region in self._splits[split]])

        def read(number: np.int64) -> tuple[np.ndarray, np.int32]:
            place = int(np.searchsorted(first_chunks, number, side="right")) - 1
            return self.read(self._splits[split][place], int(number - first_chunks[place])), np.int32(place)

        ids, region = tf.numpy_function(read, [index], [tf.int32, tf.int32], stateful=False)
        return {"ids": tf.ensure_shape(ids, [None]), "language": tf.gather(languages, tf.ensure_shape(region, []))}

    def read(self, region: Region, chunk: int) -> np.ndarray:
        """int32 ids of a region's chunk."""
        end = min(region.begin + (chunk + 1) * self._chunk_length, region.end)
        return region.stream.read(max(end - self._chunk_length, region.begin), end)


def _streams(paths: Sequence[Path]) -> dict[str, TextStream]:
    """By language, the name of a file without its suffix; languages without a line of text are left out."""
    by_language = itertools.groupby(sorted(paths, key=lambda path: (path.stem, path)), key=lambda path: path.stem)
    streams = {language: TextStream(list(found)) for language, found in by_language}
    return {language: stream for language, stream in streams.items() if stream.length}


def _hold_out(regions: Sequence[Region], chunk_length: int) -> dict[str, list[Region]]:
    """Cuts off the last chunks of every region that has two; no chunk of one part reaches into the other."""
    train, validation = [], []
    for region in regions:
        chunks = region.end // chunk_length
        border = (chunks - max(1, round(chunks * HELD_OUT_SHARE))) * chunk_length
        if border <= 0:
            train.append(region)
        else:
            train.append(region._replace(end=border))
            validation.append(region._replace(begin=border))
    return {"train": train, "validation": validation}
