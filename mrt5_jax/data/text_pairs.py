"""Examples made of an input and a target text: from datasets' features, and from TSV files."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mrt5_jax.data.sources import (
    Example,
    IndexedSource,
    PositionedSource,
    byte_features,
    end_rows,
    map_examples,
    one_by_one,
)
from mrt5_jax.data.tables import Table
from mrt5_jax.data.text_files import SourceFile, check_no_overlap, find_files
from mrt5_jax.data.vocabulary import BYTE_OFFSET


def add_task(
    name: str,
    source: PositionedSource,
    *,
    to_texts: Callable[[Example], Example] | None = None,
    postprocess: Callable[..., object] | None = None,
    metrics: Sequence[Callable[..., dict[str, float]]] = (),
) -> None:
    """Registers a task whose examples have the strings `inputs` and `targets`, once for each name.

    Rows longer than the run's lengths are cut and still end with EOS. The strings stay, as `inputs_pretokenized` and
    `targets_pretokenized`.

    Args:
        to_texts: what makes those strings of the source's features; None where it has them.
    """
    if name in seqio.TaskRegistry.names():
        return

    def tokenize(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return map_examples(dataset, lambda example: _tokenized(to_texts(example) if to_texts else example))

    seqio.TaskRegistry.add(
        name,
        source=source,  # pyright: ignore[reportArgumentType]
        preprocessors=[tokenize, end_rows],
        output_features=byte_features(),
        postprocess_fn=postprocess,
        metric_fns=list(metrics),
        shuffle_buffer_size=None,
    )


def _tokenized(example: Example) -> Example:
    texts = {key: example[key] for key in ("inputs", "targets")}
    ids = {key: tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32) + BYTE_OFFSET for key, text in texts.items()}
    return {**example, **ids, **{f"{key}_pretokenized": text for key, text in texts.items()}}


def tsv_source(files: Mapping[str, str | Sequence[str]]) -> IndexedSource:
    """Rows `input<TAB>target` as examples with the strings `inputs` and `targets`; blank lines are passed over.

    Args:
        files: globs, by split.

    Raises:
        UserError: a glob matches nothing or only empty files; a row has not exactly two columns, with its line; a train
            file is in another split as well.
    """
    tables = {split: [Table(path) for path in find_files(patterns)] for split, patterns in files.items()}
    sources = [SourceFile(split, "", table.path, table.index) for split, own in tables.items() for table in own]
    check_no_overlap(sources)
    first_rows = {split: np.cumsum([0, *(table.size for table in own)]) for split, own in tables.items()}

    def example(split: str, index: tf.Tensor) -> Example:
        def read(number: np.int64) -> tuple[bytes, bytes]:
            place = int(np.searchsorted(first_rows[split], number, side="right")) - 1
            return tables[split][place].row(int(number - first_rows[split][place]))

        inputs, targets = tf.numpy_function(read, [index], [tf.string, tf.string], stateful=False)
        return {"inputs": tf.ensure_shape(inputs, []), "targets": tf.ensure_shape(targets, [])}

    return IndexedSource(one_by_one(example), {split: int(first[-1]) for split, first in first_rows.items()}, sources)
