"""A headless Chromium, steered by Playwright, and who is asked for what."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.waiting import PATIENCE

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 1000 * PATIENCE

REQUIRED = os.environ.get("LIGHTGEN_REQUIRE_BROWSER") == "1"

needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED,
    reason="no `chromium` on PATH: pages are not looked at (Debian: apt install chromium)",
)


@contextmanager
def browser_page(profile: Path, asked: list[str], width: int = 1400, height: int = 1000) -> Iterator:
    """Yield a page of a fresh browser; `asked` receives the host of every request."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "LIGHTGEN_REQUIRE_BROWSER=1, but there is no `chromium` on PATH"
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": width, "height": height},
            timeout=WAIT_MS,
        )
        context.set_default_timeout(WAIT_MS)
        context.on("request", lambda request: asked.append(urlsplit(request.url).hostname or ""))
        yield context.new_page()
        context.close()
