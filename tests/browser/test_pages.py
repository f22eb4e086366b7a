"""Leaderboard, Models and Traffic in a real browser, on a real gateway."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from playwright.sync_api import Page, expect
from running import Running, chat


def test_the_leaderboard_sorts_filters_and_downloads(page: Page, aviary: Running) -> None:
    fight(aviary, "quick", "steady")
    page.goto(f"{aviary.url}/leaderboard")
    table = page.get_by_role("table", name="Leaderboard")
    # The libraries behind the ratings load at the first one, beside the models.
    row = table.get_by_role("row", name=re.compile(r"\bquick\b"))
    expect(row).to_be_visible(timeout=60_000)
    header = table.get_by_role("columnheader", name="Votes")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", re.compile("ascending|descending"))
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    with aviary.client() as client:
        board = client.get("/api/leaderboard").json()["rows"]
    assert [row["model"] for row in rows] == [row["model"] for row in board]


def test_a_model_is_added_changed_and_stopped(page: Page, aviary: Running) -> None:
    page.goto(f"{aviary.url}/models")
    page.get_by_role("button", name="Add model").click()
    page.get_by_role("radio", name="From a spec").click()
    spec = page.get_by_role("textbox", name="Spec")
    spec.fill("id: newcomer\nengine: {kind: fake, slotz: 3}\n")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text(re.compile("slotz")).first).to_be_visible()
    expect(page.get_by_role("button", name="Apply", exact=True)).to_be_disabled()
    spec.fill("id: newcomer\nengine: {kind: fake, slots: 3}\n")
    page.get_by_role("button", name="Preview").click()
    page.get_by_role("button", name="Apply", exact=True).click()
    expect(page.get_by_text("It is served.")).to_be_visible()
    assert aviary.model("newcomer")["state"] == "ready"
    page.keyboard.press("Escape")
    row = page.get_by_role("row", name=re.compile(r"^newcomer\b"))
    expect(row).to_contain_text(re.compile("ready", re.IGNORECASE))
    page.get_by_role("button", name="Stop newcomer").click()
    page.get_by_role("button", name="Stop it").click()
    expect(row).to_have_count(0)
    with aviary.client() as client:
        assert client.get("/api/models/newcomer").status_code == 404


def test_the_models_page_shows_a_replica_that_dies_and_comes_back(
    page: Page, aviary: Running
) -> None:
    page.goto(f"{aviary.url}/models")
    row = page.get_by_role("row", name=re.compile(r"^steady\b"))
    expect(row).to_contain_text(re.compile("ready", re.IGNORECASE))
    psutil.Process(aviary.model("steady")["replicas"][0]["pid"]).kill()
    expect(row).to_contain_text(re.compile("starting|failed", re.IGNORECASE))
    expect(row).to_contain_text(re.compile("ready", re.IGNORECASE), timeout=20_000)


def test_sleep_and_wake(page: Page, aviary: Running) -> None:
    page.goto(f"{aviary.url}/models")
    row = page.get_by_role("row", name=re.compile(r"^quick\b"))
    page.get_by_role("button", name="Sleep quick").click()
    expect(row).to_contain_text(re.compile("sleep", re.IGNORECASE))
    page.get_by_role("button", name="Wake quick").click()
    expect(row).to_contain_text(re.compile("ready", re.IGNORECASE))


def test_traffic_after_load(page: Page, aviary: Running) -> None:
    with aviary.client() as client:
        for number in range(20):
            answer = client.post("/v1/chat/completions", json=chat("quick", f"load {number}"))
            assert answer.status_code == 200
    page.goto(f"{aviary.url}/traffic")
    page.get_by_role("radio", name="5 min").click()
    table = page.get_by_role("table", name="Models in this period")
    row = table.get_by_role("row", name=re.compile(r"\bquick\b"))
    # The log is written behind the answers, and the page asks every few seconds.
    expect(row.get_by_role("cell").first).to_have_text(re.compile(r"^\d{2,}$"), timeout=20_000)
    assert int(row.get_by_role("cell").first.inner_text()) >= 20
    for name in ("1 h", "24 h", "7 d", "30 d"):
        page.get_by_role("radio", name=name).click()
        expect(row).to_be_visible()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Running, str]]:
    """An Aviary with keys, and its admin's."""
    spec = tmp_path / "m.yaml"
    spec.write_text("id: m\nengine: {kind: fake, slots: 8}\n")
    with Running(tmp_path / "h", str(spec), "--workers", "1") as running:
        with running.client() as client:
            answer = client.post("/api/keys", json={"name": "ops", "role": "admin"})
        yield running, answer.json()["secret"]


def test_visitors_compare_and_admins_change(page: Page, guarded: tuple[Running, str]) -> None:
    running, secret = guarded
    page.goto(f"{running.url}/models")
    expect(page.get_by_role("row", name=re.compile(r"^m\b"))).to_be_visible()
    expect(page.get_by_role("button", name="Add model")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop m")).to_have_count(0)
    page.get_by_role("button", name="visitor").click()
    page.get_by_role("textbox", name="Key").fill(secret)
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("button", name="Add model")).to_be_visible()
    expect(page.get_by_role("button", name="admin")).to_be_visible()


def fight(aviary: Running, *models: str) -> None:
    """A battle with a vote for its first column."""
    with aviary.client() as client:
        body = {"models": [{"model": name} for name in models], "prompt": "x", "session": "s"}
        battle = battle_of(client.post("/api/battles", json=body))
        vote = {"battle": battle, "session": "s", "verdict": "best", "column": 0}
        assert client.post("/api/votes", json=vote).status_code == 200


def battle_of(answer: httpx2.Response) -> str:
    """The id in a battle's first event."""
    found = re.search(r'"battle":"(bt-[^"]+)"', answer.text)
    assert found is not None
    return found[1]
