"""The pictures of the README and the thumbnail of the first workflow, from what `make demo` wrote.

`python -m scripts.pictures` after a demo with the mini model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from matrix_lib.io.video import read_video

from .canvas import draw, titled
from .comfyui import ROOT

__all__ = ["strip"]

DEMO = ROOT / "output" / "demo"
IMAGES = ROOT / "docs" / "images"


def strip(video: Path, rows: int, width: int) -> Image.Image:
    """Frames of a video, evenly spread from the first to the last, one below the other."""
    frames = read_video(video).frames.numpy()
    shown = np.linspace(0, len(frames) - 1, rows).round().astype(int)
    whole = Image.fromarray(np.concatenate([frames[i] for i in shown]))
    return whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    attention = strip(DEMO / "mini" / "attention.mp4", 3, 1080)
    attention.save(IMAGES / "attention.jpg", quality=88)
    Image.open(DEMO / "mini" / "layers.png").convert("RGB").save(IMAGES / "layers.png", optimize=True)
    shown = {"MATRIX Preview Tracks": IMAGES / "tracks.jpg", "Save layer chart": DEMO / "layers.png"}
    first = DEMO / "first.png"
    strip(DEMO / "attention.mp4", 1, 1080).save(first)
    draw(titled("01_watch_attention"), shown | {"MATRIX Preview Attention": first}).save(
        IMAGES / "workflow.png", optimize=True
    )
    first.unlink()
    strip(DEMO / "mini" / "attention.mp4", 2, 720).save(ROOT / "workflows" / "01_watch_attention.jpg", quality=85)
    for path in sorted(IMAGES.iterdir()):
        print(path.relative_to(ROOT), path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
