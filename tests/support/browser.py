"""Debian's Chromium, driven by playwright; pages are watched for errors and foreign requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

# What a machine that does much else takes for a step of a page, in milliseconds.
PATIENCE = 60_000
# Kept on the window, since what the console says of a policy is for people.
_WATCH = """
window.broken = [];
document.addEventListener('securitypolicyviolation',
  one => broken.push(`${one.violatedDirective} ${one.blockedURI}`));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = (1440, 900),
    refused: bool = False,
    script: str = "",
    clock: float | None = None,
    **context: Any,
) -> Iterator[Page]:
    """Open a page in a context of its own, and fail if it does anything that it should not.

    With `refused`, requests may fail, and the console may say so. `script` runs before that of the page. From
    `clock` on (Unix time), its clock goes as the test says.
    """
    home = browser.new_context(viewport={"width": size[0], "height": size[1]}, **context)
    home.set_default_timeout(PATIENCE)
    said: list[str] = []
    asked: list[str] = []
    page = home.new_page()
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("console", lambda line: said.append(f"{line.type}: {line.text}"))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (said.append(f"error: dialog {dialog.message}"), dialog.dismiss()))
    page.add_init_script(_WATCH + script)
    if clock is not None:
        page.clock.install(time=clock)
    try:
        page.goto(url)
        yield page
        assert page.evaluate("window.broken") == []
    finally:
        home.close()
    origin = "/".join(url.split("/")[:3])
    foreign = [one for one in asked if not one.startswith((f"{origin}/", "data:"))]
    assert foreign == [], foreign
    wrong = [line for line in said if line.startswith(("error", "warning"))]
    wrong = [line for line in wrong if not (refused and "Failed to load resource" in line)]
    assert wrong == [], wrong


def accessible(page: Page) -> None:
    """Fail if axe-core finds anything, by any of its rules."""
    found = Axe().run(page).response["violations"]
    wrong = [(one["id"], [node["html"][:200] for node in one["nodes"]][:4]) for one in found]
    assert wrong == [], wrong


def fits(page: Page) -> None:
    """Fail if anything is wider than the window."""
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert not wide, "the page scrolls sideways"
