"""Sources whose reader's state is a position: shuffled, shared out, resumed to the example.

Every example is a pure function of (seed, epoch, index). Position p of the endless order is example p modulo the
split's size in epoch p // size, or where the epoch's permutation takes it; which host reads it changes nothing.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt

from mrt5_jax.data.index_shuffle import shuffled_indices
from mrt5_jax.data.text_files import SourceFile

BLOCK = 128
"""Positions that are handed to a source together: making many examples costs little more than making one."""

INDEX_FEATURE = "index"
"""An example's place within its split."""

SEED_FEATURE = "seed"
"""int64 [2], one of its own for every (seed, epoch, index); what transformations draw from. Not for the model."""

Example = dict[str, Any]
"""Features of an example: text, numbers, NumPy arrays."""

Positions = Iterator[Int[np.ndarray, " block"]]
"""Increasing positions of a split's endless order, in blocks."""

RowLengths = Mapping[str, int]
"""Of `inputs` and `targets` in ids, with EOS."""

_EPOCH_STRIDE = np.int64(0x1E3779B97F4A7C15)  # so far apart that no other run's seed is met


class Told(NamedTuple):
    """What a source tells of examples that it has not read."""

    class_counts: UInt[np.ndarray, "examples classes"]
    """Bytes of each of `byte_classes.BYTE_CLASSES`, before the task's transformations."""
    language: Int[np.ndarray, " examples"]
    """Of each example, its place in `languages`."""
    languages: tuple[str, ...]


class Addresses(NamedTuple):
    """Which examples of a split some positions stand for."""

    epochs: Int[np.ndarray, " block"]
    indices: Int[np.ndarray, " block"]
    """Within the split."""


class Order(NamedTuple):
    """The order in which positions stand for examples."""

    seed: int
    shuffle: bool
    num_epochs: int | None = None
    """None goes on for ever."""


@runtime_checkable
class ExampleSource(Protocol):
    """Where a task's examples come from."""

    splits: Sequence[str]
    files: Sequence[SourceFile]
    """What the splits are made of, where that are files of the user's."""

    def check(self, split: str) -> None:
        """Raises a UserError where the split cannot be read. An example need not be read for that."""
        ...

    def num_examples(self, split: str) -> int | None:
        """Returns None where only reading to the end would tell."""
        ...

    def read(self, split: str, positions: Positions, order: Order, lengths: RowLengths | None) -> Iterator[Example]:
        """Yields the examples at some positions, with INDEX_FEATURE and SEED_FEATURE, until the last epoch ends.

        Args:
            lengths: of the run's rows, for sources that cut rows themselves.
        """
        ...

    def read_once(self, split: str, lengths: RowLengths | None) -> Iterator[Example]:
        """Yields all examples, always in the same order: evaluation's."""
        ...


def generator_of(example: Example, seed: int) -> np.random.Generator:
    """Returns the generator from which a transformation of an example draws: it follows from both seeds alone.

    Args:
        example: as its source gives it, with SEED_FEATURE.
        seed: of the transformation, at least 0.
    """
    return np.random.default_rng([seed, *np.asarray(example[SEED_FEATURE]).astype(np.uint64).tolist()])


def every(step: int = 1, first: int = 0) -> Positions:
    """Yields the positions first, first + step, first + 2 step, ... without end."""
    for begin in itertools.count(first, step * BLOCK):
        yield begin + step * np.arange(BLOCK, dtype=np.int64)


class IndexedSource:
    """A source whose example `index` can be computed directly: nothing that is skipped is read.

    Args:
        make_examples: (split, int64 indices [block]) -> their features, one by one.
        num_examples: of every split. A split without examples is no split.
        files: that the splits are made of.
        tell: (split, int64 indices [block]) -> what is known of these examples without reading them; None: nothing.
    """

    def __init__(
        self,
        make_examples: Callable[[str, Int[np.ndarray, " block"]], Iterable[Example]],
        num_examples: Mapping[str, int],
        files: Sequence[SourceFile] = (),
        tell: Callable[[str, Int[np.ndarray, " block"]], Told] | None = None,
    ):
        self._sizes = {split: size for split, size in num_examples.items() if size > 0}
        self._make_examples = make_examples
        self.splits: Sequence[str] = tuple(self._sizes)
        self.files: Sequence[SourceFile] = files
        self._tell = tell

    @property
    def tells(self) -> bool:
        """Whether it knows something of examples without reading them."""
        return self._tell is not None

    def told(self, split: str, indices: Int[np.ndarray, " block"]) -> Told:
        """Returns what is known of examples without reading them, of a source that `tells`."""
        assert self._tell is not None
        return self._tell(split, indices)

    def check(self, split: str) -> None:
        """See `ExampleSource`; what can be wrong was found when the source was made."""

    def num_examples(self, split: str) -> int:
        """See `ExampleSource`."""
        return self._sizes[split]

    def read(
        self, split: str, positions: Positions, order: Order, lengths: RowLengths | None = None
    ) -> Iterator[Example]:
        """See `ExampleSource`."""
        return self.read_at(split, self._addresses_to_the_end(split, positions, order), order)

    def read_at(self, split: str, blocks: Iterator[Addresses], order: Order) -> Iterator[Example]:
        """Yields the examples at some addresses, as `read` does; a block is asked for when the one before is read."""
        for epochs, indices in blocks:
            seeds = np.stack([order.seed + epochs * _EPOCH_STRIDE, indices], axis=1)
            for example, index, seed in zip(self._make_examples(split, indices), indices, seeds, strict=True):
                yield {**example, INDEX_FEATURE: int(index), SEED_FEATURE: seed}

    def addresses(self, split: str, positions: Int[np.ndarray, " block"], order: Order) -> Addresses:
        """Returns which examples some positions of an order stand for."""
        size = self._sizes[split]
        epochs, indices = np.divmod(positions, size)
        if order.shuffle:
            indices = shuffled_indices(indices, epochs, seed=order.seed, size=size)
        return Addresses(epochs, indices)

    def _addresses_to_the_end(self, split: str, positions: Positions, order: Order) -> Iterator[Addresses]:
        """Up to the end of the last epoch, where there is one."""
        end = None if order.num_epochs is None else order.num_epochs * self._sizes[split]
        for block in positions:
            if end is not None and block[-1] >= end:
                yield self.addresses(split, block[block < end], order)
                return
            yield self.addresses(split, block, order)

    def read_once(self, split: str, lengths: RowLengths | None = None) -> Iterator[Example]:
        """See `ExampleSource`; mixed, so that the first few are of all languages."""
        return self.read(split, every(), Order(seed=0, shuffle=True, num_epochs=1), lengths)


def one_by_one(
    make_example: Callable[[str, int], Example],
) -> Callable[[str, Int[np.ndarray, " block"]], Iterator[Example]]:
    """Makes a function of blocks, for an IndexedSource, of one without state: (split, index) -> features."""
    return lambda split, indices: (make_example(split, int(index)) for index in indices)
