"""Programs compiled side by side, by the time they are called.

A run needs several programs: initialisation, a step for each deletion, evaluations. Each is traced, in Python, and
compiled, by XLA in a thread without Python's lock. While a call waits for its program's compiler, the programs that
have not been called are traced and given to compilers of their own, in the order in which they were made.
"""

import contextlib
import gc
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from jaxtyping import PyTree


class Compilers:
    """Threads that compile, one a processor core; a context manager that drops what waits when it is left."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compiler")
        self._untraced: list[CompiledWhenCalled] = []

    def __enter__(self) -> "Compilers":
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def program(self, function: Any, *arguments: PyTree) -> "CompiledWhenCalled":
        """Returns a program of `function` for arguments of these shapes; nothing is traced yet.

        Args:
            function: made by `jax.jit`; traced in the thread that calls programs, where the mesh is set.
            *arguments: pytrees of arrays or ShapeDtypeStructs with shardings, and static arguments as they are.
        """
        program = CompiledWhenCalled(self, function, arguments)
        self._untraced.append(program)
        return program

    def start(self, program: "CompiledWhenCalled") -> Future[PyTree]:
        """Traces a program and has it compiled."""
        self._untraced.remove(program)
        with _without_collections():
            lowered = program.function.lower(*program.arguments)
        return self._threads.submit(lowered.compile)

    def wait_for(self, compiling: Future[PyTree]) -> PyTree:
        """Returns what was compiled; other programs are started until it is there."""
        while self._untraced and not compiling.done():
            self._untraced[0].start()
        return compiling.result()


class CompiledWhenCalled:
    """A compiled function of fixed shapes; the first call traces it, unless an earlier wait has, and waits for it."""

    def __init__(self, compilers: Compilers, function: Any, arguments: tuple[PyTree, ...]) -> None:
        self.function, self.arguments = function, arguments
        self._compilers = compilers
        self._compiling: Future[PyTree] | None = None

    def start(self) -> Future[PyTree]:
        """Traces it and has it compiled, if that has not been done."""
        if self._compiling is None:
            self._compiling = self._compilers.start(self)
        return self._compiling

    def __call__(self, *arguments: PyTree) -> PyTree:
        """Runs it; static arguments are left out."""
        return self._compilers.wait_for(self.start())(*arguments)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Tracing makes hundreds of thousands of objects that stay; looking through them takes a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
