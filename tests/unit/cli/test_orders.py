"""scale, sleep and wake against a stand-in server."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aviary.cli.main import app

runner = CliRunner()


def test_scale(aviary):
    answer = {"model": "a", "action": "changed", "apply": "ap-1"}
    aviary.on("POST", "/api/models/a/scale", answer)
    result = runner.invoke(app, ["scale", "a", "3"])
    assert (result.exit_code, result.stdout) == (0, "Scaled a to 3.\n")
    assert aviary.calls[-1].body == {"replicas": 3}
    assert json.loads(runner.invoke(app, ["scale", "a", "0", "--json"]).stdout) == answer
    aviary.on("POST", "/api/models/a/scale", {**answer, "action": "unchanged"})
    assert "has 3 already" in runner.invoke(app, ["scale", "a", "3"]).stdout


def test_scale_to_what_cannot_be(aviary):
    assert runner.invoke(app, ["scale", "a", "--", "-1"]).exit_code == 2
    assert not aviary.calls
    aviary.on("POST", "/api/models/a/scale", lambda call: call.error(422, "does_not_fit", "No."))
    result = runner.invoke(app, ["scale", "a", "9"])
    assert (result.exit_code, result.stderr) == (1, "error: No.\n")


@pytest.mark.parametrize(
    ("verb", "action", "words"),
    [
        ("sleep", "sleeps", "a goes to sleep.\n"),
        ("sleep", "unchanged", "a sleeps already.\n"),
        ("wake", "wakes", "a wakes.\n"),
        ("wake", "unchanged", "a is awake already.\n"),
    ],
)
def test_sleep_and_wake(aviary, verb, action, words):
    answer = {"model": "a", "action": action}
    aviary.on("POST", f"/api/models/a/{verb}", answer)
    result = runner.invoke(app, [verb, "a"])
    assert (result.exit_code, result.stdout) == (0, words)
    result = runner.invoke(app, [verb, "b", "a", "--json"])
    assert result.exit_code == 1  # there is no b
    assert json.loads(result.stdout) == [answer]
    assert "b" in result.stderr
