"""The few static lengths that kept positions are packed into."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from mrt5_jax.config import Dispatch, ExecutionConfig
from mrt5_jax.errors import UserError

# A TPU's lanes are 128 wide; elsewhere shorter steps cost nothing.
_MOST_ROUNDING = {"tpu": 128}
_DEFAULT_MOST_ROUNDING = 64
"""By backend, the default rounding of long sequences."""

_LEAST_MULTIPLES = {"tpu": 8}
_DEFAULT_LEAST_MULTIPLES, _LEAST_MULTIPLES_OF_A_CAPACITY = 16, 8
"""By backend, how many times the default rounding goes into a sequence at least, which makes it less for short ones."""

_MAX_RUNGS: dict[Dispatch, int] = {"in_graph": 8, "host": 16}
"""Of a program that holds all rungs, and of as many programs as there are."""

_LEAST_GAP, _LEAST_SAVING = 8, 1 / 20
"""What a rung must save over the next longer one to be worth its program: positions, and a share of the body. Sixteen
even rungs save a sixteenth each, of what depends on the slots."""

BodyCost = Callable[[int], float]
"""Slots -> work of a row's body at that length, in any unit."""


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Increasing compact lengths (rungs); one program or branch is compiled for each.

    A sequence that is longer than the last rung may lose positions, see `plan.restrict`.

    Raises:
        UserError: the rungs are not positive and increasing.
    """

    rungs: tuple[int, ...]
    length: int | None = None
    """Of the sequences; None: the last rung."""

    @property
    def full_length(self) -> int:
        return self.length or self.rungs[-1]

    def __post_init__(self) -> None:
        below = (0, *self.rungs)
        if not self.rungs or any(upper <= lower for lower, upper in zip(below, self.rungs, strict=False)):
            raise UserError(f"rungs {self.rungs}: give at least one length, all positive and increasing")

    def rung_index(self, kept_count: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """Returns the index of the smallest rung that holds `kept_count` positions; the last rung's where none does."""
        rungs = jnp.asarray(self.rungs, jnp.int32)
        index = jnp.searchsorted(rungs, kept_count.astype(jnp.int32), side="left", method="compare_all")
        return jnp.minimum(index, len(self.rungs) - 1).astype(jnp.int32)

    def host_rung(self, kept_count: int) -> int:
        """Returns the `rung` of a number that the host knows."""
        return next((rung for rung in self.rungs if rung >= kept_count), self.rungs[-1])

    def rung(self, kept_count: Int[Array, "*shape"]) -> Int[Array, "*shape"]:
        """Returns the smallest rung that holds `kept_count` positions."""
        return jnp.take(jnp.asarray(self.rungs, jnp.int32), self.rung_index(kept_count), mode="clip")


def make_ladders(
    lengths: Iterable[int],
    execution: ExecutionConfig,
    backend: str,
    capacity: float | None = None,
    body_cost: BodyCost = float,
    dispatch: Dispatch = "in_graph",
) -> dict[int, Ladder]:
    """Makes a ladder for every length that inputs may have, see `make_ladder`."""
    return {length: make_ladder(length, execution, backend, capacity, body_cost, dispatch) for length in lengths}


class ByLength:
    """A function of (state, batch, ...) that runs `make(ladder)` of its batch's input length."""

    def __init__(self, ladders: Mapping[int, Ladder], make: Callable[[Ladder], Callable[..., Any]]) -> None:
        self.programs = {length: make(ladder) for length, ladder in ladders.items()}

    def __call__(self, state: Any, batch: Mapping[str, Array], *rest: Any) -> Any:
        return self.programs[batch["encoder_input_tokens"].shape[1]](state, batch, *rest)


def make_ladder(
    length: int,
    execution: ExecutionConfig,
    backend: str,
    capacity: float | None = None,
    body_cost: BodyCost = float,
    dispatch: Dispatch = "in_graph",
) -> Ladder:
    """Makes the ladder for sequences of `length` positions.

    Rungs are those configured or evenly chosen multiples of the rounding, at most `max_rungs`; the last one is the full
    length, so every row fits. Where no rounding is configured either, those rungs stay that earn their program: each
    saves at least 8 positions and a twentieth of the body's work over the next longer one that stays. Under a capacity
    there is one rung, its slots; what does not fit is dropped.

    Args:
        length: full length of the encoder's input.
        execution: rounding and number of rungs, or the rungs.
        backend: JAX's name of the platform ("cpu", "gpu", "tpu"), which sets the default rounding.
        capacity: the share of the length that a row may keep; None: all of it.
        body_cost: work of a row's body by its slots; without it, as many units as slots.
        dispatch: who chooses between rungs, which says how many there are where `max_rungs` does not.

    Examples:
        >>> make_ladder(24, ExecutionConfig(), "cpu").rungs
        (6, 15, 24)

    Raises:
        UserError: the length, the rounding, the number of rungs or the capacity leaves no ladder.
    """
    if length < 1:
        raise UserError(f"input length {length}: must be at least 1")
    max_rungs = _MAX_RUNGS[dispatch] if execution.max_rungs is None else execution.max_rungs
    if max_rungs < 1:
        raise UserError(f"ExecutionConfig.max_rungs = {max_rungs}: must be at least 1")
    if capacity is not None:
        return Ladder((capacity_slots(length, capacity, execution.rounding, backend),), length)
    rounding = _rounding(length, execution.rounding, backend, _LEAST_MULTIPLES.get(backend, _DEFAULT_LEAST_MULTIPLES))
    if execution.rungs is not None:
        below = [rung for rung in execution.rungs if rung < length]
        return Ladder((*below, length))
    num_multiples = -(-length // rounding)
    num_rungs = min(max_rungs, num_multiples)
    multiples = (-(-step * num_multiples // num_rungs) for step in range(1, num_rungs + 1))
    rungs = tuple(min(multiple * rounding, length) for multiple in multiples)
    return Ladder(rungs if execution.rounding is not None else _that_earn_their_program(rungs, body_cost))


def _that_earn_their_program(rungs: tuple[int, ...], body_cost: BodyCost) -> tuple[int, ...]:
    """The longest rung, and of the others, from the longest on, those that save enough over the last one chosen."""
    *shorter, longest = rungs
    chosen, least_saving = [longest], _LEAST_SAVING * body_cost(longest)
    for rung in reversed(shorter):
        if chosen[-1] - rung >= _LEAST_GAP and body_cost(chosen[-1]) - body_cost(rung) >= least_saving:
            chosen.append(rung)
    return tuple(reversed(chosen))


def capacity_slots(length: int, capacity: float, rounding: int | None, backend: str) -> int:
    """Returns the slots of a row under a capacity: a share of its length, rounded up to `rounding`.

    Raises:
        UserError: the rounding or the capacity leaves none.
    """
    if not 0 < capacity <= 1:
        raise UserError(f"capacity = {capacity}: must be a share of the input length, above 0 and at most 1")
    rounding = _rounding(length, rounding, backend, _LEAST_MULTIPLES_OF_A_CAPACITY)
    return min(length, rounding * math.ceil(capacity * length / rounding))


def _rounding(length: int, rounding: int | None, backend: str, multiples: int) -> int:
    """The rounding given or, by default, the backend's, at most as long as leaves so many multiples in the length."""
    if rounding is None:
        return max(1, min(_MOST_ROUNDING.get(backend, _DEFAULT_MOST_ROUNDING), length // multiples))
    if not 1 <= rounding <= length:
        raise UserError(f"ExecutionConfig.rounding = {rounding}: must lie between 1 and the input length, {length}")
    return rounding
