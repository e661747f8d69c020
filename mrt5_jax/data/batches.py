"""From a seqio task or mixture to the model's batches: static shapes, exact resume, no overlap between hosts."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from mrt5_jax.config import DataConfig
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.errors import UserError

Batch = dict[str, np.ndarray]
"""int32: `encoder_input_tokens` [batch length]; `decoder_input_tokens`, `decoder_target_tokens` and
`decoder_loss_weights` [batch target]."""


class ExampleInfo(NamedTuple):
    """Where a row comes from."""

    task: str
    language: str
    """Empty where the task has no languages."""
    index: int
    """Within the task's split."""


class EvalBatch(NamedTuple):
    arrays: Batch
    examples: tuple[ExampleInfo, ...]
    """Of the first rows; the rows after them are filler: all zeros, weight 0."""


class TrainBatches(Iterator[Batch]):
    """Batches without end. What it has handed out is one number, so any batch can be gone back to at once."""

    def __init__(self, data: DataConfig, *, seed: int, shard_index: int, num_shards: int):
        from mrt5_jax.data import streams

        if data.batch_size % num_shards:
            raise UserError(f"batch_size {data.batch_size} cannot be shared out evenly to {num_shards} hosts")
        self._rows = data.batch_size // num_shards
        self._layout = {
            "task": data.train_task,
            "seed": seed,
            "shuffle": data.shuffle,
            "batch_size": data.batch_size,
            "num_shards": num_shards,
            "input_length": data.input_length,
            "target_length": data.target_length,
        }
        self._stream = streams.TrainStream(data, seed=seed, shard_index=shard_index, num_shards=num_shards)
        self._num_batches = 0
        self._open: Iterator[Mapping[str, np.ndarray]] | None = None

    def __next__(self) -> Batch:
        if self._open is None:
            self._open = self._stream.batches(start=self._num_batches * self._rows, rows=self._rows)
        batch = next(self._open)
        self._num_batches += 1
        return model_batch(batch["inputs"], batch["targets"])

    def state(self) -> dict[str, Any]:
        """For JSON. It is the same on all hosts."""
        return {"num_batches": self._num_batches, "layout": dict(self._layout)}

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
        self._num_batches = int(state["num_batches"])
        self._open = None


def train_batches(data: DataConfig, *, seed: int, shard_index: int = 0, num_shards: int = 1) -> TrainBatches:
    """This host's share of the training batches, `batch_size / num_shards` rows each.

    Args:
        seed: of the order and of every random transformation.

    Raises:
        UserError: an unknown task, a task without a train split, a batch size that the hosts cannot share.
    """
    return TrainBatches(data, seed=seed, shard_index=shard_index, num_shards=num_shards)


def eval_batches(
    task: str, data: DataConfig, *, split: str = "validation", num_examples: int | None = None
) -> Iterator[EvalBatch]:
    """All examples of a task's split once, always the same ones in the same order; the last batch is filled up.

    Args:
        num_examples: of a task, and of every task of a mixture; None takes all.

    Raises:
        UserError: an unknown task, or a split that it does not have.
    """
    from mrt5_jax.data import streams

    pending: list[tuple[ExampleInfo, Mapping[str, Any]]] = []
    for item in streams.eval_examples(task, data, split=split, num_examples=num_examples):
        pending.append(item)
        if len(pending) == data.eval_batch_size:
            yield _eval_batch(pending, data)
            pending = []
    if pending:
        yield _eval_batch(pending, data)


def _eval_batch(rows: list[tuple[ExampleInfo, Mapping[str, Any]]], data: DataConfig) -> EvalBatch:
    inputs = np.full((data.eval_batch_size, data.input_length), PAD_ID, np.int32)
    targets = np.full((data.eval_batch_size, data.target_length), PAD_ID, np.int32)
    for row, (_, example) in enumerate(rows):
        inputs[row, : len(example["inputs"])] = example["inputs"]
        targets[row, : len(example["targets"])] = example["targets"]
    return EvalBatch(model_batch(inputs, targets), tuple(info for info, _ in rows))


def model_batch(inputs: Int[np.ndarray, "batch length"], targets: Int[np.ndarray, "batch target"]) -> Batch:
    """What the model takes, from padded rows. The decoder starts from a pad and sees its targets one place later."""
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)), constant_values=PAD_ID)[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets != PAD_ID).astype(np.int32),
    }
