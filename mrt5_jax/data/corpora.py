"""Text of several languages, cut into chunks that are found by their number."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrt5_jax.data.chunk_classes import kept_class_counts
from mrt5_jax.data.documents import former_language_of, language_of
from mrt5_jax.data.sources import Example, IndexedSource, Told
from mrt5_jax.data.text_files import SourceFile, TextStream, check_no_overlap, find_files_and_empty
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath

HELD_OUT_SHARE = 0.02
"""Of every language, where no validation files are given."""

Patterns = str | Sequence[str]


class Region(NamedTuple):
    """A part of a stream that is cut into chunks: ids begin..end of `stream`, all of one language."""

    language: str
    stream: TextStream
    begin: int
    end: int


Splits = Mapping[str, Sequence[Region]]


def open_corpus(train: Patterns, validation: Patterns | None, *, chunk_length: int, field: str = "text") -> Splits:
    """Opens files that match globs and returns the regions of every split.

    Args:
        validation: None holds out the last part of every language.
        chunk_length: the part held out begins with a chunk.
        field: of JSON lines, TFRecords and Parquet files, that holds the text.

    Raises:
        UserError: a glob matches nothing, or only empty files; a file is damaged, or in both splits.
    """
    return _open(train, validation, chunk_length, field, language_of)


def open_former_corpus(
    train: Patterns, validation: Patterns | None, *, chunk_length: int, field: str = "text"
) -> Splits | None:
    """Opens the regions of versions that took each shard for a language; None where those read other documents."""
    splits = _open(train, validation, chunk_length, field, former_language_of)
    meant = all(
        file.index.has_former_meaning
        for regions in splits.values()
        for region in regions
        for file in region.stream.files
    )
    return splits if meant else None


def _open(
    train: Patterns, validation: Patterns | None, chunk_length: int, field: str, language: Callable[[FilePath], str]
) -> Splits:
    splits = {"train": open_regions(train, field, language)}
    if validation is None:
        return _hold_out(splits["train"], chunk_length)
    splits["validation"] = open_regions(validation, field, language)
    check_no_overlap(files_of(splits))
    return splits


def chunk_source(splits: Splits, chunk_length: int) -> IndexedSource:
    """Makes a source of chunks, with `ids` (int32 [chunk_length], shorter only where a whole region is) and `language`.

    A region's last chunk is as long as the others: it begins within the one before it.
    """
    chunks = {split: _Chunks(regions, chunk_length) for split, regions in splits.items()}
    return IndexedSource(
        lambda split, numbers: chunks[split].read(numbers),
        {split: own.size for split, own in chunks.items()},
        files_of(splits),
        lambda split, numbers: chunks[split].tell(numbers),
    )


def files_of(splits: Splits) -> list[SourceFile]:
    """Lists the files of every split; what is held out of train files has none of its own."""
    return [
        SourceFile(split, region.language, file.path, file.index)
        for split, regions in splits.items()
        for region in regions
        if region.begin == 0
        for file in region.stream.files
    ]


class _Chunks:
    """The chunks of a split, one region's after the other's."""

    def __init__(self, regions: Sequence[Region], chunk_length: int):
        self._regions = regions
        self._chunk_length = chunk_length
        self._first = np.cumsum([0, *(-(-(region.end - region.begin) // chunk_length) for region in regions)])
        self.size = int(self._first[-1])

    def read(self, numbers: np.ndarray) -> Iterator[Example]:
        """Reads the chunks of these numbers: their `ids` and `language`."""
        for number, place in zip(numbers, np.searchsorted(self._first, numbers, side="right") - 1, strict=True):
            yield {"ids": self._chunk(int(number), int(place)), "language": self._regions[place].language}

    def tell(self, numbers: np.ndarray) -> Told:
        """Returns what is known of these chunks without reading them."""
        places = np.searchsorted(self._first, numbers, side="right") - 1
        return Told(self._class_counts[numbers], places, tuple(region.language for region in self._regions))

    @functools.cached_property
    def _class_counts(self) -> np.ndarray:
        content = [(region.stream.identity, region.begin, region.end) for region in self._regions]
        return kept_class_counts((content, self._chunk_length), self.size, self._chunk_length, self._ids)

    def _ids(self, number: int) -> np.ndarray:
        return self._chunk(number, int(np.searchsorted(self._first, number, side="right")) - 1)

    def _chunk(self, number: int, place: int) -> np.ndarray:
        region = self._regions[place]
        end = min(region.begin + (number - int(self._first[place]) + 1) * self._chunk_length, region.end)
        return region.stream.read(max(end - self._chunk_length, region.begin), end)


def languages_of(splits: Splits) -> tuple[str, ...]:
    """Returns the languages of all splits, sorted."""
    return tuple(sorted({region.language for regions in splits.values() for region in regions}))


def open_regions(
    patterns: Patterns, field: str = "text", language: Callable[[FilePath], str] = language_of
) -> list[Region]:
    """Opens files that match globs and returns a region of each language.

    Args:
        field: of JSON lines, TFRecords and Parquet files, that holds the text.
        language: of a file.

    Raises:
        UserError: a glob matches nothing, or only empty files; a file is damaged; a language has only empty lines.
    """
    filled, empty = find_files_and_empty(patterns)
    paths = sorted(filled, key=lambda path: (language(path), path))
    streams = {name: TextStream(list(found), field) for name, found in itertools.groupby(paths, key=language)}
    regions = [Region(name, stream, 0, stream.length) for name, stream in streams.items()]
    if not any(region.end for region in regions):
        raise UserError(f"the files that match '{patterns}' have only empty lines")
    with_text = {region.language for region in regions if region.end}
    if without := [str(path) for path in [*paths, *empty] if language(path) not in with_text]:
        raise UserError(
            f"no line of text in {', '.join(without)}: let '{patterns}' match no file of a language without text"
        )
    return regions


def _hold_out(regions: Sequence[Region], chunk_length: int) -> Splits:
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
