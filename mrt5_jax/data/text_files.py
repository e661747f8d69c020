"""Files of text as streams of ids that can be read anywhere: documents, each ended by EOS.

A plain text file's documents are its lines. It is mapped into memory, never loaded: a stream is a byte-offset view in
which a line's end reads as EOS and blank lines are not there. Bytes that are no UTF-8 are data like any others.
"""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.file_index import FileIndex, index_file
from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID, NUM_BYTES, bytes_to_ids
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath, as_path, explain, explained, files_for, given_path

_BLOCK = 1 << 20
_IDS = np.arange(NUM_BYTES, dtype=np.int32) + BYTE_OFFSET
_IDS[[10, 13]] = EOS_ID  # line feed, carriage return


def find_files(patterns: str | Sequence[str]) -> list[FilePath]:
    """Finds the files that are not empty and match one of the names or globs, sorted, each once.

    Raises:
        UserError: a pattern matches nothing, or nothing but folders or empty files; a pipe, or a link to nothing.
    """
    return find_files_and_empty(patterns)[0]


def find_files_and_empty(patterns: str | Sequence[str]) -> tuple[list[FilePath], list[FilePath]]:
    """Finds what `find_files` does, and the files that match and are empty; it raises the same."""
    found: dict[str, FilePath] = {}
    empty: dict[str, FilePath] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = _matches(pattern)
        filled = [path for path in matches if files_for(path).stat(path).size]
        if not filled:
            raise UserError(f"all {len(matches)} files that match '{pattern}' are empty")
        found.update({str(path.absolute()): path for path in filled})
        empty.update({str(path.absolute()): path for path in matches if path not in filled})
    return sorted(found.values()), sorted(empty.values())


def _matches(pattern: str) -> list[FilePath]:
    expanded = given_path(pattern)
    with explained(expanded):
        names = files_for(expanded).list(expanded)
    kinds = {}
    for name in names:
        with explained(name):
            kinds[name] = files_for(name).stat(name).kind
    for name, kind in kinds.items():
        if kind == "stream":
            raise UserError(
                f"{name}: a pipe or a device, which can be read only once: write it to a file, and give that file"
            )
    files = [as_path(name) for name, kind in kinds.items() if kind == "file"]
    if names and not files:
        folder = names[0].rstrip("/")
        raise UserError(f"{folder}: a folder: name the files in it, as in '{folder}/*'")
    if not names:
        raise UserError(f"no file matches '{pattern}': give a path or a glob of files that exist{_hint(expanded)}")
    return files


def _hint(pattern: str) -> str:
    try:
        files_for(pattern).stat(pattern)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            return f" ({explain(error, pattern)})"
    return ""


class TextFile:
    """One file as a sequence of ids: documents, each ended by EOS, blank ones left out.

    Args:
        field: of a JSON line, a TFRecord's example or a Parquet row, that holds the text.
    """

    def __init__(self, path: FilePath, field: str = "text"):
        self.path = path
        self.index: FileIndex = index_file(path, field)
        self._content = _content_of(self.index)
        self.length = self._content.length
        """In ids."""

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        """Reads the int32 ids of the places from `begin` up to, but not including, `end`, within the file."""
        return self._content.read(begin, end)


def _content_of(index: FileIndex) -> "_Lines | _Documents":
    return _Lines(index) if index.format.kind == "text" else _Documents(index)


class _Lines:
    """Plain text: its bytes without those that are dropped, a line's end read as EOS, EOS at the end."""

    def __init__(self, index: FileIndex):
        self._bytes = map_bytes(index.text)
        self._dropped_before = index.places
        self.length = len(self._bytes) - len(index.places) + int(index.ends_open)

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        first_dropped, last_dropped = (self._dropped_up_to(place) for place in (begin, end - 1))
        first, last = begin + first_dropped, end - 1 + last_dropped
        ids = _IDS[self._bytes[first : last + 1]]
        if last_dropped > first_dropped:
            numbers = np.arange(first_dropped, last_dropped)
            ids = np.delete(ids, self._dropped_before[first_dropped:last_dropped] + numbers - first)
        return ids if last < len(self._bytes) else np.append(ids, np.int32(EOS_ID))

    def _dropped_up_to(self, place: int) -> int:
        return int(np.searchsorted(self._dropped_before, place, side="right"))


class _Documents:
    """Unpacked documents, which may have line ends within."""

    def __init__(self, index: FileIndex):
        self._bytes = map_bytes(index.text)
        self._ends = index.places
        self.length = len(self._bytes) + len(self._ends)

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        first, last = (int(np.searchsorted(self._ends, place)) for place in (begin, end))
        ids = bytes_to_ids(np.asarray(self._bytes[begin - first : end - last]))
        # Where an EOS goes among the bytes alone: its place less the EOS ids before it.
        places = np.asarray(self._ends[first:last]) - np.arange(first, last) - (begin - first)
        return np.insert(ids, places, EOS_ID)


def map_bytes(path: FilePath) -> np.ndarray:
    """Maps a file's bytes (uint8) into memory."""
    if not files_for(path).stat(path).size:
        return np.zeros(0, np.uint8)
    with files_for(path).open(path) as file:
        return np.asarray(np.memmap(file, np.uint8, mode="r"))  # plain arrays are quicker to cut


class SourceFile(NamedTuple):
    """A file that a split of a task is made of."""

    split: str
    language: str
    """Empty where the task has no languages."""
    path: FilePath
    index: FileIndex


def check_no_overlap(files: Sequence[SourceFile]) -> None:
    """Refuses files whose documents are in the train split and in another: what is measured has to be unseen.

    Documents are compared, not files: compressed or with other line ends they are the same.

    Raises:
        UserError: names the files.
    """
    trained: dict[int, list[SourceFile]] = {}
    for file in files:
        if file.split == "train" and file.index.num_documents:
            trained.setdefault(file.index.num_documents, []).append(file)
    shared, named = [], []
    for file in files:
        candidates = trained.get(file.index.num_documents, []) if file.split != "train" else []
        equal = next((other for other in candidates if _same_documents(file.index, other.index)), None)
        if equal is not None:
            shared.append(file)
            named.append(str(file.path) if file.path == equal.path else f"{file.path} (which equals {equal.path})")
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise UserError(
            f"{', '.join(named[:3])}{more}: in the train and in the {shared[0].split} files: name others, or narrow "
            "the globs"
        )


def _same_documents(one: FileIndex, other: FileIndex) -> bool:
    """Reads no further than to the first difference."""
    if one.sha256 == other.sha256:
        return True
    mine, theirs = _content_of(one), _content_of(other)
    return mine.length == theirs.length and all(
        np.array_equal(mine.read(begin, end), theirs.read(begin, end))
        for begin in range(0, mine.length, _BLOCK)
        for end in [min(begin + _BLOCK, mine.length)]
    )


class TextStream:
    """Files of one language, one after the other.

    Args:
        field: of JSON lines, TFRecords and Parquet files, that holds the text.
    """

    def __init__(self, paths: Sequence[FilePath], field: str = "text"):
        self.files = [TextFile(path, field) for path in paths]
        self.identity = tuple((file.index.sha256, file.index.num_bytes) for file in self.files)
        """Equal for streams that hold the same ids."""
        self._filled = [file for file in self.files if file.length]
        self._begins = np.cumsum([0, *(file.length for file in self._filled)]).tolist()

    @property
    def length(self) -> int:
        """In ids."""
        return self._begins[-1]

    def read(self, begin: int, end: int) -> Int[np.ndarray, " length"]:
        """Reads the int32 ids of the places from `begin` up to, but not including, `end`, within the stream."""
        parts = []
        number = bisect.bisect_right(self._begins, begin) - 1
        while begin < end:
            offset = self._begins[number]
            stop = min(end, self._begins[number + 1])
            parts.append(self._filled[number].read(begin - offset, stop - offset))
            begin, number = stop, number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
