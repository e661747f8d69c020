"""Reading in a thread of its own."""

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def read_ahead(items: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """Yields the same items, of which the next few are made in a thread while the last one is used.

    What the making raises is raised when the item is asked for.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(next, items, _END) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, items, _END))
            yield item
