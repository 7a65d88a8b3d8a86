"""Takes the picture of the first workflow as a page shows it after it ran, with its editor and its viewer.

python -m scripts.opened_picture [--steps N] [--name 01_watch_attention]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .comfyui import ROOT, Server, serve
from .front import chromium

__all__ = ["main"]

_OPENED = ROOT / "docs" / "images" / "workflow.webp"
_WIDTH, _QUALITY = 1600, 52
_READY = "window.comfyAPI?.app?.app?.canvas?.graph?.nodes.length"
# The whole graph at its own size, beside the bars of the page; what it takes of the window comes back.
_LOAD = """async ([graph, steps]) => {
  const { app } = window.comfyAPI.app
  await app.loadGraphData(graph)
  for (const node of app.graph.nodes)
    for (const widget of node.widgets ?? [])
      if (steps && widget.name === 'steps' && node.type !== 'MatrixAttentionPreview') widget.value = steps
}"""
_PLACE = """() => {
  const { canvas, graph } = window.comfyAPI.app.app
  const boxes = [...graph.groups.map(({ pos, size }) => [...pos, ...size])]
  for (const { pos, size } of graph.nodes) boxes.push([pos[0], pos[1] - 30, size[0], size[1] + 30])
  const [left, top] = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])) - 40)
  const [right, bottom] = [0, 1].map((axis) => Math.max(...boxes.map((box) => box[axis] + box[axis + 2])) + 40)
  canvas.ds.scale = 1
  canvas.ds.offset = [200 - left, 160 - top]
  canvas.setDirty(true, true)
  return { x: 200, y: 160, width: right - left, height: bottom - top }
}"""

_SHORT = """(base) => {
  for (const report of document.querySelectorAll('.matrix-report'))
    for (const part of [report, ...report.querySelectorAll('*')])
      for (const node of part.childNodes)
        if (node.nodeType === Node.TEXT_NODE) node.data = node.data.replaceAll(base, '')
}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.opened_picture", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--name", default="01_watch_attention")
    parser.add_argument("--out", type=Path, default=_OPENED)
    chosen = parser.parse_args()
    device = () if torch.cuda.is_available() else ("--cpu", "--use-pytorch-cross-attention")
    with tempfile.TemporaryDirectory(prefix="matrix-opened-") as base, serve(Path(base), device) as server:
        whole = _taken(
            server, json.loads((ROOT / "workflows" / f"{chosen.name}.json").read_text("utf-8")), chosen.steps
        )
    height = round(whole.height * _WIDTH / whole.width)
    whole.resize((_WIDTH, height), Image.Resampling.LANCZOS).save(chosen.out, quality=_QUALITY, method=6)
    print(chosen.out, whole.size, chosen.out.stat().st_size // 1024, "KiB")


def _taken(server: Server, graph: dict[str, Any], steps: int) -> Image.Image:
    from playwright.sync_api import sync_playwright

    for name, value in (("Comfy.TutorialCompleted", True), ("Comfy.VueNodes.Enabled", False)):
        body, kind = json.dumps(value).encode(), {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/settings/{name}", body, kind)).close()
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-gpu", *flags])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(1_800_000)
        page.goto(server.url)
        page.wait_for_function(_READY)
        page.evaluate(_LOAD, [graph, steps])
        page.get_by_test_id("queue-button").click()
        page.wait_for_timeout(3000)
        page.wait_for_function("window.comfyAPI.app.app.graph.nodes.every((node) => node.progress === undefined)")
        while any(server.get("/queue").values()):
            page.wait_for_timeout(1000)
        box = page.evaluate(_PLACE)
        page.set_viewport_size({"width": round(box["width"]) + 600, "height": round(box["height"]) + 500})
        page.wait_for_timeout(1000)
        box = page.evaluate(_PLACE)
        page.wait_for_timeout(5000)  # films, maps and charts are drawn
        page.evaluate(_SHORT, f"{server.base}/")  # where this run's folder was is nobody's business
        taken = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
        browser.close()
        return taken


if __name__ == "__main__":
    main()
