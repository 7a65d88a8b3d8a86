"""The attention viewer: how fast a capture opens, what another layer costs, and what the page holds.

A small capture and one of a 5B model's size (42 layers, 50 steps, 10 words, 13x30x45 tokens) on a real ComfyUI, in
Chromium; the GPU does nothing here. Maps are asked for with layers that nobody asked for before: none is ready.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, sync_playwright

from matrix_lib.core.grid import Grid
from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps
from matrix_lib.io.captures import save_capture
from matrix_lib.io.video import write_video
from scripts.comfyui import Server, serve
from scripts.front import chromium

__all__ = ["LIMITS", "run"]

# layers, steps, words, token grid, and pixels of a frame
SIZES = {
    "small": (12, 24, 3, Grid.from_pixels(17, 128, 128), (128, 128)),
    "5B": (42, 50, 10, Grid.from_pixels(49, 480, 720), (480, 720)),
}
LIMITS = {"megabytes in the page": 100.0, "opens in times of the small one": 2.0}
FLAGS = ["--disable-gpu", "--no-first-run", "--disable-background-networking"]
_OPEN = """async ([id, fields]) => {
  const begun = performance.now()
  const { mountViewer } = await import('/extensions/matrix-video/js/viewer/mount.js')
  const { askingSource } = await import('/extensions/matrix-video/js/viewer/source.js')
  window.bytes = 0
  const source = askingSource(async (what, query) => {
    const reply = await fetch(`/matrix/viewer/${id}/${what}?${new URLSearchParams(query)}`)
    if (!reply.ok) throw new Error(await reply.text())
    const data = await reply.arrayBuffer()
    window.bytes += data.byteLength
    return { data, type: reply.headers.get('Content-Type') }
  })
  document.body.replaceChildren()
  document.body.style.margin = '0'
  const place = document.createElement('div')
  place.style.height = '90vh'
  document.body.append(place)
  window.viewer = await mountViewer(place, source, { fields })
  while (!window.viewer.element.dataset.drawn) await new Promise(requestAnimationFrame)
  return performance.now() - begun
}"""
_LAYER = """async (layer) => {
  const { viewer } = window
  const before = window.bytes
  const begun = performance.now()
  viewer.set({ layers: [layer], names: viewer.held.entities.slice(0, 1) })
  while (viewer.loading || !viewer.element.dataset.drawn.startsWith(`layer ${layer} `)) {
    await new Promise((done) => setTimeout(done))
  }
  return [performance.now() - begun, window.bytes - before]
}"""
_PLAY = """async () => {
  const { viewer } = window
  for (let i = 0; i < viewer.stream.pictures.length; i++) {
    viewer.seek(i)
    await viewer.fetchFrames()
  }
}"""


def run(rounds: int) -> dict[str, Any]:
    """Medians over `rounds`: milliseconds to the first picture and to another layer's, that layer's share of queueing
    the picture again, kilobytes for it, and megabytes that the page holds after every layer and frame was looked at."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="matrix-viewer-") as base:
        with serve(Path(base)) as server, sync_playwright() as playwright:
            root = hasattr(os, "geteuid") and os.geteuid() == 0
            flags = [*FLAGS, "--no-sandbox"] if root else FLAGS
            browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
            for name in SIZES:
                results[name] = _measured(
                    server, browser.new_page(viewport={"width": 1200, "height": 800}), name, rounds
                )
                print(f"{name:>6}: " + ", ".join(f"{what} {value:.3g}" for what, value in results[name].items()))
            browser.close()
    small, big = results["small"], results["5B"]
    results["opens in times of the small one"] = big["first picture, ms"] / small["first picture, ms"]
    held = {
        "megabytes in the page": big["megabytes in the page"],
        "opens in times of the small one": results["opens in times of the small one"],
    }
    for what, value in held.items():
        print(
            f"{what}: {value:.3g}, wanted at most {LIMITS[what]:g}: {'kept' if value <= LIMITS[what] else 'NOT kept'}"
        )
    return results


def _measured(server: Server, tab: Page, name: str, rounds: int) -> dict[str, float]:
    layers = SIZES[name][0]
    _write(server, name)
    tab.goto(f"{server.url}/system_stats")
    opened, queued = [], []
    for turn in range(rounds):
        began = time.perf_counter()
        shown = _queue(server, name, turn)
        queued.append(1e3 * (time.perf_counter() - began))
        opened.append(tab.evaluate(_OPEN, [shown, {"layers": f"{turn}-{layers - 1}"}]))
    found = [tab.evaluate(_LAYER, layer) for layer in range(layers)]
    tab.evaluate(_PLAY)
    session = tab.context.new_cdp_session(tab)
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")
    kept = sum(heap[part] for part in ("usedSize", "embedderHeapUsedSize", "backingStorageSize"))
    layer = statistics.median(each[0] for each in found)
    return {
        "first picture, ms": statistics.median(opened),
        "another layer, ms": layer,
        "queued again, ms": statistics.median(queued[1:] or queued),
        "another layer as share of queueing again": layer / statistics.median(queued[1:] or queued),
        "kilobytes for it": statistics.median(each[1] for each in found) / 1e3,
        "megabytes in the page": (kept + _pixels(tab)) / 1e6,
    }


def _pixels(tab: Page) -> float:
    """Bytes of canvases and of pictures that are kept as pixels, which no heap counts."""
    return float(
        tab.evaluate(
            """() => {
              const { stage, second, chart, exhibit } = window.viewer
              const parts = [stage.canvas, second.canvas, chart.canvas, ...exhibit.bitmaps.things.values()]
              const files = [...exhibit.files.things.values()]
              return parts.reduce((sum, { width, height }) => sum + 4 * width * height, 0) +
                files.reduce((sum, { size }) => sum + size, 0)
            }"""
        )
    )


def _queue(server: Server, name: str, turn: int) -> str:
    """Runs Preview Attention of the first word with other layers, as a person would; the id of what it shows."""
    inputs = {
        "kind": "words (video to text)",
        "names": "word 0",
        "layers": f"{turn}",
        "steps": "all",
        "stream": 0,
        "fps": 8.0,
        "heat": "smooth",
        "colour_scale": "one for the clip",
        "colours": "ember",
        "strength": 0.85,
        "width": 0,
    }
    graph = {
        "1": {"class_type": "MatrixLoadCapture", "inputs": {"file": f"{name}.safetensors [output]"}},
        "2": {"class_type": "LoadVideo", "inputs": {"file": f"{name}.mp4"}},
        "3": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 0]}},
        "4": {"class_type": "MatrixAttentionPreview", "inputs": {"capture": ["1", 0], "frames": ["3", 0], **inputs}},
    }
    return server.run(graph)["4"]["matrix_viewer"][0]["id"]


def _write(server: Server, name: str) -> None:
    """A capture of random maps and a clip of its size, where the server finds them."""
    layers, steps, words, grid, (height, width) = SIZES[name]
    generator = torch.Generator().manual_seed(0)
    shape = (layers, steps, words, *grid.shape)
    values = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    scale = torch.rand(shape[:3], generator=generator) * 0.02 + 0.001
    names = tuple(f"word {i}" for i in range(words))
    counts = torch.full((*shape[:3], grid.frames), 2, dtype=torch.int32)
    maps = Maps(values, tuple(range(layers)), names, counts, scale)
    phrases = tuple(Phrase(n, n, "instance", 7 * i, 7 * i + 6, (i,)) for i, n in enumerate(names))
    binding = PromptBinding(" ".join(f"{n:<6}" for n in names), 226, (), phrases)
    bins = tuple(StepInfo(i, 1 - i / steps, 2) for i in range(steps))
    capture = Capture([Stream("a", binding, grid, {"v2t": maps})], "cogvideox", bins)
    save_capture(capture, server.base / "output" / f"{name}.safetensors")
    ramp = torch.linspace(0, 255, width).to(torch.uint8).expand(height, width)[..., None].repeat(1, 1, 3)
    write_video(server.base / "input" / f"{name}.mp4", [ramp.roll(8 * i, 1) for i in range(grid.pixel_frames)], 8.0)
