"""Requests that are broken in every way that a seed finds: each gets a reason, and none leaves anything behind."""

import asyncio
import json
import random
import re
from typing import Any, NamedTuple

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from mrt5_jax.serve import batcher as module
from mrt5_jax.serve.app import Service, make_app
from mrt5_jax.serve.limits import ServeLimits
from mrt5_jax.serve.warm_model import ENDPOINTS

from .asgi import Client, Reply, running
from .toy import INPUT_LENGTH, TARGET_LENGTH, ToyModel

AT_ONCE = 16
"""Clients."""

TEXTS = ["", "a", "#HelloWorld", "é" * 40, "\x00\u202e", {"base64": "/wBh"}, "x" * 200]
NO_TEXTS = ["\ud800", {"base64": "?"}, {"base64": 1}, {"base64": "", "more": 1}, {}, None, 7, [], ["a"]]
NUMBERS = [0, 1, -1, 10**400, -7.5, -30, 1e308, -1e308, -1e-308, float("nan"), float("inf")]
VALUES = [*NUMBERS, None, True, False, "", "low", [], {}, [[]], ["a"] * 9]
NAMES = ["texts", "pairs", "threshold", "truncate", "stream", "treshold", "", "\x00", "\ud800", "x" * 1000]
INSERTS = [
    b"",
    b"\xff",
    b"\x00",
    b"NaN",
    b"1e999",
    b"-Infinity",
    b'"texts": 1, ',
    b"[" * 5000,
    b"9" * 5000,
    b" " * 9999,
]
PATHS = ["", "/", "//", "*", "/healthz", "/healthz/", "/metrics", "/openapi.json", "/v1", "/v1/", "/v1/%67enerate"]
PATHS += ["/v1/generate/", "/V1/GENERATE", "/v1/../healthz", "/v1/score\n", "/v1/score\x00", "http://a/healthz", "/é"]
NOT_JSON = {"/", "/metrics"}
"""Paths whose answers are something else."""
METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "post", ""]
TYPES = ["", "text/plain", "application/jsonp", "application/json; charset=utf-16", "APPLICATION/JSON", "\xff", ";"]
HOSTS = ["", "[", "a/b", "a@b", "localhost:99999", "localhost:-1", "a:b:c", "\xff", "[::1]:80", "elsewhere.example"]


class Sent(NamedTuple):
    """A request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]
    stays: bool
    """Whether the client waits for the answer."""


class Breaker:
    """Makes requests, each as one should be but for a few places."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def request(self) -> Sent:
        endpoint = self._rng.choice(ENDPOINTS)
        body = json.dumps(self._fields(endpoint)).encode()
        return Sent(
            self._or("POST", METHODS),
            self._or(f"/v1/{endpoint}", PATHS),
            self._broken_bytes(body) if self._rng.random() < 0.2 else body,
            {"content-type": self._or("application/json", TYPES), "host": self._or("localhost", HOSTS)},
            stays=self._rng.random() < 0.8,
        )

    def _or(self, good: Any, others: list[Any]) -> Any:
        return self._rng.choice(others) if self._rng.random() < 0.08 else good

    def _fields(self, endpoint: str) -> Any:
        texts = [self._or(text, NO_TEXTS) for text in self._rng.choices(TEXTS, k=self._rng.randrange(1, 5))]
        fields: Any = {"texts": texts}
        if endpoint == "score":
            targets = ("a" * self._rng.randrange(TARGET_LENGTH + 2) for _ in texts)
            fields = {"pairs": [self._or([text, target], VALUES) for text, target in zip(texts, targets, strict=True)]}
        for _ in range(self._rng.randrange(3)):
            fields[self._rng.choice(NAMES)] = self._rng.choice(VALUES)
        return self._or(fields, [*VALUES, [fields], {"texts": fields}])

    def _broken_bytes(self, body: bytes) -> bytes:
        """Cuts something out of a body, and puts something else there."""
        start, end = sorted(self._rng.choices(range(len(body) + 1), k=2))
        return body[:start] + self._rng.choice([*INSERTS, self._rng.randbytes(4)]) + body[end:]


def check(sent: Sent, reply: Reply) -> None:
    """Says that a reply is an answer, or a refusal of one line."""
    if reply.status == 499:
        assert not sent.stays
    elif reply.status != 200:
        assert 400 <= reply.status < 499, reply
        assert reply.headers["content-type"] == "application/json"
        assert re.fullmatch(".+", reply.error)
    elif reply.headers["content-type"].startswith("text/event-stream"):
        assert b"event: error" not in reply.body
    elif sent.path not in NOT_JSON:
        assert reply.json


@pytest.mark.parametrize(("seed", "count"), [(0, 400), pytest.param(1, 10_000, marks=pytest.mark.slow)])
def test_broken_requests_get_a_reason_and_leave_nothing_behind(
    seed: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHERING_SECONDS", 0.0)
    limits = ServeLimits(body_bytes=10_000, texts=8, hidden_numbers=INPUT_LENGTH * ToyModel().width)
    breaker, statuses = Breaker(seed), set()

    async def ask(client: Client) -> None:
        sent, gone = breaker.request(), asyncio.Event()
        if not sent.stays:
            gone.set()
        reply = await client.ask(sent.method, sent.path, sent.body, sent.headers, gone)
        check(sent, reply)
        statuses.add(reply.status)

    async def main() -> None:
        service = Service(ToyModel(), limits)
        async with running(make_app(service)) as client:
            before = len(asyncio.all_tasks())
            for _ in range(0, count, AT_ONCE):
                await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
            assert service.batcher.num_waiting == 0
            assert (await client.post("/v1/generate", {"texts": ["a"]})).status == 200
            await asyncio.sleep(0)  # in which ends what was cancelled last
            assert len(asyncio.all_tasks()) == before

    asyncio.run(main())
    assert statuses >= {200, 400, 404, 405, 413, 415, 422, 499}, "all kinds of requests have come"
