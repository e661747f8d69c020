"""Parquet files, read in batches of rows from whatever serves their path."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mrt5_jax.data.formats import damaged, explained_damage
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import AnyPath, files_for

if TYPE_CHECKING:
    import pyarrow


def read_batches(
    path: AnyPath, name: str = "", columns: Sequence[str] | None = None
) -> Iterator[tuple[int, "pyarrow.RecordBatch"]]:
    """Reads a file in order: some rows at a time, each time with how many rows come before them.

    Args:
        name: of the file, where `path` is a copy.
        columns: to read; None: all.

    Raises:
        UserError: the file is damaged, or has no such column.
    """
    import pyarrow.parquet

    shown, first = name or str(path), 0
    with explained_rows(shown, 0), files_for(path).open(path) as raw, pyarrow.parquet.ParquetFile(raw) as file:
        there = file.schema_arrow.names
        for column in columns or ():
            if column not in there:
                raise UserError(f"{shown}: no column '{column}'; the columns are {', '.join(there)}")
        batches = file.iter_batches(columns=columns)
        while True:
            with explained_rows(shown, first):
                batch = next(batches, None)
            if batch is None:
                return
            yield first, batch
            first += batch.num_rows


def read_rows(path: AnyPath, name: str = "") -> Iterator[dict[str, Any]]:
    """Reads the rows of a file as Python's values, by column; errors as in `read_batches`."""
    shown = name or str(path)
    for first, rows in read_batches(path, shown):
        names = rows.schema.names
        for number in range(rows.num_rows):
            with explained_rows(shown, first + number):
                row = [column[number].as_py() for column in rows.columns]
            yield dict(zip(names, row, strict=True))


@contextmanager
def explained_rows(name: str, row: int) -> Iterator[None]:
    """Turns what pyarrow raises into one line: damage after so many rows, or a storage that does not answer."""
    import pyarrow

    place = f"{name}, after row {row}"
    try:
        with explained_damage(place):
            yield
    except (pyarrow.ArrowException, MemoryError, OverflowError) as error:
        raise damaged(place, error) from None
