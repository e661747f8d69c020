"""A connection that is refused in JSON as well, where it speaks no HTTP, or too slowly."""

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request to arrive: from when the connection is made, or from what comes after an answer."""


class Connection(H11Protocol):
    """Does what uvicorn's does, but for two things.

    Uvicorn refuses in plain text what is no HTTP, and waits for the rest of a head for ever.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begins to wait for a head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Reads on. The time for a head ends where its request begins, and begins where something follows its end."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_longer()
        elif self._late is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        super().connection_lost(exc)
        self._wait_no_longer()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP; uvicorn calls it."""
        self._refuse(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1, or its head is too large: send it anew")

    def _wait_for_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self._refuse_late_head)

    def _wait_no_longer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse_late_head(self) -> None:
        if self.conn.trailing_data[0]:
            reason = f"the head of the request did not arrive within {HEAD_SECONDS:g} s: send it faster"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, reason)
        else:  # browsers connect before they know what to ask, and would take it for an answer to what they ask next
            self.transport.close()

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Closes the connection, and says why where the client waits for an answer."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or not cycle.response_started or (cycle.response_complete and not cycle.more_body):
            self.transport.write(_response(status, reason))
        if cycle is not None:
            cycle.disconnected = True  # whatever the application says from here on is said to nobody
        self.transport.close()


def _response(status: HTTPStatus, reason: str) -> bytes:
    body = json.dumps({"error": reason}).encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
