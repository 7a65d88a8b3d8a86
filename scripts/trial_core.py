"""The two things of `trial.py` told in ComfyUI's own *Create Bounding Boxes*, by hand in the real page, and counted.

It has one frame: where things are at the start can be said, with their names, and no path. The node stands in the graph
already, with the picture behind it; what goes on there is taken by *MATRIX Box Tracks*, to see what was said.
"""

from __future__ import annotations

import json
import time
from typing import Any

from .comfyui import ROOT, Server
from .trial_hand import Person

__all__ = ["two_boxes"]

_PICTURE = "push.webp"
_CLIP = 128  # pixels of the picture
# Left, top, right, bottom of the things in the picture.
_THINGS = {"green circle": (29, 6, 59, 36), "pink circle": (70, 47, 100, 77)}
_BUILD = """async ([picture, side]) => {
  const { app } = window.comfyAPI.app
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], groups: [], config: {}, extra: {} })
  const make = (kind, x) => {
    const node = window.LiteGraph.createNode(kind)
    app.graph.add(node)
    node.pos = [x, 100]
    return node
  }
  const [load, boxes, tracks, text] = ['LoadImage', 'CreateBoundingBoxes', 'MatrixBoxTracks', 'PreviewAny']
    .map((kind, i) => make(kind, 60 + 420 * i))
  load.widgets.find(({ name }) => name === 'image').value = picture
  load.widgets.find(({ name }) => name === 'image').callback?.(picture)
  for (const node of [boxes, tracks])
    for (const name of ['width', 'height']) node.widgets.find((one) => one.name === name).value = side
  tracks.widgets.find(({ name }) => name === 'frames').value = 17
  boxes.setSize([400, 700])
  load.connect(0, boxes, 'background')
  boxes.connect(boxes.outputs.findIndex(({ name }) => name === 'elements'), tracks, 'bboxes')
  tracks.connect(tracks.outputs.findIndex(({ name }) => name === 'report'), text, 0)
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [0, 0]
  app.canvas.setDirty(true, true)
}"""


def two_boxes(person: Person, server: Server) -> None:
    """Draws and names both things, runs the graph, and prints what was counted and what Box Tracks made of it."""
    page = person.page
    (server.base / "input" / _PICTURE).write_bytes(_picture())
    page.reload()
    page.wait_for_function("window.comfyAPI?.app?.app?.canvas?.graph")
    page.wait_for_timeout(2000)
    page.evaluate(_BUILD, [_PICTURE, _CLIP])
    editor = page.get_by_test_id("bounding-boxes")
    editor.wait_for()
    page.wait_for_timeout(2000)
    began = time.monotonic()
    person.click("Grid off: on it, boxes of a small picture lie on its lines alone", editor.locator("button").first)
    for name, box in _THINGS.items():
        place = editor.locator("canvas").first.bounding_box()
        start, end = (_on(place, box[:2]), _on(place, box[2:]))
        person.drag(f"a box around the {name}", start, end)
        person.click("the description below", editor.locator("textarea").last)
        person.type(f"the name: {name}", name)
    drawn = time.monotonic()
    person.click("Run", page.get_by_test_id("queue-button"))
    told = _report(server)
    if person.pictures:
        page.screenshot(path=str(person.pictures / "core.png"))
    print(told)
    person.tell({"draw": drawn - began, "run": time.monotonic() - drawn})


def _picture() -> bytes:
    """The first frame of the example that the template opens with, as the pack's help has it."""
    return (ROOT / "web" / "docs" / "images" / f"example-{_PICTURE}").read_bytes()


def _on(place: dict[str, float], pixel: tuple[int, ...]) -> tuple[float, float]:
    x, y = pixel
    return place["x"] + place["width"] * x / _CLIP, place["y"] + place["height"] * y / _CLIP


def _report(server: Server) -> str:
    """What the run said of the tracks."""
    end = time.monotonic() + 300
    while not (history := server.get("/history")):
        if time.monotonic() > end:
            raise RuntimeError("the run has not ended")
        time.sleep(0.5)
    (entry,) = history.values()
    told: list[Any] = [text for output in entry["outputs"].values() for text in output.get("text", ())]
    if entry["status"]["status_str"] != "success" or not told:
        raise RuntimeError(json.dumps(entry["status"]["messages"])[-2000:])
    return str(told[0])
