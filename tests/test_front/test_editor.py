"""The track editor in the real page, by mouse and keys, on the classic canvas and in Nodes 2.0."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from support_counts import SOAK
from support_pages import NEWER, OWN, Page, seen_in

WIDTH, HEIGHT, FRAMES = 128, 128, 17
WIDGET = "app.graph.nodes.find((n) => n.type === 'MatrixBoxTracks').widgets.find((w) => w.name === 'boxes')"
PHRASES = """green circle: the green circle
pink circle: the pink circle
pushes = verb(green circle -> pink circle)"""
PROMPT = "the green circle pushes the pink circle"
SAMPLER = {
    "seed": 8,
    "steps": 1,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
    "control_after_generate": "fixed",
}
# Whether a field of a node begins with a text.
VALUE = """([kind, name, text]) => {
  const node = window.comfyAPI.app.app.graph.nodes.find((node) => node.type === kind)
  return node.widgets.find((widget) => widget.name === name).value.startsWith(text)
}"""
NODES: list[dict[str, Any]] = [
    {"type": "MatrixBoxTracks", "x": 0, "values": {"width": WIDTH, "height": HEIGHT, "frames": FRAMES}},
    {"type": "MatrixExampleClip", "x": -400, "values": {"clip": "push"}},
    {"type": "MatrixLoadVideoDiT", "x": -800, "values": {"source": "mini"}},
    {"type": "MatrixBindPrompt", "x": 400, "values": {"prompt": PROMPT, "phrases": PHRASES}},
    {"type": "MatrixImageCondition", "x": 800, "values": {"width": WIDTH, "height": HEIGHT, "length": FRAMES}},
    {"type": "KSampler", "x": 1200, "values": SAMPLER},
    {"type": "VAEDecode", "x": 1600, "values": {}},
    {"type": "SaveImage", "x": 2000, "values": {"filename_prefix": "front/moved"}},
]
LINKS: list[tuple[int, int, int, int | str]] = [
    *((1, 1, 0, "images"), (2, 1, 3, "clip"), (0, 0, 3, "tracks"), (2, 0, 4, "model"), (3, 0, 4, "positive")),
    *((3, 0, 4, "negative"), (2, 2, 4, "vae"), (1, 1, 4, "image"), (2, 0, 5, "model"), (4, 0, 5, "positive")),
    *((4, 1, 5, "negative"), (4, 2, 5, "latent_image"), (5, 0, 6, "samples"), (2, 2, 6, "vae"), (6, 0, 7, "images")),
]


class Hand:
    """A person's hand on the editor of Box Tracks: pixels of the clip and frames in, mouse and keys out."""

    def __init__(self, page: Page) -> None:
        self.page, self.mouse = page, page.tab.mouse
        self.stage = page.tab.get_by_label("Boxes on the picture")
        self.times = page.tab.get_by_label("Key frames")

    def zoom(self) -> float:
        """Pixels of the screen in one of the editor, once it stands still."""
        self.page.tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.stage.evaluate("(canvas) => canvas.getBoundingClientRect().width / canvas.clientWidth")

    def clip(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the clip is on the screen."""
        zoom, box = self.zoom(), self.stage.bounding_box()
        width, height = box["width"] / zoom, box["height"] / zoom
        room = min(14, width / 12, height / 12)
        scale = min((width - 2 * room) / WIDTH, (height - 2 * room) / HEIGHT)
        left, top = (width - WIDTH * scale) / 2, (height - HEIGHT * scale) / 2
        return box["x"] + (left + x * scale) * zoom, box["y"] + (top + y * scale) * zoom

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse.move(*start)
        self.mouse.down()
        self.mouse.move(*end, steps=6)
        self.mouse.up()

    def draw(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """From one place of the clip to another: draws on an empty one, moves what lies there."""
        self.drag(self.clip(x0, y0), self.clip(x1, y1))

    def frame(self, number: int) -> tuple[float, float]:
        """Where a frame is on the ruler."""
        zoom, box = self.zoom(), self.times.bounding_box()
        return box["x"] + (84 + (box["width"] / zoom - 96) * number / (FRAMES - 1)) * zoom, box["y"] + 10 * zoom

    def seek(self, number: int) -> None:
        self.mouse.click(*self.frame(number))

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.tab.keyboard.press(key)

    def text(self) -> str:
        return self.page.app(f"{WIDGET}.value")

    def until(self, text: str) -> None:
        wanted = f"(text) => {{ const app = window.comfyAPI.app.app; return {WIDGET}.value === text }}"
        self.page.tab.wait_for_function(wanted, arg=text, timeout=10_000)


def built(page: Page, boxes: str = "") -> Hand:
    NODES[0]["values"]["boxes"] = boxes
    page.build(NODES, LINKS)
    page.look_at("MatrixBoxTracks")
    return Hand(page)


@seen_in(OWN, NEWER)
@pytest.mark.parametrize("turned", [False, *([True] if SOAK else [])])
def test_two_boxes_by_mouse(page: Page, turned: bool) -> None:
    """Two named boxes with key frames are drawn, bound, queued, saved and there again; headless it gives the same."""
    nodes2 = page.own == turned  # each frontend samples in one of its two modes: what is queued is the same
    page.open(nodes2)
    hand = built(page)
    hand.draw(27, 4, 61, 38)
    hand.until("green circle (subject): 0: 27 4 61 38")
    hand.key("Escape")
    hand.draw(68, 45, 102, 79)  # the next free name that the phrases bind
    hand.seek(16)
    hand.draw(85, 62, 85, 102)
    hand.key("Tab")
    hand.draw(44, 30, 100, 30)
    want = "green circle (subject): 0: 27 4 61 38; 16: 83 4 117 38\n"
    want += "pink circle (object): 0: 68 45 102 79; 16: 68 85 102 119"
    hand.until(want)
    pictures = None if turned else sampled(page)
    page.until_kept("16: 83 4 117 38")

    page.open(nodes2)
    hand.until(want)
    expect(hand.stage).to_be_visible()
    graph = page.app("app.graphToPrompt().then((made) => made.output)")
    assert not [name for node in graph.values() for name in node["inputs"] if name.startswith("matrix_")]
    if pictures:
        assert graph == queued(page), "what is opened again is what was run"
    if pictures and page.own:
        frees(page)
        found = files(page, page.server.run(graph))
        assert all((one == other).all() for one, other in zip(found, pictures, strict=True))
    assert not page.errors


@seen_in(OWN)
def test_a_broken_text_of_somebody_else_loses_nothing(page: Page) -> None:
    broken = "# mine\nvan: 0: 1 2 3\ncat: 0: 10 10 60 60"
    page.open(nodes2=not page.own)
    hand = built(page, broken)
    expect(page.tab.locator(".matrix-editor .told")).to_contain_text("line 2: a box is four numbers")
    hand.draw(20, 20, 90, 90)
    hand.key("Delete", "Shift+Delete", "k", "o", "ArrowLeft", "Control+z")
    assert hand.text() == broken
    saved = page.app("app.graph.serialize().nodes.find((node) => node.type === 'MatrixBoxTracks').widgets_values")
    assert broken in saved

    mended = broken.replace("1 2 3", "1 2 30 40")
    page.app(f"({WIDGET}).value = {json.dumps(mended)}")
    expect(page.tab.locator(".matrix-editor .told")).to_be_empty()
    hand.draw(50, 50, 60, 55)
    hand.until(mended.replace("10 10 60 60", "20 15 70 65"))
    hand.key("Control+z")
    hand.until(mended)
    hand.key("Control+Shift+z")
    hand.until(mended.replace("10 10 60 60", "20 15 70 65"))
    words_are_dragged_in_time(page, hand, rows=2)
    assert not page.errors


def words_are_dragged_in_time(page: Page, hand: Hand, rows: int) -> None:
    """A verb's span below `rows` tracks: its ends go to whole frames, into the text that binds it."""
    bind = "app.graph.nodes.find((n) => n.type === 'MatrixBindPrompt').widgets.find((w) => w.name === 'phrases')"
    page.app(f"({bind}).value = {json.dumps(PHRASES + ' @0.5s-')}")
    page.tab.wait_for_timeout(800)  # the editor looks four times a second
    for start, end, held in ((4, 8, "@1s-"), (16, 12, "@1-1.5s"), (12, 3, "@1-1.125s")):
        (x, y), (to, _) = hand.frame(start), hand.frame(end)
        y += 20 * (1 + rows) * hand.zoom()
        hand.drag((x, y), (to, y))
        page.tab.wait_for_function(VALUE, arg=["MatrixBindPrompt", "phrases", f"{PHRASES} {held}"], timeout=10_000)
    boxes = hand.text()
    hand.key("Control+z")  # takes the time back, and no box
    page.tab.wait_for_function(VALUE, arg=["MatrixBindPrompt", "phrases", f"{PHRASES} @1-1.5s"], timeout=10_000)
    assert hand.text() == boxes


def sampled(page: Page) -> list[Any]:
    """The pictures that the Run button makes."""
    frees(page)
    page.run()
    page.tab.wait_for_timeout(500)
    return shown(page)


def frees(page: Page) -> None:
    """The server forgets what it has made."""
    body, kind = json.dumps({"free_memory": True}).encode(), {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{page.server.url}/free", body, kind)).close()


def shown(page: Page, count: int = FRAMES) -> list[Any]:
    """The pictures of the run that was just asked for."""
    end = time.monotonic() + 300
    while any(page.server.get("/queue").values()):
        assert time.monotonic() < end, "the run has not ended"
        time.sleep(0.3)
    return files(page, last(page)["outputs"], count)


def last(page: Page) -> dict[str, Any]:
    """The run that was queued last, in the host's history."""
    return max(page.server.get("/history").values(), key=lambda entry: entry["prompt"][0])


def queued(page: Page) -> dict[str, Any]:
    """The graph of that run."""
    return last(page)["prompt"][2]


def files(page: Page, outputs: dict[str, Any], count: int = FRAMES) -> list[Any]:
    saved = [file for output in outputs.values() for file in output.get("images", ()) if file["type"] == "output"]
    assert len(saved) == count
    saved.sort(key=lambda file: file["filename"].split("_")[0])  # by node, then by frame
    return [np.asarray(Image.open(page.server.base / "output" / f["subfolder"] / f["filename"])) for f in saved]


OTHERS: list[dict[str, Any]] = [
    {"type": "MatrixExampleClip", "x": -400, "values": {"clip": "push"}},
    {"type": "MatrixMaskTracks", "x": 0, "values": {}},
    {"type": "MatrixTracksToMask", "x": 500, "values": {}},
    {"type": "SaveImage", "x": 900, "values": {"filename_prefix": "front/map"}},
    {"type": "MatrixCutAndDrag", "x": 1300, "values": {"length": FRAMES}},
    {"type": "SaveImage", "x": 1800, "values": {"filename_prefix": "front/dragged"}},
]
OTHER_LINKS: list[tuple[int, int, int, int | str]] = [
    *((0, 1, 1, "images"), (1, 0, 2, "tracks"), (2, 1, 3, "images"), (0, 1, 4, "image"), (4, 0, 5, "images")),
]


@seen_in(OWN)
def test_masks_are_painted_and_boxes_drawn_on_other_nodes(page: Page) -> None:
    """Mask Tracks and Cut And Drag unfold their editors; what is run is what was drawn, and headless the same bits."""
    page.open(nodes2=page.own)
    page.build(OTHERS, OTHER_LINKS)
    hand = Hand(page)
    page.look_at("MatrixMaskTracks", 0.9)
    page.tab.get_by_role("button", name="Paint masks").click()
    hand.stage.wait_for()
    page.tab.wait_for_timeout(800)
    hand.draw(35, 20, 53, 22)
    page.tab.wait_for_function(VALUE, arg=["MatrixMaskTracks", "painted", "thing 1: 0: mask 128x128 "])
    page.look_at("MatrixCutAndDrag", 0.9)
    page.tab.get_by_role("button", name="Draw boxes here").click()
    hand.stage, hand.times = hand.stage.last, hand.times.last
    hand.stage.wait_for()
    page.tab.wait_for_timeout(800)
    hand.draw(27, 4, 61, 38)
    hand.seek(16)
    hand.draw(44, 20, 100, 90)
    page.tab.wait_for_function(VALUE, arg=["MatrixCutAndDrag", "boxes", "thing 1: 0: 27 4 61 38; 16: 83 74 117 108"])

    frees(page)
    page.run()
    page.tab.wait_for_timeout(500)
    pictures = shown(page, FRAMES + 1)
    page.until_kept("16: 83 74 117 108")
    page.open(nodes2=page.own)  # unfolded again, since there is a text
    for node in ("MatrixMaskTracks", "MatrixCutAndDrag"):
        page.look_at(node, 0.9)
        expect(page.tab.get_by_label("Boxes on the picture").last).to_be_in_viewport()
    graph = page.app("app.graphToPrompt().then((made) => made.output)")
    frees(page)
    found = files(page, page.server.run(graph), FRAMES + 1)
    assert all((one == other).all() for one, other in zip(found, pictures, strict=True))
    (painted,) = [picture for picture in found if (picture == 0).all(-1).mean() > 0.8]
    y, x = np.nonzero(painted.any(-1))
    assert 28 < x.min() < 33
    assert 54 < x.max() < 60
    assert not page.errors
