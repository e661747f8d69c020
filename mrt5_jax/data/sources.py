"""Sources addressed by index: shuffled, sharded and resumed without reading what is skipped.

Every example is a pure function of (seed, epoch, index), so a reader's state is a position. Sources are seqio's
DataSources: a task made of one works with everything else that seqio offers. Its transformations have to make one
example out of one, or positions would not tell where to go on.
"""

from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the whole memory of the device that JAX computes on

SEED_FEATURE = "seed"
"""int64 [2], one of its own for every (seed, epoch, index); what transformations draw from. Not for the model."""

Example = dict[str, tf.Tensor]


class IndexedSource(seqio.DataSource):
    """A source whose example `index` can be computed directly.

    Args:
        make_example: (split, index int64 scalar tensor) -> features; a TensorFlow function without state.
        num_examples: of every split. A split without examples is no split.
    """

    def __init__(self, make_example: Callable[[str, tf.Tensor], Example], num_examples: Mapping[str, int]):
        sizes = {split: size for split, size in num_examples.items() if size > 0}
        super().__init__(splits=sizes, num_input_examples=sizes, performs_internal_shuffling=True)
        self._sizes = sizes
        self._make_example = make_example

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def num_input_examples(self, split: str) -> int:
        return self._sizes[split]

    def list_shards(self, split: str) -> list[str]:
        return [split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """One epoch, for seqio. Repeating it repeats the same draws; `stream` goes on to fresh ones."""
        del unused  # seqio's interface hands over what only other kinds of sources use
        return self.stream(split, seed=seed or 0, shuffle=shuffle, shard_info=shard_info, num_epochs=1)

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

        Each example has the features of `make_example`, `index` (int64) and SEED_FEATURE. Shard s of n reads the
        positions s, s + n, s + 2n, ... of the order that all shards share.

        Args:
            num_epochs: None goes on for ever.
        """
        shard = shard_info or seqio.ShardInfo(index=0, num_shards=1)
        size = self.num_input_examples(split)
        stop = tf.int64.max if num_epochs is None else num_epochs * size
        positions = tf.data.Dataset.range(shard.index + start * shard.num_shards, stop, shard.num_shards)

        def example(position: tf.Tensor) -> Example:
            epoch, index = position // size, position % size
            epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
            if shuffle:
                # a block cipher over the indices: a permutation that needs no memory
                index = tf.random.experimental.index_shuffle(index, epoch_seed, tf.constant(size - 1, tf.int64))
            draws = tf.random.experimental.stateless_fold_in(epoch_seed, index)
            return {**self._make_example(split, index), "index": index, SEED_FEATURE: draws}

        return map_examples(positions, example)


def map_examples(dataset: tf.data.Dataset, function: Callable[..., Example]) -> tf.data.Dataset:
    """`dataset.map`, in parallel and in order, for functions that are TensorFlow through and through."""
    # AutoGraph would only look for Python control flow to rewrite, and it warns where it finds no source text.
    plain = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def without_seed(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Drops SEED_FEATURE, when the last transformation has drawn."""
    return map_examples(dataset, lambda example: {key: example[key] for key in example if key != SEED_FEATURE})


def byte_features() -> dict[str, seqio.Feature]:
    """`inputs` and `targets` in ByT5's vocabulary, ended by EOS: the output features of every task here."""
    vocabulary = seqio.ByteVocabulary(extra_ids=0)
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in ("inputs", "targets")}
