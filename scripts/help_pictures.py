"""The pictures of the nodes' help pages, small, from pictures that the documentation and the templates have.

`python -m scripts.help_pictures` after `scripts.pictures` and the templates' thumbnails. The first frames of the
example clips are there, too: the track editor shows them before anything has run.
"""

from __future__ import annotations

import sys

import av
from PIL import Image

from matrix_lib.hosts.bundle import example_clips

from .comfyui import ROOT

__all__ = ["SOURCES", "main"]

# Name: source, and the part of its height that is shown (thumbnails begin with their title).
SOURCES = {
    "attention": ("workflows/01_watch_attention.jpg", 0.135),
    "tracks": ("docs/images/tracks.jpg", 0.0),
    "layers": ("workflows/06_find_layers.jpg", 0.22),
    "steered": ("workflows/04_steer_with_masks.jpg", 0.18),
    "drag": ("workflows/07_cut_and_drag.jpg", 0.13),
    "judged": ("workflows/09_judge.jpg", 0.19),
    "who": ("workflows/02_matrix_lora.jpg", 0.13),
}
_WIDTH, _QUALITY, _EXAMPLE = 480, 45, 85


def main() -> None:
    """`python -m scripts.help_pictures [NAME ...]`: all of them, or these."""
    folder = ROOT / "web" / "docs" / "images"
    folder.mkdir(exist_ok=True)
    for name, (source, above) in SOURCES.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        whole = Image.open(ROOT / source).convert("RGB")
        part = whole.crop((0, round(whole.height * above), whole.width, whole.height))
        small = part.resize((_WIDTH, round(part.height * _WIDTH / part.width)), Image.Resampling.LANCZOS)
        small.save(folder / f"{name}.jpg", quality=_QUALITY, optimize=True, progressive=True)
        print(name, (folder / f"{name}.jpg").stat().st_size // 1024, "KiB")
    examples()


def examples() -> None:
    """The first frame of each example clip as `example-NAME.jpg`."""
    for name, path in example_clips().items():
        with av.open(str(path)) as container:
            first = next(container.decode(video=0)).to_image()
        first.save(ROOT / "web" / "docs" / "images" / f"example-{name}.jpg", quality=_EXAMPLE, optimize=True)


if __name__ == "__main__":
    main()
