"""A real browser for tests of pages: Debian's Chromium, without a window and without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Pictures of pages are kept here, so that a person can look at them.
PICTURES = ROOT / "build" / "pictures"


# Not for the session: until the fixture ends, playwright's event loop counts as running in this thread, and no other
# test could call asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("chromium is not installed: make servers")
    with playwright.sync_playwright() as running:
        # Chromium's sandbox refuses to run as root; the pages are our own.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = running.chromium.launch(executable_path=binary, args=options)
        yield started
        started.close()
