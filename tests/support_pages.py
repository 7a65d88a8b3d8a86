"""The real page of a ComfyUI in a real Chromium: opened, filled, queued, and read."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Locator, sync_playwright
from playwright.sync_api import Page as Tab

from scripts.comfyui import Server
from scripts.front import chromium

READY = "window.comfyAPI?.app?.app?.canvas?.graph?.nodes.length"
# No calls home, no store between runs; Chromium's sandbox does not start for root.
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
EMPTY = {"version": 0.4, "nodes": [], "links": [], "groups": [], "config": {}, "extra": {}}
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


class Page:
    """One tab on a server's page."""

    def __init__(self, server: Server, tab: Tab) -> None:
        self.server, self.tab = server, tab
        self.errors: list[str] = []
        tab.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, nodes2: bool) -> None:
        """Opens the page, or opens it again, with the classic canvas or with Nodes 2.0."""
        self._set("Comfy.VueNodes.Enabled", nodes2)
        self.tab.goto(self.server.url)
        self.tab.wait_for_function(READY)

    def build(self, nodes: list[dict[str, Any]], links: list[tuple[int, int, int, int]]) -> None:
        """A new workflow: nodes of `type` at `x` with `values` by widget; links from (node, slot) to (node, input)."""
        self.tab.evaluate(BUILD, [EMPTY, nodes, links])

    def run(self) -> None:
        """The Run button."""
        self.tab.get_by_test_id("queue-button").click()

    def until_kept(self, text: str) -> None:
        """Waits until the page has put `text` into its draft of the workflow, which it does a moment after a change."""
        kept = "(text) => Object.values(localStorage).some((kept) => kept.includes(text))"
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
def page_of(server: Server) -> Iterator[Page]:
    """A fresh browser with one tab for `server`, and none of the tours of a first visit."""
    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        try:
            page = Page(server, browser.new_page(viewport={"width": 1500, "height": 900}))
            page._set("Comfy.TutorialCompleted", True)
            page.tab.set_default_timeout(120_000)
            yield page
        finally:
            browser.close()
