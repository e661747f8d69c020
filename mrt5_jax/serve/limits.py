"""What a server takes of a request, and how it refuses the rest."""

import asyncio
import contextlib
import dataclasses
import json
from typing import Any, NoReturn

from starlette.requests import Request as HttpRequest


@dataclasses.dataclass(frozen=True)
class ServeLimits:
    """Sizes and times that a server allows."""

    body_bytes: int = 1 << 20
    body_seconds: float = 10.0
    """For the whole body to arrive."""
    texts: int = 64
    """Of a request: texts, pairs, or windows that texts are cut into."""
    waiting: int = 256
    """Texts of all requests that wait; more are refused."""
    seconds: float = 60.0
    """From a request's body to its last answer."""


class RefusedError(Exception):
    """A request that gets no answer, with the HTTP status and the reason that it gets instead."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


async def read_fields(request: HttpRequest, limits: ServeLimits) -> dict[str, Any]:
    """Reads a body that is a JSON object.

    Raises:
        RefusedError: it is another content type (415), too large (413), too slow (408), or not such an object (400).
        ClientDisconnect: the client went away before its end.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RefusedError(415, "the content type is not application/json: send JSON, and say so")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds), contextlib.aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limits.body_bytes:
                    raise RefusedError(
                        413, f"the body has more than {limits.body_bytes} bytes: send fewer texts at once"
                    )
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {limits.body_seconds:g} s: send it faster") from None
    return parse_fields(bytes(body))


def parse_fields(body: bytes) -> dict[str, Any]:
    """Parses a JSON object; neither NaN nor Infinity is one of its numbers.

    Raises:
        RefusedError: it is none (400).
    """
    try:
        fields = json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # what is no UTF-8 is a ValueError, too
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, 'the body is not a JSON object, such as {"texts": ["..."]}')
    return fields


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
