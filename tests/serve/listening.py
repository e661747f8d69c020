"""A server on a port of this machine, in this process; what asks it runs in another thread."""

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from mrt5_jax.serve.app import Service, make_app
from mrt5_jax.serve.server import bound_socket, listen

from .asgi import SECONDS


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def post(self, path: str, content: Any) -> http.client.HTTPConnection:
        """Sends JSON, and waits for nothing."""
        connection = http.client.HTTPConnection(*self, timeout=SECONDS)
        connection.request("POST", path, json.dumps(content), {"content-type": "application/json"})
        return connection

    def send(self, data: bytes) -> bytes:
        """Sends bytes; returns all that comes back until the server closes the connection."""
        with socket.create_connection(self, timeout=SECONDS) as connection:
            connection.sendall(data)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """Returns what comes until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def error_of(response: bytes) -> tuple[int, str]:
    """Returns a refusal's status, and its reason, which is all that it gives."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), response
    content = json.loads(body)
    assert list(content) == ["error"]
    return int(head.split()[1]), content["error"]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def asked(service: Service, scenario: Callable[[Address], Any]) -> Any:
    """Listens until a scenario has ended, or has stopped the server by a signal; returns what the scenario does.

    No signal is left to whoever had it before: it would end these tests, as it would end a program.
    """
    found: list[Future] = []
    leaked: list[int] = []

    def run(address: Address) -> Any:
        try:
            return scenario(address)
        finally:
            if not service.stopping:
                os.kill(os.getpid(), signal.SIGTERM)

    with _handled(leaked.append), ThreadPoolExecutor(1) as thread, bound_socket("127.0.0.1", 0) as bound:
        address = Address(*bound.getsockname())
        listen(make_app(service), service, bound, lambda: found.append(thread.submit(run, address)))
    assert leaked == []
    return found[0].result()


@contextlib.contextmanager
def _handled(note: Callable[[int], None]) -> Iterator[None]:
    before = {one: signal.signal(one, lambda number, frame: note(number)) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
