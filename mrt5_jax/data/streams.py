"""Streams of examples out of registered tasks and mixtures, addressed by position."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mrt5_jax.config import DataConfig
from mrt5_jax.data.arrangements import LANGUAGE_IDS, ROW, Batch, ExampleInfo
from mrt5_jax.data.byte_classes import BYTE_CLASSES
from mrt5_jax.data.mixing import Mixing, Shard
from mrt5_jax.data.read_ahead import read_ahead
from mrt5_jax.data.registry import find_split, find_task, is_known, registered, task_languages
from mrt5_jax.data.sources import INDEX_FEATURE, Addresses, Example, IndexedSource, Order, every
from mrt5_jax.data.task_specs import ANSWERS, INPUTS, LANGUAGE, TARGETS, Mixture, cut_feature
from mrt5_jax.errors import UserError

Choose = Callable[[Int[np.ndarray, "batches rows classes"], Int[np.ndarray, "batches rows"]], Batch]
"""(bytes of each class, language ids) of the examples of batches -> ROW of those to read, and what shall be beside
them; arrays [batches chosen ...]."""


class _ToldExamples(NamedTuple):
    """What is known of examples that have not been read."""

    tasks: Int[np.ndarray, " examples"]
    """Of each its task's place in the stream."""
    epochs: Int[np.ndarray, " examples"]
    indices: Int[np.ndarray, " examples"]
    class_counts: Int[np.ndarray, "examples classes"]
    languages: Int[np.ndarray, " examples"]


class TrainStream:
    """One shard of the endless training examples of a task or mixture.

    Attributes:
        files: of the user's that they come from.
        languages: that they have, sorted; `language_ids` count through them.
        is_shared_out: whether several hosts draw between several tasks, or read a task of seqio's.
    """

    def __init__(self, data: DataConfig, *, seed: int, shard_index: int, num_shards: int):
        self._lengths = {INPUTS: data.input_length, TARGETS: data.target_length}
        self._order = Order(seed, data.shuffle)
        self._shard = Shard(shard_index, num_shards)
        self._tasks = find_split(data.train_task, "train")
        self.files = [file for task in self._tasks for file in task.files]
        self.languages = task_languages(data.train_task)
        self._is_mixed = len(self._tasks) > 1
        of_seqio = any(task.name not in registered() for task in self._tasks)
        self.is_shared_out = num_shards > 1 and (self._is_mixed or of_seqio)
        if self._is_mixed:
            mixture = find_task(data.train_task)
            assert isinstance(mixture, Mixture)
            self._rates = [mixture.rate(task) for task in self._tasks]
            if min(self._rates) < 0 or not 0 < sum(self._rates) < math.inf:
                rates = ", ".join(f"{task.name} {rate:g}" for task, rate in zip(self._tasks, self._rates, strict=True))
                raise UserError(
                    f"the mixture '{data.train_task}' cannot draw at the rates {rates}: none below 0, and one above"
                )

    def batches(self, *, start: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields `inputs` and `targets`, padded, int32 [rows length], from this shard's example `start` on.

        Where examples have languages, `language_ids` (int32 [rows]) as well: places in `languages`, -1 for none.
        """
        examples = self._mixed(start) if self._is_mixed else self._of_one_task(start)
        return read_ahead(self._batch(list(rows_of)) for rows_of in _batched(examples, rows))

    @property
    def tells(self) -> bool:
        """Whether all its sources know something of examples that they have not read."""
        return all(isinstance(task.source, IndexedSource) and task.source.tells for task in self._tasks)

    def chosen(
        self, *, start: int, rows: int, together: Iterable[int], choose: Choose
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields of each batch of `rows` examples those alone that are chosen, as `batches` does; of one shard.

        Args:
            start: this stream's example that the first batch begins with.
            together: of how many batches the examples are chosen at once, again and again.
            choose: from what sources tell of the examples of batches to ROW, those to read, in order, as many of each
                batch, and to whatever shall be beside them. It is called when the first of the batches is read.
        """
        return read_ahead(self._chosen(start, rows, together, choose))

    def _chosen(
        self, start: int, rows: int, together: Iterable[int], choose: Choose
    ) -> Iterator[dict[str, np.ndarray]]:
        assert self._shard.count == 1
        wanted: list[deque[Addresses]] = [deque() for _ in self._tasks]
        readers = [
            task.read_at("train", _emptied(own), self._order, self._lengths)
            for task, own in zip(self._tasks, wanted, strict=True)
        ]
        for told in self._told(start, (count * rows for count in together)):
            found = choose(
                told.class_counts.reshape(-1, rows, told.class_counts.shape[1]), told.languages.reshape(-1, rows)
            )
            numbers = found[ROW] + rows * np.arange(len(found[ROW]))[:, None]  # through all of these batches
            tasks = told.tasks[numbers]
            for place, own in enumerate(wanted):
                if (of_task := numbers[tasks == place]).size:
                    own.append(Addresses(told.epochs[of_task], told.indices[of_task]))
            for number, of_rows in enumerate(tasks.tolist()):
                beside = {name: values[number] for name, values in found.items()}
                yield self._batch([next(readers[place]) for place in of_rows]) | beside

    def _told(self, start: int, sizes: Iterable[int]) -> Iterator[_ToldExamples]:
        """Yields what sources tell of the examples from one on, so many at a time."""
        for tasks, positions in _cut(self._drawn(start), sizes):
            told = _ToldExamples(
                tasks,
                np.empty_like(positions),
                np.empty_like(positions),
                np.zeros((len(tasks), len(BYTE_CLASSES)), np.int64),
                np.full(len(tasks), -1, np.int32),
            )
            for place, task in enumerate(self._tasks):
                own = np.flatnonzero(tasks == place)
                if own.size:
                    assert isinstance(task.source, IndexedSource)
                    addresses = task.source.addresses("train", positions[own], self._order)
                    told.epochs[own], told.indices[own] = addresses
                    class_counts, of_regions, languages = task.source.told("train", addresses.indices)
                    told.class_counts[own] = class_counts
                    told.languages[own] = language_ids(languages, self.languages)[of_regions]
            yield told

    def _drawn(self, start: int) -> Iterator[Int[np.ndarray, "2 block"]]:
        """Yields of the examples from one on the place of the task, and the position in the task's order."""
        if self._is_mixed:
            return Mixing(self._rates, self._order.seed, self._shard, start).drawn()
        return (np.stack([np.zeros_like(block), block]) for block in every(first=start))

    def _of_one_task(self, start: int) -> Iterator[Example]:
        positions = every(self._shard.count, self._shard.index + start * self._shard.count)
        return self._tasks[0].read("train", positions, self._order, self._lengths)

    def _mixed(self, start: int) -> Iterator[Example]:
        mixing = Mixing(self._rates, self._order.seed, self._shard, start)
        readers = [
            task.read("train", mixing.positions(place), self._order, self._lengths)
            for place, task in enumerate(self._tasks)
        ]
        return (next(readers[place]) for place in mixing.choices())

    def _batch(self, examples: list[Example]) -> dict[str, np.ndarray]:
        batch = {key: np.zeros((len(examples), length), np.int32) for key, length in self._lengths.items()}
        for key, padded in batch.items():
            for row, example in enumerate(examples):
                ids = example[key][: padded.shape[1]]
                padded[row, : len(ids)] = ids
        if self.languages:
            batch[LANGUAGE_IDS] = language_ids(map(example_language, examples), self.languages)
        return batch


def _batched(examples: Iterator[Example], rows: int) -> Iterator[list[Example]]:
    while batch := list(itertools.islice(examples, rows)):
        yield batch


def _cut(blocks: Iterator[Int[np.ndarray, "2 block"]], sizes: Iterable[int]) -> Iterator[Int[np.ndarray, "2 size"]]:
    """Yields the same columns, so many at a time."""
    left = next(blocks)
    for size in sizes:
        held, count = [left], left.shape[1]
        while count < size:
            held.append(next(blocks))
            count += held[-1].shape[1]
        joined = np.concatenate(held, axis=1)
        yield joined[:, :size]
        left = joined[:, size:]


def _emptied(blocks: "deque[Addresses]") -> Iterator[Addresses]:
    """Yields what lies in a queue, which is filled before more is asked for."""
    while True:
        yield blocks.popleft()


def language_ids(found: Iterable[str], languages: Sequence[str]) -> Int[np.ndarray, " rows"]:
    """Returns the place of each among the languages, int32; -1 for one that is not among them."""
    places = {language: place for place, language in enumerate(languages)}
    return np.array([places.get(language, -1) for language in found], np.int32)


def eval_languages(name: str, data: DataConfig) -> tuple[str, ...]:
    """Returns what `language_ids` count through when a task is evaluated: as in training, so that ids mean the same.

    Empty where the task has no languages; its own where training has none, or its task is not known here.
    """
    own = task_languages(name)
    trained = task_languages(data.train_task) if own and is_known(data.train_task) else ()
    return trained or own


def example_language(example: Mapping[str, Any]) -> str:
    """Returns its language; empty where it has none."""
    return _text(example.get(LANGUAGE, ""))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def eval_examples(
    name: str, data: DataConfig, *, split: str, num_examples: int | None
) -> Iterator[tuple[ExampleInfo, Mapping[str, Any]]]:
    """Yields a split's examples, task by task, in an order that never changes and mixes the languages of a task."""
    lengths = {INPUTS: data.input_length, TARGETS: data.target_length}
    for task in find_split(name, split):
        examples = itertools.islice(task.read_once(split, lengths), num_examples)
        for number, example in enumerate(examples):
            answers = tuple(map(_text, example.get(ANSWERS, ())))
            cut = [
                bool(example.get(cut_feature(key), False)) or len(example[key]) > length
                for key, length in lengths.items()
            ]
            index = int(example.get(INDEX_FEATURE, number))
            yield ExampleInfo(task.name, example_language(example), index, answers, *cut), example
