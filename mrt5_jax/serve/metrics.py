"""What Prometheus reads of a server."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mrt5_jax.serve.warm_model import BatchShape

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Counts of requests and batches, in a registry of their own.

    Args:
        num_waiting: says how many texts wait.
    """

    def __init__(self, num_waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("mrt5_requests", "Requests answered", ("path", "status"), registry=registry)
        self.request_seconds = Histogram(
            "mrt5_request_seconds",
            "From a request's head to its response's end",
            ("path",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.batches = Counter("mrt5_batches", "Batches computed", ("endpoint", "rows", "length"), registry=registry)
        self.batch_seconds = Histogram(
            "mrt5_batch_seconds", "Computing a batch", ("endpoint",), registry=registry, buckets=_SECONDS
        )
        self.rows = Counter("mrt5_rows", "Rows of batches", ("endpoint", "use"), registry=registry)
        self.compilations = Counter(
            "mrt5_compilations", "Programs compiled since it listens, which should be none", registry=registry
        )
        waiting = Gauge("mrt5_waiting_texts", "Texts that no batch has taken yet", registry=registry)
        waiting.set_function(lambda: float(num_waiting()))

    def observe_batch(self, shape: BatchShape, used: int, seconds: float) -> None:
        """Counts a batch, of which `used` rows had something in them."""
        self.batches.labels(shape.endpoint, str(shape.rows), str(shape.length)).inc()
        self.batch_seconds.labels(shape.endpoint).observe(seconds)
        self.rows.labels(shape.endpoint, "used").inc(used)
        self.rows.labels(shape.endpoint, "filler").inc(shape.rows - used)

    @contextlib.contextmanager
    def counting_compilations(self) -> Iterator[None]:
        """Counts what JAX compiles meanwhile, in whatever thread."""

        def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
            if event.endswith("backend_compile_duration"):
                self.compilations.inc()

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    def text(self) -> bytes:
        """Returns all of it in Prometheus' text format."""
        return generate_latest(self.registry)


class CountRequests:
    """Counts the requests of the application behind it; paths that are none of `paths` count as "other"."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        status, start = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - start)
