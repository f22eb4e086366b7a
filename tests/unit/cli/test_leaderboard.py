"""`aviary leaderboard` against a stand-in server."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from typer.testing import CliRunner

from aviary.cli.main import app

runner = CliRunner()

GOOD = {
    "model": "good",
    "served": True,
    "tags": ["chat", "small"],
    "rank": 1,
    "rating": 1104.4,
    "low": 1050.2,
    "high": 1158.6,
    "votes": 20,
    "pairs": 22,
    "win_rate": 0.75,
    "ttft_p50_ms": 123.4,
    "tokens_per_s": 45.67,
    "mean_answer_tokens": 99.5,
    "cost_per_answer_usd": 0.000123,
    "cost_per_million_tokens_usd": 1.234,
    "answers": 40,
    "last_seen": 1_790_000_000.0,
    "field_of_a_later_version": 1,
}
GONE = {"model": "gone", "served": False, "votes": 20, "rank": None, "rating": None}


def board(aviary: Any, *rows: dict[str, Any], votes: int = 20) -> None:
    aviary.on("GET", "/api/leaderboard", {"votes": votes, "rows": list(rows)})


def test_the_table(aviary):
    board(aviary, GOOD, GONE)
    result = runner.invoke(app, ["leaderboard"])
    assert result.exit_code == 0, result.output
    head, good, gone = result.stdout.splitlines()
    assert head.split()[:4] == ["RANK", "MODEL", "RATING", "95"]
    assert good.split()[:12] == [
        "1", "good", "1104", "1050", "to", "1159", "20", "75%", "123", "45.7", "100", "0.000123",
    ]  # fmt: skip
    assert good.split()[12] == "1.23"
    assert gone.split() == ["-", "gone", "(gone)", "-", "-", "20", *["-"] * 7]
    assert result.stderr == ""


def test_filters_are_the_servers(aviary):
    board(aviary)
    result = runner.invoke(
        app, ["leaderboard", "--task", "code", "--tag", "small", "--since", "7d"]
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert "No such models" in result.stderr
    assert aviary.calls[-1].params == {"task": "code", "tag": "small", "since": "7d"}


def test_json_is_what_the_server_says(aviary):
    board(aviary, GOOD, GONE)
    assert json.loads(runner.invoke(app, ["leaderboard", "--json"]).stdout) == [GOOD, GONE]


def test_csv_has_all_figures(aviary):
    board(aviary, GOOD, GONE)
    result = runner.invoke(app, ["leaderboard", "--csv"])
    good, gone = csv.DictReader(io.StringIO(result.stdout))
    for name in ("model", "rating", "low", "high", "votes", "cost_per_answer_usd", "last_seen"):
        assert good[name] == str(GOOD[name])
    assert good["tags"] == "chat small"
    assert (gone["model"], gone["rating"]) == ("gone", "")


def test_without_votes(aviary):
    board(aviary, GONE, votes=0)
    assert "No votes yet" in runner.invoke(app, ["leaderboard"]).stderr


def test_csv_or_json(aviary):
    assert runner.invoke(app, ["leaderboard", "--csv", "--json"]).exit_code == 2
