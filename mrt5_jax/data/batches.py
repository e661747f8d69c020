"""From a task or mixture to the model's batches: static shapes, exact resume, no overlap between hosts."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrt5_jax.config import DataConfig
from mrt5_jax.data.arrangements import (
    LANGUAGE_IDS,
    WINDOW,
    Arrangement,
    Batch,
    Buckets,
    ExampleInfo,
    Located,
    OneExampleARow,
    Packed,
    input_lengths,
    model_batch,
    smallest_length,
)
from mrt5_jax.data.dealing import Dealing, DealtExamples, DealtRows
from mrt5_jax.data.registry import find_split
from mrt5_jax.data.streams import TrainStream, eval_examples, eval_languages, language_ids
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.errors import UserError

_VERSION = "version of the random draws"
"""A layout's key of the next two."""

DATA_ORDER_VERSION = 2
"""Bump when a change makes the same position yield different examples (2: spans are drawn in blocks)."""

SHARED_ORDER_VERSION = 3
"""The same for mixtures and seqio's own tasks on several hosts (3: which host reads what follows from the position)."""


class EvalBatch(NamedTuple):
    arrays: Batch
    examples: tuple[ExampleInfo, ...]
    """Of the first rows; the rows after them are padding: all zeros, weight 0."""


class TrainBatches(Iterator[Batch]):
    """Batches without end. Where it stands is one number, so any batch can be gone back to at once."""

    def __init__(
        self,
        arrangement: Arrangement,
        layout: Mapping[str, Any],
        files: Sequence[SourceFile] = (),
        languages: Sequence[str] = (),
        is_dealt_by_process: bool = False,
    ):
        self.files = files
        """Of the user's that the batches come from."""
        self.languages = languages
        """That `language_ids` count through."""
        self.is_dealt_by_process = is_dealt_by_process
        """Whether each process deals the rows that it has read, since none knows anything of the others'."""
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
        """Returns where it stands, for JSON; the same on all hosts."""
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
            remedy = "give the run what it had"
            if saved.get(_VERSION) != self._layout[_VERSION]:
                remedy = (
                    "go on with the version of mrt5_jax that began the run, or begin another MODEL_DIR from its "
                    "parameters (config.RunConfig.warm_start)"
                )
            raise UserError(f"the saved data position was made with {'; '.join(different)}: {remedy}")
        self._position = int(state["position"])
        self._open = None


def train_batches(
    data: DataConfig,
    *,
    seed: int,
    shard_index: int = 0,
    num_shards: int = 1,
    most_examples: int | None = None,
    dealing: Dealing | None = None,
) -> TrainBatches:
    """Returns this host's share of the training batches, `batch_size / num_shards` rows each.

    A batch has the same examples with and without dealing, and the data's state is the same.

    Args:
        seed: of the order and of every random transformation.
        most_examples: of a packed row; None: as many as fit.
        dealing: how rows are dealt to devices; None: host i has the rows i, i + hosts, i + 2 hosts, ... of a batch.

    Raises:
        UserError: an unknown task, a task without a train split, a batch size that the hosts cannot share, buckets
            that do not fit the run.
    """
    if data.batch_size % num_shards:
        raise UserError(f"batch_size {data.batch_size} cannot be shared out evenly to {num_shards} hosts")
    lengths = input_lengths(data)
    everybody = TrainStream(data, seed=seed, shard_index=0, num_shards=1)
    reads_all = data.rows == "packed" or bool(data.length_buckets)
    stream = everybody if reads_all else TrainStream(data, seed=seed, shard_index=shard_index, num_shards=num_shards)
    all_rows, own = slice(0, data.batch_size, 1), slice(shard_index, data.batch_size, num_shards)
    rows = all_rows if reads_all and dealing is not None else own
    num_languages = len(stream.languages)
    arrangement: Arrangement
    if data.length_buckets:
        arrangement = Buckets(stream, data.batch_size, lengths, rows, seed)
    elif data.rows == "packed":
        row, languages = (data.input_length, data.target_length), 0 if dealing is None else num_languages
        arrangement = Packed(stream, data.batch_size, row, rows, most_examples, languages)
    else:
        arrangement = OneExampleARow(stream, data.batch_size // num_shards)
    by_process = dealing is not None and num_shards > 1 and not reads_all and not everybody.tells
    if dealing is not None and not reads_all and everybody.tells:
        arrangement = DealtExamples(everybody, dealing, data.batch_size)
    elif dealing is not None:
        how = dealing.within_process() if by_process else dealing
        arrangement = DealtRows(arrangement, how, rows, num_languages)
    layout = {
        _VERSION: SHARED_ORDER_VERSION if stream.is_shared_out else DATA_ORDER_VERSION,
        "task": data.train_task,
        "seed": seed,
        "shuffle": data.shuffle,
        "batch_size": data.batch_size,
        "num_shards": num_shards,
        "input_length": data.input_length,
        "target_length": data.target_length,
        "rows": data.rows,
        "length_buckets": list(lengths) if data.length_buckets else [],
    }
    return TrainBatches(arrangement, layout, stream.files, stream.languages, by_process)


def eval_batches(
    task: str, data: DataConfig, *, split: str = "validation", num_examples: int | None = None
) -> Iterator[EvalBatch]:
    """Yields all examples of a task's split once, always the same ones in the same order; the last batch is filled up.

    With length buckets, examples of similar length come together within a window. Rows are never packed. Where the task
    has languages, batches carry `language_ids`, which mean what they mean in training: see `streams.eval_languages`.

    Args:
        num_examples: of a task, and of every task of a mixture; None takes all.

    Raises:
        UserError: an unknown task, a split that it does not have, or buckets that do not fit the run.
    """
    lengths = input_lengths(data)
    languages = eval_languages(task, data)
    window = data.eval_batch_size * (WINDOW if data.length_buckets else 1)
    examples = eval_examples(task, data, split=split, num_examples=num_examples)
    while rows := list(itertools.islice(examples, window)):
        if data.length_buckets:
            rows.sort(key=lambda row: len(row[1]["inputs"]))
        for begin in range(0, len(rows), data.eval_batch_size):
            batch = _eval_batch(rows[begin : begin + data.eval_batch_size], data, lengths)
            if languages:
                ids = language_ids((info.language for info in batch.examples), languages)
                batch.arrays[LANGUAGE_IDS] = np.pad(ids, (0, data.eval_batch_size - len(ids)))
            yield batch


def check_evaluation(data: DataConfig, split: str = "validation") -> None:
    """Raises a UserError unless every evaluation task is there and has the split."""
    for task in data.eval_tasks:
        find_split(task, split)


def _eval_batch(
    rows: list[tuple[ExampleInfo, Mapping[str, Any]]], data: DataConfig, lengths: Sequence[int]
) -> EvalBatch:
    inputs = np.full((data.eval_batch_size, data.input_length), PAD_ID, np.int32)
    targets = np.full((data.eval_batch_size, data.target_length), PAD_ID, np.int32)
    for row, (_, example) in enumerate(rows):
        for padded, ids in ((inputs, example["inputs"]), (targets, example["targets"])):
            ids = ids[: padded.shape[1]]
            padded[row, : len(ids)] = ids
    inputs = inputs[:, : smallest_length(inputs, lengths)]
    return EvalBatch(model_batch(inputs, targets), tuple(info for info, _ in rows))
