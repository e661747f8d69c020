"""Contestants that are prepared one after another and then take turns, within a budget of seconds."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from benchmarks.contest import CONSOLE, Result

TURN_SECONDS = 1.0
"""What a turn should last: a device works off several calls, as in training, before the host looks at the clock."""
MOST_CALLS = 50
SHARE_FOR_TURNS = 0.2
"""Of the budget: what preparing leaves."""


class Prepared(Protocol):
    """A contestant that has compiled and has run once."""

    compile_seconds: float | None
    """Of tracing and compiling; None where nothing compiles."""
    memory: int | None
    """Bytes on the device at most, as the compiler reckons them or PyTorch counts them."""

    def turn(self, calls: int) -> None:
        """Makes so many calls, and returns when the device has done them."""
        ...


class Contestant(NamedTuple):
    name: str
    section: str
    """The table that it is in."""
    num_bytes: int
    """What a call reads; of decoding, what it writes."""
    multiply_adds: float
    """Of its matrix products."""
    prepare: Callable[[], Prepared]


class Finished(NamedTuple):
    contestant: Contestant
    result: Result
    """Seconds of one call, a number for each turn."""
    compile_seconds: float | None
    memory: int | None
    device_peak: int | None
    """The device's own count, where this contestant raised it: the highest so far of this process."""


class Absence(NamedTuple):
    name: str
    reason: str


class Race(NamedTuple):
    finished: list[Finished]
    absences: list[Absence]


class UnableError(Exception):
    """Why a contestant cannot be measured, in words for a user."""


class OutOfMemoryError(Exception):
    """A contestant of JAX needs more memory than the device has."""


class Clock:
    """How much of a budget of seconds is left, since the clock was made."""

    def __init__(self, budget: float) -> None:
        self.budget, self._start = budget, time.monotonic()

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self._start)

    @property
    def passed(self) -> float:
        return self.budget - self.left


class _Ready(NamedTuple):
    contestant: Contestant
    prepared: Prepared
    calls: int
    device_peak: int | None
    seconds: list[float]


def race(contestants: Sequence[Contestant], clock: Clock, rounds: int, device: Any) -> Race:
    """Prepares the contestants in their order, then gives each `rounds` turns, one after another.

    Where the next one, prepared in as long as the others took on average, would leave too little time for the turns, it
    and those after it are left out. One that fails is left out too.

    Raises:
        OutOfMemoryError: one of JAX's did not fit.
    """
    ready, absences = _prepare(contestants, clock, device)
    for number in range(rounds):
        start = time.monotonic()
        for one in list(ready):
            try:
                one.seconds.append(_timed(one.prepared, one.calls) / one.calls)
            except Exception as error:
                ready.remove(one)
                absences.append(Absence(one.contestant.name, one_line(error)))
        if clock.left < time.monotonic() - start and number + 1 < rounds:
            CONSOLE.print(f"time for {number + 1} of {rounds} turns each")
            break
    return Race([_finished(one) for one in ready], absences)


def _prepare(contestants: Sequence[Contestant], clock: Clock, device: Any) -> tuple[list[_Ready], list[Absence]]:
    ready: list[_Ready] = []
    absences: list[Absence] = []
    at_first, peak = clock.left, peak_bytes(device)
    for number, contestant in enumerate(contestants):
        left = clock.left
        if left - (at_first - left) / max(number, 1) < SHARE_FOR_TURNS * clock.budget:
            absences += [Absence(one.name, f"no time left of {clock.budget:.0f} s") for one in contestants[number:]]
            break
        try:
            prepared = contestant.prepare()
            calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / _timed(prepared, 1))))
        except Exception as error:
            if _is_out_of_memory(error):
                raise OutOfMemoryError(contestant.name) from None
            absences.append(Absence(contestant.name, one_line(error)))
            continue
        before, peak = peak, peak_bytes(device)
        raised = peak if peak is not None and before is not None and peak > before else None
        ready.append(_Ready(contestant, prepared, calls, raised, []))
        CONSOLE.print(f"[dim]{contestant.name} is ready after {clock.passed:.0f} s[/dim]")
    return ready, absences


def _timed(prepared: Prepared, calls: int) -> float:
    start = time.perf_counter()
    prepared.turn(calls)
    return time.perf_counter() - start


def _finished(one: _Ready) -> Finished:
    result = Result(one.contestant.name, one.seconds, one.contestant.multiply_adds)
    return Finished(one.contestant, result, one.prepared.compile_seconds, one.prepared.memory, one.device_peak)


def peak_bytes(device: Any) -> int | None:
    """The most bytes that this process had on the device at once, as the device counts them; None where it does not."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def one_line(error: Exception) -> str:
    """The first line of what an error says, with its kind; not the whole of a compiler's report."""
    if isinstance(error, UnableError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
