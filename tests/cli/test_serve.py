"""`mrt5 serve`: mistakes in one line before anything is read; a stop that finishes what is running."""

import http.client
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import pytest

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from mrt5_jax.cli import serve
from mrt5_jax.cli.main import main
from mrt5_jax.serve import server
from mrt5_jax.serve.warm_model import WarmModel

from ..serve.child import served
from ..serve.toy import ToyModel
from .small_run import make_model_dir

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The last line that a command that has to fail says."""
    assert main(["serve", "--model_dir=nowhere", *argv]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port=65536"], ["--port=65536", "from 0 to 65535"]),
        (["--port=-1"], ["--port=-1"]),
        (["--batch_size=0"], ["--batch_size=0", "at least 1"]),
        (["--queue=0"], ["--queue=0"]),
        (["--max_seconds=0"], ["--max_seconds=0"]),
        (["--host=0.0.0.0"], ["--host=0.0.0.0", serve.TOKEN_VARIABLE, "--token_file", "--no_token"]),
        (["--token_file=nowhere.txt"], ["--token_file=nowhere.txt", "No such file"]),
        (["--port=0"], ["nowhere/model_config.json is not there"]),
        (["--port=0", "--host=192.0.2.1", "--no_token"], ["--host=192.0.2.1", "Cannot assign"]),
        (["--port=0", "--host=a..b", "--no_token"], ["--host=a..b", "label"]),
        (["--deletion=random"], ["--deletion"]),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], words: list[str]) -> None:
    message = refusal(capsys, *argv)
    for word in words:
        assert word in message


@pytest.mark.parametrize("token", ["", "short", "has spaces in it, though it is long", "ü" * 20])
def test_a_token_that_is_none_is_refused_and_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    (tmp_path / "token").write_text(token + "\nmore\n", encoding="utf-8")
    in_file = refusal(capsys, f"--token_file={tmp_path / 'token'}")
    monkeypatch.setenv(serve.TOKEN_VARIABLE, token)
    in_environment = refusal(capsys)
    for message in (in_file, in_environment):
        assert "no token: give at least 16 characters" in message
        assert not token or token not in message


def test_two_tokens_or_one_and_none_contradict_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    assert "leave one of them out" in refusal(capsys, f"--token_file={tmp_path / 'token'}", "--no_token")
    monkeypatch.setenv(serve.TOKEN_VARIABLE, TOKEN)
    assert "leave one of them out" in refusal(capsys, "--no_token")
    message = refusal(capsys, f"--token_file={tmp_path / 'token'}")
    assert "leave one of them out" in message
    assert TOKEN not in message


def test_without_a_token_whoever_may_ask_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model_dir=nowhere", "--port=0", "--no_token"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "mrt5: without a token whoever reaches 127.0.0.1 can use the model"
    assert "nowhere" in second


def test_a_port_in_use_is_said_before_the_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refusal(capsys, f"--port={port}")
    assert f"--port={port}: Address already in use: give another port" in message


def test_the_extra_that_is_missing_is_named(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(serve, "LIBRARIES", ("json", "no_such_library"))
    assert refusal(capsys).endswith("serve needs no_such_library: pip install 'mrt5-jax[serve]'")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        jax.errors.JaxRuntimeError(
            "INTERNAL: Error dispatching computation: Out of memory allocating 2958479664 bytes."
        ),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*args: object) -> NoReturn:
        raise error

    monkeypatch.setattr(WarmModel, "__init__", fail)
    message = refusal(capsys, f"--model_dir={make_model_dir(tmp_path / 'model')}", "--port=0")
    assert "does not fit into the memory with --batch_size=16" in message


@pytest.mark.parametrize(
    ("numbers", "status", "last_line"),
    [
        ([signal.SIGTERM], 0, "stopped"),
        ([signal.SIGINT], 0, "stopped"),
        ([signal.SIGINT, signal.SIGINT], 130, "mrt5: interrupted"),
        ([signal.SIGTERM, signal.SIGINT], 130, "mrt5: interrupted"),
    ],
    ids=["SIGTERM", "Ctrl-C", "Ctrl-C twice", "SIGTERM, then Ctrl-C"],
)
def test_a_signal_to_stop_is_no_error_and_ctrl_c_after_it_ends_at_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    numbers: list[signal.Signals],
    status: int,
    last_line: str,
) -> None:
    listen = server.listen

    def listen_and_stop(app: Any, service: Any, bound: socket.socket, ready: Callable[[], None]) -> None:
        def get_signals() -> None:
            ready()
            for number in numbers:
                signal.raise_signal(number)

        listen(app, service, bound, get_signals)

    monkeypatch.setattr(server, "listen", listen_and_stop)
    monkeypatch.setattr(serve, "_warm_model", lambda args: ToyModel())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["serve", "--model_dir=toy", "--port=0"]) == status
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = capsys.readouterr()
    assert said.out.startswith("listening on http://127.0.0.1:")
    assert (said.out + said.err).splitlines()[-1] == last_line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_lets_running_requests_finish(tmp_path: Path, number: signal.Signals) -> None:
    """The stream's head has come, so that it is running; every one of its texts is answered."""
    with served(make_model_dir(tmp_path / "model"), "--batch_size=1", "--max_rungs=1") as (process, address):
        connection = http.client.HTTPConnection(address, timeout=300)
        body = json.dumps({"texts": ["#HelloWorl"] * 64, "stream": True})
        connection.request("POST", "/v1/generate", body, {"content-type": "application/json"})
        response = connection.getresponse()
        process.send_signal(number)
        events = response.read().decode()
        connection.close()
        assert process.wait(timeout=120) == 0
        assert process.stdout is not None
        assert "stopped" in process.stdout.read()
    assert events.count("event: answer") == 64
    assert events.endswith("event: end\ndata: {}\n\n")
