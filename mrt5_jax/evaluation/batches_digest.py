"""A digest of the examples that are evaluated: an evaluation of others than it is of is not finished."""

import hashlib
from collections.abc import Iterable, Iterator

from mrt5_jax.config import RunConfig
from mrt5_jax.data.batches import EvalBatch, eval_batches


class BatchesDigest:
    """A digest of all that some batches hold."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def of_each(self, batches: Iterable[EvalBatch]) -> Iterator[EvalBatch]:
        """Takes in batches as they go by."""
        for batch in batches:
            for name, array in sorted(batch.arrays.items()):
                self._digest.update(f"{name} {array.dtype} {array.shape}".encode())
                self._digest.update(array.tobytes())
            self._digest.update(repr(batch.examples).encode())
            yield batch

    def so_far(self) -> str:
        """Returns the digest of what was taken in."""
        return self._digest.hexdigest()


def digest_of(batches: Iterable[EvalBatch]) -> str:
    """Returns the digest of batches, all of which are read."""
    passed = BatchesDigest()
    for _ in passed.of_each(batches):
        pass
    return passed.so_far()


def batches_of(run: RunConfig, task: str, split: str) -> Iterable[EvalBatch]:
    """Returns the batches that a run evaluates of a task's split."""
    return eval_batches(task, run.data, split=split, num_examples=run.evaluation.num_examples)
