"""What a client gets through gateway, replica and fake engine: complete, exact, bounded."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import sqlite3
import time

import httpx2
import psutil
import pytest
from running import Running, chat, streamed_text

from aviary.engines.fake import scripted_text

MIB = 1024 * 1024


def expected(text: str, tokens: int) -> str:
    body = {"messages": [{"role": "user", "content": text}]}
    return "".join(scripted_text(body, tokens))


async def test_64_streams_at_once_are_complete_to_the_byte(aviary: Running) -> None:
    async with aviary.async_client() as client:

        async def one(number: int) -> tuple[str, str]:
            model, tokens = (("quick", 64), ("paced", 20), ("pair", 8))[number % 3]
            text = f"prompt {number}"
            body = chat(model, text, stream=True)
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            return streamed_text(answer.text)[0], expected(text, tokens)

        pairs = await asyncio.gather(*(one(number) for number in range(64)))
    assert [got for got, _ in pairs] == [wanted for _, wanted in pairs]


async def test_events_come_as_they_are_made(aviary: Running) -> None:
    # On a machine that is busy with other things it may be our client that comes late.
    medians = [await _median_gap_s(aviary) for _ in range(3)]
    assert any(0.015 < gap < 0.030 for gap in medians), f"tokens were held back: {medians}"


async def _median_gap_s(aviary: Running) -> float:
    times = []
    async with (
        aviary.async_client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat("paced", "x", stream=True)) as r,
    ):
        async for line in r.aiter_lines():
            if '"content":"' in line and '"content":""' not in line:
                times.append(time.monotonic())  # noqa: PERF401 - the moment counts
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    assert len(times) == 20
    return gaps[len(gaps) // 2]


def test_headers_say_who_answered(aviary: Running) -> None:
    with aviary.client(headers={"x-request-id": "mine-1"}) as client:
        answer = client.post("/v1/chat/completions", json=chat("quick", "x"))
        assert answer.headers["x-request-id"] == "mine-1"
        assert answer.headers["x-aviary-model"] == "quick"
        assert answer.headers["x-aviary-replica"].startswith("quick/")
        assert 0 < float(answer.headers["x-aviary-overhead-ms"]) < 1000
        assert "x-aviary-load" not in answer.headers
        assert "x-aviary-token" not in answer.headers
        hostile = client.post(
            "/v1/chat/completions", json=chat("quick", "x"), headers={"x-request-id": "a b\t<i>"}
        )
        assert hostile.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("asked", [None, False, True])
def test_usage_in_streams_only_when_asked(aviary: Running, asked: bool | None) -> None:
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    with aviary.client() as client:
        body = chat("pair", "one two three", stream=True, **options)
        text, chunks = streamed_text(client.post("/v1/chat/completions", json=body).text)
    assert text == expected("one two three", 8)
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    wanted = [{"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}]
    assert usages == (wanted if asked else [])


def test_completions_embeddings_models(aviary: Running) -> None:
    with aviary.client() as client:
        answer = client.post("/v1/completions", json={"model": "pair", "prompt": "a b"}).json()
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == "".join(scripted_text({"prompt": "a b"}, 8))
        vectors = client.post("/v1/embeddings", json={"model": "pair", "input": ["a", "b"]}).json()
        assert [entry["index"] for entry in vectors["data"]] == [0, 1]
        models = client.get("/v1/models").json()
        assert {"quick", "paced", "pair"} <= {model["id"] for model in models["data"]}
        assert client.get("/v1/models/quick").json()["object"] == "model"
        assert client.get("/v1/models/none").status_code == 404
        assert client.get("/v1/chat/completions").status_code == 405
        assert client.post("/v1/nonsense", json={}).status_code == 404


BAD_BODIES = {
    "empty": b"",
    "spaces": b"  \n ",
    "not JSON": b"{model: quick",
    "not an object": b'["quick"]',
    "not UTF-8": b'{"model": "quick", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "not UTF-8 model": b'{"model": "\xff"}',
    "no model": b'{"messages": []}',
    "model null": b'{"model": null}',
    "model a number": b'{"model": 7}',
    "unknown model": b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
    "huge model name": b'{"model": "' + b"a" * 100_000 + b'"}',
    "no messages": b'{"model": "quick"}',
    "messages a text": b'{"model": "quick", "messages": "hi"}',
    "message a text": b'{"model": "quick", "messages": ["hi"]}',
    "no role": b'{"model": "quick", "messages": [{"content": "x"}]}',
    "stream a text": b'{"model": "quick", "stream": "yes", "messages": []}',
    "max_tokens zero": (
        b'{"model":"quick","max_tokens":0,"messages":[{"role":"user","content":"x"}]}'
    ),
    "n too large": b'{"model":"short","n":99,"messages":[{"role":"user","content":"x"}]}',
    "deep": b'{"model": "quick", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "two documents": b'{"model": "quick"}{"model": "quick"}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_bad_bodies_get_a_4xx_in_openais_shape(aviary: Running, name: str, path: str) -> None:
    with aviary.client() as client:
        answer = client.post(path, content=BAD_BODIES[name])
    if answer.status_code == 200:
        # What is wrong for chat may be no mistake for another route, for example unknown fields.
        assert path != "/v1/chat/completions"
        return
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert error["type"]
    assert error["code"]
    assert len(answer.content) < 4000
    assert "x-request-id" in answer.headers


def test_model_after_two_megabytes(aviary: Running) -> None:
    filler = "x" * (2 * MIB)
    body = (
        '{"messages":[{"role":"user","content":"hi"}],"metadata":"' + filler + '","model":"quick"}'
    )
    with aviary.client() as client:
        answer = client.post("/v1/chat/completions", content=body.encode())
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == expected("hi", 64)


def _memory(aviary: Running) -> int:
    return sum(process.memory_info().rss for process in aviary.gateways())


@pytest.mark.parametrize("chunked", [False, True])
def test_100_megabytes_are_refused_in_bounded_memory(aviary: Running, chunked: bool) -> None:
    before = _memory(aviary)
    piece = b'{"model":"quick","x":"' + b"y" * (MIB - 22)
    if chunked:
        content: object = (piece for _ in range(100))
    else:
        content = piece * 100
    with aviary.client() as client:
        try:
            answer = client.post("/v1/chat/completions", content=content)
        except (httpx2.WriteError, httpx2.ReadError):
            # Refused while we still sent: legitimate, and the next assertion is what counts.
            pass
        else:
            assert answer.status_code == 413, answer.text
            assert answer.json()["error"]["code"] == "body_too_large"
        assert client.get("/healthz").status_code == 200
    assert _memory(aviary) - before < 80 * MIB


RAW = {
    "bad chunk size": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"ZZ\r\nhello\r\n0\r\n\r\n"
    ),
    "negative length": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"
    ),
    "two lengths": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Content-Length: 9\r\n\r\nhello"
    ),
    "no HTTP": b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
    "huge head": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "not ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_broken_http_gets_a_400_and_the_connection_ends(aviary: Running, name: str) -> None:
    port = int(aviary.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(RAW[name])
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_too_long_a_prompt_names_both_numbers(aviary: Running) -> None:
    with aviary.client() as client:
        answer = client.post("/v1/chat/completions", json=chat("short", "word " * 100))
        too_much = client.post("/v1/chat/completions", json=chat("short", "x", max_tokens=500))
    for refused, number in ((answer, "100"), (too_much, "500")):
        error = refused.json()["error"]
        assert refused.status_code == 400
        assert error["code"] == "context_length_exceeded"
        assert number in error["message"]
        assert "64" in error["message"]


async def test_full_queue_is_a_429_with_retry_after(aviary: Running) -> None:
    async with aviary.async_client() as client:

        async def ask() -> httpx2.Response:
            body = chat("narrow", "x", max_tokens=40)
            return await client.post("/v1/chat/completions", json=body)

        answers = await asyncio.gather(*(ask() for _ in range(6)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 429, 429, 429, 429]
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "overloaded"


async def test_a_client_that_leaves_frees_its_slot_within_a_second(aviary: Running) -> None:
    body = chat("narrow", "x", stream=True, max_tokens=200)  # 4 s on the only slot
    async with aviary.async_client() as client:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            await anext(answer.aiter_lines())
        began = time.monotonic()
        other = await client.post("/v1/chat/completions", json=chat("narrow", "y", max_tokens=1))
        assert other.status_code == 200, other.text
        assert time.monotonic() - began < 1.0


async def test_a_client_that_leaves_before_the_answer_frees_its_slot(aviary: Running) -> None:
    async with aviary.async_client() as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(
                "/v1/chat/completions", json=chat("narrow", "x", max_tokens=200), timeout=0.3
            )
        began = time.monotonic()
        other = await client.post("/v1/chat/completions", json=chat("narrow", "y", max_tokens=1))
        assert other.status_code == 200, other.text
        assert time.monotonic() - began < 1.0


def test_a_model_that_cannot_start_is_shown_with_its_cause(aviary: Running) -> None:
    model = aviary.model("broken")
    assert model["state"] in ("failed", "starting")
    with aviary.client() as client:
        lines = client.get("/api/logs", params={"model": "broken"}).json()["lines"]
        assert any("fake engine fails as told" in line for line in lines), lines
        events = client.get("/readyz").json()
    assert "broken" in events["not_ready"]


def test_health_metrics_docs(aviary: Running) -> None:
    with aviary.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "quick" in ready.json()["ready"]
        assert "broken" in ready.json()["not_ready"]
        for _ in range(20):  # over connections of both workers
            with aviary.client() as other:
                other.post("/v1/chat/completions", json=chat("quick", "x", max_tokens=2))
        text = client.get("/metrics").text
        assert "# TYPE aviary_requests_total counter" in text
        time.sleep(1.2)  # workers hand their counts over twice a second
        lines = {_metric(aviary, 'aviary_requests_total{model="quick"') for _ in range(8)}
        assert len(lines) == 1, f"workers disagree: {lines}"
        assert float(lines.pop().rpartition(" ")[2]) >= 20
        document = client.get("/openapi.json").json()
        assert {"/v1/chat/completions", "/api/models"} <= set(document["paths"])
        page = client.get("/docs").text
        assert "https://" not in page, "the page asks another host"
        assert client.get("/docs/swagger-ui-bundle.js").status_code == 200
        assert client.get("/docs/../secret").status_code in (404, 405)


def _metric(aviary: Running, start: str) -> str:
    with aviary.client() as client:
        for line in client.get("/metrics").text.splitlines():
            if line.startswith(start) and 'status="200"' in line:
                return line
    raise AssertionError(f"no metric {start}")


def test_the_request_log_has_who_what_and_what_it_cost(aviary: Running) -> None:
    with aviary.client(headers={"x-request-id": "log-1"}) as client:
        client.post("/v1/chat/completions", json=chat("pair", "one two", stream=True))
    with aviary.client(headers={"x-request-id": "log-2"}) as client:
        client.post("/v1/chat/completions", json=chat("nobody", "x"))
    database = sqlite3.connect(aviary.home / "requests.db")
    deadline = time.monotonic() + 5
    while True:
        rows = database.execute(
            "select id, model, replica, status, error, stream, prompt_tokens, completion_tokens,"
            " cost_usd, time_to_first_token_ms, latency_ms from request_log"
            " where id in ('log-1', 'log-2') order by id"
        ).fetchall()
        if len(rows) == 2 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    database.close()
    good, bad = rows
    assert good[1] == "pair"
    assert good[2].startswith("pair/")
    assert good[3:8] == (200, "", 1, 2, 8)
    assert good[8] == pytest.approx((2 * 1 + 8 * 2) / 1e6)
    assert 0 < good[9] <= good[10]
    assert bad[1:5] == ("nobody", "", 404, "model_not_found")


def test_api_status_and_models(aviary: Running) -> None:
    with aviary.client() as client:
        status = client.get("/api/status").json()
        assert status["workers"] == 2
        assert status["backend"] == "local"
        models = client.get("/api/models").json()["models"]
        assert [m["id"] for m in models] == sorted(m["id"] for m in models)
        pair = next(m for m in models if m["id"] == "pair")
        assert len(pair["replicas"]) == 2
        assert client.get("/api/models/none").status_code == 404
        assert client.get("/api/nonsense").status_code == 404
        wrong = client.post("/api/models", json={"id": "x", "engine": {"kind": "fake", "no": 1}})
        assert wrong.status_code == 422
        assert "no" in wrong.json()["error"]["message"]
        later = {"id": "x", "engine": {"kind": "vllm"}, "source": {"uri": "file:/x"}}
        refused = client.post("/api/models", json=later)
        assert refused.status_code == 501
        assert "not available in this version" in refused.json()["error"]["message"]


def test_pages_of_strangers_are_not_answered_while_there_are_no_keys(aviary: Running) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        with aviary.client(headers=headers) as client:
            for answer in (
                client.post("/v1/chat/completions", json=chat("quick", "x")),
                client.post("/api/models", json={"id": "x", "engine": {"kind": "fake"}}),
                client.get("/v1/models"),
            ):
                assert answer.status_code == 403, answer.text
                assert "keys create" in answer.json()["error"]["message"]


def test_nothing_but_the_public_paths_reaches_the_control_process(aviary: Running) -> None:
    with aviary.client() as client:
        for path in ("/internal/snapshots", "/internal/state", "//api/models", "/apix", "/x"):
            # As it is: a client would take what follows two slashes for a host.
            url = httpx2.URL(aviary.url).copy_with(raw_path=path.encode())
            assert client.get(url).status_code == 404, path
        unknown = client.get("/api/nonsense")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "not_found"
        assert client.get("/api/models/").status_code == 404
        assert client.get("/healthz").headers["x-request-id"].startswith("req-")


def test_replicas_answer_only_with_the_internal_token(aviary: Running) -> None:
    replica = aviary.model("quick")["replicas"][0]
    way = httpx2.HTTPTransport(uds=replica["socket"])
    with httpx2.Client(transport=way, base_url="http://replica") as client:
        answer = client.post("/v1/chat/completions", json=chat("quick", "x"))
    assert answer.status_code == 401
    for process in aviary.processes():
        assert not any("token" in part for part in process.cmdline())


def test_replica_processes_are_named(aviary: Running) -> None:
    names = [" ".join(process.cmdline()).strip() for process in aviary.processes()]
    assert "aviary replica quick" in names
    assert sum(name == "aviary gateway" for name in names) == 2
    assert psutil.Process(aviary.process.pid).is_running()
