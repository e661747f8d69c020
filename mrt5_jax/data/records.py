"""Files of records with named fields: JSON lines and Parquet, plain or compressed."""

import json
from collections.abc import Sequence
from typing import Any

from mrt5_jax.data.file_index import index_file
from mrt5_jax.data.formats import KIND_NAMES
from mrt5_jax.data.text_files import map_bytes
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath


class RecordFile:
    """Records that can be read by their number: the fields asked for lie in the user's cache.

    Args:
        texts: whether all fields have to be text.

    Raises:
        UserError: the file is damaged or of another kind, or a record lacks a field, with its line or row; with
            `texts`, a field holds something else.
    """

    def __init__(self, path: FilePath, fields: Sequence[str], *, texts: bool = False):
        self.path = path
        self.index = index_file(path, tuple(fields))
        if self.index.format.kind not in ("json", "parquet"):
            raise UserError(
                f"{path}: holds {KIND_NAMES[self.index.format.kind]}, not records with the fields "
                f"{', '.join(fields)}: write them as JSON lines or Parquet"
            )
        self._fields = fields
        self._bytes = map_bytes(self.index.text)
        if texts:
            self._check_texts()

    @property
    def size(self) -> int:
        """How many records there are."""
        return len(self.index.places)

    def row(self, number: int) -> list[Any]:
        """Returns the fields' values of record `number`, from 0."""
        begin = int(self.index.places[number - 1]) + 1 - number if number else 0
        return json.loads(self._bytes[begin : int(self.index.places[number]) - number].tobytes())

    def _check_texts(self) -> None:
        for number in range(self.size):
            for field, value in zip(self._fields, self.row(number), strict=True):
                if not isinstance(value, str):
                    raise UserError(
                        f"{self.path}, record {number + 1}: field '{field}' holds no text, but {json.dumps(value)[:40]}"
                    )
