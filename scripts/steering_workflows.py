"""Runs the workflows that steer, in a real headless ComfyUI with mini, and makes their thumbnails of what came out.

python -m scripts.steering_workflows [--steps N] [--only 04 05] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from matrix_lib.draw.style import INK, page, write
from matrix_lib.io.video import read_video

from .comfyui import ROOT, Server, serve
from .follow import follow
from .templates.steering import DRAFTS
from .thumbnails import save

__all__ = ["bypassed", "run", "saved_videos", "shortened", "thumbnail"]

Graph = dict[str, Any]
CELL, GAP, LEFT = 150, 5, 18
SAID = {
    "04_steer_with_masks": "masks of a driving clip",
    "05_box_trajectory": "boxes",
    "07_cut_and_drag": "a rough animation",
}
STEERS = ("MatrixAttentionGuidance", "MatrixIntrinsicDenoising", "MatrixDualClockDenoising")


def shortened(name: str, steps: int | None = None) -> Graph:
    """The server form of a workflow, with another number of steps; two samplers go on sharing them."""
    graph: Graph = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for node in graph.values():
        if steps is None or "steps" not in node["inputs"] or node["class_type"].startswith("Matrix"):
            continue
        before = node["inputs"]["steps"]
        for key in ("steps", "start_at_step", "end_at_step"):
            if node["inputs"].get(key, before + 1) <= before:
                node["inputs"][key] = round(node["inputs"][key] * steps / before)
    return graph


def bypassed(graph: Graph, kinds: Iterable[str]) -> Graph:
    """The same with nodes of these classes bypassed: who reads their MODEL gets the one that they were given."""
    source = {n: node["inputs"]["model"] for n, node in graph.items() if node["class_type"] in kinds}

    def resolved(value: Any) -> Any:
        while isinstance(value, list) and value[0] in source:
            value = source[value[0]]
        return value

    return {
        number: {**node, "inputs": {name: resolved(value) for name, value in node["inputs"].items()}}
        for number, node in graph.items()
        if number not in source
    }


def saved_videos(server: Server, graph: Graph) -> dict[str, Path]:
    """The latest file of each SaveVideo in the graph, by the name in its prefix."""
    found = {}
    for node in graph.values():
        if node["class_type"] == "SaveVideo":
            prefix = Path(node["inputs"]["filename_prefix"])
            files = (server.base / "output" / prefix.parent).glob(f"{prefix.name}_[0-9]*")
            found[prefix.name] = max(files, key=lambda path: path.stat().st_mtime_ns)
    return found


def run(server: Server, name: str, steps: int | None = None, unsteered: bool = False) -> dict[str, Path]:
    """Runs a workflow on a running server; `unsteered` with its steering bypassed. Returns the videos that it saved."""
    graph = shortened(name, steps)
    if unsteered:
        graph = bypassed(graph, STEERS)
    follow(server, graph)
    return saved_videos(server, graph)


def thumbnail(rows: list[tuple[str, Tensor]], shown: Sequence[int] = (0, 4, 8, 12, 16)) -> Image.Image:
    """Rows of frames (F, H, W, 3) uint8, those that are `shown`, with what they are above them."""
    tall = CELL + 34
    picture, ink = page(2 * LEFT + len(shown) * (CELL + GAP) - GAP, len(rows) * tall + 14)
    for row, (said, frames) in enumerate(rows):
        write(ink, (LEFT, row * tall + 22), said, 16, INK["soft"])
        for column, at in enumerate(shown):
            frame = Image.fromarray(np.asarray(frames[at])).resize((CELL, CELL), Image.Resampling.LANCZOS)
            picture.paste(frame, (LEFT + column * (CELL + GAP), row * tall + 36))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.steering_workflows", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="+", default=list(SAID), help="names of workflows that begin with one of these")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "steering", help="where the videos go")
    chosen = parser.parse_args()
    names = [name for name in SAID if name.startswith(tuple(chosen.only))]
    chosen.output.mkdir(parents=True, exist_ok=True)
    device = () if torch.cuda.is_available() else ("--cpu", "--use-pytorch-cross-attention")
    assert {make().name for make in DRAFTS} == set(SAID)
    with tempfile.TemporaryDirectory(prefix="matrix-steering-") as base, serve(Path(base), device) as server:
        for name in names:
            rows = []
            for unsteered, said in ((True, "the prompt alone"), (False, f"steered by {SAID[name]}")):
                files = run(server, name, chosen.steps, unsteered)
                tracked = next(path for kind, path in files.items() if kind.endswith("_tracks"))
                rows.append((said, read_video(tracked).frames))
                if unsteered:
                    sketches = [path for kind, path in files.items() if kind.endswith("_sketch")]
                    rows += [("the rough animation", read_video(path).frames) for path in sketches]
                for kind, path in files.items():
                    shutil.copy(path, chosen.output / f"{name}-{kind}{'-unsteered' if unsteered else ''}.mp4")
            save(name, thumbnail(rows))


if __name__ == "__main__":
    main()
