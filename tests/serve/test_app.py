"""The endpoints, in this process: the front door's answers, and a reason for everything that is refused."""

import asyncio
import base64
import errno
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from mrt5_jax.api.model import Model
from mrt5_jax.errors import UserError
from mrt5_jax.serve.app import Service, make_app
from mrt5_jax.serve.bodies import BODY_FIELDS
from mrt5_jax.serve.limits import ServeLimits
from mrt5_jax.serve.page import page_text
from mrt5_jax.serve.warm_model import ENDPOINTS, WarmModel

from .asgi import Client, Reply, running
from .conftest import LENGTH, TARGET_LENGTH
from .held import Held

TEXTS = ["#HelloWorld", "", "naïve, דג סקרן, 視野無限廣窗外有藍天", "a long one: " + "xyz " * 25]
PAIRS = [[text, text[:3]] for text in TEXTS]
TOKEN = "a-token-that-nobody-guesses"
Scenario = Callable[[Client, Service], Awaitable[Any]]


def serve(warm: WarmModel, scenario: Scenario, limits: ServeLimits = ServeLimits(), **door: Any) -> Any:  # noqa: B008
    """Runs a scenario against a service of its own."""

    async def main() -> Any:
        service = Service(warm, limits)
        async with running(make_app(service, **door)) as client:
            return await scenario(client, service)

    return asyncio.run(main())


def post(warm: WarmModel, path: str, content: Any, limits: ServeLimits = ServeLimits()) -> Reply:  # noqa: B008
    return serve(warm, lambda client, service: client.post(path, content), limits)


def test_generate_is_what_the_model_generates(warm: WarmModel, model: Model) -> None:
    """From many clients at once, each with texts of another length."""

    async def all_at_once(client: Client, service: Service) -> list[Reply]:
        return await asyncio.gather(*(client.post("/v1/generate", {"texts": [text]}) for text in TEXTS * 3))

    replies = serve(warm, all_at_once)
    for reply, expected in zip(replies, model.generate(TEXTS) * 3, strict=True):
        assert reply.status == 200
        (found,) = reply.json["answers"]
        assert found.pop("log_probability") == pytest.approx(expected.log_probability, rel=1e-4)
        assert found == {name: getattr(expected, name) for name in ("text", "ids", "length", "kept", "dropped")}


def test_score_is_what_the_model_scores(warm: WarmModel, model: Model) -> None:
    found = post(warm, "/v1/score", {"pairs": PAIRS}).json["answers"]
    for one, expected in zip(found, model.score([tuple(pair) for pair in PAIRS]), strict=True):
        assert one.pop("log_probability") == pytest.approx(expected.log_probability, rel=1e-4)
        assert one == {name: getattr(expected, name) for name in ("num_target_tokens", "length", "kept", "dropped")}


def test_deletions_are_what_the_model_deletes(warm: WarmModel, model: Model) -> None:
    """In windows, where a text is longer than an input; bytes that are no UTF-8 come back, too."""
    texts = [*TEXTS, "é" * LENGTH]
    given = [*texts, {"base64": base64.b64encode(b"\xff\x00a").decode()}]
    found = post(warm, "/v1/deletions", {"texts": given}).json["answers"]
    for one, expected in zip(found, model.deletions([*texts, b"\xff\x00a"]), strict=True):
        assert len(one["windows"]) == len(expected.windows)
        pieces = [piece for window in one["windows"] for piece in window]
        assert [piece["text"] for piece in pieces] == [piece.text for piece in expected.pieces]
        assert [token for piece in pieces for token in piece["ids"]] == expected.ids
        assert [keep for piece in pieces for keep in piece["keep"]] == expected.keep
        values = [value for piece in pieces for value in piece["values"]]
        np.testing.assert_allclose(values, expected.values, rtol=1e-5, atol=1e-4)
        assert (one["length"], one["kept"]) == (len(expected.ids), sum(expected.keep))


def test_embeddings_are_what_the_model_encodes(warm: WarmModel, model: Model) -> None:
    found = post(warm, "/v1/embeddings", {"texts": TEXTS}).json["answers"]
    encoded = model.encode(TEXTS)
    for row, one in enumerate(found):
        own = encoded.mask[row]
        np.testing.assert_array_equal(one["positions"], encoded.positions[row][own])
        np.testing.assert_allclose(one["hidden"], encoded.hidden[row][own], rtol=1e-4, atol=1e-5)


def test_a_stream_has_an_event_for_each_text_and_an_end(warm: WarmModel, model: Model) -> None:
    reply = post(warm, "/v1/generate", {"texts": TEXTS, "stream": True})
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in reply.body.decode().split("\n\n") if block.startswith("event")]
    assert [name for name, _ in events] == ["event: answer"] * len(TEXTS) + ["event: end"]
    data = [json.loads(line.removeprefix("data: ")) for _, line in events[:-1]]
    by_number = {one["number"]: one["ids"] for one in data}
    assert [by_number[number] for number in range(len(TEXTS))] == [one.ids for one in model.generate(TEXTS)]


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        ("/v1/generate", {}, 422, ["texts is missing", '["a text"]']),
        ("/v1/generate", {"texts": []}, 422, ["at least one"]),
        ("/v1/generate", {"texts": "a"}, 422, ["no list"]),
        ("/v1/generate", {"texts": [1]}, 422, ["texts[0] is no text"]),
        ("/v1/generate", {"texts": [{"base64": "?"}]}, 422, ["texts[0]: not base64"]),
        ("/v1/generate", {"texts": ["a", "b" * LENGTH]}, 422, ["texts[1]", "129 ids, more than 128"]),
        ("/v1/generate", {"texts": ["\ud800"]}, 422, ["texts[0]", "not text"]),
        ("/v1/generate", {"texts": ["a"], "treshold": -1}, 422, ["'treshold'", "did you mean threshold?"]),
        ("/v1/generate", {"texts": ["a"], "\ud800": 1}, 422, ["takes no field"]),
        ("/v1/generate", {"texts": ["a"], "threshold": 1}, 422, ["threshold"]),
        ("/v1/generate", {"texts": ["a"], "threshold": "low"}, 422, ["threshold is no number"]),
        ("/v1/generate", {"texts": ["a"], "threshold": 10**400}, 422, ["beyond the largest"]),
        ("/v1/generate", {"texts": ["a"], "stream": 1}, 422, ["stream is neither"]),
        ("/v1/generate", {"texts": ["a"] * 65}, 413, ["65 of them, more than 64"]),
        ("/v1/score", {"pairs": [["a"]]}, 422, ["pairs[0] is no pair"]),
        ("/v1/score", {"pairs": [["a", "b" * TARGET_LENGTH]]}, 422, ["pairs[0]", "9 ids, more than 8"]),
        ("/v1/score", {"texts": ["a"]}, 422, ["'texts'"]),
        ("/v1/deletions", {"texts": ["a" * (64 * LENGTH)]}, 413, ["more than 64 windows"]),
        ("/v1/deletions", {"texts": ["a" * (33 * LENGTH)] * 2}, 413, ["windows, more than 64"]),
        ("/v1/embeddings", [1], 400, ["not a JSON object"]),
        ("/v1/nothing", {}, 404, ["Not Found"]),
        ("/v1/generate/", {"texts": ["a"]}, 404, ["Not Found"]),
        ("/healthz", {}, 405, ["Not Allowed"]),
    ],
)
def test_what_cannot_be_answered_gets_a_reason(
    warm: WarmModel, path: str, content: Any, status: int, words: list[str]
) -> None:
    reply = post(warm, path, content)
    assert reply.status == status, reply.body
    assert "\n" not in reply.error
    for word in words:
        assert word in reply.error


def test_inputs_that_are_too_long_are_cut_where_that_is_asked_for(warm: WarmModel, model: Model) -> None:
    (found,) = post(warm, "/v1/generate", {"texts": ["b" * LENGTH], "truncate": True}).json["answers"]
    (expected,) = model.generate(["b" * LENGTH], truncate=True)
    assert (found["ids"], found["length"]) == (expected.ids, LENGTH)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.dictionaries(st.sampled_from(sorted({name for own in BODY_FIELDS.values() for name in own})), _JSON)


@given(
    endpoint=st.sampled_from(ENDPOINTS),
    body=st.binary(max_size=64)
    | _JSON.map(lambda content: json.dumps(content).encode())
    | _FIELDS.map(lambda fields: json.dumps(fields).encode()),
    content_type=st.sampled_from(["application/json", "application/json; charset=utf-8", "text/plain", ""]),
)
def test_no_body_breaks_it(warm: WarmModel, endpoint: str, body: bytes, content_type: str) -> None:
    """Whatever comes is answered, or refused with a reason."""

    async def send(client: Client, service: Service) -> Reply:
        return await client.ask("POST", f"/v1/{endpoint}", body, {"content-type": content_type})

    reply = serve(warm, send)
    assert reply.status in (200, 400, 413, 415, 422)
    if reply.status != 200:
        assert reply.error


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"texts": ["\xff"]}',
        b'{"texts": ["a"], "threshold": NaN}',
        b'{"texts": ["a"], "threshold": -1e999}',
        b'{"texts": ["a"], "texts": ["b"]}',
        b'{"texts": [{"base64": "", "base64": ""}]}',
        b"9" * 5000,
        b"",
    ],
    ids=["nested", "not UTF-8", "NaN", "infinite", "twice", "twice within", "digits", "empty"],
)
def test_what_is_no_json_is_refused(warm: WarmModel, body: bytes) -> None:
    """Nor are numbers beyond the largest taken, and names that come twice, of which one would be lost."""
    headers = {"content-type": "application/json"}
    reply = serve(warm, lambda client, service: client.ask("POST", "/v1/generate", body, headers))
    assert reply.status == 400
    assert "not JSON" in reply.error


def test_a_body_that_is_too_large_is_refused(warm: WarmModel) -> None:
    limits = ServeLimits(body_bytes=100)
    assert post(warm, "/v1/generate", {"texts": ["a"]}, limits).status == 200
    reply = post(warm, "/v1/generate", {"texts": ["a" * 100]}, limits)
    assert (reply.status, reply.error) == (413, "the body has more than 100 bytes: send fewer texts at once")


def test_hidden_states_that_would_be_too_many_for_an_answer_are_refused(warm: WarmModel) -> None:
    """Those of a longest text never are."""
    assert ServeLimits(hidden_numbers=3205).embedding_ids(width=16, input_length=128) == 200
    limits, longest = ServeLimits(hidden_numbers=1), "b" * (LENGTH - 1)
    assert post(warm, "/v1/embeddings", {"texts": [longest]}, limits).status == 200
    reply = post(warm, "/v1/embeddings", {"texts": [longest, ""]}, limits)
    assert reply.status == 413
    assert reply.error.startswith("texts: 129 ids together, more than the 128 whose hidden states fit an answer: send")


def test_a_full_queue_refuses_and_says_when_to_come_again(warm: WarmModel) -> None:
    async def scenario(client: Client, service: Service) -> None:
        held = Held(service)
        try:
            first = asyncio.create_task(client.post("/v1/generate", {"texts": ["a"]}))
            await held.begun()
            waiting = asyncio.create_task(client.post("/v1/generate", {"texts": ["a", "b"]}))
            while service.batcher.num_waiting < 2:
                await asyncio.sleep(0.001)
            reply = await client.post("/v1/generate", {"texts": ["a", "b"]})
            assert reply.status == 429
            assert int(reply.headers["retry-after"]) >= 1
            assert "2 texts wait already" in reply.error
        finally:
            held.go_on.set()
        assert [(await task).status for task in (first, waiting)] == [200, 200]

    serve(warm, scenario, ServeLimits(texts=2, waiting=3))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(warm: WarmModel, stream: bool) -> None:
    async def scenario(client: Client, service: Service) -> None:
        held, gone = Held(service), asyncio.Event()
        try:
            first = asyncio.create_task(client.post("/v1/generate", {"texts": ["a"]}))
            await held.begun()
            body = {"texts": ["a", "b"], "stream": stream}
            leaving = asyncio.create_task(client.post("/v1/generate", body, gone))
            while service.batcher.num_waiting < 2:
                await asyncio.sleep(0.001)
            gone.set()
            reply = await leaving
            assert service.batcher.num_waiting == 0
            assert (reply.status, reply.body) == (200 if stream else 499, b"")
        finally:
            held.go_on.set()
        assert (await first).status == 200

    serve(warm, scenario)


def test_what_takes_too_long_is_given_up(warm: WarmModel) -> None:
    async def scenario(client: Client, service: Service) -> None:
        held = Held(service)
        try:
            reply = await client.post("/v1/generate", {"texts": ["a"]})
            assert reply.status == 503
            assert "no answer within 0.05 s" in reply.error
            assert int(reply.headers["retry-after"]) >= 1
            streamed = await client.post("/v1/generate", {"texts": ["a"], "stream": True})
            assert b"event: error" in streamed.body
        finally:
            held.go_on.set()

    serve(warm, scenario, ServeLimits(seconds=0.05))


def test_a_server_that_stops_finishes_what_it_has_begun(warm: WarmModel) -> None:
    """Servers tell applications then that clients are gone, who are not."""

    async def scenario(client: Client, service: Service) -> None:
        held, told = Held(service), asyncio.Event()
        try:
            running_request = asyncio.create_task(client.post("/v1/generate", {"texts": ["a"]}, told))
            await held.begun()
            service.stopping = True
            told.set()
            late = await client.post("/v1/generate", {"texts": ["a"]})
            assert (late.status, late.headers["retry-after"]) == (503, "1")
            assert (await client.get("/healthz")).status == 503
        finally:
            held.go_on.set()
        assert (await running_request).status == 200

    serve(warm, scenario)


def test_a_port_that_another_process_took_meanwhile_is_one_line(
    warm: WarmModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nobody listens, both can bind it."""
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    from mrt5_jax.serve.server import bound_socket, listen

    def taken(bound: socket.socket, backlog: int) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    service = Service(warm, ServeLimits())
    with bound_socket("127.0.0.1", 0) as bound:
        monkeypatch.setattr(socket.socket, "listen", taken)
        with pytest.raises(UserError, match=r"--port=\d+: Address already in use: give another port"):
            listen(make_app(service), service, bound, lambda: None)


PATHS = ["/", "/healthz", "/metrics", "/openapi.json", "/v1/generate", "/nowhere"]


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Token {TOKEN}", "Basic !", "Basic bm86d3Jvbmc=", f"Bearer {TOKEN}x"],
)
def test_a_wrong_token_gets_the_same_answer_on_every_path(warm: WarmModel, authorization: str) -> None:
    async def scenario(client: Client, service: Service) -> list[Reply]:
        headers = {"authorization": authorization} if authorization else {}
        return [await client.ask(method, path, b"", headers) for path in PATHS for method in ("GET", "POST")]

    replies = serve(warm, scenario, token=TOKEN)
    assert len({(reply.status, tuple(sorted(reply.headers.items())), reply.body) for reply in replies}) == 1
    assert replies[0].status == 401
    assert TOKEN not in repr(replies)


def test_the_token_lets_in(warm: WarmModel) -> None:
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()

    async def scenario(client: Client, service: Service) -> list[int]:
        ways = f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"
        return [(await client.get("/healthz", {"authorization": way})).status for way in ways]

    assert serve(warm, scenario, token=TOKEN) == [200, 200, 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("elsewhere.example:8000", 403),
        ("", 403),
        ("[", 400),
        ("localhost:99999", 400),
        ("a/b", 400),
    ],
)
def test_a_page_from_elsewhere_cannot_lead_a_browser_here(warm: WarmModel, host: str, status: int) -> None:
    reply = serve(warm, lambda client, service: client.get("/healthz", {"host": host}), loopback_names_alone=True)
    assert reply.status == status


def test_health_says_what_the_model_is(warm: WarmModel) -> None:
    reply = serve(warm, lambda client, service: client.get("/healthz"))
    assert reply.json == {
        "status": "ok",
        "model": "model",
        "step": 0,
        "deletion": "hard",
        "gate": {"threshold": -15.0, "lowest": -30.0},
        "input_length": LENGTH,
        "target_length": TARGET_LENGTH,
        "texts": 64,
        "embedding_ids": ServeLimits.hidden_numbers // warm.width,
    }


def test_metrics_count_requests_and_rows(warm: WarmModel) -> None:
    async def scenario(client: Client, service: Service) -> str:
        await client.post("/v1/generate", {"texts": ["a", "b", "c"]})
        await client.get("/nowhere/at/all")
        return (await client.get("/metrics")).body.decode()

    lines = serve(warm, scenario).splitlines()
    assert 'mrt5_requests_total{path="/v1/generate",status="200"} 1.0' in lines
    assert 'mrt5_requests_total{path="other",status="404"} 1.0' in lines
    assert 'mrt5_batches_total{endpoint="generate",length="64",rows="4"} 1.0' in lines
    assert 'mrt5_rows_total{endpoint="generate",use="filler"} 1.0' in lines
    assert "mrt5_waiting_texts 0.0" in lines


def test_nothing_compiles_while_requests_of_all_kinds_are_answered(warm: WarmModel) -> None:
    bodies = [
        ("generate", {"texts": TEXTS, "threshold": -7.5}),
        ("score", {"pairs": PAIRS}),
        ("deletions", {"texts": [*TEXTS, "é" * LENGTH]}),
        ("embeddings", {"texts": TEXTS[:1]}),
    ]

    async def scenario(client: Client, service: Service) -> str:
        for name, body in bodies:
            assert (await client.post(f"/v1/{name}", body)).status == 200
        return (await client.get("/metrics")).body.decode()

    assert "mrt5_compilations_total 0.0" in serve(warm, scenario).splitlines()


def test_openapi_describes_what_there_is(warm: WarmModel) -> None:
    found = serve(warm, lambda client, service: client.get("/openapi.json")).json
    assert set(found["paths"]) == {*(f"/v1/{name}" for name in ENDPOINTS), "/healthz", "/metrics", "/openapi.json"}
    for name, fields in BODY_FIELDS.items():
        body = found["paths"][f"/v1/{name}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert tuple(body["properties"]) == fields
        assert body["required"] == [fields[0]]


def test_the_page_loads_nothing_and_runs_its_own_script_alone(warm: WarmModel) -> None:
    reply = serve(warm, lambda client, service: client.get("/"))
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2
    page = page_text()
    assert reply.body.decode() == page
    for loaded in ("http://", "https://", "url(", "@import", "src=", "innerHTML", "eval("):
        assert loaded not in page
    for path in ("/v1/deletions", "/v1/generate", "/healthz"):
        assert f'"{path}"' in page
    assert "color-scheme: light dark" in page
    assert "width=device-width" in page
