"""Answers as they come: to one body, or to a stream of server-sent events."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from mrt5_jax.serve.batcher import Batcher, Ticket
from mrt5_jax.serve.limits import RefusedError
from mrt5_jax.serve.warm_model import NotFiniteError

SIGN_OF_LIFE_SECONDS = 5.0
"""A stream without an event for so long sends a comment, so that nothing between takes it for dead."""

_log = logging.getLogger(__name__)

Numbered = tuple[int, Any]
"""Which ticket, and its answer."""


async def as_they_come(
    tickets: Sequence[Ticket], batcher: Batcher, receive: Receive, is_stopping: Callable[[], bool], seconds: float
) -> AsyncGenerator[Numbered | None, None]:
    """Yields each ticket's answer when it is there, and None where nothing has come for a while.

    However it ends, tickets without an answer leave the queue. Use it within `contextlib.aclosing`.

    Args:
        receive: of the request, whose body has been read; it tells when the client goes away.
        is_stopping: says whether the server is; clients are then told to be gone who still wait for their answers.
        seconds: that all of it may take.

    Raises:
        ClientDisconnect: the client has gone away.
        RefusedError: the time is over (503).
        Exception: what a ticket got in place of an answer.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    gone = asyncio.ensure_future(_until_gone(receive, is_stopping))
    waiting = {ticket.future: number for number, ticket in enumerate(tickets)}
    try:
        while waiting:
            left = deadline - clock()
            if left <= 0:
                reason = f"no answer within {seconds:g} s: send fewer texts at once, or try again"
                raise RefusedError(503, reason, batcher.retry_after())
            done, _ = await asyncio.wait(
                {*waiting, gone}, timeout=min(left, SIGN_OF_LIFE_SECONDS), return_when=asyncio.FIRST_COMPLETED
            )
            if gone in done:
                raise ClientDisconnect
            if not done:
                yield None
            for future in done:
                yield waiting.pop(future), future.result()
    finally:
        gone.cancel()
        batcher.withdraw(tickets)


async def _until_gone(receive: Receive, is_stopping: Callable[[], bool]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    if is_stopping():
        await asyncio.Event().wait()  # the server says so to whoever it still answers


class EventStream:
    """A response of server-sent events: `answer` for each text when it is there, then `end`; or `error`.

    Args:
        coming: what `as_they_come` yields.
        shown: an answer's fields, of a numbered answer.
    """

    def __init__(self, coming: AsyncGenerator[Numbered | None, None], shown: Callable[[Any], dict[str, Any]]) -> None:
        self._coming, self._shown = coming, shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        async with contextlib.aclosing(self._coming) as coming:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                async for numbered in coming:
                    await _send(send, b": waiting\n\n" if numbered is None else self._event(*numbered))
                await _send(send, sse_event("end", {}))
            except ClientDisconnect:
                return
            except RefusedError as error:
                await _send(send, sse_event("error", {"error": error.reason}))
            except Exception as error:  # the status is sent already: the stream itself has to say it
                if not isinstance(error, NotFiniteError):
                    _log.exception("a stream failed")
                await _send(send, sse_event("error", {"error": reason_of(error)}))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _event(self, number: int, answer: Any) -> bytes:
        return sse_event("answer", {"number": number, **self._shown(answer)})


def sse_event(name: str, content: dict[str, Any]) -> bytes:
    """Returns an event whose data are JSON, on one line."""
    return f"event: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n".encode()


def reason_of(error: Exception) -> str:
    """Returns what a client is told of an error that is not its own."""
    return str(error) if isinstance(error, NotFiniteError) else "an error of the server; its log says which"


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
