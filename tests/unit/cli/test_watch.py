"""`aviary status --watch`, as a program of its own, against a stand-in server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

AVIARY = [sys.executable, "-P", "-m", "aviary.cli.main", "status", "--watch"]


@pytest.fixture
def models(aviary, make_model) -> list[Any]:
    """What the server says its models are; change it as you like."""
    models = [make_model("a", detail="[bold]calm[/]")]

    def status(call: Any) -> None:
        counts = {"ready": sum(model["state"] == "ready" for model in models)}
        call.json({"version": "0.2.0", "url": "http://here", "workers": 2, "models": counts})

    aviary.on("GET", "/api/status", status)
    aviary.on("GET", "/api/models", lambda call: call.json({"models": models}))
    return models


def wait_for_calls(aviary: Any, count: int) -> None:
    """Wait until the server was asked so many times more."""
    enough = len(aviary.calls) + count
    deadline_s = time.monotonic() + 20
    while len(aviary.calls) < enough:
        assert time.monotonic() < deadline_s, "nobody asks"
        time.sleep(0.02)


def stop(child: subprocess.Popen[str]) -> list[str]:
    """Ctrl-C; returns what was printed."""
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=20)
    assert errors == ""
    assert child.returncode == 0
    return output.split("\n\n")


def broken(make_model: Any) -> Any:
    replica = {"id": "a/2", "state": "failed", "detail": "no\nmemory", "restarts": 3}
    return make_model("a", state="failed", running=0, waiting=4, replicas=[replica])


def test_a_block_a_change(aviary, make_model, models):
    with subprocess.Popen(
        AVIARY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_for_calls(aviary, 6)  # three looks at the same
        models[0] = broken(make_model)
        wait_for_calls(aviary, 4)
        first, second, rest = stop(child)
    assert rest == ""
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\nAviary 0\.2\.0 at http://here", first)
    head, row = first.splitlines()[-2:]
    assert head.split() == [
        *("MODEL", "STATE", "READY", "RUNNING", "WAITING", "RESTARTS", "DETAIL")
    ]
    assert row.split() == ["a", "ready", "1/1", "1", "0", "0", "[bold]calm[/]"]
    assert second.splitlines()[-1].split() == [
        *("a", "failed", "0/1", "0", "4", "3"),
        "no",
        "memory",
    ]


def test_an_aviary_that_goes_away_is_waited_for(aviary, make_model, models):
    with subprocess.Popen(
        AVIARY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_for_calls(aviary, 4)
        back = aviary.routes["GET", "/api/models"]
        aviary.on("GET", "/api/models", lambda call: call.error(503, "model_not_ready", "Away."))
        wait_for_calls(aviary, 6)
        aviary.on("GET", "/api/models", back)
        wait_for_calls(aviary, 4)
        first, away, again, _ = stop(child)
    assert away.splitlines()[1:] == ["Away."]
    assert first.splitlines()[1:] == again.splitlines()[1:]


def test_none_at_the_beginning_is_an_error(nobody):
    done = subprocess.run(AVIARY, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No Aviary answers" in done.stderr


def test_json_lines(aviary, models):
    with subprocess.Popen(
        [*AVIARY, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_for_calls(aviary, 6)
        (text,) = stop(child)
    looks = [json.loads(line) for line in text.splitlines()]
    assert len(looks) >= 2
    assert looks[0]["list"][0]["id"] == "a"
    assert looks[0]["workers"] == 2


def test_a_terminal_is_drawn_anew(aviary, make_model, models):
    ours, theirs = pty.openpty()
    child = subprocess.Popen(AVIARY, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = ""

    def read_until(end: str) -> None:
        nonlocal text
        while end not in text:
            text += os.read(ours, 4096).decode()

    read_until("[bold]calm[/]")
    models[0] = broken(make_model)
    read_until("no memory")
    assert "\x1b[1A" in text  # up again, to write over what was there
    child.send_signal(signal.SIGINT)
    with pytest.raises(OSError, match="Input/output"):
        read_until("\0never")
    os.close(ours)
    assert child.wait(timeout=20) == 0
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is there again
