"""Batches on the device before they are asked for."""

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mrt5_jax.data.batches import Batch, TrainBatches


class Prefetched(Iterator[Any]):
    """Batches placed on devices ahead of their use; its state is that of the batches handed out.

    Devices compute while the host goes on, so placing a few batches ahead hides the reading and the transfer.

    Args:
        place: puts a host's batch on its devices, for instance `jax.device_put` with a sharding.
        ahead: how many batches lie ready.
    """

    def __init__(self, batches: TrainBatches, place: Callable[[Batch], Any], ahead: int = 2):
        self._batches = batches
        self._place = place
        self._ahead = ahead
        self._ready: collections.deque[tuple[Any, dict[str, Any]]] = collections.deque()
        self._state = batches.state()

    def __next__(self) -> Any:
        while len(self._ready) <= self._ahead:
            placed = self._place(next(self._batches))
            self._ready.append((placed, self._batches.state()))
        batch, self._state = self._ready.popleft()
        return batch

    def state(self) -> dict[str, Any]:
        """Returns `TrainBatches.state` as it was after the last batch handed out."""
        return self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state as `TrainBatches.restore` does, and drops the batches that lie ready."""
        self._batches.restore(state)
        self._ready.clear()
        self._state = self._batches.state()
