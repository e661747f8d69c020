"""Examples made of an input and a target text in the user's files: TSV, JSON lines, Parquet."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mrt5_jax.data.formats import recognize
from mrt5_jax.data.records import RecordFile
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.tables import Table
from mrt5_jax.data.task_names import key_of, name_with_key
from mrt5_jax.data.text_files import SourceFile, check_no_overlap, find_files

Globs = Mapping[str, str | Sequence[str]]
"""Globs, by split."""


def pair_source(files: Globs, fields: Sequence[str] = ("inputs", "targets"), language: str = "") -> IndexedSource:
    """Reads rows `input<TAB>target`, or records with named fields, as examples with the texts `inputs` and `targets`.

    Args:
        fields: of JSON lines and Parquet files, that hold input and target.
        language: of all of them, for tables of files.

    Raises:
        UserError: a glob matches nothing or only empty files; a row has not exactly two columns, or a record not both
            fields, with its line; a train file is in another split as well.
    """
    opened: dict[str, list[Table | RecordFile]] = {}
    for split, patterns in files.items():
        paths = find_files(patterns)
        opened[split] = [
            Table(path) if recognize(path).kind == "text" else RecordFile(path, fields, texts=True) for path in paths
        ]
    return _source(opened, ("inputs", "targets"), language)


def record_source(files: Globs, fields: Sequence[str], language: str = "") -> IndexedSource:
    """Reads records of JSON lines and Parquet files as examples with those of their fields.

    Raises:
        UserError: as `pair_source`; plain text is refused.
    """
    opened = {split: [RecordFile(path, fields) for path in find_files(patterns)] for split, patterns in files.items()}
    return _source(opened, fields, language)


def _source(
    opened: Mapping[str, Sequence[Table | RecordFile]], features: Sequence[str], language: str
) -> IndexedSource:
    sources = [SourceFile(split, language, file.path, file.index) for split, own in opened.items() for file in own]
    check_no_overlap(sources)
    first_rows = {split: np.cumsum([0, *(file.size for file in own)]) for split, own in opened.items()}

    def example(split: str, index: int) -> Example:
        place = int(np.searchsorted(first_rows[split], index, side="right")) - 1
        row = opened[split][place].row(index - int(first_rows[split][place]))
        return dict(zip(features, row, strict=True))

    return IndexedSource(one_by_one(example), {split: int(first[-1]) for split, first in first_rows.items()}, sources)


def content_name(label: str, source: IndexedSource, settings: object = None) -> str:
    """Makes a task's name: what it is called, and a key of what its files hold and of how they are read."""
    contents = _by_split(source, lambda file: (file.index.sha256, file.index.num_bytes))
    return name_with_key(label, key_of(contents if settings is None else (contents, settings)))


def former_name(label: str, source: IndexedSource) -> str | None:
    """Returns what earlier versions made of the files' paths and sizes; None where they read other rows."""
    if not all(file.index.has_former_meaning and file.index.format.kind == "text" for file in source.files):
        return None
    places = _by_split(source, lambda file: (str(file.path.resolve()), file.index.num_bytes))
    return f"{label}_{key_of(places)}"


def _by_split(source: IndexedSource, what: Callable[[SourceFile], object]) -> dict[str, list[object]]:
    splits = dict.fromkeys(file.split for file in source.files)
    return {split: [what(file) for file in source.files if file.split == split] for split in splits}
