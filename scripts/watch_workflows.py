"""Runs the workflows 00, 01, 06 and 08 to 15 in a real headless ComfyUI with mini, and makes their thumbnails of what
came out.

python -m scripts.watch_workflows [--steps N] [--only 00 01] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence

from matrix_lib.draw.followed import draw_followed
from matrix_lib.io.captures import load_capture
from matrix_lib.io.tracks import load_tracks
from matrix_lib.io.video import read_video

from .comfyui import ROOT, serve
from .follow import follow
from .pictures import attention, best_layers
from .steering_workflows import shortened, thumbnail
from .thumbnails import save

__all__ = ["PICTURES", "latest", "main"]

_WIDTH = 806
_SCORES = {"KISA": "kisa", "SGI": "sgi", "SPI": "spi", "IF": "fidelity"}


def latest(folder: Path, name: str, ending: str = "") -> Path:
    """The newest file that a workflow saved under a name, in the `matrix` folder of the output."""
    return max((folder / "matrix").glob(f"{name}_[0-9]*{ending}"), key=lambda path: path.stat().st_mtime_ns)


def _clip(name: str, said: str) -> Callable[[Path], Image.Image]:
    """The clip, with what it shows in words; what stands below each picture is left out."""

    def made(folder: Path) -> Image.Image:
        with Image.open(latest(folder, name)) as clip:
            frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(clip)])
        return thumbnail([(said, torch.from_numpy(frames[:, : frames.shape[2]]))])

    return made


def _watched(folder: Path) -> Image.Image:
    """Heat of two words on the clip, in the layer that keeps them apart best."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("capture", "tracks", "video"):
            source = latest(folder, name)
            shutil.copy(source, Path(place) / f"{name}{source.suffix}")
        capture, tracks = (
            load_capture(Path(place) / "capture.safetensors"),
            load_tracks(Path(place) / "tracks.safetensors"),
        )
        first, second = (name for name in tracks.names[:2])
        layers = best_layers(capture, tracks, (first, second))
        return attention(Path(place), (first, second), layers, _WIDTH)


def _chart(name: str) -> Callable[[Path], Image.Image]:
    def made(folder: Path) -> Image.Image:
        picture = Image.open(latest(folder, name, ".png")).convert("RGB")
        return picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)

    return made


def _judged(folder: Path) -> Image.Image:
    """What the judge saw of both clips, and what it made of them."""
    rows = []
    for name, said in (("mini", "what mini made of it"), ("real", "the real clip")):
        place = folder / "matrix" / "judge" / name
        score = json.loads((place / "scores.jsonl").read_text(encoding="utf-8").splitlines()[-1])["values"]
        shown = sorted(place.glob("frames/*/*.png"))
        frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in shown])
        words = ", ".join(f"{title} {score[key]:.2f}" for title, key in _SCORES.items())
        rows.append((f"{said}: {words}", torch.from_numpy(frames)))
    return thumbnail(rows, range(5))


def _read(folder: Path) -> Image.Image:
    """The masks of the words over what mini made."""
    frames = torch.as_tensor(read_video(latest(folder, "read", ".mp4")).frames)
    edge = frames.shape[2]  # below each picture stands what is said of its frame
    return thumbnail([("what two words look at, as masks; dashed: the boxes of the real clip", frames[:, :edge])])


def _timed(folder: Path) -> Image.Image:
    """Heat of an instance's words, and of a verb that holds in the second half of the clip."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("capture", "video"):
            source = latest(folder, name)
            shutil.copy(source, Path(place) / f"{name}{source.suffix}")
        return attention(Path(place), ("green circle", "pushes"), "all", _WIDTH)


def _masked(clip: str, masks: str, said: str) -> Callable[[Path], Image.Image]:
    """The masks that one run gave over a clip."""

    def made(folder: Path) -> Image.Image:
        frames = read_video(latest(folder, clip, ".mp4")).frames
        tracks = load_tracks(latest(folder, masks, ".safetensors"))
        drawn = [np.asarray(each) for each in draw_followed(None, tracks, lambda i: frames[i], width=480)]
        edge = drawn[0].shape[1]
        return thumbnail([(said, torch.from_numpy(np.stack([picture[:edge] for picture in drawn])))])

    return made


PICTURES = {
    "00_move_two_things": _clip("moved", "two circles go where their boxes go"),
    "01_watch_attention": _watched,
    "06_find_layers": _chart("words"),
    "08_two_experts": _chart("experts"),
    "09_judge": _judged,
    "10_read_capture": _read,
    "11_words_in_time": _timed,
    "12_two_passes": _masked(
        "second_pass", "first_pass_masks", "masks of the first pass's words, over the second pass"
    ),
    "13_pick_seeds": _masked("picked", "picked_masks", "masks of the best seed's first steps, over what came of it"),
    "14_instance_captions": _clip("apart", "left: the red square moves down; right: the red square"),
    "15_score_tracks": _clip("scored", "lines: what was found; dashes: the boxes that were asked for"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.watch_workflows", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--only", nargs="+", default=list(PICTURES), help="what the names of workflows begin with")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "watched", help="where the files go")
    chosen = parser.parse_args()
    device = () if torch.cuda.is_available() else ("--cpu", "--use-pytorch-cross-attention")
    with tempfile.TemporaryDirectory(prefix="matrix-watched-") as base, serve(Path(base), device) as server:
        for name in (name for name in PICTURES if name.startswith(tuple(chosen.only))):
            follow(server, shortened(name, chosen.steps))
            shutil.copytree(server.base / "output", chosen.output / name, dirs_exist_ok=True)
            save(name, PICTURES[name](chosen.output / name))
            shutil.rmtree(server.base / "output" / "matrix")


if __name__ == "__main__":
    main()
