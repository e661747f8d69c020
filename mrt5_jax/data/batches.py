"""From a seqio task or mixture to the model's batches: static shapes, exact resume, no overlap between hosts."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mrt5_jax.config import DataConfig
from mrt5_jax.data.arrangements import (
    WINDOW,
    Arrangement,
    Batch,
    Buckets,
    Located,
    OneExampleARow,
    Packed,
    check_lengths,
    model_batch,
    smallest_length,
)
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.errors import UserError

Arranged = Literal["one_a_row", "packed"]
"""Whether a row of a training batch is one example, or as many as fit."""


class ExampleInfo(NamedTuple):
    """Where a row comes from."""

    task: str
    language: str
    """Empty where the task has no languages."""
    index: int
    """Within the task's split."""
    answers: tuple[str, ...] = ()
    """All that are accepted, where the task has more than its target."""


class EvalBatch(NamedTuple):
    arrays: Batch
    examples: tuple[ExampleInfo, ...]
    """Of the first rows; the rows after them are filler: all zeros, weight 0."""


class TrainBatches(Iterator[Batch]):
    """Batches without end. Where it stands is one number, so any batch can be gone back to at once."""

    def __init__(self, arrangement: Arrangement, layout: Mapping[str, Any]):
        self._arrangement = arrangement
        self._layout = dict(layout)
        self._position = 0
        self._open: Iterator[Located] | None = None

    def __next__(self) -> Batch:
        if self._open is None:
            self._open = self._arrangement.read(self._position)
        batch, self._position = next(self._open)
        return batch

    def state(self) -> dict[str, Any]:
        """For JSON. It is the same on all hosts."""
        return {"position": self._position, "layout": dict(self._layout)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on as the iterator whose `state()` it was.

        Raises:
            UserError: the state belongs to other data, or to another way of sharing it out.
        """
        saved = state["layout"]
        different = [
            f"{key} {saved.get(key)!r}, now {now!r}" for key, now in self._layout.items() if saved.get(key) != now
        ]
        if different:
            raise UserError(f"the saved data position was made with {'; '.join(different)}: give the run what it had")
        self._position = int(state["position"])
        self._open = None


def train_batches(
    data: DataConfig,
    *,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
    rows: Arranged = "one_a_row",
    length_buckets: Sequence[int] = (),
) -> TrainBatches:
    """This host's share of the training batches, `batch_size / num_shards` rows each.

    Args:
        seed: of the order and of every random transformation.
        rows: packed ones have segment ids and positions.
        length_buckets: input lengths that batches may have, the longest being `data.input_length`; examples of similar
            length come together. None makes all batches as long as the longest example may be.

    Raises:
        UserError: an unknown task, a task without a train split, a batch size that the hosts cannot share, buckets
            that do not fit the run.
    """
    from mrt5_jax.data.streams import TrainStream

    if data.batch_size % num_shards:
        raise UserError(f"batch_size {data.batch_size} cannot be shared out evenly to {num_shards} hosts")
    if rows == "packed" and length_buckets:
        raise UserError("packed rows have one length: give no length_buckets, or rows that hold one example")
    if length_buckets:
        check_lengths(length_buckets, data)
    arrangement: Arrangement
    if rows == "packed" or length_buckets:
        everything = TrainStream(data, seed=seed, shard_index=0, num_shards=1)
        own = slice(shard_index, None, num_shards)
        if length_buckets:
            arrangement = Buckets(everything, data.batch_size, length_buckets, own, seed)
        else:
            arrangement = Packed(everything, data.batch_size, (data.input_length, data.target_length), own)
    else:
        stream = TrainStream(data, seed=seed, shard_index=shard_index, num_shards=num_shards)
        arrangement = OneExampleARow(stream, data.batch_size // num_shards)
    layout = {
        "task": data.train_task,
        "seed": seed,
        "shuffle": data.shuffle,
        "batch_size": data.batch_size,
        "num_shards": num_shards,
        "input_length": data.input_length,
        "target_length": data.target_length,
        "rows": rows,
        "length_buckets": sorted(length_buckets),
    }
    return TrainBatches(arrangement, layout)


def eval_batches(
    task: str,
    data: DataConfig,
    *,
    split: str = "validation",
    num_examples: int | None = None,
    length_buckets: Sequence[int] = (),
) -> Iterator[EvalBatch]:
    """All examples of a task's split once, always the same ones in the same order; the last batch is filled up.

    Args:
        num_examples: of a task, and of every task of a mixture; None takes all.
        length_buckets: input lengths that batches may have, the longest being `data.input_length`; within a window of
            examples those of similar length come together.

    Raises:
        UserError: an unknown task, a split that it does not have, or buckets that do not fit the run.
    """
    from mrt5_jax.data import streams

    if length_buckets:
        check_lengths(length_buckets, data)
    lengths = sorted(length_buckets) or [data.input_length]
    window = data.eval_batch_size * (WINDOW if length_buckets else 1)
    examples = streams.eval_examples(task, data, split=split, num_examples=num_examples)
    while rows := list(itertools.islice(examples, window)):
        if length_buckets:
            rows.sort(key=lambda row: len(row[1]["inputs"]))
        for begin in range(0, len(rows), data.eval_batch_size):
            yield _eval_batch(rows[begin : begin + data.eval_batch_size], data, lengths)


def _eval_batch(rows: list[tuple[ExampleInfo, Mapping[str, Any]]], data: DataConfig, lengths: list[int]) -> EvalBatch:
    inputs = np.full((data.eval_batch_size, data.input_length), PAD_ID, np.int32)
    targets = np.full((data.eval_batch_size, data.target_length), PAD_ID, np.int32)
    for row, (_, example) in enumerate(rows):
        for padded, ids in ((inputs, example["inputs"]), (targets, example["targets"])):
            padded[row, : len(ids)] = ids[: padded.shape[1]]
    inputs = inputs[:, : smallest_length(inputs, lengths)]
    return EvalBatch(model_batch(inputs, targets), tuple(info for info, _ in rows))
