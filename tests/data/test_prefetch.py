"""Batches read ahead are the same batches, and the state is that of those handed out."""

from collections.abc import Iterator

import numpy as np

from mrt5_jax.data.arrangements import Located
from mrt5_jax.data.batches import Batch, TrainBatches
from mrt5_jax.data.prefetch import Prefetched


class Counting:
    """Batch i holds i."""

    def read(self, position: int) -> Iterator[Located]:
        while True:
            position += 1
            yield Located({"number": np.array([position - 1])}, position)


def number(batch: Batch) -> int:
    return int(batch["number"][0])


def test_batches_come_in_order_and_are_placed_ahead() -> None:
    placed: list[int] = []

    def place(batch: Batch) -> int:
        placed.append(number(batch))
        return placed[-1]

    prefetched = Prefetched(TrainBatches(Counting(), {}), place, ahead=2)
    assert [next(prefetched) for _ in range(4)] == [0, 1, 2, 3]
    assert placed == [0, 1, 2, 3, 4, 5]


def test_the_state_goes_on_after_the_last_batch_handed_out() -> None:
    prefetched = Prefetched(TrainBatches(Counting(), {}), number)
    assert prefetched.state()["position"] == 0
    for _ in range(3):
        next(prefetched)
    state = prefetched.state()
    resumed = Prefetched(TrainBatches(Counting(), {}), number)
    next(resumed)
    resumed.restore(state)
    assert resumed.state() == state
    assert [next(resumed) for _ in range(2)] == [next(prefetched) for _ in range(2)] == [3, 4]
