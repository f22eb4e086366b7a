"""Replicas die in the middle of answers; clients do not notice."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from running import Running, chat, streamed_text

from aviary.engines.fake import scripted_text

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
TOKENS = 40
SLOW = f"engine: {{kind: fake, tokens: {TOKENS}, slots: 16, gap: 25ms}}"
TWO = "scaling: {min_replicas: 2}"


def faulty(kind: str, at_token: int, every: int) -> str:
    """One replica of which every n-th generation breaks; the first one proves it ready.

    Where the process lives on (`cut`), `every: 2` breaks each answer once; where it dies, the
    rest of an answer is the new process's second generation, and the next answer its third.
    """
    fault = f"{{kind: {kind}, at_token: {at_token}, every: {every}}}"
    return f"engine: {{kind: fake, tokens: {TOKENS}, slots: 16, faults: [{fault}]}}"


SPECS = {
    "pair": f"{SLOW}\n{TWO}",
    "lone": SLOW,
    "tight": (
        "engine: {kind: fake, tokens: 200, slots: 16, gap: 25ms}\nlimits: {queue: 0, wait: 30s}"
    ),
    "fixed": f"{SLOW}\n{TWO}\ncontinue_streams: false",
    "crash": faulty("crash", 7, every=3),
    "cut": faulty("cut", 7, every=2),
    "ends": faulty("cut", TOKENS, every=2),
    "early": faulty("cut", 0, every=2),
    "deadly": faulty("crash", 5, every=2) + "\nscaling: {min_replicas: 3}",
}


@pytest.fixture(scope="module")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
    with Running(tmp_path_factory.mktemp("h"), str(folder), "--workers", "1") as running:
        yield running


def expected(text: str, tokens: int = TOKENS) -> str:
    return "".join(scripted_text({"messages": [{"role": "user", "content": text}]}, tokens))


def one_stream(chunks: list[dict[str, Any]]) -> None:
    """What clients may rely on in one answer's chunks."""
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len({chunk["created"] for chunk in chunks}) == 1
    assert len({chunk["object"] for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert sum("role" in choice.get("delta", {}) for choice in choices) <= 1
    assert len([choice for choice in choices if choice["finish_reason"]]) == 1
    assert choices[-1]["finish_reason"]


def ask(
    running: Running,
    body: dict[str, Any],
    path: str = CHAT,
    meanwhile: Callable[[str], object] | None = None,
    after: int = 6,
    headers: dict[str, str] | None = None,
) -> str:
    """The raw answer; `meanwhile` is called with the replica's id after so many events."""
    with (
        running.client(headers=headers) as client,
        client.stream("POST", path, json=body) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        raw = ""
        for piece in answer.iter_text():
            raw += piece
            if meanwhile is not None and raw.count("\n\n") >= after:
                meanwhile(answer.headers["x-aviary-replica"])
                meanwhile = None
    return raw


def killer(running: Running, model: str) -> Callable[[str], None]:
    """Kills the replica of that id."""

    def kill(replica: str) -> None:
        found = [r["pid"] for r in running.model(model)["replicas"] if r["id"] == replica]
        os.kill(found[0], signal.SIGKILL)

    return kill


def record_of(running: Running, request_id: str) -> dict[str, Any]:
    """The row of the request log."""
    deadline = time.monotonic() + 10
    while True:
        with sqlite3.connect(f"file:{running.home}/requests.db?mode=ro", uri=True) as database:
            database.row_factory = sqlite3.Row
            rows = database.execute(
                "select * from request_log where id = ?", (request_id,)
            ).fetchall()
        if rows:
            assert len(rows) == 1
            return dict(rows[0])
        assert time.monotonic() < deadline, "no row in the request log"
        time.sleep(0.1)


def metric(running: Running, name: str, model: str) -> float:
    with running.client() as client:
        lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith(f'{name}{{model="{model}"')]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.mark.parametrize("model", ["pair", "lone"])
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_kill_9_in_the_middle_is_not_noticed(aviary: Running, model: str, path: str) -> None:
    ready = {r["id"] for r in aviary.wait_for(model, len(aviary.model(model)["replicas"]))}
    before = metric(aviary, "aviary_streams_continued_total", model)
    body = chat(model, "x") if path == CHAT else {"model": model, "prompt": "x"}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    identity = f"killed-{model}{path.replace('/', '-')}"
    victims = []
    kill = killer(aviary, model)

    def strike(replica: str) -> None:
        victims.append(replica)
        kill(replica)

    raw = ask(aviary, body, path, meanwhile=strike, headers={"x-request-id": identity})
    text, chunks = streamed_text(raw)
    assert text == (
        expected("x") if path == CHAT else "".join(scripted_text({"prompt": "x"}, TOKENS))
    )
    one_stream(chunks)
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usages == [{"prompt_tokens": 1, "completion_tokens": TOKENS, "total_tokens": 1 + TOKENS}]
    row = record_of(aviary, identity)
    assert (row["status"], row["error"]) == (200, "")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (1, TOKENS)
    assert row["replica"] not in victims
    assert (row["replica"] in ready) == (model == "pair")
    assert row["time_to_first_token_ms"] < row["latency_ms"] / 3
    assert metric(aviary, "aviary_streams_continued_total", model) == before + 1
    aviary.wait_for(model, len(ready))


@pytest.mark.parametrize("model", ["crash", "cut", "ends", "early"])
def test_answers_that_break_are_whole(aviary: Running, model: str) -> None:
    before = metric(aviary, "aviary_streams_continued_total", model)
    for number in range(4):
        aviary.wait_for(model, 1)
        text, chunks = streamed_text(ask(aviary, chat(model, f"{number}", stream=True)))
        assert text == expected(f"{number}")
        one_stream(chunks)
    continued = metric(aviary, "aviary_streams_continued_total", model) - before
    assert continued >= (3 if model == "crash" else 4)


@pytest.mark.parametrize("model", ["crash", "cut", "early"])
def test_answers_in_one_piece_begin_anew(aviary: Running, model: str) -> None:
    with aviary.client() as client:
        for number in range(4):
            aviary.wait_for(model, 1)
            answer = client.post(CHAT, json=chat(model, f"w{number}"))
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == expected(f"w{number}")
            assert answer.json()["usage"]["completion_tokens"] == TOKENS


def test_max_tokens_and_stop_are_those_of_the_whole(aviary: Running) -> None:
    whole = expected("x")
    kill = killer(aviary, "pair")
    aviary.wait_for("pair", 2)
    body = chat("pair", "x", stream=True, max_tokens=20, stream_options={"include_usage": True})
    text, chunks = streamed_text(ask(aviary, body, meanwhile=kill))
    assert text == expected("x", 20)
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 20
    aviary.wait_for("pair", 2)
    words = whole.split(" ")
    stop = f"{words[14][-2:]} {words[15][:2]}"  # over two tokens
    text, chunks = streamed_text(
        ask(aviary, chat("pair", "x", stream=True, stop=stop), meanwhile=kill, after=4)
    )
    assert text == whole[: whole.index(stop)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def error_at_the_end(raw: str) -> dict[str, Any]:
    assert "[DONE]" not in raw
    error: dict[str, Any] = json.loads(raw.strip().rpartition("\n\n")[2].removeprefix("data: "))
    return error["error"]


def test_two_deaths_are_enough(aviary: Running) -> None:
    aviary.wait_for("deadly", 3)
    restarts = sum(r["restarts"] for r in aviary.model("deadly")["replicas"])
    error = error_at_the_end(ask(aviary, chat("deadly", "x", stream=True)))
    assert error["code"] == "replica_crashed"
    assert "Two replicas" in error["message"]
    replicas = aviary.wait_for("deadly", 3)
    assert sum(r["restarts"] for r in replicas) == restarts + 2


def test_a_spec_switches_it_off(aviary: Running) -> None:
    aviary.wait_for("fixed", 2)
    raw = ask(aviary, chat("fixed", "x", stream=True), meanwhile=killer(aviary, "fixed"))
    assert error_at_the_end(raw)["code"] == "replica_crashed"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_what_cannot_be_taken_up_says_so(aviary: Running, fields: dict[str, Any]) -> None:
    aviary.wait_for("pair", 2)
    raw = ask(aviary, chat("pair", "x", stream=True, **fields), meanwhile=killer(aviary, "pair"))
    error = error_at_the_end(raw)
    assert error["code"] == "replica_crashed"
    assert next(iter(fields)) in error["message"]
    # When nothing but the role was delivered, the answer begins anew.
    text, chunks = streamed_text(ask(aviary, chat("early", "x", stream=True, **fields)))
    assert text == expected("x")
    one_stream(chunks)


def test_a_full_queue_does_not_refuse_who_was_in(aviary: Running) -> None:
    """16 answers run on the only replica, and `queue: 0` lets one request wait for another."""
    pid = aviary.wait_for("tight", 1)[0]["pid"]
    all_run = threading.Barrier(17)

    def one(number: int) -> str:
        body = chat("tight", f"{number}", stream=True)
        raw = ask(aviary, body, meanwhile=lambda _: all_run.wait(30), after=2)
        return streamed_text(raw)[0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(one, number) for number in range(16)]
        all_run.wait(30)
        os.kill(pid, signal.SIGKILL)
        for number, answer in enumerate(answers):
            assert answer.result() == expected(f"{number}", 200)


def test_leaving_while_waiting_frees_all(aviary: Running) -> None:
    ready = aviary.wait_for("lone", 1)[0]
    body = chat("lone", "x", stream=True)
    with aviary.client() as client, client.stream("POST", CHAT, json=body) as answer:
        next(answer.iter_bytes())
        os.kill(ready["pid"], signal.SIGKILL)
        time.sleep(0.1)
    deadline = time.monotonic() + 10
    while metric(aviary, "aviary_requests_in_flight", "lone"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    replica = aviary.wait_for("lone", 1)[0]
    assert replica["id"] != ready["id"]
    assert metric(aviary, "aviary_requests_held", "lone") == 0


def test_clients_cannot_continue_what_they_like(aviary: Running) -> None:
    aviary.wait_for("lone", 1)
    with aviary.client(headers={"x-aviary-continue": "20"}) as client:
        answer = client.post(CHAT, json=chat("lone", "x", max_tokens=3))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == expected("x", 3)


def test_the_openai_package_does_not_notice(aviary: Running) -> None:
    aviary.wait_for("pair", 2)
    kill = killer(aviary, "pair")
    with openai.OpenAI(base_url=f"{aviary.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="pair",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        text, usage = "", None
        for count, chunk in enumerate(answer.parse()):
            if count == 5:
                kill(answer.headers["x-aviary-replica"])
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
    assert text == expected("x")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (1, TOKENS)
