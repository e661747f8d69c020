"""Who may ask: whoever has the token; without one, whoever asks this machine by its own name."""

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_LOOPBACK_NAMES = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})

RawHeaders = Iterable[tuple[bytes, bytes]]


class Guard:
    """Stands before an application, and answers 401 on every path to requests without its token.

    Tokens come as `Authorization: Bearer TOKEN`, or as the password of HTTP's basic authentication, which browsers ask
    for. They are compared in constant time.

    Args:
        token: None: no token is asked for.
        loopback_names_alone: whether requests that name another host than this machine's loopback are refused (403). A
            page from elsewhere can have its own name lead here, and would be let in by the browser as its own.
    """

    def __init__(self, app: ASGIApp, token: str | None, loopback_names_alone: bool) -> None:
        self._app, self._loopback_names_alone = app, loopback_names_alone
        self._digest = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers, host = scope["headers"], _header(scope["headers"], b"host")
            if self._digest is not None and not hmac.compare_digest(_digest(given_token(headers)), self._digest):
                challenge = {"www-authenticate": 'Basic realm="mrt5", charset="UTF-8"'}
                app = json_response({"error": "give the token, as in Authorization: Bearer TOKEN"}, 401, challenge)
            elif not is_host(host):
                app = json_response({"error": "the Host header names no host"}, 400)
            elif self._loopback_names_alone and re.sub(rb":\d+$", b"", host).lower() not in _LOOPBACK_NAMES:
                app = json_response({"error": "ask for localhost, or start the server with a token"}, 403)
        await app(scope, receive, send)


def given_token(headers: RawHeaders) -> bytes:
    """Returns the token that a request brings; empty where it brings none."""
    scheme, _, given = _header(headers, b"authorization").partition(b" ")
    if scheme.lower() == b"bearer":
        return given.strip()
    if scheme.lower() == b"basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    return b""


def is_loopback(host: str) -> bool:
    """Says whether an address is reached from this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns a response that nobody keeps or takes for anything but JSON."""
    body = json.dumps(content, allow_nan=False).encode()  # in ASCII: a message may repeat half a surrogate pair
    return json_bytes_response(body, status, headers)


def json_bytes_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Does what `json_response` does, of JSON that is there already."""
    common = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(body, status, {**common, **(headers or {})}, media_type="application/json")


def is_host(value: bytes) -> bool:
    """Says whether a Host header can be parsed, as frameworks behind this one do without care."""
    try:
        parts = urlsplit(f"//{value.decode('latin-1')}")
        return parts.netloc.encode("latin-1") == value and parts.port != 0
    except ValueError:
        return False


def _header(headers: RawHeaders, name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _digest(token: bytes) -> bytes:
    """Digests are of one length, so that comparing them tells nothing of the token's."""
    return hashlib.sha256(token).digest()
