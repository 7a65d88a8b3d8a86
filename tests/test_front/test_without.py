"""Every node without the pack's page, and on a page that is older than what the pack's page uses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from support_pages import NEWER, OWN, Page, seen_in

# One of each of our nodes as the page makes it: its sockets, what stands in a saved workflow, and what is queued.
EVERY = """async () => {
  const { app } = window.comfyAPI.app
  const { graph } = app
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], groups: [], config: {}, extra: {} })
  const kinds = Object.entries(window.LiteGraph.registered_node_types)
    .filter(([, type]) => /^MATRIX(\\/|$)/.test(type.nodeData?.category ?? '')).map(([name]) => name).sort()
  const made = kinds.map((name) => {
    const node = window.LiteGraph.createNode(name)
    graph.add(node)
    return node
  })
  const saved = JSON.parse(JSON.stringify(graph.serialize()))
  const prompt = JSON.parse(JSON.stringify((await app.graphToPrompt()).output))
  return [made.map((node) => node.type), saved.nodes.map(({ type, widgets_values, inputs, outputs }) => ({
    type, widgets_values,
    inputs: (inputs ?? []).map(({ name }) => name), outputs: (outputs ?? []).map(({ name }) => name)
  })), prompt]
}"""
BOXES = "cup (object): 0: 10% 20% 40% 90%; 16: 30% 20% 60% 90%"
NODES: list[dict[str, Any]] = [
    {"type": "MatrixBoxTracks", "x": 0, "values": {"boxes": BOXES, "width": 96, "height": 64, "frames": 17}},
    {"type": "MatrixTracksToMask", "x": 500, "values": {}},
    {"type": "MatrixSaveTracks", "x": 900, "values": {}},
]
LINKS: list[tuple[int, int, int, int | str]] = [(0, 0, 1, "tracks"), (0, 0, 2, "tracks")]


def blocked(page: Page) -> None:
    """The host serves the pack's scripts, and the browser does not get them."""
    page.tab.context.route("**/extensions/matrix-video/**", lambda route: route.abort())
    page.open(nodes2=page.newer)  # an older page's Nodes 2.0 is not its classic canvas
    assert page.tab.evaluate("!document.getElementById('matrix-editor-style')")


def older(page: Page) -> None:
    """Hooks that came later are not there."""
    page.tab.add_init_script(
        """
        window.addEventListener('DOMContentLoaded', () => {
          const wait = setInterval(() => {
            const app = window.comfyAPI?.app?.app
            if (!app) return
            clearInterval(wait)
            const register = app.registerExtension.bind(app)
            // Before there were these hooks nobody called them.
            app.registerExtension = ({ onNodeOutputsUpdated, ...rest }) => register(rest)
          }, 0)
        })
        """
    )
    page.open(nodes2=False)


@seen_in(NEWER)
def test_every_node_works_without_our_scripts(page: Page) -> None:
    _works_as_before(page, blocked)


@seen_in(OWN)
def test_every_node_works_on_an_older_page(page: Page) -> None:
    _works_as_before(page, older)


def _works_as_before(page: Page, how: Callable[[Page], None]) -> None:
    page.open(nodes2=False)
    kinds, saved, prompt = page.tab.evaluate(EVERY)
    assert len(kinds) > 30
    prefix = f"without/{how.__name__}{page.own}"
    nodes = [
        node | {"values": node["values"] | {"filename_prefix": prefix} if "Save" in node["type"] else node["values"]}
        for node in NODES
    ]
    page.build(nodes, LINKS)
    page.until_kept(prefix)  # what the next page opens: an empty graph is never ready
    kept = page.app("app.graph.serialize()")
    kept["nodes"][0]["properties"] |= {"matrix_report": {"text": ["seen"], "warnings": [], "files": []}}

    how(page)
    assert page.tab.evaluate(EVERY) == [kinds, saved, prompt]
    # What was saved with the pack's page loses nothing here, and runs.
    page.app(f"app.loadGraphData({json.dumps(kept)})")
    again = page.app("app.graph.serialize()")
    for one, other in zip(kept["nodes"], again["nodes"], strict=True):
        assert one["widgets_values"] == other["widgets_values"]
        assert {**one["properties"], **other["properties"]} == other["properties"]
    page.app(f"app.graph.nodes[0].widgets.find((w) => w.name === 'fps').value = {8 + len(page.server.get('/history'))}")
    before = set(page.server.get("/history"))
    page.run()
    end = time.monotonic() + 120
    while not (new := set(page.server.get("/history")) - before):
        assert time.monotonic() < end, "the run has not ended"
        time.sleep(0.2)
    entry = page.server.get("/history")[new.pop()]
    assert entry["status"]["status_str"] == "success"
    told = [text for output in entry["outputs"].values() for text in output.get("text", ())]
    assert any("1 instance, 17 frames of 96x64" in text for text in told)
    assert not page.errors
