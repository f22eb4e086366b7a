"""models, status, logs, stop and run against a stand-in server."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from aviary.cli.main import app

runner = CliRunner()

SPEC = "id: a\nengine: {kind: fake}\nscaling: {signal: {queue: 2}}\nlimits: {wait: 5s}\n"


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
        "models": {"ready": 1, "starting": 0, "failed": 2, "stopped": 0},
        "requests": {"total": 12, "errors": 3, "dropped_log_records": 0},
    }


def test_status(aviary, make_model):
    aviary.on("GET", "/api/status", status_of())
    aviary.on("GET", "/api/models", {"models": [make_model("a")]})
    text = runner.invoke(app, ["status"]).stdout
    assert "Aviary 0.1.0 at http://here:8000, up 1 h 2 min" in text
    assert "1 ready, 2 failed" in text
    assert "12, 3 of them errors" in text
    assert "345" in text
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


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(SPEC)
    return str(path)


def test_run_without_waiting_posts_a_spec_that_can_be_read_again(aviary, spec):
    from aviary.config.spec import ModelSpec

    aviary.on("POST", "/api/models", lambda call: call.json({"model": "a", "action": "added"}, 202))
    result = runner.invoke(app, ["run", spec, "--no-wait"])
    assert result.exit_code == 0, result.stderr
    assert "a: added." in result.stdout
    assert "aviary query -m a" in result.stdout
    sent = ModelSpec.model_validate(aviary.calls[-1].body)
    assert sent.limits.wait == 5
    assert sent.scaling.signal is not None


class Starting:
    """A model that goes through states, one at each look after it was added."""

    def __init__(self, aviary, make_model, states: list[str]) -> None:
        self._make, self._states, self._added = make_model, states, False
        aviary.on("POST", "/api/models", self.add)
        aviary.on("GET", "/api/models/a", self.show)
        aviary.on("GET", "/api/models/a/events", self.events)

    def add(self, call) -> None:
        self._added = True
        call.json({"model": "a", "action": "added"}, 202)

    def show(self, call) -> None:
        if not self._added:
            call.error(404, "model_not_found", "No model a.")
            return
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        detail = "out of memory" if state == "failed" else ""
        replicas = [{"id": "a/1", "state": state, "detail": detail}]
        call.json(self._make("a", state=state, replicas=replicas))

    def events(self, call) -> None:
        loading = {"time": 1, "state": "starting", "replica": "a/1", "detail": "loading"}
        events = [{**loading, "progress": progress} for progress in (0.1, 0.2, 0.9)]
        last = {"time": 2, "state": self._states[-1], "replica": "a/1", "detail": ""}
        call.stream([*events, last], gap=0.01)


def test_run_waits_until_ready(aviary, make_model, spec):
    Starting(aviary, make_model, ["starting", "ready"])
    result = runner.invoke(app, ["run", spec])
    assert result.exit_code == 0, result.stderr
    assert "a: added, ready." in result.stdout
    assert "starting: loading 10%" in result.stderr
    assert "20%" not in result.stderr  # no line for each percent where nobody watches


def test_run_asks_again_when_the_stream_ends_too_early(aviary, make_model, spec):
    Starting(aviary, make_model, ["starting", "starting", "starting", "starting", "ready"])
    aviary.on("GET", "/api/models/a/events", lambda call: call.stream([]))
    assert runner.invoke(app, ["run", spec]).exit_code == 0


def test_run_tells_why_it_failed(aviary, make_model, spec):
    Starting(aviary, make_model, ["starting", "failed"])
    result = runner.invoke(app, ["run", spec, "--json"])
    assert result.exit_code == 1
    assert "error: a did not start: out of memory. See: aviary logs a" in result.stderr
    assert result.stdout == ""


def test_run_with_a_bad_spec_asks_nobody(aviary, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("id: a\nengine: {kind: fak}\n")
    result = runner.invoke(app, ["run", str(path)])
    assert result.exit_code == 1
    assert f"error: {path}:2:16: engine.kind: unknown engine kind fak. Did you mean fake?" in (
        result.stderr
    )
    assert aviary.calls == []
