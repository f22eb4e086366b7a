"""`aviary query`: streams, tables, results files, failures that stay where they are."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from aviary.cli.main import app

runner = CliRunner()
KEYS = {
    *("model", "prompt", "text", "finish_reason", "time_to_first_token_ms", "latency_ms"),
    *("prompt_tokens", "completion_tokens", "error", "request_id", "replica"),
}


@pytest.fixture
def echo(aviary, chat_chunks):
    """A server whose models answer with their name and the prompt; `broken` fails."""

    def answer(call) -> None:
        name, prompt = call.body["model"], call.body["messages"][-1]["content"]
        if name == "broken":
            call.error(502, "engine_error", "The engine failed.")
        elif name == "cut":
            call.stream(chat_chunks("half of it")[:2], end=False)
        elif name == "late":
            call.stream([*chat_chunks("half")[:2], {"error": {"message": "It died.", "code": "x"}}])
        else:
            call.stream(chat_chunks(f"{name} says: {prompt}"), gap=0.005)

    aviary.on("POST", "/v1/chat/completions", answer)
    return aviary


def test_one_answer_is_just_its_text(echo):
    result = runner.invoke(app, ["query", "-m", "a", "how", "are", "you ünï 漢\u2028?"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "a says: how are you ünï 漢\u2028?\n"
    body = echo.calls[-1].body
    assert body["stream"] is True
    assert set(body) == {"model", "messages", "stream", "stream_options"}


def test_options_reach_the_server(echo):
    options = ["--system", "Be brief.", "--max-tokens", "5", "--temperature", "0", "--seed", "7"]
    assert runner.invoke(app, ["query", "-m", "a", "-p", "hi", *options]).exit_code == 0
    body = echo.calls[-1].body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (5, 0, 7)


def test_one_answer_as_json(echo):
    result = runner.invoke(app, ["query", "-m", "a", "hi", "--json"])
    (answer,) = json.loads(result.stdout)
    assert set(answer) == KEYS
    assert answer["text"] == "a says: hi"
    assert answer["finish_reason"] == "stop"
    assert answer["request_id"] == "req-1"
    assert answer["replica"] == "m/ab12cd"
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (5, 7)
    assert 0 < answer["time_to_first_token_ms"] < answer["latency_ms"]
    assert answer["error"] is None


def test_one_failing_model_loses_nothing_of_the_others(echo, tmp_path):
    out = tmp_path / "qa.json"
    out.write_text("old")
    arguments = ["-m", "a", "-m", "broken", "-m", "cut", "-m", "late", "-m", "b"]
    prompts = ["--prompt", "one", "--prompt", "two [bold]ünï[/]"]
    result = runner.invoke(app, ["query", *arguments, *prompts, "-o", str(out)])
    assert result.exit_code == 1
    answers = json.loads(out.read_text())
    assert [(answer["prompt"][:3], answer["model"]) for answer in answers] == [
        (prompt, model)
        for prompt in ("one", "two")
        for model in ("a", "broken", "cut", "late", "b")
    ]
    by_model = {answer["model"]: answer for answer in answers[:5]}
    assert by_model["a"]["text"] == "a says: one"
    assert by_model["b"]["error"] is None
    assert by_model["broken"]["error"] == "The engine failed."
    assert by_model["cut"]["error"] == "The answer broke off."
    assert by_model["cut"]["text"] == "half"
    assert by_model["late"]["error"] == "It died."
    head, *rows = result.stdout.splitlines()
    assert head.startswith("MODEL")
    assert len(rows) == 10
    assert "error: The engine failed." in rows[1]
    assert "two [bold]ünï[/]" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qa.json"]
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_answers_are_printed_unless_they_go_to_a_file(echo):
    result = runner.invoke(app, ["query", "-m", "a", "-m", "b", "hi"])
    assert "== a: hi\na says: hi\n" in result.stdout
    assert "COST" not in result.stdout


def test_a_model_given_twice_is_asked_once(echo):
    result = runner.invoke(app, ["query", "-m", "a", "-m", "a", "hi", "--json"])
    assert len(json.loads(result.stdout)) == 1


def test_prompt_file_and_stdin(echo, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbfone\nmore\n----\n\n----\ntwo\n")
    result = runner.invoke(app, ["query", "-m", "a", "--prompt-file", str(file), "--json"])
    assert [answer["prompt"] for answer in json.loads(result.stdout)] == ["one\nmore", "two"]
    result = runner.invoke(app, ["query", "-m", "a", "--json"], input="from stdin\n----\nno\n")
    assert [answer["prompt"] for answer in json.loads(result.stdout)] == ["from stdin\n----\nno"]
    arguments = ["--prompt-file", "-", "--separator", "=", "--json"]
    result = runner.invoke(app, ["query", "-m", "a", *arguments], input="x\n=\ny")
    assert [answer["prompt"] for answer in json.loads(result.stdout)] == ["x", "y"]


def test_no_prompt_is_a_usage_error(echo):
    assert runner.invoke(app, ["query", "-m", "a"], input=" \n").exit_code == 2


@pytest.mark.parametrize("out", ["", "none/qa.json"])
def test_output_that_cannot_be_written_is_told_before_asking(echo, tmp_path, out):
    result = runner.invoke(app, ["query", "-m", "a", "hi", "-o", str(tmp_path / out)])
    assert result.exit_code == 1
    assert echo.calls == []


def test_nobody_answers(nobody):
    for models in (["-m", "a"], ["-m", "a", "-m", "b"]):
        result = runner.invoke(app, ["query", *models, "hi"])
        assert result.exit_code == 1
        assert "Start one with: aviary up" in result.stderr
        assert result.stderr.count("error:") == 1


def test_full_queue_is_tried_again(aviary, chat_chunks):
    times: list[float] = []

    def answer(call) -> None:
        times.append(time.monotonic())
        if len(times) < 3:
            call.error(429, "overloaded", "Full.", retry_after="0.1")
        else:
            call.stream(chat_chunks("at last"))

    aviary.on("POST", "/v1/chat/completions", answer)
    result = runner.invoke(app, ["query", "-m", "a", "hi"])
    assert result.stdout == "at last\n"
    assert times[1] - times[0] >= 0.1


def test_a_model_that_is_not_ready_was_waited_for_already(aviary):
    aviary.on(
        "POST",
        "/v1/chat/completions",
        lambda call: call.error(503, "model_not_ready", "Not yet.", retry_after="0"),
    )
    result = runner.invoke(app, ["query", "-m", "a", "hi"])
    assert result.exit_code == 1
    assert result.stderr == "error: Not yet.\n"
    assert len(aviary.calls) == 1


def test_concurrency_is_per_model(aviary, chat_chunks):
    lock, running, most = threading.Lock(), {"a": 0, "b": 0}, {"a": 0, "b": 0}

    def answer(call) -> None:
        name = call.body["model"]
        with lock:
            running[name] += 1
            most[name] = max(most[name], running[name])
        time.sleep(0.1)
        with lock:
            running[name] -= 1
        call.stream(chat_chunks("x"))

    aviary.on("POST", "/v1/chat/completions", answer)
    prompts = [word for n in range(5) for word in ("-p", str(n))]
    arguments = ["query", "-m", "a", "-m", "b", *prompts, "--concurrency", "2", "--json"]
    result = runner.invoke(app, arguments)
    assert len(json.loads(result.stdout)) == 10
    assert most == {"a": 2, "b": 2}


def test_interrupted_keeps_what_came(echo, tmp_path, chat_chunks):
    import signal

    def answer(call) -> None:
        if call.body["model"] == "slow":
            time.sleep(30)
        call.stream(chat_chunks("done"))

    echo.on("POST", "/v1/chat/completions", answer)
    out = tmp_path / "qa.json"
    command = [sys.executable, "-m", "aviary.cli.main", "query", "-m", "a", "-m", "slow", "hi"]
    with subprocess.Popen(
        [*command, "-o", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        deadline = time.monotonic() + 20
        while len(echo.calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Interrupted: 1 of 2 answers came." in errors
    assert "Traceback" not in errors
    assert [answer["model"] for answer in json.loads(out.read_text())] == ["a"]


def test_terminal_shows_the_text_as_it_comes(aviary, chat_chunks):
    aviary.on(
        "POST",
        "/v1/chat/completions",
        lambda call: call.stream(chat_chunks("first \x1b[2Jsecond third", pieces=3), gap=0.25),
    )
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "aviary.cli.main", "query", "-m", "a", "hi"]
    seen: list[tuple[float, bytes]] = []
    with subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower) as child:
        os.close(follower)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 0.1)[0]:
                if child.poll() is not None:
                    break
                continue
            try:
                data = os.read(leader, 4096)
            except OSError:
                break
            if not data:
                break
            seen.append((time.monotonic(), data))
    os.close(leader)
    text = b"".join(data for _, data in seen).decode()
    assert child.returncode == 0
    assert "first" in text
    assert "third" in text
    assert "\x1b[2J" not in text
    assert "first token" in text
    assert "tokens 5 in, 7 out" in text
    assert seen[-1][0] - seen[0][0] > 0.4
