"""A real socket: clients that go away, connections that speak no HTTP or too slowly, signals to stop."""

import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from mrt5_jax.serve import connection as module
from mrt5_jax.serve.app import Service
from mrt5_jax.serve.limits import ServeLimits
from mrt5_jax.serve.warm_model import BatchShape, Work

from .asgi import SECONDS
from .held import Held
from .listening import Address, asked, error_of, received, wait_until
from .toy import ToyModel

HEAD = b"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


def status(address: Address, texts: list[str]) -> int:
    """Of a request like any other."""
    with contextlib.closing(address.post("/v1/generate", {"texts": texts})) as client:
        return client.getresponse().status


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(stream: bool) -> None:
    """Both that of the client for whom it computes, and that of one that waits; the others are answered."""
    service = Service(ToyModel(), ServeLimits())
    held = Held(service)

    def scenario(address: Address) -> int:
        try:
            computing = address.post("/v1/generate", {"texts": ["a"], "stream": stream})
            assert held.computing.wait(SECONDS)
            waiting = address.post("/v1/generate", {"texts": ["a", "b"], "stream": stream})
            wait_until(lambda: service.batcher.num_waiting == 2)
            with contextlib.closing(address.post("/v1/generate", {"texts": ["c"]})) as staying:
                wait_until(lambda: service.batcher.num_waiting == 3)
                waiting.close()
                wait_until(lambda: service.batcher.num_waiting == 1)
                computing.close()
                held.go_on.set()
                return staying.getresponse().status
        finally:
            held.go_on.set()

    assert asked(service, scenario) == 200
    assert service.batcher.num_waiting == 0


NO_HTTP = {
    "nonsense": b"nonsense\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "a byte that no path has": b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a line that is no header": b"GET / HTTP/1.1\r\nhost: localhost\r\nno header\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nhost: localhost\r\nlong: " + b"a" * 17_000,
    "a negative length": HEAD + b"content-length: -1\r\n\r\n",
    "two lengths": HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    "an encoding": HEAD + b"transfer-encoding: gzip\r\n\r\n",
    "a chunk without a length": HEAD + b"transfer-encoding: chunked\r\n\r\nno length\r\n",
}


def test_what_is_no_http_is_refused_in_json() -> None:
    """And the next client is answered."""

    def scenario(address: Address) -> tuple[dict[str, bytes], int]:
        return {name: address.send(sent) for name, sent in NO_HTTP.items()}, status(address, ["a"])

    responses, next_status = asked(Service(ToyModel(), ServeLimits()), scenario)
    for name, response in responses.items():
        number, reason = error_of(response)
        assert number == 400, name
        assert "not HTTP/1.1" in reason
    assert next_status == 200


def test_what_is_no_http_after_an_answer_is_refused_in_json() -> None:
    response = asked(Service(ToyModel(), ServeLimits()), lambda address: address.send(HEALTH + b"nonsense\r\n\r\n"))
    first, second = response.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert error_of(b"HTTP/1.1 " + second)[0] == 400


def test_a_body_that_breaks_off_after_its_refusal_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """There is nothing to answer any more, and nothing that would be an error of the server's."""

    def scenario(address: Address) -> tuple[bytes, int]:
        with socket.create_connection(address, timeout=SECONDS) as connection:
            connection.sendall(HEAD.replace(b"generate", b"nothing") + b"transfer-encoding: chunked\r\n\r\n")
            refusal = b""
            while b'"}' not in refusal:
                refusal += connection.recv(1 << 16)
            connection.sendall(b"no length\r\n")
            assert received(connection) == b""
        return refusal, status(address, ["a"])

    refusal, next_status = asked(Service(ToyModel(), ServeLimits()), scenario)
    assert error_of(refusal)[0] == 404
    assert next_status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


class SlowModel(ToyModel):
    """Computes for longer than a head may take."""

    def answer(self, shape: BatchShape, works: Sequence[Work]) -> list[Any]:
        time.sleep(2 * module.HEAD_SECONDS)
        return super().answer(shape, works)


def test_a_head_that_does_not_arrive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing has come there is nothing to answer. A request whose head is there may take longer."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.5)

    def scenario(address: Address) -> tuple[bytes, bytes, int]:
        return address.send(b""), address.send(HEALTH[:10]), status(address, ["a"])

    to_nothing, to_a_part, answered = asked(Service(SlowModel(), ServeLimits()), scenario)
    assert to_nothing == b""
    assert error_of(to_a_part) == (408, "the head of the request did not arrive within 0.5 s: send it faster")
    assert answered == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_stop_lets_running_requests_finish(number: signal.Signals) -> None:
    """New connections are not taken; nobody else gets the signal."""
    service = Service(ToyModel(), ServeLimits())
    held = Held(service)

    def scenario(address: Address) -> tuple[int, list[dict[str, Any]]]:
        try:
            with contextlib.closing(address.post("/v1/generate", {"texts": ["a"]})) as running:
                assert held.computing.wait(SECONDS)
                os.kill(os.getpid(), number)
                wait_until(lambda: service.stopping)
                held.go_on.set()
                response = running.getresponse()
                return response.status, json.loads(response.read())["answers"]
        finally:
            held.go_on.set()

    answered, answers = asked(service, scenario)
    assert answered == 200
    assert len(answers) == 1


def test_ctrl_c_after_a_signal_to_stop_cuts_off_whoever_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Without a traceback for each."""
    service, were_cut_off = Service(ToyModel(), ServeLimits()), []
    held = Held(service)

    def scenario(address: Address) -> None:
        try:
            with contextlib.closing(address.post("/v1/generate", {"texts": ["a"]})) as running:
                assert held.computing.wait(SECONDS)
                os.kill(os.getpid(), signal.SIGTERM)
                wait_until(lambda: service.stopping)
                os.kill(os.getpid(), signal.SIGINT)
                with pytest.raises(ConnectionError):
                    running.getresponse()
                were_cut_off.append(True)
        finally:
            held.go_on.set()

    with pytest.raises(KeyboardInterrupt):
        asked(service, scenario)
    assert were_cut_off == [True]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
