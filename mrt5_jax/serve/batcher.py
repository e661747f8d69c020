"""A queue that groups what is asked for into batches of static shapes, and computes them on one thread."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mrt5_jax.serve.warm_model import BatchShape, Work

GATHERING_SECONDS = 0.010
"""Seconds that the first of a batch waits for others."""

_FORGETTING = 0.9
"""What a mean duration keeps of itself with each batch."""

_WORTH_WAITING = 1.1
"""A larger batch makes those in it wait for each other: it has to be so much cheaper for each of them."""

_log = logging.getLogger(__name__)

Compute = Callable[[BatchShape, Sequence[Work]], Sequence[Any]]
"""Answers of a batch, in order; an exception among them is the answer of its row alone."""
Observe = Callable[[BatchShape, int, float], None]
"""(shape, rows in use, seconds) of each batch."""


@dataclasses.dataclass(eq=False)
class Ticket:
    """A work in the queue or being computed; whoever asked waits for `future`."""

    work: Work
    length: int
    """The static length of its input."""
    came: float
    """On the event loop's clock, seconds."""
    future: asyncio.Future


class FullError(Exception):
    """The queue has no place for so many works."""


class Batcher:
    """A queue in front of a model. Its methods are called on the event loop that `run` runs on.

    The work that waits longest decides what is computed next, so that none starves: those of its group and static
    length go with it, in the order in which they came, in a batch of the size that costs least time for each of them.
    Where rows cost nothing that is the smallest that holds them; where each costs as much as alone, a small one. Rows
    left over in it go to shorter works, which there cost nothing.

    Args:
        compute: called on a thread of its own, one batch at a time.
        length_of: a work's static length.
        sizes: rows that batches have, rising.
        places: works that may wait.
        seconds: how long a batch of each shape takes; those that are computed are averaged in. None: rows cost nothing.
        observe: is told of each batch.
    """

    def __init__(
        self,
        compute: Compute,
        length_of: Callable[[Work], int],
        sizes: Sequence[int],
        places: int,
        seconds: Mapping[BatchShape, float] | None = None,
        observe: Observe = lambda shape, used, seconds: None,
    ) -> None:
        self._compute, self._length_of, self._sizes = compute, length_of, sizes
        self._places, self._observe = places, observe
        self._waiting: list[Ticket] = []
        self._came = asyncio.Event()
        self._seconds = None if seconds is None else dict(seconds)
        self._seconds_each = 0.0

    @property
    def num_waiting(self) -> int:
        """Works that no batch has taken yet."""
        return len(self._waiting)

    def retry_after(self) -> int:
        """Returns in how many seconds there should be a place: as long as the batches that wait will take."""
        return max(1, math.ceil(self._seconds_each * self.num_waiting))

    def submit(self, works: Sequence[Work]) -> list[Ticket]:
        """Puts works into the queue, all or none.

        Raises:
            FullError: there are not as many places.
        """
        if self.num_waiting + len(works) > self._places:
            raise FullError
        loop = asyncio.get_running_loop()
        tickets = [Ticket(work, self._length_of(work), loop.time(), loop.create_future()) for work in works]
        self._waiting += tickets
        self._came.set()
        return tickets

    def withdraw(self, tickets: Sequence[Ticket]) -> None:
        """Frees the places of those that nobody waits for any more; what is being computed comes to nothing."""
        for ticket in tickets:
            if not ticket.future.done():
                ticket.future.cancel()
            elif not ticket.future.cancelled():
                ticket.future.exception()  # an error that nobody asked for is nobody's
        self._waiting = [ticket for ticket in self._waiting if not ticket.future.cancelled()]

    async def run(self) -> None:
        """Computes batch after batch until it is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="compute") as thread:
            while True:
                await self._gather()
                shape, tickets = self._take()
                start = time.perf_counter()
                works = [ticket.work for ticket in tickets]
                answers = await loop.run_in_executor(thread, self._answers, shape, works)
                seconds = time.perf_counter() - start
                self._seconds_each = _mean(self._seconds_each, seconds / len(tickets))
                if self._seconds is not None:
                    self._seconds[shape] = _mean(self._seconds[shape], seconds)
                self._observe(shape, len(tickets), seconds)
                for ticket, answer in zip(tickets, answers, strict=True):
                    _settle(ticket.future, answer)

    def _answers(self, shape: BatchShape, works: Sequence[Work]) -> Sequence[Any]:
        """Computes a batch. A bug in it must not end the queue: whoever asked is told, and the log.

        Futures take no StopIteration, so that an error of any kind becomes one of a kind that they take.
        """
        try:
            return self._compute(shape, works)
        except Exception as error:
            _log.exception("a batch failed: %s", shape)
            return [RuntimeError(f"a batch failed: {error!r}")] * len(works)

    async def _gather(self) -> None:
        """Waits for a work, and then for others to go with it, until they fill a batch or it has waited long enough."""
        loop = asyncio.get_running_loop()
        while True:
            self._came.clear()
            left = None
            if self._waiting:
                left = self._waiting[0].came + GATHERING_SECONDS - loop.time()
                if left <= 0 or len(self._like_the_first()) >= self._sizes[-1]:
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._came.wait()

    def _like_the_first(self) -> list[Ticket]:
        first = self._waiting[0]
        return [
            ticket
            for ticket in self._waiting
            if ticket.length == first.length and ticket.work.group == first.work.group
        ]

    def _take(self) -> tuple[BatchShape, list[Ticket]]:
        first = self._waiting[0]
        alike = self._like_the_first()
        rows = self._rows_for(len(alike), first)
        chosen = alike[:rows]
        shorter = [
            ticket for ticket in self._waiting if ticket.length < first.length and ticket.work.group == first.work.group
        ]
        chosen += shorter[: rows - len(chosen)]
        taken = set(map(id, chosen))
        self._waiting = [ticket for ticket in self._waiting if id(ticket) not in taken]
        return BatchShape(first.work.endpoint, rows, first.length), chosen

    def _rows_for(self, count: int, first: Ticket) -> int:
        """Returns how many rows the batch should have that `count` works like the first could go in."""
        each = {}
        for size in self._sizes:
            shape = BatchShape(first.work.endpoint, size, first.length)
            each[size] = (1.0 if self._seconds is None else self._seconds[shape]) / min(size, count)
        return next(size for size in self._sizes if each[size] <= _WORTH_WAITING * min(each.values()))


def _mean(before: float, now: float) -> float:
    """Returns a mean duration with one more in it; 0: none before."""
    return _FORGETTING * before + (1 - _FORGETTING) * now if before else now


def _settle(future: asyncio.Future, answer: Any) -> None:
    if future.done():  # withdrawn meanwhile
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
