"""A real browser before a real Aviary: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from running import Running

from aviary.config.loader import catalog_dir

CHROMIUM = os.environ.get("AVIARY_TEST_CHROMIUM", "chromium")
# As root (in containers) it has no sandbox; and it shall ask no host by itself.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which(CHROMIUM)
    assert program, f"These tests need {CHROMIUM}: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page; what it says on its console, or asks of other hosts, fails the test at its end."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda message: (
            wrong.append(message.text) if message.type in {"error", "warning"} else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1", "data:", "blob:"))
            else wrong.append(f"asked {request.url}")
        ),
    )
    yield page
    assert not wrong, wrong


# A null byte cannot stand in YAML; the test of hostile text sends one in the prompt.
ECHO = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\\n\\n"
    "[click](javascript:window.hit=1) ![pixel](http://example.com/pixel.png)\\n\\n"
    "\\u202eevil\\u202c \\u0645\\u0631\\u062d\\u0628\\u0627 </div></section>\\n\\n"
    "```html\\n<b>an open fence\\n"
)
DEAR = "{usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 4}"
CHEAP = "{usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 1}"
SPECS = {
    "quick": f"{{kind: fake, tokens: 30, slots: 32, gap: 5ms}}\nprice: {DEAR}",
    "steady": f"{{kind: fake, tokens: 60, slots: 32, gap: 10ms}}\nprice: {CHEAP}",
    "paced": "{kind: fake, tokens: 40, slots: 32, time_to_first_token: 250ms, gap: 50ms}",
    "endless": "{kind: fake, tokens: 3000, slots: 32, gap: 50ms}",
    "novel": "{kind: fake, tokens: 20000, context_length: 40000, slots: 4, gap: 1ms}",
    "faulty": "{kind: fake, tokens: 10, faults: [{kind: error}]}\ncontinue_streams: false",
    "twins": "{kind: fake, tokens: 80, slots: 32, gap: 50ms}\nscaling: {min_replicas: 2}",
    "drowsy": "{kind: fake, tokens: 10, start: 2s}\nscaling: {idle: {after: 1s, then: sleep}}",
    "echo": f'{{kind: fake, says: "{ECHO}"}}',
}


@pytest.fixture(scope="session")
def aviary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The starter catalog's real models, and scripted ones beside them."""
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\nengine: {text}\n")
    home = tmp_path_factory.mktemp("explorer")
    specs = [str(catalog_dir()), str(folder)]
    with Running(home, *specs, "--workers", "2", start_s=600) as running:
        yield running
