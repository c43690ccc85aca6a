"""A real Chromium that talks to nothing but this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("RUNSTREAM_TEST_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 60_000


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """The browser; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip("no Chromium; scripts/system-packages installs it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def new_tab(browser: Any, **options: Any) -> Any:
    """A tab with a profile of its own."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.route(lambda url: "127.0.0.1" not in url and "localhost" not in url, lambda route: route.abort())
    return page


def until(page: Any, expression: str, argument: Any = None) -> Any:
    """What a function of the page returns once that is true (the page's policy forbids Playwright's own waiting)."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not (found := page.evaluate(expression, argument)):
        if time.monotonic() > deadline:
            shown = page.locator("body").inner_text()[:2000]
            raise AssertionError(f"never true: {expression} ({argument!r}); the page says:\n{shown}")
        page.wait_for_timeout(20)
    return found
