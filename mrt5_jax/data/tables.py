"""Files of rows `input<TAB>target`."""

import numpy as np

from mrt5_jax.data.file_index import index_file
from mrt5_jax.data.formats import BYTE_ORDER_MARK, KIND_NAMES
from mrt5_jax.data.text_files import map_bytes
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath

_TAB, _LINE_FEED, _CARRIAGE_RETURN = 9, 10, 13


class Table:
    """A TSV file, compressed or not, mapped into memory, with the places of its rows; empty lines are none.

    Raises:
        UserError: the file is damaged, no text or only empty lines, or a row has not two columns, with its line.
    """

    def __init__(self, path: FilePath):
        self.path = path
        self.index = index_file(path)
        if self.index.format.kind != "text":
            raise UserError(f"{path}: holds {KIND_NAMES[self.index.format.kind]}, not rows input<TAB>target")
        self._bytes = map_bytes(self.index.text)
        begin = len(BYTE_ORDER_MARK) * self._bytes[:3].tobytes().startswith(BYTE_ORDER_MARK)
        line_ends = np.flatnonzero((self._bytes == _LINE_FEED) | (self._bytes == _CARRIAGE_RETURN))
        tabs = np.flatnonzero(self._bytes == _TAB)
        begins = np.concatenate([[begin], line_ends + 1])
        ends = np.concatenate([line_ends, [len(self._bytes)]])
        columns = np.searchsorted(tabs, ends) - np.searchsorted(tabs, begins) + 1
        filled = ends > begins  # not between a carriage return and its line feed, either
        wrong = np.flatnonzero(filled & (columns != 2))
        if len(wrong):
            count = int(columns[wrong[0]])
            line = len((self._bytes[: begins[wrong[0]]].tobytes() + b"x").splitlines())
            raise UserError(f"{path}, line {line}: {count} column{'s' * (count > 1)}, not input<TAB>target")
        if not filled.any():
            raise UserError(f"{path} has only empty lines: give rows input<TAB>target")
        self._begins, self._ends = begins[filled], ends[filled]
        self._tabs = tabs

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self._begins)

    def row(self, number: int) -> tuple[bytes, bytes]:
        """Returns input and target of row `number`, from 0."""
        begin, end, tab = self._begins[number], self._ends[number], self._tabs[number]
        return self._bytes[begin:tab].tobytes(), self._bytes[tab + 1 : end].tobytes()
