"""Text files as streams of ids that can be read anywhere: one document a line, each ended by EOS.

The files are mapped into memory, never loaded: a stream is a byte-offset view over them in which a newline reads as
EOS and empty lines are not there. Bytes that are no UTF-8 are data like any others.
"""

import bisect
import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.documents import UnpackedFile, is_plain_text
from mrt5_jax.data.vocabulary import EOS_ID, bytes_to_ids
from mrt5_jax.errors import UserError

_NEWLINE = 10
_WINDOW = 1 << 26  # bytes looked at together when a file is scanned for empty lines


def find_files(patterns: str | Sequence[str]) -> list[Path]:
    """Files with at least one byte that match the globs, sorted, each once.

    Raises:
        UserError: a glob matches nothing, or nothing but empty files.
    """
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]
        if not matches:
            raise UserError(f"no file matches '{pattern}': give a path or a glob of files that exist")
        filled = [path for path in matches if path.stat().st_size]
        if not filled:
            raise UserError(f"all {len(matches)} files that match '{pattern}' are empty")
        found.update(filled)
    return sorted(found)


class TextFile:
    """One file as a sequence of ids: its bytes, without empty lines, a newline read as EOS, EOS at the end."""

    def __init__(self, path: Path):
        self._bytes = np.memmap(path, np.uint8, mode="r")
        newlines = _superfluous_newlines(self._bytes)
        # A dropped newline at physical place p is passed by the logical places from p - (newlines dropped before) on.
        self._dropped_before = newlines - np.arange(len(newlines))
        kept = len(self._bytes) - len(newlines)
        ends_open = kept > 0 and self._bytes[-1] != _NEWLINE
        self.length = kept + int(ends_open)

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        """int32 ids of the places begin..end, within the file."""
        first, last = self._physical(begin), self._physical(end - 1)
        data = np.asarray(self._bytes[first : last + 1])
        newline = data == _NEWLINE
        ids = np.where(newline, np.int32(EOS_ID), bytes_to_ids(data))
        if last + 1 - first > end - begin:
            ids = ids[~(newline & np.concatenate([[False], newline[:-1]]))]
        return ids if last < len(self._bytes) else np.append(ids, np.int32(EOS_ID))

    def _physical(self, place: int) -> int:
        return place + int(np.searchsorted(self._dropped_before, place, side="right"))


def _superfluous_newlines(data: np.ndarray) -> np.ndarray:
    """Places of the newlines that end an empty line."""
    found = []
    for begin in range(0, len(data), _WINDOW):
        window = np.asarray(data[max(begin - 1, 0) : begin + _WINDOW]) == _NEWLINE
        if begin == 0:
            window = np.concatenate([[True], window])  # a file begins as if after a newline
        found.append(np.flatnonzero(window[1:] & window[:-1]) + begin)
    return np.concatenate(found)


class TextStream:
    """Files of one language, one after the other; what is no plain text is unpacked first.

    Args:
        field: of JSON lines, TFRecords and Parquet files, that holds the text.
    """

    def __init__(self, paths: Sequence[Path], field: str = "text"):
        self.identity = tuple((str(path.resolve()), path.stat().st_size) for path in paths)
        """Equal for streams that hold the same ids."""
        opened = (TextFile(path) if is_plain_text(path) else UnpackedFile(path, field) for path in paths)
        self._files = [file for file in opened if file.length]
        self._begins = np.cumsum([0, *(file.length for file in self._files)]).tolist()

    @property
    def length(self) -> int:
        """In ids."""
        return self._begins[-1]

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        """int32 ids of the places begin..end, within the stream."""
        parts = []
        number = bisect.bisect_right(self._begins, begin) - 1
        while begin < end:
            offset = self._begins[number]
            stop = min(end, self._begins[number + 1])
            parts.append(self._files[number].read(begin - offset, stop - offset))
            begin, number = stop, number + 1
        return np.concatenate(parts)
