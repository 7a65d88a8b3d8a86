"""Runs the workflows with an alignment LoRA, in a real headless ComfyUI with mini, and makes their thumbnails of it.

python -m scripts.lora_workflows [--steps N] [--only 02 03] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from matrix_lib.io.video import read_video

from .comfyui import ROOT, Server, serve
from .follow import follow
from .steering_workflows import bypassed, saved_videos, shortened, thumbnail
from .templates.lora import EXAMPLES, GAP
from .templates.squares import HEIGHT, WIDTH
from .thumbnails import save

__all__ = ["halves", "run"]


def run(server: Server, name: str, steps: int | None = None, words_alone: bool = False) -> Path:
    """Runs a workflow on a running server; `words_alone` with its LoRA bypassed. Returns the comparison."""
    graph = shortened(name, steps)
    if words_alone:
        graph = bypassed(graph, ("MatrixApplyLoRA",))
    follow(server, graph)
    (saved,) = saved_videos(server, graph).values()
    return saved


def halves(frames: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of a comparison (F, H, W, 3): the mask's picture and the clip (F, h, w, 3), for the left and the right one."""
    columns = frames[:, :, :WIDTH], frames[:, :, WIDTH + GAP :]
    return [(column[0, :HEIGHT], column[:, HEIGHT:]) for column in columns]


def main() -> None:
    names = {example.name: example.prompt for example in EXAMPLES}
    parser = argparse.ArgumentParser(prog="python -m scripts.lora_workflows", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="+", default=list(names), help="what the names of workflows begin with")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "loras", help="where the videos go")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    device = () if torch.cuda.is_available() else ("--cpu", "--use-pytorch-cross-attention")
    with tempfile.TemporaryDirectory(prefix="matrix-loras-") as base, serve(Path(base), device) as server:
        for name in (name for name in names if name.startswith(tuple(chosen.only))):
            rows = []
            for words_alone in (True, False):
                path = run(server, name, chosen.steps, words_alone)
                shutil.copy(path, chosen.output / f"{name}{'-words-alone' if words_alone else ''}.mp4")
                left, right = halves(read_video(path).frames)
                if words_alone:
                    shown = [(f"{names[name]}: the words alone", (torch.zeros_like(left[0]), left[1]))]
                else:
                    shown = [("the mask is on the left one", left), ("the mask is on the right one", right)]
                rows += [(said, torch.cat([mask[None], clip])) for said, (mask, clip) in shown]
            save(name, thumbnail(rows, (0, 1, 5, 9, 13, 17)))


if __name__ == "__main__":
    main()
