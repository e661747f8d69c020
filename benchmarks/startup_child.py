"""One `mrt5 train` in a process of its own that writes down when it imported, read data, traced, lowered and compiled.

    python -m benchmarks.startup_child SPANS.json train --gin_file=... --gin.MODEL_DIR=...

Run by `benchmarks.startup`, in the checkout that it measures. Nothing of the package is replaced: JAX reports its own
compilations, and imports and data are clocked around the functions that the run calls anyway.
"""

import builtins
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
"""JAX's names of what it clocks, and ours."""
CACHE_HIT = "/jax/compilation_cache/cache_hits"
"""Reported within a compilation that the persistent cache answers."""
LOOP = "mrt5_jax.training.loop"


class Spans:
    """What happened from when to when (time.time()), by kind and by the name of a program, module or function."""

    def __init__(self) -> None:
        self.begun = time.time()
        self.spans: list[dict[str, Any]] = []
        self._local = threading.local()

    def add(self, kind: str, name: str, start: float, end: float) -> None:
        """Adds a span of the current thread."""
        thread = threading.get_ident()
        self.spans.append({"kind": kind, "name": name, "start": start, "end": end, "thread": thread})

    def clocked(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, each of its calls being a span."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.time()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(kind, function.__name__, start, time.time())

        return call

    def watch_imports(self) -> None:
        """Outermost imports become spans; once the training loop is there, so does what it reads."""
        import_module, local = builtins.__import__, self._local

        def clocked_import(name: str, *args: Any, **kwargs: Any) -> Any:
            if getattr(local, "importing", False):
                return import_module(name, *args, **kwargs)
            local.importing, known, start = True, len(sys.modules), time.time()
            try:
                return import_module(name, *args, **kwargs)
            finally:
                local.importing = False
                if len(sys.modules) > known:
                    self.add("import", name, start, time.time())
                    self._watch_data()

        builtins.__import__ = clocked_import

    def _watch_data(self) -> None:
        loop: Any = sys.modules.get(LOOP)
        if loop is None or hasattr(loop, "clocked"):
            return
        loop.clocked = True
        loop.train_batches = self.clocked("data", loop.train_batches)
        loop.check_evaluation = self.clocked("data", loop.check_evaluation)
        loop.Prefetched.__next__ = self.clocked("data", loop.Prefetched.__next__)

    def watch_compilations(self) -> None:
        """JAX's own durations become spans."""
        import jax

        def on_event(event: str, **_: Any) -> None:
            if event == CACHE_HIT:
                self._local.from_cache = True

        def on_duration(event: str, seconds: float, **details: Any) -> None:
            if event not in KINDS:
                return
            kind, end = KINDS[event], time.time()
            if kind == "compile" and getattr(self._local, "from_cache", False):
                kind, self._local.from_cache = "load", False
            self.add(kind, str(details.get("fun_name", "")), end - seconds, end)

        jax.monitoring.register_event_listener(on_event)
        jax.monitoring.register_event_duration_secs_listener(on_duration)


def main() -> int:
    """Runs the command as the installed script does, and writes the spans whatever comes of it."""
    path, *words = sys.argv[1:]
    spans = Spans()
    spans.watch_imports()
    from mrt5_jax.cli.main import main as command
    from mrt5_jax.compilation_cache import keep_compiled_programs
    from mrt5_jax.host_memory import reuse_host_memory

    reuse_host_memory()
    keep_compiled_programs()
    spans.watch_compilations()
    try:
        return command(words)
    finally:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"begun": spans.begun, "ended": time.time(), "spans": spans.spans}, file)


if __name__ == "__main__":
    sys.exit(main())
