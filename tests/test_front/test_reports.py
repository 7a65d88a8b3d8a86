"""Reports under their nodes, in the real page, on the classic canvas and in Nodes 2.0."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from playwright.sync_api import expect
from support_pages import NEWER, OWN, Page, seen_in

HOSTILE = '<img src="x" onerror="window.hit=1">'
BOXES = f"{HOSTILE}: 0: 10% 20% 40% 90%; 16: 30% 20% 60% 90%\ncup: 60% 50% 75% 75%"
NODES: list[dict[str, Any]] = [
    {"type": "MatrixBoxTracks", "x": 0, "values": {"boxes": BOXES, "width": 96, "height": 64, "frames": 17}},
    {"type": "MatrixSaveTracks", "x": 500, "values": {"filename_prefix": "front/a & b"}},
]


def shown(page: Page, frames: int) -> None:
    """Both panels are there and in sight, with what the nodes said."""
    tracks, saved = page.panels().filter(has_text="instances"), page.panels().filter(has_text="a & b_0")
    expect(tracks).to_contain_text(f"2 instances, {frames} frames of 96x64")
    expect(tracks).to_contain_text(f"- {HOSTILE} (instance): in {frames} of {frames} frames")
    expect(saved).to_contain_text("KiB")
    assert tracks.bounding_box()["height"] >= 40
    assert page.tab.evaluate("window.hit") is None
    assert page.tab.locator(".matrix-report img").count() == 0


@seen_in(OWN)
def test_reports_are_shown_and_kept(page: Page) -> None:
    page.open(nodes2=False)
    # One server for all frontends: what it has made before it does not make again, nor tells.
    NODES[0]["values"]["fps"] = 8 + len(page.server.get("/history"))
    page.build(NODES, [(0, 0, 1, 0)])
    page.run()
    shown(page, 17)
    _leaves_the_graph_alone(page)
    _downloads(page)
    page.until_kept("17 of 17 frames")

    page.open(nodes2=True)  # the page is loaded anew: what is shown comes out of the kept workflow
    shown(page, 17)
    page.app("app.graph.nodes[0].widgets.find((w) => w.name === 'frames').value = 33")
    page.run()
    shown(page, 33)
    page.until_kept("33 of 33 frames")

    page.open(nodes2=True)
    shown(page, 33)
    assert not page.errors


@seen_in(NEWER)
def test_what_was_told_to_nobody_is_shown(page: Page) -> None:
    """The connection carries none of a job's own messages, as that of a page that has just been opened may."""
    lost: list[str] = []
    page.tab.route_web_socket(lambda url: "/ws" in url, lambda way: _deaf(way, lost))
    page.open(nodes2=False)
    NODES[0]["values"]["fps"] = 8 + len(page.server.get("/history"))
    page.build(NODES, [(0, 0, 1, 0)])
    page.run()
    shown(page, 17)
    assert {"executed", "execution_success"} <= set(lost)
    assert not page.errors


def _deaf(way: Any, lost: list[str]) -> None:
    """A web socket that passes on what goes to every page, and what the page sends."""

    def pass_on(message: Any) -> None:
        kind = json.loads(message)["type"] if isinstance(message, str) else "preview"
        if kind in ("status", "feature_flags"):
            way.send(message)
        else:
            lost.append(kind)

    way.connect_to_server().on_message(pass_on)


def _leaves_the_graph_alone(page: Page) -> None:
    """Neither a prompt nor the values of a saved node know of the panel."""
    prompt = page.app("app.graphToPrompt().then((made) => made.output)")
    inputs: list[Any] = [name for node in prompt.values() for name in node["inputs"]]
    assert "boxes" in inputs
    assert "matrix_report" not in inputs
    saved = page.app("app.graph.serialize().nodes.map((node) => node.widgets_values)")
    assert [len(values) for values in sorted(saved, key=len)] == [1, 7]


def _downloads(page: Page) -> None:
    """The link of a file that a node wrote, on the page and in the host's history."""
    link = page.panels().get_by_role("link")
    with urllib.request.urlopen(page.server.url + "/" + link.get_attribute("href").lstrip("/")) as reply:
        found = reply.read()
    written = page.server.base / "output" / "front" / link.get_attribute("download")
    assert found == written.read_bytes()
    outputs = [node for entry in page.server.get("/history").values() for node in entry["outputs"].values()]
    assert {"filename": written.name, "subfolder": "front", "type": "output"} in [
        file for node in outputs for file in node.get("files", ())
    ]
