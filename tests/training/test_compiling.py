"""Programs are traced where they are called, each once, and compiled while others are traced."""

import gc
import threading
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mrt5_jax.training.compiling import Compilers

SHAPE = jax.ShapeDtypeStruct((3,), jnp.float32)


class Slow:
    """Stands for what `jax.jit` makes, with a compiler that takes its time."""

    def __init__(self, name: str, traced: list[str], done: threading.Event) -> None:
        self._name, self._traced, self._done = name, traced, done

    def lower(self, *_: Any) -> "Slow":
        self._traced.append(self._name)
        return self

    def compile(self) -> Any:
        assert self._done.wait(timeout=20), "nobody goes on while this compiles"
        return lambda *arguments: (self._name, *arguments)


def test_what_waits_has_the_other_programs_traced() -> None:
    """The first program compiles until the last has been traced."""
    traced: list[str] = []
    at_once, last = threading.Event(), threading.Event()
    at_once.set()

    class Last(Slow):
        def lower(self, *_: Any) -> Slow:
            last.set()
            return super().lower()

    with Compilers() as compilers:
        programs = [
            compilers.program(Slow("first", traced, last)),
            compilers.program(Slow("second", traced, at_once)),
            compilers.program(Last("third", traced, at_once)),
        ]
        assert not traced
        assert programs[0](1) == ("first", 1)
        assert traced == ["first", "second", "third"]
        assert [program(2) for program in programs] == [("first", 2), ("second", 2), ("third", 2)]
    assert traced == ["first", "second", "third"]


def test_a_program_is_what_jit_makes() -> None:
    """Static arguments are given once, shapes are traced once, and garbage is collected again afterwards."""
    traced = []

    def power(array: jax.Array, exponent: int) -> jax.Array:
        traced.append(exponent)
        return array**exponent

    with Compilers() as compilers:
        square, cube = (compilers.program(jax.jit(power, static_argnums=1), SHAPE, exponent) for exponent in (2, 3))
        assert square(jnp.arange(3.0)).tolist() == [0, 1, 4]
        assert square(jnp.arange(3.0) + 1).tolist() == [1, 4, 9]
        assert cube(jnp.arange(3.0)).tolist() == [0, 1, 8]
    assert sorted(traced) == [2, 3]
    assert gc.isenabled()


def test_what_cannot_be_compiled_says_so_where_it_is_called() -> None:
    class Failing(Slow):
        def compile(self) -> Any:
            raise MemoryError("no room")

    with Compilers() as compilers:
        program = compilers.program(Failing("failing", [], threading.Event()))
        with pytest.raises(MemoryError, match="no room"):
            program()
