"""Tasks in TSV files, rows `input<TAB>target`: spelling correction with context, word search, or your own.

train_task = @characters.tsv_task()
characters.tsv_task.name = "word_search"
characters.tsv_task.train_files = "word_search/train.tsv"
characters.tsv_task.validation_files = "word_search/dev.tsv"
characters.tsv_task.test_files = {"test_random": "word_search/random.tsv", "test_overlap": "word_search/overlap.tsv"}
"""

import hashlib
from collections.abc import Mapping, Sequence

from mrt5_jax.data import answers, text_pairs
from mrt5_jax.data.text_files import find_files


def tsv_task(
    name: str,
    train_files: str | Sequence[str],
    validation_files: str | Sequence[str],
    test_files: Mapping[str, str | Sequence[str]] | None = None,
) -> str:
    """Registers a task over TSV files, once for each set of arguments, and returns its name.

    Args:
        name: what the task is called in tables.
        train_files: globs.
        test_files: globs, by the names of the splits.

    Raises:
        UserError: no usable file, or a row that has not two columns.
    """
    files = {"train": train_files, "validation": validation_files, **(test_files or {})}
    found = {
        split: [(str(path.resolve()), path.stat().st_size) for path in find_files(own)] for split, own in files.items()
    }
    key = hashlib.sha256(repr(found).encode()).hexdigest()[:12]
    full_name = f"characters.{name}_{key}"
    text_pairs.add_task(full_name, text_pairs.tsv_source(files), metrics=[answers.accuracy])
    return full_name
