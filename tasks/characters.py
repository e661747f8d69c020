"""Tasks in TSV files, rows `input<TAB>target`: spelling correction with context, word search, or your own.

train_task = @characters.tsv_task()
characters.tsv_task.name = "word_search"
characters.tsv_task.train_files = "word_search/train.tsv"
characters.tsv_task.validation_files = "word_search/dev.tsv"
characters.tsv_task.test_files = {"test_random": "word_search/random.tsv", "test_overlap": "word_search/overlap.tsv"}
"""

from collections.abc import Mapping, Sequence

from mrt5_jax.data import answers, task_names, text_pairs


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
    files = {"train": train_files, "validation": validation_files, **(test_files or {})}
    source = text_pairs.tsv_source(files)
    contents = {
        split: [(file.index.sha256, file.index.num_bytes) for file in source.files if file.split == split]
        for split in files
    }
    full_name = task_names.name_with_key(f"characters.{name}", task_names.key_of(contents))
    text_pairs.add_task(full_name, source, metrics=[answers.accuracy])
    if all(file.index.has_former_meaning for file in source.files):
        places = {
            split: [(str(file.path.resolve()), file.index.num_bytes) for file in source.files if file.split == split]
            for split in files
        }
        former = f"characters.{name}_{task_names.key_of(places)}"
        text_pairs.add_task(former, source, metrics=[answers.accuracy])
        task_names.add_former_name(former, full_name)
    return full_name
