"""The pictures of the README, from what `make demo` wrote with mini.

`python -m scripts.pictures` after a demo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from matrix_lib.core.grid import Framing, Grid
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.capture import Choice, attention_pictures
from matrix_lib.draw.heatmaps import Look
from matrix_lib.draw.tracks import TrackLook, draw_tracks
from matrix_lib.instrument.capture import Capture
from matrix_lib.io.captures import load_capture
from matrix_lib.io.tracks import load_tracks
from matrix_lib.io.video import read_video

from .comfyui import ROOT
from .street import FRAMES, START, sample_clip

__all__ = ["attention", "best_layers", "tracks_on_clip"]

DEMO = ROOT / "output" / "demo"
IMAGES = ROOT / "docs" / "images"
FRAMES_SHOWN = (0, 7, 16)


def best_layers(capture: Capture, tracks: MaskTracks, names: tuple[str, str], count: int = 1) -> str:
    """The layers in which most of each of two words' attention lies on its own instance and not on the other's, as a
    node takes them: "1, 4"."""
    on_grid = tracks.to_grid(capture.stream().grid)
    masks = {name: on_grid.maps[on_grid.names.index(name)] for name in names}
    scores: dict[int, float] = {}
    for layer in capture.stream().layers_v2t:
        maps = {name: capture.maps("v2t", layer, entity=name) for name in names}
        share = {(a, b): float((maps[a] * masks[b]).sum() / maps[a].sum()) for a in names for b in names}
        scores[layer] = min(share[a, a] - share[a, b] for a, b in (names, names[::-1]))
    return ", ".join(map(str, sorted(sorted(scores, key=lambda layer: -scores[layer])[:count])))


def attention(folder: Path, names: tuple[str, ...], layers: str, width: int) -> Image.Image:
    """One row for each name, one column for each of FRAMES_SHOWN: heat of the given layers on the sampled video, with
    the outlines of its tracks, where there are any."""
    capture, told = load_capture(folder / "capture.safetensors"), folder / "tracks.safetensors"
    tracks = load_tracks(told) if told.is_file() else None
    video, rows = read_video(folder / "video.mp4").frames, []
    for name in names:
        choice = Choice(names=name, layers=layers)
        _, _, pictures = attention_pictures(capture, choice, video, tracks, Look(width=480))
        every = [np.asarray(picture.convert("RGB")) for picture in pictures]
        rows.append(np.concatenate([every[i] for i in FRAMES_SHOWN], axis=1))
    whole = Image.fromarray(np.concatenate(rows))
    return whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)


def tracks_on_clip(height: int, width: int, patch: int = 2) -> Image.Image:
    """The boxes of the first workflow on its clip, in the crop and on the token grid of a clip of this size."""
    tracks = load_tracks(DEMO / "tracks.safetensors")
    frames = read_video(sample_clip(), START, START + FRAMES).frames
    framing = Framing((tracks.height, tracks.width), (height, width))
    on_grid = tracks.to_grid(Grid.from_pixels(FRAMES, height, width, (1, patch, patch)), "nearest", framing)

    def frame_at(index: int) -> np.ndarray:
        return framing.apply(frames[index].permute(2, 0, 1)).permute(1, 2, 0).numpy()

    (picture,) = draw_tracks(tracks, on_grid, [13], frame_at, TrackLook(), framing)
    return picture


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    mini = DEMO / "mini"
    capture, tracks = load_capture(mini / "capture.safetensors"), load_tracks(mini / "tracks.safetensors")
    first, second = (phrase.name for phrase in capture.stream().binding.instances[:2])
    heat = attention(mini, (first, second), best_layers(capture, tracks, (first, second)), 1080)
    heat.save(IMAGES / "attention.webp", quality=78, method=6)
    tracks_on_clip(160, 384).convert("RGB").save(IMAGES / "tracks.webp", quality=76, method=6)
    Image.open(mini / "layers.png").convert("RGB").save(IMAGES / "layers.webp", lossless=True, quality=100, method=6)
    for path in sorted(IMAGES.iterdir()):
        print(path.relative_to(ROOT), path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
