"""Listening: a port of one's own, and a stop that lets running requests finish."""

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

from mrt5_jax.errors import UserError
from mrt5_jax.serve.app import Service
from mrt5_jax.serve.connection import Connection

_BACKLOG = 2048
"""Connections that may wait to be accepted."""

_uvicorn_log = logging.getLogger("uvicorn.error")


def bound_socket(host: str, port: int) -> socket.socket:
    """Takes a port, without listening yet.

    Raises:
        UserError: it is in use, or there is no such address here.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as undo:
            found = undo.enter_context(socket.socket(family, kind, protocol))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left may be taken at once
            found.bind(address)
            undo.pop_all()
            return found
    except (OSError, UnicodeError) as error:  # of a name with an empty or overlong label
        raise _unusable(host, port, error) from None


def listen(app: ASGIApp, service: Service, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Answers requests until SIGTERM or SIGINT; then those that are running are finished, for as long as they may take.

    Call it in the main thread, which alone gets signals.

    Args:
        app: of the service.
        bound: the port.
        ready: called when it listens.

    Raises:
        UserError: another process, which had bound the port as well, listens on it already.
        KeyboardInterrupt: a second SIGINT came; whoever still waited is cut off.
    """
    try:
        bound.listen(_BACKLOG)
    except OSError as error:  # two can bind a port as long as neither listens
        host, port = bound.getsockname()[:2]
        raise _unusable(host, port, error) from None
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(service.limits.seconds) + 1,
    )
    # uvicorn gives a signal that it has heeded to whoever had it before, and that would end the process with an error.
    before = {number: signal.signal(number, lambda number, frame: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _Server(config, service, ready).run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _uvicorn_log.disabled = False


def _unusable(host: str, port: int, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"--host={host} --port={port}: {reason}: give another port, or an address of this machine")


class _Server(uvicorn.Server):
    """Says when it listens, and tells the service when it stops."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Is called by signals: stops, and at a second Ctrl-C at once."""
        if self.should_exit and sig == signal.SIGINT:
            asyncio.get_running_loop().call_soon_threadsafe(self._cut_off)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping = True
        await super().shutdown(sockets=sockets)

    def _cut_off(self) -> NoReturn:
        _uvicorn_log.disabled = True  # else it prints a traceback of each request
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.transport.abort()
        raise KeyboardInterrupt
