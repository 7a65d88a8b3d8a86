"""A new user's way from the first template to a clip that follows two paths of their own: by mouse alone, counted.

python -m scripts.trial [--core] [--version FRONTEND] [--nodes2] [--pictures FOLDER]

A real ComfyUI with a real page. Whoever drives it sees what a person sees: menus, the editor, the Run button. Nothing
is typed. With --core the same two things are told in ComfyUI's own *Create Bounding Boxes* (`trial_core.py`), as far as
it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .comfyui import Server, serve
from .front import chromium, frontend
from .trial_core import two_boxes
from .trial_hand import Person

__all__ = ["main"]

_TEMPLATE = "00_move_two_things"
_NODE = "MatrixBoxTracks"
_CLIP, _LAST = 128, 16  # pixels of the clip; its last frame
# Where things go: (x, y) of the middles at frame 8 and at the end.
PATHS = {"green circle": ((95, 30), (100, 100)), "pink circle": ((60, 105), (24, 40))}
_STARTS = {"green circle": (44, 21), "pink circle": (85, 62)}


class Board:
    """Where the editor's places are on the screen, as an eye finds them."""

    def __init__(self, page: Any) -> None:
        self.stage, self.times = page.get_by_label("Boxes on the picture"), page.get_by_label("Key frames")

    def clip(self, x: float, y: float) -> tuple[float, float]:
        """A pixel of the clip."""
        zoom, box = _zoom(self.stage), self.stage.bounding_box()
        width, height = box["width"] / zoom, box["height"] / zoom
        room = min(14, width / 12, height / 12)
        scale = min((width - 2 * room) / _CLIP, (height - 2 * room) / _CLIP)
        left, top = (width - _CLIP * scale) / 2, (height - _CLIP * scale) / 2
        return box["x"] + (left + x * scale) * zoom, box["y"] + (top + y * scale) * zoom

    def frame(self, number: int) -> tuple[float, float]:
        """A frame on the ruler."""
        zoom, box = _zoom(self.times), self.times.bounding_box()
        width = box["width"] / zoom
        left = 84 if width < 480 else 150
        return box["x"] + (left + (width - left - 12) * number / _LAST) * zoom, box["y"] + 8 * zoom


def _zoom(element: Any) -> float:
    return element.evaluate("(canvas) => canvas.getBoundingClientRect().width / canvas.clientWidth")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.trial", description=__doc__.splitlines()[0])
    parser.add_argument("--version", help="of a frontend other than the host's own")
    parser.add_argument("--core", action="store_true", help="in ComfyUI's own editor of boxes")
    parser.add_argument("--nodes2", action="store_true")
    parser.add_argument("--pictures", type=Path, help="where a picture of each step goes")
    chosen = parser.parse_args()
    if chosen.pictures:
        chosen.pictures.mkdir(parents=True, exist_ok=True)
    device = () if torch.cuda.is_available() else ("--cpu", "--use-pytorch-cross-attention")
    pages = () if chosen.version is None else ("--front-end-root", str(frontend(chosen.version)))
    with tempfile.TemporaryDirectory(prefix="matrix-trial-") as base:
        began = time.monotonic()
        with serve(Path(base), (*device, *pages)) as server, _page(server, chosen.nodes2) as page:
            print(f"ComfyUI and its page were there after {time.monotonic() - began:.0f} s", flush=True)
            person = Person(page, chosen.pictures)
            if chosen.core:
                two_boxes(person, server)
            else:
                _try(person, server)


@contextlib.contextmanager
def _page(server: Server, nodes2: bool) -> Iterator[Any]:
    """The server's page in a browser, as it opens for somebody who has seen its tour."""
    from playwright.sync_api import sync_playwright

    for name, value in (("Comfy.TutorialCompleted", True), ("Comfy.VueNodes.Enabled", nodes2)):
        body, kind = json.dumps(value).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings/{name}", body, kind)).close()
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-gpu", *flags])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(240_000)
        page.goto(server.url)
        page.wait_for_function("window.comfyAPI?.app?.app?.canvas?.graph?.nodes.length")
        page.wait_for_timeout(2000)
        yield page
        browser.close()


def _try(person: Person, server: Server) -> None:
    page, pictures, began = person.page, person.pictures, time.monotonic()
    _open(person)
    opened = time.monotonic()
    _draw(person)
    drawn = time.monotonic()
    text = page.evaluate(
        "(kind) => window.comfyAPI.app.app.graph.nodes.find((node) => node.type === kind).widgets"
        ".find((widget) => widget.name === 'boxes').value",
        _NODE,
    )
    person.click("Run", page.get_by_test_id("queue-button"))
    _until_done(server)
    ended = time.monotonic()
    page.wait_for_timeout(3000)
    if pictures:
        page.screenshot(path=str(pictures / "clip.png"))
    print(text)
    person.tell({"open": opened - began, "draw": drawn - opened, "run": ended - drawn})
    clips = list((server.base / "output" / "matrix").glob("moved*"))
    if not clips:
        raise RuntimeError("no clip came out: see what ComfyUI said above")
    if pictures:
        for clip in clips:
            (pictures / clip.name).write_bytes(clip.read_bytes())


def _open(person: Person) -> None:
    page = person.page
    person.click("Templates", page.get_by_role("button", name="Templates").first)
    page.get_by_text("matrix-video").first.wait_for()
    person.click("matrix-video, among the extensions", page.get_by_text("matrix-video").first)
    card = page.get_by_text(_TEMPLATE).first
    card.wait_for()
    person.click("Move two things", card)
    page.get_by_label("Boxes on the picture").wait_for()
    page.wait_for_timeout(3000)


def _draw(person: Person) -> None:
    board, places = Board(person.page), dict(_STARTS)
    for place, frame in ((0, _LAST // 2), (1, _LAST)):
        person.click(f"frame {frame} on the timeline", board.frame(frame))
        for name, path in PATHS.items():
            start = _now(person.page, name, frame) or places[name]
            person.drag(f"{name} to its place at frame {frame}", board.clip(*start), board.clip(*path[place]))
            places[name] = path[place]


def _now(page: Any, name: str, frame: int) -> tuple[float, float] | None:
    """Where the middle of a box is to be seen in a frame: the template's own path, or what was dragged before."""
    text = page.evaluate(
        "(kind) => window.comfyAPI.app.app.graph.nodes.find((node) => node.type === kind).widgets"
        ".find((widget) => widget.name === 'boxes').value",
        _NODE,
    )
    from matrix_lib.core.tracks.boxes import boxes_at
    from matrix_lib.core.tracks.text import parse_boxes

    box = list(boxes_at(parse_boxes(text, _CLIP, _CLIP)[0][name], _LAST + 1, True))[frame]
    return None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def _until_done(server: Server) -> None:
    time.sleep(2)
    while any(server.get("/queue").values()):
        time.sleep(0.5)


if __name__ == "__main__":
    main()
