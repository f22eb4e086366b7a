"""Comparing models in a real browser, on a real gateway, with real models beside scripted ones."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest
from exploring import LONG_TASKS, SHIFTS, Compare, accessibility
from playwright.sync_api import BrowserContext, Page, expect
from running import Running

SMOL, BRIEF, GEMMA = "smollm2-135m-instruct", "smollm2-135m-brief", "gemma-3-270m"


def figures(compare: Compare, number: int) -> str:
    return compare.column(number).get_by_test_id("figures").inner_text()


def test_three_real_models_stream_side_by_side(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open(SMOL, BRIEF, GEMMA)
    compare.ask("Name three birds that sing at night.")
    seen: set[int] = set()
    answer = compare.column(1).get_by_test_id("answer")
    for _ in range(400):  # it grows while it is watched
        seen.add(len(answer.inner_text()))
        if len(seen) > 4:
            break
        page.wait_for_timeout(20)
    assert len(seen) > 4
    compare.wait_done(3, 60_000)
    for number in (1, 2, 3):
        assert compare.column(number).get_by_test_id("answer").inner_text().strip()
        assert re.search(r"TTFT\s*\d", figures(compare, number)), figures(compare, number)
        assert re.search(r"Tokens/s\s*\d", figures(compare, number)), figures(compare, number)
    expect(page.get_by_text(re.compile("fastest", re.IGNORECASE)).first).to_be_visible()


def milliseconds(text: str, name: str) -> float:
    """A duration among the figures of a column."""
    found = re.search(rf"{name}\s*([\d.]+) (ms|s)", text)
    assert found, text
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def test_times_are_those_of_the_engine(page: Page, aviary: Running) -> None:
    """250 ms to the first token, and 40 gaps of 50 ms to the end: within 5 ms or 2 %.

    Whatever else the machine does makes them later, so the best of some is what is shown rightly.
    """
    compare = Compare(page, aviary.url).open("paced")
    off: list[float] = []
    for number in range(8):
        compare.ask(f"at what time? {number}")
        compare.wait_for(1, "waiting|streaming")
        compare.wait_done(1)
        text = figures(compare, 1)
        ttft_off_ms = abs(milliseconds(text, "TTFT") - 250)
        latency_off_ms = abs(milliseconds(text, "Latency") - 2250)
        off.append(max(ttft_off_ms / 5, latency_off_ms / (0.02 * 2250)))
        if off[-1] <= 1:
            break
    assert min(off) <= 1, off


def test_stop_and_retry(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open("endless", "quick")
    compare.ask("go on")
    answer = compare.column(1).get_by_test_id("answer")
    expect(answer).not_to_be_empty()
    compare.button("Stop column 1").click()
    compare.wait_for(1, "stopped")
    compare.wait_for(2, "done")
    before = answer.inner_text()
    page.wait_for_timeout(500)
    assert answer.inner_text() == before  # nothing more came
    compare.button("Retry column 1").click()
    expect(compare.button("Stop column 1")).to_be_visible()
    expect(answer).not_to_be_empty()
    compare.button("Stop column 1").click()
    compare.wait_for(1, "stopped")


def test_an_error_stays_in_its_column(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open("faulty", "quick")
    compare.ask("hi")
    compare.wait_for(1, "error")
    compare.wait_for(2, "done")
    expect(compare.button("Retry column 1")).to_be_enabled()
    expect(page.get_by_role("button", name="Best: column 1")).to_be_disabled()


def test_a_sleeping_model_wakes_in_its_column(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open("drowsy", "quick")
    compare.ask("good morning")
    compare.wait_for(2, "done")
    expect(compare.column(1).get_by_role("progressbar")).to_be_visible()
    compare.wait_for(1, "done")


def test_vote_change_it_and_see_it_on_the_leaderboard(page: Page, aviary: Running) -> None:
    def votes(model: str) -> int:
        with aviary.client() as client:
            rows = client.get("/api/leaderboard").json()["rows"]
        return next((row["votes"] for row in rows if row["model"] == model), 0)

    before = votes("quick")
    compare = Compare(page, aviary.url).open("quick", "steady")
    compare.ask("who is better?")
    compare.wait_done(2)
    page.get_by_role("button", name="Best: column 1").click()
    expect(page.get_by_role("status").get_by_text("Saved")).to_be_visible()
    assert votes("quick") == before + 1
    tie = page.get_by_role("button", name="Tie", exact=True)
    tie.click()
    expect(tie).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status").get_by_text("Saved")).to_be_visible()
    assert votes("quick") == before + 1  # changed, not a second one
    page.get_by_role("link", name="Leaderboard").click()
    row = page.get_by_role("row", name=re.compile(r"\bquick\b"))
    expect(row).to_contain_text(str(before + 1))


def test_blind_until_the_vote(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open("quick", "steady")
    page.get_by_role("switch", name="Blind").click()
    compare.ask("who am I?")
    compare.wait_done(2)
    for number in (1, 2):
        assert not re.search("quick|steady", compare.column(number).inner_text())
    page.get_by_role("button", name="Best: column 2").click()
    expect(page.get_by_role("status").get_by_text("Saved")).to_be_visible()
    names = {"quick", "steady"}
    expect(compare.column(1)).to_contain_text(re.compile("quick|steady"))
    shown = {name for n in (1, 2) for name in names if name in compare.column(n).inner_text()}
    assert shown == names


def test_multi_turn(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open("quick", "steady")
    page.get_by_role("switch", name="Multi-turn").click()
    compare.ask("first turn")
    compare.wait_done(2)
    compare.ask("second turn")
    expect(compare.column(1).get_by_text("first turn")).to_be_visible()
    expect(compare.column(1).get_by_text("second turn")).to_be_visible()
    compare.wait_done(2)


def test_a_replica_that_dies_while_its_column_streams(page: Page, aviary: Running) -> None:
    compare = Compare(page, aviary.url).open("twins", "quick")
    compare.ask("go on in spite of it")
    answer = compare.column(1).get_by_test_id("answer")
    expect(answer).not_to_be_empty()
    # Which of the two has it is not said: the gateway's header names it to API clients only.
    for replica in aviary.model("twins")["replicas"]:
        if "running" not in replica or replica["running"]:
            psutil.Process(replica["pid"]).kill()
    compare.wait_for(1, "done")
    assert "error" not in figures(compare, 1).lower()
    assert len(answer.inner_text().split()) == 80


def test_a_link_shows_the_comparison_elsewhere(
    page: Page, context: BrowserContext, aviary: Running
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=aviary.url)
    compare = Compare(page, aviary.url).open("quick", "steady")
    compare.ask("to be seen by others")
    compare.wait_done(2)
    compare.button("Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{aviary.url}/battles/")
    answer = compare.column(1).get_by_test_id("answer").inner_text()
    page.goto(link)
    expect(page.get_by_text("to be seen by others").first).to_be_visible()
    expect(Compare(page, aviary.url).column(1).get_by_test_id("answer")).to_have_text(answer)


def test_six_slow_columns_a_vote_and_a_second_tab(
    page: Page, context: BrowserContext, aviary: Running
) -> None:
    """A browser opens six connections a host: comparisons may not use them up."""
    first = Compare(page, aviary.url).open("quick", "steady")
    first.ask("to vote on")
    first.wait_done(2)
    tab = context.new_page()
    slow = Compare(tab, aviary.url).open(*["endless"] * 6)
    slow.ask("six at once")
    for number in range(1, 7):
        expect(slow.column(number).get_by_test_id("answer")).not_to_be_empty()
    page.get_by_role("button", name="Best: column 1").click()
    expect(page.get_by_role("status").get_by_text("Saved")).to_be_visible(timeout=10_000)
    third = context.new_page()
    Compare(third, aviary.url).open("quick", "steady")
    slow.button("Stop all").click()
    slow.wait_for(6, "stopped")


def test_keyboard_only(page: Page, aviary: Running) -> None:
    Compare(page, aviary.url).open("quick", "steady")
    compare = Compare(page, aviary.url)
    compare.prompt.focus()
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    compare.wait_done(2)
    page.keyboard.press("Alt+2")
    assert compare.column(2).evaluate(
        "e => e === document.activeElement || e.contains(document.activeElement)"
    )
    page.keyboard.press("v")
    page.keyboard.press("1")
    expect(page.get_by_role("status").get_by_text("Saved")).to_be_visible()
    expect(page.get_by_role("button", name="Best: column 1")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_on_a_phone(context: BrowserContext, page: Page, aviary: Running) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    compare = Compare(page, aviary.url).open("quick", "steady")
    compare.ask("on the road")
    compare.wait_for(1, "done")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("button", name="Best: column 1").click()
    expect(page.get_by_role("status").get_by_text("Saved")).to_be_visible()


def test_an_answer_of_20_000_tokens_stays_smooth(context: BrowserContext, aviary: Running) -> None:
    page = context.new_page()
    page.add_init_script(LONG_TASKS)
    compare = Compare(page, aviary.url).open("novel")
    page.evaluate("window.longTasks.length = 0")
    compare.ask("a book, please")
    compare.wait_done(1, 120_000)
    assert len(compare.column(1).get_by_test_id("answer").inner_text().split()) >= 20_000
    tasks: list[float] = sorted(page.evaluate("window.longTasks"))
    # Now and then something else has the machine; growing work would show in many of them.
    assert sum(task > 300 for task in tasks) <= 3, tasks[-10:]


def test_the_first_page_is_there_within_a_second(context: BrowserContext, aviary: Running) -> None:
    page = context.new_page()
    page.add_init_script(SHIFTS)
    times = []
    for _ in range(5):
        page.goto("about:blank")
        page.goto(f"{aviary.url}/", wait_until="commit")
        began = page.evaluate("performance.timeOrigin")
        expect(Compare(page, aviary.url).prompt).to_be_editable()
        times.append(page.evaluate("Date.now()") - began)
    page.wait_for_timeout(500)
    assert min(times) < 1_000, times
    assert sum(page.evaluate("window.shifts")) < 0.05


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_read_it(page: Page, aviary: Running, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    compare = Compare(page, aviary.url).open("quick", "steady")
    compare.ask("for all")
    compare.wait_done(2)
    assert accessibility(page) == []
    for path in ("leaderboard", "models", "traffic"):
        page.goto(f"{aviary.url}/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.wait_for_load_state("networkidle") if path != "models" else page.wait_for_timeout(800)
        assert accessibility(page) == [], path


HOSTILE = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\n\n"
    "[click](javascript:window.hit=1) ![pixel](http://example.com/pixel.png)\n\n"
    "\u202eevil\u202c שלום مرحبا \u0000 \ufffd\n\n"
    "<iframe srcdoc='<script>parent.hit=1</script>'>\n\n" + "x" * 20_000
)


def test_hostile_text_is_text(page: Page, aviary: Running, tmp_path: Path) -> None:
    compare = Compare(page, aviary.url).open("echo", "quick")
    compare.ask(HOSTILE)
    compare.wait_done(2)
    with aviary.client() as client:
        body = {"models": [{"model": "echo"}, {"model": "quick"}], "prompt": HOSTILE}
        text = client.post("/api/battles", json=body).text
    battle = re.search(r'"battle":"(bt-[^"]+)"', text)
    assert battle is not None
    page.goto(f"{aviary.url}/battles/{battle[1]}")
    expect(page.get_by_text("window.hit = 1").first).to_be_visible()
    assert page.evaluate("window.hit") is None
    assert page.locator("iframe, script[src='x'], img[src*='example.com']").count() == 0
