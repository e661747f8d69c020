"""How far a command is, and how long it will take: a live line on a terminal, a line now and then in a log file."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Live

SECONDS_BETWEEN_LINES = 5.0

Item = TypeVar("Item")
Update = Callable[[int, int | None], None]
"""(done, total); the total is None where nobody knows."""


@contextlib.contextmanager
def progress(
    unit: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic, label: str = ""
) -> Iterator[Update]:
    """Gives a function to call with how much is done, and of how much.

    In a log file there is a line after `SECONDS_BETWEEN_LINES`, and then whenever the time since the beginning has
    doubled: work that takes less leaves none, and long work few.

    Args:
        unit: what is counted, as in "lines".
        console: None: standard error.
        clock: in seconds.
        label: what is worked at.
    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        with _live(unit, console, label) as update:
            yield update
    else:
        yield _Lines(unit, console, clock, label)


def watched(items: Iterable[Item], unit: str, total: int | None = None, label: str = "") -> Iterator[Item]:
    """Yields the items, and shows how many have gone by; see `progress`."""
    with progress(unit, label=label) as update:
        for done, item in enumerate(items):
            update(done, total)
            yield item


@contextlib.contextmanager
def _live(unit: str, console: Console, label: str) -> Iterator[Update]:
    name = TextColumn("{task.fields[label]}", markup=False)  # a label may have braces and brackets
    columns = SpinnerColumn(), name, MofNCompleteColumn(), BarColumn(), TimeElapsedColumn()
    with Live(*columns, TextColumn("{task.description}"), console=console, transient=True) as live:
        task: TaskID = live.add_task("", total=None, label=label or unit)
        begun: list[tuple[float, int]] = []

        def update(done: int, total: int | None) -> None:
            begun[:] = begun or [(time.monotonic(), done)]
            (start, first), more = begun[0], None if total is None else total - done
            left = time_left(done - first, more, time.monotonic() - start)
            live.update(task, completed=done, total=total, description=left)

        yield update


class _Lines:
    """Prints lines that become rarer."""

    def __init__(self, unit: str, console: Console, clock: Callable[[], float], label: str) -> None:
        self._unit, self._console, self._clock, self._label = unit, console, clock, label
        self._start, self._next = clock(), SECONDS_BETWEEN_LINES
        self._first: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        if self._first is None:
            self._first = done
        seconds = self._clock() - self._start
        if seconds < self._next:
            return
        self._next = max(2 * seconds, self._next)
        left = time_left(done - self._first, None if total is None else total - done, seconds)
        of = "" if total is None else f" of {total:,}"
        parts = [f"{f'{self._label}: ' if self._label else ''}{done:,}{of} {self._unit}", left]
        self._console.print(", ".join(filter(None, parts)), soft_wrap=True, highlight=False, markup=False)


def time_left(made: int, left: int | None, seconds: float) -> str:
    """Says how long what is left will take at the pace so far, as in "0:01:30 left"; nothing where nobody knows."""
    if not made or left is None or left <= 0:
        return ""
    wanted = round(seconds / made * left)
    return f"{wanted // 3600}:{wanted // 60 % 60:02}:{wanted % 60:02} left"
