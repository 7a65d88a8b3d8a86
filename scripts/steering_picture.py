"""What each way of steering does, on one clip of mini: given tracks as outlines over what came out, one row each.

python -m scripts.steering_picture OUT.jpg [--tracks swapped] [--clip 0] [--steps 24] [--best SWEEP] [--only NAME ...]

Clips are those of `python -m training.steer`, sampled in the same way. Rows are kept beside OUT until the picture is
whole, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.style import INK, fit_text, heading, page, readable, write
from matrix_lib.evaluation.steering.choice import best_of
from matrix_lib.evaluation.steering.measures import measure
from matrix_lib.evaluation.steering.plan import PLAIN, Condition, conditions
from matrix_lib.evaluation.steering.results import load_cells
from matrix_lib.evaluation.steering.run import Bench, SteerRecipe, steered_tracks
from matrix_lib.hosts.bundle import HOME
from matrix_lib.hosts.diffusers.mini import move
from matrix_lib.io.files import whole_file
from matrix_lib.mini.paths import PATHS, given
from matrix_lib.mini.world import Clips
from training.models.mini_run import pipeline_of

__all__ = ["draw", "outlined"]

SHOWN = (
    PLAIN,
    "region bias",
    "region bias, gentle of the sweep",
    "region bias, faithful of the sweep",
    "masked attention",
    "masked attention, faithful of the sweep",
    "dual-clock denoising, faithful of the sweep",
    "together",
    "intrinsic denoising",
    "words hidden (CMG)",
    "video hidden (CAG)",
)
"""Those that a sweep chose are shown where one is given; "together" stands for its combination of modes."""
FRAMES = 6
CELL, LEFT, TOP, GAP = 176, 250, 92, 6


def outlined(frame: Tensor, masks: Sequence[tuple[Tensor, tuple[int, int, int]]], size: int) -> NDArray[np.uint8]:
    """(size, size, 3): a frame (3, H, W) uint8 enlarged, with the borders of masks (H, W) in their colours."""
    picture = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
    out = np.array(picture)
    for mask, colour in masks:
        big = Image.fromarray(mask.numpy().astype(np.uint8) * 255).resize((size, size), Image.Resampling.BICUBIC)
        inside = np.asarray(big) > 127
        wide = np.pad(inside, 2)
        around = [wide[2 + y : 2 + y + size, 2 + x : 2 + x + size] for y in (-2, 0, 2) for x in (-2, 0, 2)]
        out[np.any(around, 0) & ~inside] = colour
    return out


def draw(
    rows: Sequence[tuple[str, str, Tensor]], tracks: MaskTracks, prompt: str, subtitle: str, size: int = CELL
) -> Image.Image:
    """rows: name, what is said below it, clip (F, 3, H, W) uint8."""
    count = rows[0][2].shape[0]
    shown = sorted({round(i * (count - 1) / (FRAMES - 1)) for i in range(FRAMES)})
    wide, tall = LEFT + len(shown) * (size + GAP) + 18, TOP + len(rows) * (size + GAP) + 18
    picture, ink = page(wide, tall)
    heading(ink, 18, 14, prompt, subtitle, wide - 36)
    masks = {track.name: (tracks.masks(track.name), readable(track.colour)) for track in tracks.tracks}
    for row, (name, said, video) in enumerate(rows):
        top = TOP + row * (size + GAP)
        _label(ink, top + size / 2, name, said)
        for column, frame in enumerate(shown):
            cell = outlined(video[frame], [(mask[frame], colour) for mask, colour in masks.values()], size)
            picture.paste(Image.fromarray(cell), (LEFT + column * (size + GAP), top))
    return picture


def _label(ink: ImageDraw.ImageDraw, middle: float, name: str, said: str) -> None:
    words, lines = name.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if fit_text(longer, 18, LEFT - 34) == longer:
            lines[-1] = longer
        else:
            lines.append(word)
    top = middle - 12 * len(lines)
    for at, line in enumerate(lines):
        write(ink, (18, top + 24 * at), line, 18, INK["text"])
    write(ink, (18, top + 24 * len(lines) + 2), said, 14, INK["faint"])


def _sampled(bench: Bench, condition: Condition, clips: Clips, truth: Clips, at: int, keep: Path) -> Tensor:
    """(F, 3, H, W) uint8, from the file of an earlier run where it is of these settings."""
    file = keep.with_name(
        f".{keep.stem}-{bench.mark}-{at}-{hashlib.sha256(condition.settings.encode()).hexdigest()[:8]}.npy"
    )
    if file.is_file():
        return torch.from_numpy(np.load(file))
    video = bench.sample(condition, clips, [steered_tracks(truth, 0)], at)[0].cpu()
    with whole_file(file) as temporary:
        np.save(temporary, video.numpy())
    return video


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.steering_picture", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tracks", choices=list(PATHS), default="swapped")
    parser.add_argument("--clip", type=int, default=0)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--cfg", type=float, default=SteerRecipe().cfg, help="guidance scale")
    parser.add_argument("--only", nargs="+", help="names of conditions, in the order of the rows")
    parser.add_argument("--best", type=Path, help="folder of a sweep, whose best of each mode is shown, too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    pipeline, sizes = pipeline_of(HOME)
    move(pipeline, chosen.device, torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32)
    bench = Bench(pipeline, sizes, SteerRecipe(chosen.clip + 1, chosen.steps, chosen.cfg), str(chosen.tracks))
    clips = bench.clips.select([chosen.clip])
    truth = given(chosen.tracks, clips)
    swept = conditions("sweep", sizes.layers)
    best = best_of(load_cells(chosen.best), swept, "swapped") if chosen.best is not None else {}
    known = {c.name: c for c in (*swept, *conditions("table", sizes.layers, best))}
    combined = [name for name in known if name.startswith("together") and name.endswith("of the sweep")]
    every = [name for one in SHOWN for name in (combined if one == "together" else [one])]
    shown = chosen.only or [name for name in every if name in known]
    rows = [("what the tracks say", "the exact clip", truth.video[0].cpu())]
    for name in shown:
        video = _sampled(bench, known[name], clips, truth, chosen.clip, chosen.out)
        found = measure(video[None].to(clips.video.device), truth, clips)
        said = f"IoU {float(found['iou'][0]):.2f}, SPI {float(found['spi'][0]):.2f}"
        print(f"{name}: {said}", flush=True)
        rows.append((name, said, video))
    how = f"{chosen.steps} steps, guidance {chosen.cfg:g}, the same noise in every row"
    subtitle = f"outlines: the tracks that were given ({chosen.tracks}); {how}"
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, steered_tracks(truth, 0), clips.prompts[0], subtitle).save(chosen.out, quality=88)
    for left in chosen.out.parent.glob(f".{chosen.out.stem}-*.npy"):
        left.unlink()


if __name__ == "__main__":
    main()
