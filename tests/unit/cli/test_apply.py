"""apply and run against a stand-in server."""

from __future__ import annotations

import contextlib
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
from typer.testing import CliRunner

from aviary.cli import applying
from aviary.cli.apply import VALUE_CHARACTERS, shown_values
from aviary.cli.main import app
from aviary.config.spec import ModelSpec

AVIARY = [sys.executable, "-P", "-m", "aviary.cli.main"]
SPEC = "id: a\nengine: {kind: fake}\nscaling: {signal: {queue: 2}}\nlimits: {wait: 5s}\n"
runner = CliRunner()


def change(model: str, action: str, *fields: tuple[str, Any, Any], restarts: bool = True) -> Any:
    shown = [{"field": name, "before": old, "after": new} for name, old, new in fields]
    return {"model": model, "action": action, "restarts": restarts, "fields": shown}


def outcome(model: str, state: str, detail: str = "", log: tuple[str, ...] = ()) -> Any:
    return {"model": model, "state": state, "detail": detail, "log": list(log)}


class Server:
    """A stand-in that takes an apply and goes through the given looks at it, one a question."""

    def __init__(self, aviary: Any, changes: list[Any], *looks: list[Any]) -> None:
        self.changes, self.looks, self.bodies = changes, list(looks), []
        self.models: list[Any] = []
        aviary.on("POST", "/api/apply", self.apply)
        aviary.on("GET", "/api/apply/ap-1", self.look)
        aviary.on("GET", "/api/models", lambda call: call.json({"models": self.models}))

    def apply(self, call: Any) -> None:
        self.bodies.append(call.body)
        changes = self.changes
        if not call.body["prune"]:
            changes = [c | ({"action": "kept"} if c["action"] == "pruned" else {}) for c in changes]
        identity = None if call.body["dry_run"] else "ap-1"
        call.json({"id": identity, "changes": changes}, 202)

    def look(self, call: Any) -> None:
        models = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        done = all(model["state"] != "rolling" for model in models)
        call.json({"id": "ap-1", "done": done, "models": models})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.yaml").write_text(SPEC)
    (folder / "b.yaml").write_text("id: b\nengine: {kind: fake}\n")
    return folder


@pytest.fixture
def spec(folder):
    return str(folder / "a.yaml")


def test_shows_the_diff_and_waits(aviary, make_model, folder):
    server = Server(
        aviary,
        [
            change("a", "added"),
            change("b", "changed", ("engine.slots", 4, 8), ("price", None, {"usd_per_hour": 0.5})),
            change("c", "unchanged", restarts=False),
            change("d", "changed", ("scaling.min_replicas", 1, 2), restarts=False),
            change("e", "pruned"),
        ],
        [outcome("a", "rolling"), outcome("b", "rolling"), outcome("c", "ready", "unchanged")],
        [outcome("a", "rolling"), outcome("b", "ready"), outcome("c", "ready", "unchanged")],
        [
            *(outcome("a", "ready"), outcome("b", "ready"), outcome("c", "ready", "unchanged")),
            outcome("d", "sleeping"),
        ],
    )
    loading = {"id": "a/1", "state": "starting", "detail": "loading", "progress": 0.4}
    server.models = [make_model("a", state="starting", replicas=[loading])]
    result = runner.invoke(app, ["apply", str(folder)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (
        "+ a\n"
        "~ b\n"
        "    engine.slots: 4 → 8\n"
        '    price: (not set) → {"usd_per_hour": 0.5}\n'
        "= c\n"
        "~ d (restarts nothing)\n"
        "    scaling.min_replicas: 1 → 2\n"
        "  e is not in these files (kept; --prune removes it)\n"
        "1 added, 2 changed, 1 unchanged\n"
        "a: ready\n"
        "b: ready\n"
        "d: sleeping\n"
    )
    assert "a: rolling (loading 40%)\n" in result.stderr
    assert result.stderr.count("a: rolling") == 1  # a line a change of state
    assert "c: " not in result.stderr
    (body,) = server.bodies
    assert {name: body[name] for name in body if name != "specs"} == {
        "prune": False,
        "dry_run": False,
        "rollback": True,
    }
    sent = [ModelSpec.model_validate(one) for one in body["specs"]]
    assert [one.id for one in sent] == ["a", "b"]
    assert sent[0].limits.wait == 5
    assert sent[0].scaling.signal is not None


def test_a_version_that_cannot_start(aviary, folder):
    lines = tuple(f"line {number}" for number in range(30))
    Server(
        aviary,
        [change("a", "added"), change("b", "changed", ("engine.slots", 4, 8))],
        [
            outcome("a", "rolled_back", "out of memory.", lines),
            outcome("b", "rolled_back", "no \x1b[2Jtemplate"),
        ],
    )
    result = runner.invoke(app, ["apply", str(folder)])
    assert result.exit_code == 1
    assert "ready" not in result.stdout
    assert result.stderr.splitlines() == [
        "error: a did not start and was removed again: out of memory.",
        "The engine's last lines:",
        *(f"    line {number}" for number in range(10, 30)),
        "error: b did not start and was rolled back to the version before: no [2Jtemplate.",
    ]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("failed", "error: a did not start: no weights. See: aviary logs a"),
        ("superseded", "error: a was changed again before it was ready."),
        ("removed", "error: a was stopped before it was ready."),
    ],
)
def test_other_ends_of_a_change(aviary, spec, state: str, says: str):
    Server(aviary, [change("a", "added")], [outcome("a", state, "no weights")])
    result = runner.invoke(app, ["apply", spec, "--no-rollback"])
    assert result.exit_code == 1
    assert result.stderr.strip() == says
    assert aviary.calls[0].body["rollback"] is False


def test_nothing_to_change(aviary, spec):
    server = Server(aviary, [change("a", "unchanged")], [outcome("a", "ready", "unchanged")])
    result = runner.invoke(app, ["apply", spec])
    assert (result.exit_code, result.stdout) == (0, "= a\n1 unchanged\n")
    assert result.stderr == "Nothing to change.\n"
    assert len(server.bodies) == 1


def test_dry_run_changes_nothing(aviary, spec):
    server = Server(aviary, [change("a", "added"), change("e", "pruned")], [])
    result = runner.invoke(app, ["apply", spec, "--dry-run", "--prune"])
    assert (result.exit_code, result.stdout) == (0, "+ a\n- e (pruned)\n1 added, 1 pruned\n")
    assert result.stderr == "Nothing was changed (--dry-run).\n"
    result = runner.invoke(app, ["apply", spec, "--dry-run", "--json"])
    shown = json.loads(result.stdout)
    assert shown["id"] is None
    assert [entry["action"] for entry in shown["changes"]] == ["added", "kept"]
    assert [body["dry_run"] for body in server.bodies] == [True, True]
    assert [call.method for call in aviary.calls] == ["POST", "POST"]


def test_prune_without_a_terminal_asks_nobody(aviary, spec):
    server = Server(
        aviary,
        [change("a", "unchanged"), change("e", "pruned")],
        [outcome("a", "ready"), outcome("e", "removed")],
    )
    result = runner.invoke(app, ["apply", spec, "--prune"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "= a\n- e (pruned)\n1 unchanged, 1 pruned\ne: removed\n"
    assert [(body["prune"], body["dry_run"]) for body in server.bodies] == [(True, False)]


def test_json_is_one_object(aviary, spec):
    changes = [change("a", "changed", ("engine.slots", 4, 8))]
    failed = outcome("a", "rolled_back", "out of memory", ("last line",))
    Server(aviary, changes, [outcome("a", "rolling")], [failed])
    result = runner.invoke(app, ["apply", spec, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "id": "ap-1",
        "changes": changes,
        "done": True,
        "models": [failed],
    }
    assert "rolling" not in result.stderr
    assert "out of memory" in result.stderr


def test_no_wait(aviary, spec):
    Server(aviary, [change("a", "added")], [])
    result = runner.invoke(app, ["apply", spec, "--no-wait"])
    assert (result.exit_code, result.stdout) == (0, "+ a\n1 added\n")
    assert "in the background" in result.stderr
    assert [call.method for call in aviary.calls] == ["POST"]
    shown = json.loads(runner.invoke(app, ["apply", spec, "--no-wait", "--json"]).stdout)
    assert (shown["id"], shown["done"], shown["models"]) == ("ap-1", False, [])


def test_timeout(aviary, spec):
    Server(aviary, [change("a", "added")], [outcome("a", "rolling")])
    began = time.monotonic()
    result = runner.invoke(app, ["apply", spec, "--timeout", "0.3"])
    assert 0.3 <= time.monotonic() - began < 5
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: a was not ready in time. It goes on. See: aviary status --watch"
    )


def test_bad_files_reach_nobody(aviary, folder):
    (folder / "c.yaml").write_text("id: a\nengine: {kind: fake}\n")
    (folder / "d.yaml").write_text("id: d\nengine: {kind: fak}\n")
    result = runner.invoke(app, ["apply", str(folder)])
    assert result.exit_code == 1
    assert "2 problems" in result.stderr
    assert "d.yaml:2:16: engine.kind: unknown engine kind fak." in result.stderr
    assert aviary.calls == []


def test_what_the_server_refuses_ends_it(aviary, spec):
    aviary.on("POST", "/api/apply", lambda call: call.error(507, "does_not_fit", "a needs 90 GB."))
    result = runner.invoke(app, ["apply", spec])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "a needs 90 GB." in result.stderr


def test_an_aviary_that_is_away_for_a_moment_is_waited_for(aviary, spec):
    server = Server(aviary, [change("a", "added")], [outcome("a", "ready")])
    looks = 0

    def look(call: Any) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            call.http.connection.close()  # a gateway worker was killed
            call.http.close_connection = True
        elif looks == 2:
            call.error(503, "model_not_ready", "The control process does not answer.")
        else:
            server.look(call)

    aviary.on("GET", "/api/apply/ap-1", look)
    result = runner.invoke(app, ["apply", spec])
    assert result.exit_code == 0, result.stderr
    assert looks == 3


def test_patience_ends(aviary, spec, monkeypatch):
    monkeypatch.setattr(applying, "PATIENCE_S", 0.2)
    Server(aviary, [change("a", "added")], [])
    aviary.on("GET", "/api/apply/ap-1", lambda call: call.error(503, "model_not_ready", "Away."))
    result = runner.invoke(app, ["apply", spec])
    assert (result.exit_code, result.stderr) == (1, "error: Away.\n")


def test_an_aviary_that_was_restarted_does_not_know_the_apply(aviary, spec):
    Server(aviary, [change("a", "added")], [])
    aviary.on("GET", "/api/apply/ap-1", lambda call: call.error(404, "not_found", "No apply ap-1."))
    result = runner.invoke(app, ["apply", spec])
    assert (result.exit_code, result.stderr) == (1, "error: No apply ap-1.\n")


@pytest.mark.parametrize("command", ["apply", "run"])
def test_ctrl_c_stops_the_waiting_only(aviary, spec, command: str):
    Server(aviary, [change("a", "added")], [outcome("a", "rolling")])
    with subprocess.Popen(
        [*AVIARY, command, spec], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        deadline_s = time.monotonic() + 20
        while len(aviary.calls) < 4 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert errors.endswith("Stopped waiting; the change goes on. See: aviary status --watch\n")
    assert "Traceback" not in errors
    assert {call.method for call in aviary.calls[1:]} == {"GET"}  # nothing was taken back


class Terminal:
    """A command on a real terminal."""

    def __init__(self, *arguments: str) -> None:
        self.text = ""
        self._ours, theirs = pty.openpty()
        self.child = subprocess.Popen(
            [*AVIARY, *arguments], stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)

    def read_until(self, text: str) -> None:
        while text not in self.text:
            piece = os.read(self._ours, 4096).decode(errors="replace")
            self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", piece)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Read to the end; returns the exit status."""
        with contextlib.suppress(OSError):  # how Linux says that nobody holds the other side
            self.read_until("\0never")
        os.close(self._ours)
        return self.child.wait(timeout=20)


@pytest.fixture
def prune_server(aviary) -> Server:
    return Server(
        aviary,
        [change("a", "unchanged"), change("old", "pruned"), change("older", "pruned")],
        [outcome("old", "removed"), outcome("older", "removed")],
    )


def test_a_person_is_asked_before_pruning(prune_server, spec):
    terminal = Terminal("apply", spec, "--prune")
    terminal.read_until("Stop old, older, which the files do not name? [y/N]")
    assert [body["dry_run"] for body in prune_server.bodies] == [True]
    terminal.type("y\n")
    assert terminal.end() == 0
    assert terminal.text.count("- old (pruned)") == 1
    assert "older: removed" in terminal.text
    assert [body["dry_run"] for body in prune_server.bodies] == [True, False]
    assert [body["prune"] for body in prune_server.bodies] == [True, True]


def test_a_person_may_say_no(prune_server, spec):
    terminal = Terminal("apply", spec, "--prune")
    terminal.read_until("[y/N]")
    terminal.type("n\n")
    assert terminal.end() == 1
    assert "Nothing was changed." in terminal.text
    assert [body["dry_run"] for body in prune_server.bodies] == [True]


def test_a_person_who_said_yes_before_is_not_asked(prune_server, spec):
    terminal = Terminal("apply", spec, "--prune", "--yes")
    assert terminal.end() == 0
    assert "[y/N]" not in terminal.text
    assert [body["dry_run"] for body in prune_server.bodies] == [False]


def test_a_terminal_shows_progress_in_its_place(aviary, make_model, spec):
    rolling, ready = [outcome("a", "rolling")], [outcome("a", "ready")]
    server = Server(aviary, [change("a", "added")], rolling, rolling, rolling, ready)
    loading = {"id": "a/1", "state": "starting", "detail": "loading [bold]it[/]", "progress": 0.4}
    server.models = [make_model("a", state="starting", replicas=[loading])]
    terminal = Terminal("apply", spec)
    assert terminal.end() == 0
    assert "rolling loading [bold]it[/] 40%" in re.sub(" +", " ", terminal.text)
    assert terminal.text.rstrip().endswith("a: ready")


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (1, None, ("1", "(not set)")),
        ("a\nb", ["ä"], ('"a\\nb"', '["ä"]')),
        (True, 1.5, ("true", "1.5")),
    ],
)
def test_values(before: Any, after: Any, shown: tuple[str, str]):
    assert shown_values(before, after) == shown


def test_long_values_are_shown_where_they_differ():
    before, after = shown_values("x" * 500 + "old" + "y" * 500, "x" * 500 + "new" + "y" * 500)
    assert "xxoldyy" in before
    assert "xxnewyy" in after
    assert max(len(before), len(after)) <= VALUE_CHARACTERS
    assert shown_values("", "z" * 100)[1].startswith('"zzz')
    short, cut = shown_values("x" * 100, "x" * 101)
    assert short != cut


class TestRun:
    def test_without_waiting_posts_a_spec_that_can_be_read_again(self, aviary, spec):
        server = Server(aviary, [change("a", "added"), change("z", "pruned")], [])
        result = runner.invoke(app, ["run", spec, "--no-wait"])
        assert result.exit_code == 0, result.stderr
        assert "a: added." in result.stdout
        assert "aviary query -m a" in result.stdout
        assert "aviary logs a -f" in result.stderr
        (body,) = server.bodies
        sent = ModelSpec.model_validate(body["specs"][0])
        assert sent.limits.wait == 5
        assert sent.scaling.signal is not None
        assert (body["prune"], body["dry_run"], body["rollback"]) == (False, False, True)

    def test_waits_until_ready(self, aviary, make_model, spec):
        rolling = [outcome("a", "rolling")]
        server = Server(aviary, [change("a", "added")], rolling, rolling, [outcome("a", "ready")])
        loading = {"id": "a/1", "state": "starting", "detail": "loading", "progress": 0.1}
        server.models = [make_model("a", state="starting", replicas=[loading])]
        result = runner.invoke(app, ["run", spec])
        assert result.exit_code == 0, result.stderr
        assert "a: added, ready." in result.stdout
        assert result.stderr == "a: rolling (loading 10%)\n"

    def test_json(self, aviary, spec):
        Server(aviary, [change("a", "changed")], [outcome("a", "ready")])
        result = runner.invoke(app, ["run", spec, "--json"])
        assert json.loads(result.stdout) == {"model": "a", "action": "changed", "state": "ready"}

    def test_tells_why_it_failed(self, aviary, spec):
        failed = outcome("a", "rolled_back", "out of memory", ("mmap failed",))
        Server(aviary, [change("a", "added")], [failed])
        result = runner.invoke(app, ["run", spec, "--json"])
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.splitlines() == [
            "error: a did not start and was removed again: out of memory.",
            "The engine's last lines:",
            "    mmap failed",
        ]

    def test_what_is_served_so_already_may_still_be_starting(self, aviary, make_model, spec):
        Server(aviary, [change("a", "unchanged")], [outcome("a", "ready", "unchanged")])
        states = ["starting", "ready"]
        aviary.on(
            "GET", "/api/models/a", lambda call: call.json(make_model("a", state=states.pop(0)))
        )
        result = runner.invoke(app, ["run", spec])
        assert result.exit_code == 0, result.stderr
        assert "a: unchanged, ready." in result.stdout
        assert states == []

    def test_what_is_served_so_already_may_have_failed(self, aviary, make_model, spec):
        Server(aviary, [change("a", "unchanged")], [outcome("a", "ready", "unchanged")])
        replicas = [{"id": "a/1", "state": "failed", "detail": "out of memory"}]
        aviary.on("GET", "/api/models/a", make_model("a", state="failed", replicas=replicas))
        result = runner.invoke(app, ["run", spec])
        assert result.exit_code == 1
        assert "error: a did not start: out of memory. See: aviary logs a" in result.stderr

    def test_with_a_bad_spec_asks_nobody(self, aviary, tmp_path):
        path = tmp_path / "bad.yaml"
        path.write_text("id: a\nengine: {kind: fak}\n")
        result = runner.invoke(app, ["run", str(path)])
        assert result.exit_code == 1
        problem = f"{path}:2:16: engine.kind: unknown engine kind fak. Did you mean fake?"
        assert f"error: {problem}" in result.stderr
        assert aviary.calls == []
