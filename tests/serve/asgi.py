"""A client that calls an application in this process, as a server would; it can go away."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

SECONDS = 300.0
"""That a test may wait for anything."""


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The reason that a refusal gives, which is all that it gives."""
        assert list(self.json) == ["error"]
        return self.json["error"]


class Client:
    """Asks an application, from this machine."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, content: Any, gone: asyncio.Event | None = None) -> Reply:
        """Sends JSON."""
        headers = {"content-type": "application/json"}
        return await self.ask("POST", path, json.dumps(content).encode(), headers, gone)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        gone: asyncio.Event | None = None,
    ) -> Reply:
        """Sends a request.

        Args:
            gone: once it is set, the client has gone away; None: it stays.
        """
        given = {"host": "localhost:8000", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        bodies, gone = [body], gone or asyncio.Event()
        sent: list[Mapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *parts = sent
        received = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Reply(start["status"], received, b"".join(part.get("body", b"") for part in parts))


@contextlib.asynccontextmanager
async def running(app: Any) -> AsyncIterator[Client]:
    """Starts an application, and stops it in the end; what hangs ends in an error."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    try:
        async with asyncio.timeout(SECONDS):
            yield Client(app)
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
        await task
