"""The Explorer as a person uses it: by roles and names, never by class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

AXE = Path(__file__).parents[2] / "explorer" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


class Compare:
    """The Compare page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, *models: str) -> Compare:
        """Open it with these models, one a column, as a browser that has used it before."""
        self.page.goto(f"{self.url}/")
        expect(self.prompt).to_be_visible()
        self.choose(models)
        return self

    def choose(self, models: Sequence[str]) -> None:
        """Have exactly these columns."""
        for _ in range(6):
            have = self.selects.count()
            if have == len(models):
                break
            if have < len(models):
                self.page.get_by_role("button", name="Add column").click()
            else:
                self.page.get_by_role("button", name=f"Remove column {have}").click()
        for number, model in enumerate(models, 1):
            self.choose_model(number, model)

    def choose_model(self, number: int, model: str) -> None:
        """Choose the model of a column."""
        select = self.page.get_by_role("combobox", name=f"Model of column {number}")
        if model in (select.inner_text() or ""):
            return
        select.click()
        self.page.get_by_role("option", name=re.compile(rf"^{re.escape(model)}\b")).click()

    @property
    def selects(self) -> Locator:
        """The columns' model boxes."""
        return self.page.get_by_role("combobox", name=re.compile(r"^Model of column \d"))

    @property
    def prompt(self) -> Locator:
        """The composer."""
        return self.page.get_by_role("textbox", name="Prompt", exact=True)

    def ask(self, text: str) -> None:
        """Send a prompt."""
        self.prompt.fill(text)
        self.page.get_by_role("button", name="Compare", exact=True).click()

    def column(self, number: int) -> Locator:
        """A column."""
        return self.page.get_by_role("region", name=re.compile(rf"^Column {number}\b"))

    def button(self, name: str | re.Pattern[str]) -> Locator:
        """A button."""
        return self.page.get_by_role("button", name=name)

    def wait_done(self, columns: int, most_ms: float = 30_000) -> None:
        """Wait until so many columns have ended."""
        for number in range(1, columns + 1):
            self.wait_for(number, "done|stopped|error", most_ms)

    def wait_for(self, number: int, phase: str, most_ms: float = 30_000) -> None:
        """Wait for a column to be done, stopped, in error, …"""
        wanted = re.compile(f"^({phase})$")
        expect(self.column(number)).to_have_attribute("data-phase", wanted, timeout=most_ms)


def accessibility(page: Page) -> list[str]:
    """What axe finds wrong, WCAG 2.1 A and AA, contrast included."""
    page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate(
        "rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES
    )
    return [
        f"{wrong['id']}: {wrong['help']}: {node['target']}: {node['failureSummary']}"
        for wrong in found["violations"]
        for node in wrong["nodes"]
    ]


SHIFTS = """
window.shifts = [];
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({type: 'layout-shift', buffered: true});
"""
"""Counts layout shifts from the beginning (`add_init_script`)."""
LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.longTasks.push(entry.duration);
}).observe({type: 'longtask', buffered: true});
"""
"""Counts times in which the page did not answer for more than 50 ms."""
