"""The real page of a ComfyUI in a real Chromium: opened, filled, queued, and read."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, sync_playwright
from playwright.sync_api import Page as Tab
from support_counts import SOAK
from support_frontend import in_front_of

from scripts.comfyui import Server
from scripts.front import FRONTENDS, chromium

OWN = "the host's own"
(NEWER,) = FRONTENDS
# FRONTEND=VERSION tries another, with `make soak` or any run of a test of the page.
ASKED = os.environ.get("FRONTEND", "").split()
# The graph is there, and so is the connection: what a job sends goes to the one that queued it.
READY = "window.comfyAPI?.app?.app?.canvas?.graph?.nodes.length && window.comfyAPI.api.api.clientId"
# No calls home, no store between runs; Chromium's sandbox does not start for root.
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
# A page that a test hands to the browser counts as one of the internet, which may not ask a server of this machine.
FLAGS += ["--disable-features=LocalNetworkAccessChecks"]
EMPTY = {"version": 0.4, "nodes": [], "links": [], "groups": [], "config": {}, "extra": {}}
# What the frontend writes where a listener to its messages raised, and goes on.
SWALLOWED = ("[ComfyApi] Uncaught error", "Unhandled message", "Error calling extension")
BUILD = """async ([empty, nodes, links]) => {
  const app = window.comfyAPI.app.app
  await app.loadGraphData(empty)
  const made = nodes.map(({ type, x, values }) => {
    const node = window.LiteGraph.createNode(type)
    app.graph.add(node)
    node.pos = [x, 120]
    for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value
    return node
  })
  for (const [from, slot, to, input] of links) made[from].connect(slot, made[to], input)
  app.canvas.emitBeforeChange()
  app.canvas.emitAfterChange()
}"""


LOOK = """([kind, scale]) => {
  const { canvas, graph } = window.comfyAPI.app.app
  const [x, y] = graph.nodes.find((node) => node.type === kind).pos
  canvas.ds.scale = scale
  canvas.ds.offset = [160 / scale - x, 110 / scale - y]
  canvas.setDirty(true, true)
}"""


def seen_in(*frontends: str) -> pytest.MarkDecorator:
    """In which frontends a test gets its `page`: those named here in `make test`, every one in `make soak`."""
    here = [(OWN, *FRONTENDS) if SOAK else frontends, ASKED]
    names = [pytest.param(name, marks=[pytest.mark.soak] if SOAK or i else []) for i in (0, 1) for name in here[i]]
    return pytest.mark.parametrize("page", names, indirect=True)


class Page:
    """One tab on the page at `url` of a server. `own`: whether its frontend is the one that the server brings; `newer`:
    whether it is pinned as a newer one."""

    own, newer = True, False

    def __init__(self, server: Server, tab: Tab, url: str) -> None:
        self.server, self.tab, self.url = server, tab, url
        self.errors: list[str] = []
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda said: self.errors.extend([said.text] if said.text.startswith(SWALLOWED) else []))

    def open(self, nodes2: bool) -> None:
        """Opens the page, or opens it again, with the classic canvas or with Nodes 2.0."""
        self._set("Comfy.VueNodes.Enabled", nodes2)
        self.tab.goto(self.url)
        self.tab.wait_for_function(READY)

    def build(self, nodes: list[dict[str, Any]], links: list[tuple[int, int, int, int | str]]) -> None:
        """A new workflow: nodes of `type` at `x` with `values` by widget; links from (node, slot) to (node, input), an
        input by number or name."""
        self.tab.evaluate(BUILD, [EMPTY, nodes, links])

    def look_at(self, kind: str, scale: float = 1.0) -> None:
        """Brings the node of a type to the upper left, beside the bars."""
        self.tab.evaluate(LOOK, [kind, scale])
        self.tab.wait_for_timeout(300)

    def run(self) -> None:
        """The Run button."""
        self.tab.get_by_test_id("queue-button").click()

    def until_kept(self, text: str) -> None:
        """Waits until the page has put `text` into its draft of the workflow, which it does a moment after a change.
        Drafts are JSON, and some lie in JSON again: backslashes do not count."""
        kept = "(text) => Object.values(localStorage).some((kept) => kept.replaceAll('\\\\', '').includes(text))"
        self.tab.wait_for_function(kept, arg=text)

    def panels(self) -> Locator:
        return self.tab.locator(".matrix-report")

    def app(self, expression: str) -> Any:
        """What an expression of the page's `app` gives."""
        return self.tab.evaluate(f"async () => {{ const app = window.comfyAPI.app.app; return await ({expression}) }}")

    def _set(self, name: str, value: Any) -> None:
        body, kind = json.dumps(value).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{self.server.url}/settings/{name}", body, kind)).close()


@contextlib.contextmanager
def browser_of() -> Iterator[Browser]:
    """A fresh Chromium."""
    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page_of(server: Server, browser: Browser, frontend: Path | None = None) -> Iterator[Page]:
    """One tab for `server`, with a memory of its own and none of the tours of a first visit.

    `frontend`: the folder of another frontend, which the browser gets in place of the one that the server has.
    """
    before = contextlib.nullcontext(server.url) if frontend is None else in_front_of(server.url, frontend)
    with before as url, contextlib.closing(browser.new_context(viewport={"width": 1500, "height": 900})) as context:
        page = Page(server, context.new_page(), url)
        page._set("Comfy.TutorialCompleted", True)
        page.tab.set_default_timeout(120_000)
        yield page
