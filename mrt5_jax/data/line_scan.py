"""Which bytes of a text are not read: blank lines, the second byte of a line's end, byte order marks."""

import tempfile
from typing import IO

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.formats import BYTE_ORDER_MARK

_LINE_FEED, _CARRIAGE_RETURN = 10, 13


class LineScan:
    """Takes a text block by block.

    A line ends with a line feed, a carriage return or both: of a run of these bytes, the first one is read as the end
    and the others are dropped, which drops blank lines as well. So is a byte order mark at the beginning of a line.
    """

    def __init__(self) -> None:
        self._dropped: IO[bytes] | None = None  # in a file, as there may be as many as lines
        self._num_dropped = 0
        self.dropped_before: Int[np.ndarray, " dropped"] = np.zeros(0, np.int64)
        """int64, increasing: of each byte that is not read, its place less the number of such bytes before it."""
        self._kept_ends = 0
        self._size = 0
        self._after_end = True  # a text begins as if after a line's end
        self._pending = b""
        self._other_ends = False

    def add(self, block: bytes) -> None:
        """Takes the next bytes."""
        block = self._pending + block
        self._pending = next((cut for cut in (b"\xef\xbb", b"\xef") if block.endswith(cut)), b"")
        if self._pending:  # a mark may be cut in two
            block = block[: -len(self._pending)]
        if block:
            self._scan(block)

    def finish(self) -> "LineScan":
        """Takes no more."""
        if self._pending:
            self._scan(self._pending)
            self._pending = b""
        if self._dropped is not None:
            self._dropped.flush()
            self.dropped_before = np.asarray(np.memmap(self._dropped, np.int64, mode="r"))
        self.close()
        return self

    def close(self) -> None:
        """Lets go of what an unfinished scan holds."""
        if self._dropped is not None:
            self._dropped.close()

    @property
    def ends_open(self) -> bool:
        """Whether the last line has no end of its own."""
        return not self._after_end

    @property
    def num_documents(self) -> int:
        return self._kept_ends + int(self.ends_open)

    @property
    def has_only_line_feeds(self) -> bool:
        """Whether the text has neither carriage returns nor marks."""
        return not self._other_ends

    def _scan(self, block: bytes) -> None:
        data = np.frombuffer(block, np.uint8)
        ends = data == _LINE_FEED
        if b"\r" in block:
            self._other_ends = True
            ends |= data == _CARRIAGE_RETURN
        begins = np.empty(len(data) + 1, bool)  # whether a line begins at a place
        begins[0], begins[1:] = self._after_end, ends
        dropped = ends & begins[:-1]
        place = block.find(BYTE_ORDER_MARK) if b"\xef" in block else -1
        while place >= 0:
            after = place + len(BYTE_ORDER_MARK)
            if begins[place]:
                self._other_ends = True
                dropped[place:after] = True
                begins[after] = True
                if after < len(data) and ends[after]:
                    dropped[after] = True
            place = block.find(BYTE_ORDER_MARK, after)
        self._after_end = bool(begins[-1])
        self._kept_ends += int(np.count_nonzero(ends))
        if dropped.any():
            self._kept_ends -= int(np.count_nonzero(dropped & ends))
            places = np.flatnonzero(dropped) + self._size
            before = np.arange(self._num_dropped, self._num_dropped + len(places))
            self._dropped = self._dropped or tempfile.TemporaryFile()  # noqa: SIM115 - until the scan is finished
            self._dropped.write((places - before).astype(np.int64).tobytes())
            self._num_dropped += len(places)
        self._size += len(block)
