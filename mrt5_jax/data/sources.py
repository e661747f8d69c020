"""Sources whose reader's state is a position: shuffled, sharded, resumed to the example.

Every example is a pure function of (seed, epoch, index). Sources are seqio's DataSources: a task made of one works
with everything else that seqio offers. The task's transformations have to make one example out of one, or positions
would not tell where to go on.
"""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.data.vocabulary import EOS_ID
from mrt5_jax.errors import UserError

tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the whole memory of the device that JAX computes on

BLOCK = 32
"""Examples that are numbered together and, where NumPy makes them, made together: many cost little more than one."""

SEED_FEATURE = "seed"
"""int64 [2], one of its own for every (seed, epoch, index); what transformations draw from. Not for the model."""

Example = dict[str, Any]
"""Features of an example, as tensors."""


class PositionedSource(seqio.DataSource):
    """A source that can be read from any position of an endless, shuffled order."""

    files: Sequence[SourceFile] = ()
    """What its splits are made of, where that are files of the user's."""

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """One epoch, for seqio. Repeating it repeats the same draws; `stream` goes on to fresh ones."""
        del unused  # seqio's interface hands over what only other kinds of sources use
        return self.stream(split, seed=seed or 0, shuffle=shuffle, shard_info=shard_info, num_epochs=1)

    def check(self, split: str) -> None:
        """Raises a UserError where the split cannot be read. An example need not be read for that."""

    @abc.abstractmethod
    def stream(
        self,
        split: str,
        *,
        seed: int,
        shuffle: bool,
        start: int = 0,
        shard_info: seqio.ShardInfo | None = None,
        num_epochs: int | None = None,
    ) -> tf.data.Dataset:
        """Examples from position `start` of this shard on, in an order of their own in every epoch.

        Each example has the source's features, `index` (int64, within the split) and SEED_FEATURE. Shard s of n reads
        the positions s, s + n, s + 2n, ... of the order that all shards share.

        Args:
            num_epochs: None goes on for ever.
        """


class IndexedSource(PositionedSource):
    """A source whose example `index` can be computed directly: nothing that is skipped is read.

    Args:
        make_examples: (split, blocks of `index` and SEED_FEATURE) -> examples with both, one by one.
        num_examples: of every split. A split without examples is no split.
        files: that the splits are made of.
    """

    def __init__(
        self,
        make_examples: Callable[[str, tf.data.Dataset], tf.data.Dataset],
        num_examples: Mapping[str, int],
        files: Sequence[SourceFile] = (),
    ):
        self._sizes = {split: size for split, size in num_examples.items() if size > 0}
        super().__init__(splits=self._sizes, num_input_examples=self._sizes, performs_internal_shuffling=True)
        self._make_examples = make_examples
        self.files = files

    def num_input_examples(self, split: str) -> int:
        return self._sizes[split]

    def stream(
        self,
        split: str,
        *,
        seed: int,
        shuffle: bool,
        start: int = 0,
        shard_info: seqio.ShardInfo | None = None,
        num_epochs: int | None = None,
    ) -> tf.data.Dataset:
        shard = shard_info or seqio.ShardInfo(index=0, num_shards=1)
        size = self.num_input_examples(split)
        stop = tf.int64.max if num_epochs is None else num_epochs * size
        positions = tf.data.Dataset.range(shard.index + start * shard.num_shards, stop, shard.num_shards)

        def number(positions: tf.Tensor) -> Example:
            epoch, index = tf.math.floordiv(positions, size), tf.math.floormod(positions, size)
            if shuffle:
                index = _permuted(index, epoch, seed, size)
            return {"index": index, SEED_FEATURE: tf.stack([seed + epoch * _EPOCH_STRIDE, index], axis=1)}

        return self._make_examples(split, map_examples(positions.batch(BLOCK), number))


def one_by_one(make_example: Callable[[str, tf.Tensor], Example]) -> Callable[[str, tf.data.Dataset], tf.data.Dataset]:
    """For an IndexedSource, of a TensorFlow function without state: (split, index int64 scalar) -> features."""

    def make_examples(split: str, blocks: tf.data.Dataset) -> tf.data.Dataset:
        return map_examples(blocks.unbatch(), lambda one: {**make_example(split, one["index"]), **one})

    return make_examples


class SequentialSource(PositionedSource):
    """A source that can only be read from its beginning: going on reads the epoch's examples up to there again.

    Args:
        read: split -> its raw examples, always in the same order.
        splits: their names.
        shuffle_buffer: how many raw examples are held in memory to be shuffled; all of them, where there are fewer.
    """

    def __init__(self, read: Callable[[str], tf.data.Dataset], splits: Iterable[str], *, shuffle_buffer: int):
        super().__init__(splits=splits, performs_internal_shuffling=True)
        self._read = read
        self._shuffle_buffer = shuffle_buffer

    def check(self, split: str) -> None:
        self._read(split)

    def num_input_examples(self, split: str) -> int | None:
        """None where only reading to the end would tell."""
        size = int(self._read(split).cardinality())
        return size if size >= 0 else None

    def stream(
        self,
        split: str,
        *,
        seed: int,
        shuffle: bool,
        start: int = 0,
        shard_info: seqio.ShardInfo | None = None,
        num_epochs: int | None = None,
    ) -> tf.data.Dataset:
        shard = shard_info or seqio.ShardInfo(index=0, num_shards=1)
        examples = self._read(split)
        size = int(examples.cardinality())
        buffer = self._shuffle_buffer if size < 0 else min(size, self._shuffle_buffer)
        position = start * shard.num_shards
        epoch, rest = divmod(position, size) if size > 0 else (0, position)

        @tf.autograph.experimental.do_not_convert
        def one_epoch(number: tf.Tensor) -> tf.data.Dataset:
            epoch_seed = tf.stack([tf.constant(seed, tf.int64), number])
            numbered = examples.enumerate()
            if shuffle:
                order: Any = tf.random.stateless_uniform([], epoch_seed, 0, tf.int64.max, tf.int64)
                numbered = numbered.shuffle(buffer, seed=order, reshuffle_each_iteration=False)
            return map_examples(
                numbered,
                lambda index, example: {**example, "index": index, SEED_FEATURE: _fold(epoch_seed, index)},
            )

        epochs = tf.data.Dataset.range(epoch, tf.int64.max if num_epochs is None else num_epochs)
        return epochs.flat_map(one_epoch).skip(rest).shard(shard.num_shards, shard.index)


def _permuted(index: tf.Tensor, epoch: tf.Tensor, seed: int, size: int) -> Any:
    """Where a permutation of 0..size - 1, another one in each epoch, takes `index`; a cipher, so it needs no memory."""
    raw: Any = tf.raw_ops  # tf.random.experimental.index_shuffle cannot take a seed for each index
    seeds = tf.stack([tf.fill(tf.shape(epoch), tf.constant(part, tf.int64)) for part in (_CIPHER, seed)], axis=1)
    seeds = tf.concat([seeds, epoch[:, None]], axis=1)
    return raw.RandomIndexShuffle(index=index, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=4)


_CIPHER = 498247692  # what index_shuffle fills its key up with: a key of zeros would change nothing
_EPOCH_STRIDE = 0x1E3779B97F4A7C15  # so far apart that no other run's seed is met


def _fold(seed: tf.Tensor, data: Any) -> Any:
    return tf.random.fold_in(seed, data)


def map_examples(dataset: tf.data.Dataset, function: Callable[..., Example]) -> tf.data.Dataset:
    """`dataset.map`, in parallel and in order, for functions that are TensorFlow through and through."""
    # AutoGraph would only look for Python control flow to rewrite, and it warns where it finds no source text.
    plain = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def end_rows(dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None) -> tf.data.Dataset:
    """A task's last transformation: `inputs` and `targets` get their EOS, cut so that it fits; SEED_FEATURE goes.

    `inputs_cut` and `targets_cut` (bool) say whether something was cut off.

    Args:
        sequence_length: of both with EOS; seqio hands it over. None cuts nothing.
    """

    def end(example: Example) -> Example:
        ended = {key: example[key] for key in example if key != SEED_FEATURE}
        for key in ("inputs", "targets"):
            ids = ended[key] if sequence_length is None else ended[key][: sequence_length[key] - 1]
            ended[cut_feature(key)] = tf.size(ids) < tf.size(ended[key])
            ended[key] = tf.concat([ids, [EOS_ID]], axis=0)
        return ended

    return map_examples(dataset, end)


def cut_feature(key: str) -> str:
    """What says of an example whether its `inputs` or `targets` were cut."""
    return f"{key}_cut"


def add_mixture(name: str, rates: Mapping[str, float | Callable[[seqio.Task], float]]) -> str:
    """Registers a mixture of registered tasks, once for each name, and returns the name.

    Raises:
        UserError: there are no tasks.
    """
    if not rates:
        raise UserError(f"the mixture {label_of(name)} has no tasks: name at least one")
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(rates.items()))
    return name


def byte_features() -> dict[str, Any]:
    """`inputs` and `targets` in ByT5's vocabulary, ended by EOS: the output features of every task here."""
    vocabulary = seqio.ByteVocabulary(extra_ids=0)
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
