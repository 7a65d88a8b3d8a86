"""One ComfyUI for all tests of the page and one Chromium for each file, whichever frontend a test looks at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect
from support_pages import Page, browser_of, page_of

from scripts.front import FRONTENDS, frontend

expect.set_options(timeout=60_000)  # a machine that runs other tests beside these is slow
OWN = "the host's own"
# FRONTEND=VERSION tries another, with `make soak` or any run of these files.
ASKED = [pytest.param(version, marks=pytest.mark.soak) for version in os.environ.get("FRONTEND", "").split()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for each file: while it is open, nothing else in this process can run an event loop of its own."""
    with browser_of() as opened:
        yield opened


@pytest.fixture(params=[OWN, *FRONTENDS, *ASKED])
def page(request: pytest.FixtureRequest, server: Any, browser: Any) -> Iterator[Page]:
    """A tab on the server's page, in each of the frontends."""
    other = None if request.param == OWN else frontend(request.param)
    with page_of(server, browser, other) as opened:
        opened.own, opened.newer = other is None, request.param in FRONTENDS
        yield opened
