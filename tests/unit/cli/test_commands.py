"""models, status, logs, events and stop against a stand-in server."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from typer.testing import CliRunner

from aviary.cli.main import app

runner = CliRunner()


def test_models_table_is_plain_and_aligned(aviary, make_model):
    failed = make_model("a-long-name", state="failed")
    failed["replicas"] = [
        {"id": "a-long-name/1", "state": "failed", "detail": "no [bold]memory[/]"}
    ]
    aviary.on("GET", "/api/models", {"models": [make_model("漢字"), failed]})
    result = runner.invoke(app, ["models"])
    assert result.exit_code == 0
    assert not re.search(r"[\x1b│─┃━]", result.stdout)
    head, first, second = result.stdout.splitlines()
    titles = ["MODEL", "STATE", "READY", "ENGINE", "CONTEXT", "SLOTS", "RUN/WAIT", "REQUESTS"]
    assert head.split() == [*titles, "TOKENS", "OUT"]
    rest = ["fake", "4096", "8", "1/0", "12", "345"]
    assert first.split() == ["漢字", "ready", "1/1", *rest]
    assert second.split() == ["a-long-name", "failed", "0/1", *rest]
    assert head.endswith("TOKENS OUT")
    assert second.endswith("       345")
    assert "a-long-name/1 failed: no [bold]memory[/]" in result.stderr


def test_what_is_to_be_known_of_a_model(aviary, make_model):
    loop = make_model("a", state="failed", detail="crash loop: 5 failures")
    rests = make_model("b", state="sleeping", detail="idle for 300 s; a request wakes it")
    aviary.on("GET", "/api/models", {"models": [loop, rests]})
    result = runner.invoke(app, ["models"])
    assert "a: crash loop: 5 failures" in result.stderr
    assert "idle" not in result.stderr  # its state says it
    assert result.stdout.splitlines()[2].split()[1] == "sleeping"


def test_models_json_is_what_the_server_says(aviary, make_model):
    models = [make_model("a"), make_model("b")]
    aviary.on("GET", "/api/models", {"models": models})
    assert json.loads(runner.invoke(app, ["models", "--json"]).stdout) == models


def test_no_models(aviary):
    aviary.on("GET", "/api/models", {"models": []})
    result = runner.invoke(app, ["models"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "aviary run SPEC" in result.stderr


def status_of() -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "backend": "local",
        "url": "http://here:8000",
        "uptime_s": 3725.0,
        "workers": 2,
        "generation": 7,
        "models": {"ready": 1, "starting": 0, "sleeping": 3, "failed": 2, "stopped": 0},
        "dropped_events": 0,
        "requests": {"total": 12, "errors": 3, "dropped_log_records": 0},
    }


def test_status(aviary, make_model):
    aviary.on("GET", "/api/status", status_of())
    aviary.on("GET", "/api/models", {"models": [make_model("a")]})
    text = runner.invoke(app, ["status"]).stdout
    assert "Aviary 0.1.0 at http://here:8000, up 1 h 2 min" in text
    assert "1 ready, 3 sleeping, 2 failed" in text
    assert "12, 3 of them errors" in text
    assert "345" in text
    assert "not kept" not in text
    aviary.on("GET", "/api/status", {**status_of(), "dropped_events": 4})
    assert "Events    4 not kept" in runner.invoke(app, ["status"]).stdout
    data = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    assert data["workers"] == 2
    assert data["list"][0]["id"] == "a"


def test_logs(aviary):
    aviary.on("GET", "/api/logs", {"lines": ["one", "two \x1b[2Jünï"]})
    result = runner.invoke(app, ["logs", "a", "-n", "2"])
    assert result.stdout == "one\ntwo [2Jünï\n"
    assert aviary.calls[-1].params == {"model": "a", "lines": "2"}
    assert json.loads(runner.invoke(app, ["logs", "a", "--json"]).stdout) == [
        "one",
        "two \x1b[2Jünï",
    ]


def test_logs_follow(aviary):
    aviary.on("GET", "/api/logs", lambda call: call.stream([{"line": "one"}, {"line": "漢"}]))
    assert runner.invoke(app, ["logs", "a", "-f"]).stdout == "one\n漢\n"
    assert aviary.calls[-1].params["follow"] == "true"


def test_logs_of_no_model(aviary):
    aviary.on("GET", "/api/logs", lambda call: call.error(404, "model_not_found", "No model a."))
    result = runner.invoke(app, ["logs", "a"])
    assert result.exit_code == 1
    assert result.stderr == "error: No model a. See: aviary models\n"


def test_stop_several_where_one_is_missing(aviary):
    aviary.on("DELETE", "/api/models/a", {"model": "a", "action": "stopped"})
    aviary.on("DELETE", "/api/models/c", {"model": "c", "action": "stopped"})
    result = runner.invoke(app, ["stop", "a", "b", "c"])
    assert result.exit_code == 1
    assert result.stdout == "Stopped a.\nStopped c.\n"
    assert "b" in result.stderr
    result = runner.invoke(app, ["stop", "a", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{"model": "a", "action": "stopped"}]


def event(seq: int, **more: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "time": 1_790_000_000.5 + seq,
        "model": "smollm",
        "kind": "crashed",
        "replica": "smollm/ab12cd",
        "detail": "Killed by signal 9.\n\x1b[2Jlast [bold]line[/]",
        "changed_by": "",
        "field_of_a_later_version": 1,
        **more,
    }


def test_events(aviary):
    change = event(8, kind="changed", replica="", detail="engine.slots: 4 → 8", changed_by="ak_1")
    found = {"events": [event(7), change]}
    aviary.on("GET", "/api/events", found)
    result = runner.invoke(app, ["events", "--model", "smollm", "-n", "2"])
    assert result.exit_code == 0, result.stderr
    assert aviary.calls[-1].params == {"limit": "2", "model": "smollm"}
    head, first, second = result.stdout.splitlines()
    assert head.split() == ["TIME", "MODEL", "WHAT", "REPLICA", "DETAIL", "BY"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_790_000_007.5))
    assert first.startswith(f"{when}  smollm")
    assert "crashed" in first
    assert first.endswith("smollm/ab12cd  Killed by signal 9. [2Jlast [bold]line[/]")
    assert second.split()[3:] == ["changed", "engine.slots:", "4", "→", "8", "ak_1"]
    assert json.loads(runner.invoke(app, ["events", "--json"]).stdout) == found
    assert aviary.calls[-1].params == {"limit": "50"}


def test_no_events(aviary):
    aviary.on("GET", "/api/events", {"events": []})
    result = runner.invoke(app, ["events"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No events.\n")
    assert json.loads(runner.invoke(app, ["events", "--json"]).stdout) == {"events": []}


def test_events_follow(aviary):
    came = [event(7), event(8, kind="ready", detail="", changed_by="aviary")]
    aviary.on("GET", "/api/events", lambda call: call.stream(came))
    result = runner.invoke(app, ["events", "-f", "-m", "smollm"])
    assert aviary.calls[-1].params == {"limit": "50", "model": "smollm", "follow": "true"}
    first, second = result.stdout.splitlines()
    assert first.split()[2:5] == ["smollm", "crashed", "smollm/ab12cd"]
    assert "Killed by signal 9. [2Jlast" in first
    assert second.endswith("ready        smollm/ab12cd  (by aviary)")
    assert first.index("smollm/") == second.index("smollm/")
    result = runner.invoke(app, ["events", "-f", "--json"])
    assert [json.loads(line) for line in result.stdout.splitlines()] == came


def test_events_are_refused_to_users(aviary):
    aviary.on("GET", "/api/events", lambda call: call.error(403, "forbidden", "Needs an admin."))
    result = runner.invoke(app, ["events"])
    assert result.exit_code == 1
    assert result.stderr == "error: Needs an admin.\n"
