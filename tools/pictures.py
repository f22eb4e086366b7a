"""Take the Explorer's pictures for the documentation: `uv run python tools/pictures.py`.

Needs Chromium and the weights of the starter catalog. Each page is taken in light and dark, on a
desk and on a phone; look at all of them before committing.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "browser")]

from exploring import Compare  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402
from running import Running, chat  # noqa: E402

from aviary.config.loader import catalog_dir  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
MODELS = ("smollm2-135m-instruct", "smollm2-135m-brief", "gemma-3-270m")
PROMPT = "Tell me about the nightingale and its song."
QUESTIONS = (
    "What is a heron?",
    "Write one sentence about wrens.",
    "Name three rivers.",
    "Explain what a feather is made of.",
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def main() -> None:
    """Take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        Running(Path(home), str(catalog_dir()), start_s=600) as running,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        fill(running)
        for theme in ("light", "dark"):
            for name, width, height in (("", 1440, 900), ("-phone", 390, 844)):
                take(browser, running, theme, (width, height), f"{name}-{theme}.png")


def fill(running: Running) -> None:
    """Some traffic and votes, so that the pages have something to show."""
    with running.client() as client:
        for number, question in enumerate(QUESTIONS * 2):
            for model in MODELS:
                client.post("/v1/chat/completions", json=chat(model, question, max_tokens=60))
            body = {
                "models": [{"model": model, "parameters": {"max_tokens": 60}} for model in MODELS],
                "prompt": question,
                "session": f"s{number}",
                "task": "question answering",
            }
            text = client.post("/api/battles", json=body).text
            battle = text.split('"battle":"', 1)[1].split('"', 1)[0]
            best = {"verdict": "best", "column": (0, 0, 1, 0, 2, 0, 1, 0)[number]}
            vote = {"battle": battle, "session": f"s{number}", **best}
            client.post("/api/votes", json=vote)


def take(browser: Browser, running: Running, theme: str, size: tuple[int, int], name: str) -> None:
    """Take every page."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if theme == "dark" else "light",
        has_touch=size[0] < 600,
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    compare = Compare(page, running.url).open(*MODELS)
    compare.ask(PROMPT)
    compare.wait_done(3, 120_000)
    shoot(page, f"compare{name}")
    if size[0] < 900:
        page.get_by_role("button", name="Options").click()
    page.get_by_role("switch", name="Blind").click()
    page.keyboard.press("Escape")
    compare.ask("What do owls eat?")
    compare.wait_done(3, 120_000)
    shoot(page, f"blind{name}")
    page.goto(f"{running.url}/leaderboard")
    expect(page.get_by_role("row", name=re.compile(MODELS[0]))).to_be_visible()
    shoot(page, f"leaderboard{name}")
    page.goto(f"{running.url}/models")
    expect(page.get_by_role("row", name=re.compile(MODELS[0]))).to_be_visible()
    shoot(page, f"models{name}")
    page.goto(f"{running.url}/traffic")
    expect(page.get_by_role("row", name=re.compile(MODELS[0]))).to_be_visible()
    shoot(page, f"traffic{name}")
    context.close()


def shoot(page: Page, name: str) -> None:
    """One picture, when the page has come to rest."""
    page.wait_for_timeout(1_500)
    page.screenshot(path=PICTURES / name)


if __name__ == "__main__":
    main()
