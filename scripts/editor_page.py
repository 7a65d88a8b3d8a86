"""The track editor alone on a page of its own, in a real Chromium and without a ComfyUI: for tests that send it
thousands of events, and to measure what a frame of a drag costs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from .comfyui import ROOT
from .front import chromium

__all__ = ["editor_page"]

_HOME = "http://editor.invalid"  # nothing is asked there: every file comes from the project
_PAGE = """<!doctype html><style>body{margin:0;background:#202020}#place{width:WIDTHpx;height:HEIGHTpx}</style>
<div id=place></div>"""
_START = """async ({ kind, text, clip, names }) => {
  const { Panel } = await import('/js/editor/panel.js')
  const grammar = await import('/js/editor/grammar.js')
  window.host = { text, clip, names, written: 0 }
  const picture = document.createElement('canvas')
  picture.width = clip.width
  picture.height = clip.height
  const ink = picture.getContext('2d')
  for (let x = 0; x < clip.width; x += 8) {
    ink.fillStyle = `hsl(${x % 360} 40% ${20 + (x % 40)}%)`
    ink.fillRect(x, 0, 8, clip.height)
  }
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
      picture: (context, _, x, y, width, height) => { context.drawImage(picture, x, y, width, height); return true },
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
) -> Iterator[Any]:
    """A Playwright page on which `window.panel` edits `window.host.text`.

    Args:
        clip: width, height, frames, fps, hold.
        kind: BOXES or PROMPTS, the grammar of the text.
        names: that phrases bind: name, role, time.
        size: of the editor in CSS pixels.
        browser: one that is open already.
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
        given = {"kind": kind, "text": text, "clip": clip, "names": names or []}
        page.evaluate(_START, json.loads(json.dumps(given)))
        yield page


def _serve(route: Any, size: tuple[int, int]) -> None:
    path = route.request.url.removeprefix(_HOME)
    if path in ("", "/"):
        body = _PAGE.replace("WIDTH", str(size[0])).replace("HEIGHT", str(size[1]))
        route.fulfill(body=body, content_type="text/html")
    else:
        route.fulfill(path=str(ROOT / "web" / path.lstrip("/")), content_type="text/javascript")
