"""TensorFlow Datasets as sources, and what to do about one that is not there. Reading one imports TensorFlow."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrt5_jax.data.sources import BLOCK, INDEX_FEATURE, SEED_FEATURE, Example, Order, Positions, RowLengths, every
from mrt5_jax.data.tensorflow_on_demand import import_optional, import_tensorflow
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 1 << 17
"""In examples: all of SQuAD, TyDi QA and a third of MultiNLI, some 100 MB of text."""


class TfdsSource:
    """Splits of TensorFlow Datasets, {"train": ("squad/v1.1:3.0.0", "train"), ...}.

    They can only be read from their beginning: going on reads the epoch's examples up to there again. Nothing is opened
    before it is read.

    Args:
        make_examples: a split's dataset -> the dataset of its raw examples, always in the same order.
        shuffle_buffer: how many raw examples are held in memory to be shuffled; all of them, where there are fewer.
    """

    def __init__(
        self,
        splits: Mapping[str, tuple[str, str]],
        *,
        make_examples: Callable[["tf.data.Dataset"], "tf.data.Dataset"] = lambda dataset: dataset,
        shuffle_buffer: int = SHUFFLE_BUFFER,
    ):
        self._datasets = splits
        self._make_examples = make_examples
        self._shuffle_buffer = shuffle_buffer
        self.splits: Sequence[str] = tuple(splits)
        self.files: Sequence[SourceFile] = ()

    def check(self, split: str) -> None:
        """See `ExampleSource`."""
        self._open(split)

    def num_examples(self, split: str) -> int | None:
        """See `ExampleSource`."""
        size = int(self._open(split).cardinality())
        return size if size >= 0 else None

    def read(
        self, split: str, positions: Positions, order: Order, lengths: RowLengths | None = None
    ) -> Iterator[Example]:
        """See `ExampleSource`."""
        blocks = iter(positions)
        block = next(blocks)
        first = int(block[0])
        found = zip(itertools.count(first), self._from(split, first, order), strict=False)
        for wanted in itertools.chain(block, itertools.chain.from_iterable(blocks)):
            for position, example in found:
                if position == wanted:
                    yield example
                    break
            else:
                return

    def read_once(self, split: str, lengths: RowLengths | None = None) -> Iterator[Example]:
        """See `ExampleSource`."""
        return self.read(split, every(), Order(seed=0, shuffle=True, num_epochs=1), lengths)

    def _open(self, split: str) -> "tf.data.Dataset":
        name, part = self._datasets[split]
        return self._make_examples(read(name, part))

    def _from(self, split: str, first: int, order: Order) -> Iterator[Example]:
        """The examples of an order from a position on."""
        tf = import_tensorflow("a TensorFlow dataset")
        examples = self._open(split)
        size = int(examples.cardinality())
        buffer = self._shuffle_buffer if size < 0 else min(size, self._shuffle_buffer)
        epoch, rest = divmod(first, size) if size > 0 else (0, first)

        @tf.autograph.experimental.do_not_convert
        def numbered(seed: Any, index: Any, example: Any) -> Any:
            return {**example, INDEX_FEATURE: index, SEED_FEATURE: tf.random.fold_in(seed, index)}

        @tf.autograph.experimental.do_not_convert
        def one_epoch(number: Any) -> Any:
            seed = tf.stack([tf.constant(order.seed, tf.int64), number])
            in_order = examples.enumerate()
            if order.shuffle:
                drawn = tf.random.stateless_uniform([], seed, 0, tf.int64.max, tf.int64)
                in_order = in_order.shuffle(buffer, seed=drawn, reshuffle_each_iteration=False)
            return in_order.map(
                tf.autograph.experimental.do_not_convert(functools.partial(numbered, seed)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )

        epochs = tf.data.Dataset.range(epoch, tf.int64.max if order.num_epochs is None else order.num_epochs)
        return iter(epochs.flat_map(one_epoch).skip(rest).prefetch(BLOCK).as_numpy_iterator())


def read(name: str, split: str) -> "tf.data.Dataset":
    """Opens a split in its own order.

    Raises:
        UserError: it is not prepared; with the command that prepares it.
    """
    import_tensorflow(f"the dataset {name}")
    tfds = import_optional("tensorflow_datasets", f"the dataset {name}")
    builder: Any = _builder(name)
    order = tfds.ReadConfig(interleave_cycle_length=1)
    try:
        return builder.as_dataset(split=split, shuffle_files=False, read_config=order)
    except (AssertionError, OSError):
        if builder.is_prepared():
            raise
        command = f"tfds build {name}" if "c4" not in name else "see docs/DATA.md, or read the published shards"
        raise UserError(
            f"the dataset {builder.info.full_name} is not prepared in {builder.data_dir.rpartition('/')[0]}: {command}"
        ) from None


@functools.cache
def _builder(name: str) -> Any:
    import tensorflow_datasets

    return tensorflow_datasets.builder(name)


def text(value: Any) -> str:
    """Returns a feature's text; TensorFlow gives bytes, records give strings."""
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def texts(values: Any) -> list[str]:
    """Returns a feature's texts."""
    return [text(value) for value in np.asarray(values, object).tolist()]
