"""What a server takes of a request, and how it refuses the rest."""

import asyncio
import contextlib
import dataclasses
import json
import math
from collections import Counter
from typing import Any, NoReturn

from starlette.requests import Request as HttpRequest

REPEATED_CHARACTERS = 40
"""Of a name or a number, in the refusal that repeats it."""


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
    hidden_numbers: int = 1 << 21
    """Of the hidden states in an answer, positions times width; those of one longest input always fit."""

    def embedding_ids(self, width: int, input_length: int) -> int:
        """Returns how many ids the texts of a request for embeddings may have together.

        Args:
            width: of a hidden state.
            input_length: the most ids of a text.
        """
        return max(self.hidden_numbers // width, input_length)


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
    """Parses a JSON object. No name comes twice in it, and its numbers are finite.

    Raises:
        RefusedError: it is none (400).
    """
    try:
        fields = json.loads(
            body.decode(), parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_with_names_once
        )
    except (ValueError, RecursionError) as error:  # what is no UTF-8 is a ValueError, too
        raise RefusedError(400, f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RefusedError(400, 'the body is not a JSON object, such as {"texts": ["..."]}')
    return fields


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:REPEATED_CHARACTERS]} is beyond the largest number")
    return number


def _with_names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name[:REPEATED_CHARACTERS]!r} comes twice: leave one of the two out")
    return fields
