"""Tasks in files of pairs: spelling correction with context, word search, or your own.

    train_task = @characters.tsv_task()
    characters.tsv_task.name = "word_search"
    characters.tsv_task.train_files = "word_search/train.tsv"
    characters.tsv_task.validation_files = "word_search/dev.tsv"
    characters.tsv_task.test_files = {"test_random": "word_search/random.tsv"}

`pair_task` is the same for rows `input<TAB>target` and for named fields of JSON lines and Parquet, whose texts may have
tabs and line ends.
"""

from collections.abc import Mapping, Sequence

from mrt5_jax.data import answers, task_names, text_pairs
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.task_specs import TaskSpec

_FIELDS = ("inputs", "targets")


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
        UserError: no usable file, a train file that is in another split as well, or a row that has not two columns.
    """
    return pair_task(name, train_files, validation_files, test_files)


def pair_task(
    name: str,
    train_files: str | Sequence[str],
    validation_files: str | Sequence[str],
    test_files: Mapping[str, str | Sequence[str]] | None = None,
    input_field: str = _FIELDS[0],
    target_field: str = _FIELDS[1],
    language: str | None = None,
) -> str:
    """Registers a task over TSV, JSON lines and Parquet files, once for each set of arguments, and returns its name.

    Args:
        name: what the task is called in tables.
        train_files: globs.
        test_files: globs, by the names of the splits.
        input_field: of JSON lines and Parquet files; rows of TSV files have two columns and no names.
        target_field: the same.
        language: of all examples.

    Raises:
        UserError: no usable file, a train file that is in another split as well, a row that has not two columns, a
            record without one of the fields, or with something else than text in it.
    """
    files = {"train": train_files, "validation": validation_files, **(test_files or {})}
    fields = (input_field, target_field)
    source = text_pairs.pair_source(files, fields, language or "")
    settings = None if (*fields, language) == (*_FIELDS, None) else (fields, language)
    languages = () if language is None else (language,)
    label = f"characters.{name}"
    full_name = text_pairs.content_name(label, source, settings)
    add_task(TaskSpec(full_name, source, metrics=(answers.accuracy,), languages=languages))
    if settings is None and (former := text_pairs.former_name(label, source)):
        add_task(TaskSpec(former, source, metrics=(answers.accuracy,)))
        task_names.add_former_name(former, full_name)
    return full_name
