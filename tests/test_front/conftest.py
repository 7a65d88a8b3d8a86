"""One ComfyUI for all tests of the page and one Chromium for each file, whichever frontend a test looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from support_pages import OWN, Page, browser_of, page_of

from scripts.front import FRONTENDS, frontend

expect.set_options(timeout=60_000)  # a machine that runs other tests beside these is slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for each file: while it is open, nothing else in this process can run an event loop of its own."""
    with browser_of() as opened:
        yield opened


@pytest.fixture
def page(request: pytest.FixtureRequest, server: Any, browser: Any) -> Iterator[Page]:
    """A tab on the server's page, in the frontend that `support_pages.seen_in` gives."""
    other = None if request.param == OWN else frontend(request.param)
    with page_of(server, browser, other) as opened:
        opened.own, opened.newer = other is None, request.param in FRONTENDS
        yield opened
