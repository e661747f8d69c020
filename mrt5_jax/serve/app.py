"""The application: endpoints, and what they answer."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mrt5_jax.serve.batcher import Batcher, FullError, Ticket
from mrt5_jax.serve.bodies import Asked, asked_of
from mrt5_jax.serve.events import EventStream, as_they_come, reason_of
from mrt5_jax.serve.guard import Guard, json_bytes_response, json_response
from mrt5_jax.serve.limits import RefusedError, ServeLimits, read_fields
from mrt5_jax.serve.metrics import CountRequests, ServerMetrics
from mrt5_jax.serve.openapi import openapi
from mrt5_jax.serve.page import page_response
from mrt5_jax.serve.shown import about_model, shown_answers
from mrt5_jax.serve.warm_model import ENDPOINTS, Endpoint, NotFiniteError, WarmModel, Work

_GONE = 499
"""What is counted for a client that went away; nobody receives it."""


class Service:
    """A warm model behind a queue, and the endpoints that ask it.

    Args:
        warm: the model.
        limits: sizes and times.

    Attributes:
        stopping: set it when the server stops: what is asked from then on is refused (503), the rest is answered.
    """

    def __init__(self, warm: WarmModel, limits: ServeLimits) -> None:
        self.warm, self.limits, self.stopping = warm, limits, False
        self.metrics = ServerMetrics(lambda: self.batcher.num_waiting)
        self.batcher = Batcher(
            warm.answer, warm.static_length, warm.sizes, limits.waiting, warm.seconds, self.metrics.observe_batch
        )

    async def answer(self, endpoint: Endpoint, request: HttpRequest) -> ASGIApp:
        """Answers a request to one of the endpoints that compute."""
        try:
            fields = await read_fields(request, self.limits)
            self._refuse_when_stopping()
            start = time.perf_counter()
            asked = await asyncio.to_thread(asked_of, endpoint, fields, self.warm, self.limits)
            tickets = self._submit(asked.works)
            coming = as_they_come(tickets, self.batcher, request.receive, self.is_stopping, self.limits.seconds)
            if asked.stream:
                return EventStream(coming, lambda answer: shown_answers(endpoint, [answer], [1])[0])
            found: list[Any] = [None] * len(tickets)
            async with contextlib.aclosing(coming):
                async for numbered in coming:
                    if numbered is not None:
                        found[numbered[0]] = numbered[1]
        except ClientDisconnect:
            self._refuse_when_stopping()  # a server that stops says of all clients that they are gone
            return Response(status_code=_GONE)
        return json_bytes_response(await asyncio.to_thread(_body, endpoint, found, asked, start))

    def is_stopping(self) -> bool:
        """Says whether the server stops."""
        return self.stopping

    async def health(self, request: HttpRequest) -> Response:
        """Says whether requests are answered, and what the model is."""
        about = about_model(self.warm, self.limits)
        if self.stopping:
            return json_response({"status": "stopping", **about}, 503, {"retry-after": "1"})
        return json_response({"status": "ok", **about})

    async def measured(self, request: HttpRequest) -> Response:
        """Returns the metrics, as Prometheus reads them."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def described(self, request: HttpRequest) -> Response:
        """Returns the description of the endpoints."""
        return json_response(openapi(self.warm, self.limits))

    def _refuse_when_stopping(self) -> None:
        if self.stopping:
            raise RefusedError(503, "the server is stopping: ask again soon", 1)

    def _submit(self, works: Sequence[Work]) -> list[Ticket]:
        try:
            return self.batcher.submit(works)
        except FullError:
            reason = f"{self.batcher.num_waiting} texts wait already: try again later"
            raise RefusedError(429, reason, self.batcher.retry_after()) from None


def make_app(service: Service, token: str | None = None, loopback_names_alone: bool = False) -> ASGIApp:
    """Returns the application of a service.

    Args:
        token: that every request must bring; None: none.
        loopback_names_alone: see `guard.Guard`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(service.batcher.run())
        with service.metrics.counting_compilations():
            try:
                yield
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    routes = [
        Route("/", page_response, methods=["GET"]),
        Route("/healthz", service.health, methods=["GET"]),
        Route("/metrics", service.measured, methods=["GET"]),
        Route("/openapi.json", service.described, methods=["GET"]),
        *(Route(f"/v1/{name}", _asking(service, name), methods=["POST"]) for name in ENDPOINTS),
    ]
    handlers: dict[Any, Any] = {
        RefusedError: _refused,
        HTTPException: _no_such_request,
        NotFiniteError: _failed,
        Exception: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False  # a path with a slash too many is none; a redirect would have no reason
    guarded = Guard(app, token, loopback_names_alone)  # before whatever the framework does itself
    return CountRequests(guarded, service.metrics, [route.path for route in routes])


def _asking(service: Service, endpoint: Endpoint) -> Callable[[HttpRequest], Any]:
    async def ask(request: HttpRequest) -> ASGIApp:
        return await service.answer(endpoint, request)

    return ask


def _body(endpoint: Endpoint, found: Sequence[Any], asked: Asked, start: float) -> bytes:
    """What is answered, as JSON; on a thread of its own, for it may be much."""
    answers = shown_answers(endpoint, found, asked.sizes)
    return json.dumps({"answers": answers, "seconds": time.perf_counter() - start}, allow_nan=False).encode()


async def _refused(request: HttpRequest, error: RefusedError) -> Response:
    return json_response({"error": error.reason}, error.status, error.headers)


async def _no_such_request(request: HttpRequest, error: HTTPException) -> Response:
    return json_response({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))


async def _failed(request: HttpRequest, error: Exception) -> Response:
    return json_response({"error": reason_of(error)}, 500)
