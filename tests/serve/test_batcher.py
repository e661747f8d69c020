"""The queue: which works are computed together, and that everybody gets an answer of their own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.inference.requests import Request
from mrt5_jax.serve import batcher as module
from mrt5_jax.serve.batcher import Batcher, Compute, FullError
from mrt5_jax.serve.warm_model import BatchShape, Work

from .asgi import SECONDS

LENGTHS = (64, 128)
SIZES = (1, 4)


def work(length: int, threshold: float | None = None) -> Work:
    return Work("generate", Request({}, np.ones(length, np.int32), np.zeros(0, np.int32)), threshold)


def length_of(one: Work) -> int:
    return next(length for length in LENGTHS if length >= len(one.request.input_ids))


class Computed:
    """Notes what is computed; an answer is the length of its input."""

    def __init__(self) -> None:
        self.batches: list[tuple[BatchShape, list[int]]] = []

    def __call__(self, shape: BatchShape, works: Sequence[Work]) -> list[int]:
        lengths = [len(one.request.input_ids) for one in works]
        assert len({one.group for one in works}) == 1
        self.batches.append((shape, lengths))
        return lengths


@contextlib.asynccontextmanager
async def running(
    compute: Compute, places: int = 100, seconds: Mapping[BatchShape, float] | None = None
) -> AsyncIterator[Batcher]:
    batcher = Batcher(compute, length_of, SIZES, places, seconds)
    task = asyncio.create_task(batcher.run())
    try:
        async with asyncio.timeout(SECONDS):  # what hangs ends in an error
            yield batcher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def answers(works: list[Work], compute: Compute, seconds: Mapping[BatchShape, float] | None = None) -> list[int]:
    """Of works that come at once."""

    async def main() -> list[int]:
        async with running(compute, seconds=seconds) as batcher:
            return await asyncio.gather(*(ticket.future for ticket in batcher.submit(works)))

    return asyncio.run(main())


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for others that might come."""
    monkeypatch.setattr(module, "GATHERING_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([10], [((1, 64), [10])]),
        ([10, 100, 20, 30, 90], [((4, 64), [10, 20, 30]), ((4, 128), [100, 90])]),
        ([100, 10], [((1, 128), [100]), ((1, 64), [10])]),
        ([100, 90, 10, 20, 30], [((4, 128), [100, 90, 10, 20]), ((1, 64), [30])]),
        ([10] * 6, [((4, 64), [10] * 4), ((4, 64), [10] * 2)]),
    ],
)
def test_the_oldest_chooses_the_length_and_shorter_ones_take_the_rows_left_over(at_once, lengths, batches) -> None:
    computed = Computed()
    assert answers([work(length) for length in lengths], computed) == lengths
    assert computed.batches == [(BatchShape("generate", *shape), rows) for shape, rows in batches]


@pytest.mark.parametrize(
    ("of_one", "of_four", "rows"),
    [
        (1.0, 1.0, [4, 3]),  # rows cost nothing
        (1.0, 2.0, [4, 3]),
        (1.0, 3.2, [4, 1, 1, 1]),  # four are cheaper together, three are not
        (1.0, 3.8, [1] * 7),  # within a tenth of what each costs alone: none waits for another
    ],
)
def test_works_go_together_where_each_is_cheaper_for_it(
    at_once, monkeypatch: pytest.MonkeyPatch, of_one: float, of_four: float, rows: list[int]
) -> None:
    monkeypatch.setattr(module, "_FORGETTING", 1.0)
    seconds = {BatchShape("generate", 1, 64): of_one, BatchShape("generate", 4, 64): of_four}
    computed = Computed()
    answers([work(10)] * 7, computed, seconds)
    assert [len(lengths) for _, lengths in computed.batches] == rows


def test_works_of_other_parameters_are_not_computed_together(at_once) -> None:
    computed = Computed()
    assert answers([work(10), work(11, -1.0), work(12), work(13, -2.0)], computed) == [10, 11, 12, 13]
    assert [rows for _, rows in computed.batches] == [[10, 12], [11], [13]]


def test_deletions_at_any_thresholds_go_together() -> None:
    works = [Work("deletions", work(10).request, threshold) for threshold in (None, -1.0, -2.0)]
    assert len({one.group for one in works}) == 1


@given(works=st.lists(st.builds(work, st.integers(1, 128), st.sampled_from([None, -1.0])), min_size=1, max_size=20))
def test_everybody_gets_their_own_answer_from_the_smallest_batch(works: list[Work]) -> None:
    computed = Computed()
    assert answers(works, computed) == [len(one.request.input_ids) for one in works]
    for shape, lengths in computed.batches:
        assert len(lengths) <= shape.rows
        assert shape.rows == SIZES[0] or len(lengths) > SIZES[0]
        assert length_of(work(lengths[0])) == shape.length >= max(lengths)


def test_works_that_come_one_after_another_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the first may wait, here for ever; a full batch waits no longer."""
    monkeypatch.setattr(module, "GATHERING_SECONDS", 1e6)
    computed = Computed()

    async def main() -> None:
        async with running(computed) as batcher:
            tickets = []
            for _ in range(SIZES[-1]):
                assert not computed.batches
                tickets += batcher.submit([work(10)])
                await asyncio.sleep(0)
            await asyncio.gather(*(ticket.future for ticket in tickets))

    asyncio.run(main())
    assert computed.batches == [(BatchShape("generate", 4, 64), [10] * 4)]


def test_a_queue_takes_all_or_none_and_places_are_freed(at_once) -> None:
    """What is being computed has left the queue; whoever goes away frees a place at once."""
    computing, go_on = threading.Event(), threading.Event()

    def compute(shape: BatchShape, works: Sequence[Work]) -> list[int]:
        computing.set()
        go_on.wait()
        return [0] * len(works)

    async def main() -> None:
        async with running(compute, places=3) as batcher:
            try:
                first = batcher.submit([work(10)])
                assert await asyncio.to_thread(computing.wait, SECONDS)
                waiting = batcher.submit([work(10), work(10)])
                with pytest.raises(FullError):
                    batcher.submit([work(10), work(10)])
                assert batcher.num_waiting == 2
                batcher.withdraw(waiting)
                assert batcher.num_waiting == 0
                last = batcher.submit([work(10)] * 3)
                assert batcher.retry_after() >= 1
                batcher.withdraw(first)
            finally:
                go_on.set()
            assert await asyncio.gather(*(ticket.future for ticket in last)) == [0, 0, 0]
            assert first[0].future.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("error", [RuntimeError("a bug"), StopIteration()])
def test_a_batch_that_fails_fails_alone(at_once, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    """Even by an error that futures do not take, for which a queue would wait for ever."""

    def compute(shape: BatchShape, works: Sequence[Work]) -> list[object]:
        if shape.length == 128:
            raise error
        return [ValueError("this row"), "that row"]

    async def main() -> None:
        async with running(compute) as batcher:
            found = [ticket.future for ticket in batcher.submit([work(100), work(10), work(10)])]
            one, two, three = await asyncio.gather(*found, return_exceptions=True)
            assert isinstance(one, RuntimeError)
            assert isinstance(two, ValueError)
            assert three == "that row"

    asyncio.run(main())
    assert "a batch failed" in caplog.text
