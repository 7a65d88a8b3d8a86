"""The track editor alone on a page of its own, in a real Chromium and without a ComfyUI: for tests that send it
thousands of events, and to measure what a frame of a drag costs.

`python -m scripts.editor_page` takes the pictures of it that the help pages have.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

from PIL import Image

from .comfyui import ROOT
from .front import chromium

__all__ = ["editor_page"]

_HOME = "http://editor.invalid"  # nothing is asked there: every file comes from the project
_PAGE = """<!doctype html><style>body{margin:0;background:#202020}#place{width:WIDTHpx;height:HEIGHTpx}</style>
<div id=place></div>"""
_START = """async ({ kind, text, clip, names, picture }) => {
  const { Panel } = await import('/js/editor/panel.js')
  const grammar = await import('/js/editor/grammar.js')
  window.host = { text, clip, names, written: 0 }
  const shown = new Image()
  shown.src = picture
  await shown.decode()
  window.panel = new Panel(
    {
      read: () => host.text,
      write: (text) => { host.text = text; host.written += 1 },
      clip: () => host.clip,
      names: () => host.names,
      connected: () => false,
    },
    grammar[kind],
    {
      picture: (context, _, x, y, width, height) => { context.drawImage(shown, x, y, width, height); return true },
      seek: () => {},
      grid: () => null,
    },
  )
  document.getElementById('place').append(panel.element)
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
}"""


@contextlib.contextmanager
def editor_page(
    text: str,
    clip: dict[str, Any],
    kind: str = "BOXES",
    names: list[dict[str, Any]] | None = None,
    size: tuple[int, int] = (640, 620),
    browser: Any = None,
    picture: str = "/docs/images/tracks.webp",
) -> Iterator[Any]:
    """A Playwright page on which `window.panel` edits `window.host.text`.

    Args:
        clip: width, height, frames, fps, hold.
        kind: BOXES or PROMPTS, the grammar of the text.
        names: that phrases bind: name, role, time.
        size: of the editor in CSS pixels.
        browser: one that is open already.
        picture: below `web/`, in every frame.
    """
    with contextlib.ExitStack() as stack:
        if browser is None:
            from playwright.sync_api import sync_playwright

            flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-gpu", *flags])
            stack.callback(browser.close)
        context = browser.new_context(viewport={"width": size[0] + 40, "height": size[1] + 40})
        stack.callback(context.close)
        context.route(f"{_HOME}/**", lambda route: _serve(route, size))
        page = context.new_page()
        page.goto(_HOME)
        given = {"kind": kind, "text": text, "clip": clip, "names": names or [], "picture": picture}
        page.evaluate(_START, json.loads(json.dumps(given)))
        yield page


def _serve(route: Any, size: tuple[int, int]) -> None:
    path = route.request.url.removeprefix(_HOME)
    if path in ("", "/"):
        body = _PAGE.replace("WIDTH", str(size[0])).replace("HEIGHT", str(size[1]))
        route.fulfill(body=body, content_type="text/html")
    else:
        kind = "text/javascript" if path.endswith(".js") else None  # None: by its name
        route.fulfill(path=str(ROOT / "web" / path.lstrip("/")), content_type=kind)


def main() -> None:
    text = "green circle (subject): 0: 29 6 59 36; 7: 50 40 80 70; 16: 88 6 118 36\n"
    text += "pink circle (object): 0: 70 47 100 77; 9: off"
    clip = {"width": 128, "height": 128, "frames": 17, "fps": 8, "hold": True}
    names = [{"name": name, "role": "instance", "time": None} for name in ("green circle", "pink circle", "blue cross")]
    frame = "/docs/images/example-push.webp"
    with editor_page(text, clip, names=names, size=(600, 480), picture=frame) as page:
        page.evaluate("panel.editor.seek(4)")
        _take(page, "editor")
    with editor_page("", clip, "MASKS", names=names, size=(600, 480), picture=frame) as page:
        _paint(page, [(44, 21)], radius=14.5)
        page.evaluate("panel.editor.select(null)")
        _paint(page, [(85, 52), (85, 72)], radius=7)
        _take(page, "painted")


def _paint(page: Any, spots: list[tuple[float, float]], radius: float) -> None:
    """A stroke of the brush through places of the clip."""
    page.evaluate("(size) => { panel.editor.brushSize = size }", radius / 128)
    for i, spot in enumerate(spots):
        x, y = page.evaluate(
            """([x, y]) => {
              const { left, top } = panel.stage.element.getBoundingClientRect()
              const { scale, left: dx, top: dy } = panel.stage.view
              return [left + dx + x * scale, top + dy + y * scale]
            }""",
            list(spot),
        )
        page.mouse.move(x, y, steps=6)
        if not i:
            page.mouse.down()
    page.mouse.up()


def _take(page: Any, name: str) -> None:
    page.wait_for_timeout(300)
    place = ROOT / "web" / "docs" / "images" / f"{name}.webp"
    Image.open(io.BytesIO(page.locator("#place").screenshot())).convert("RGB").save(place, quality=82, method=6)
    print(place.relative_to(ROOT), place.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
