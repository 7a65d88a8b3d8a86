"""How often what is read off captures is right, on clips of the mini world that mini sees under noise.

python -m scripts.reading_truth --out FOLDER [--count N] [--seed S] [--device cuda]

Each clip is shown as it is, and with a second agent that comes up in the middle of it (a double). Words are also
compared with masks whose names were exchanged (a swap: words and masks disagree about who is who). The truth is the
world's. Captures are kept in FOLDER; those that are there are not made again. Prints the tables of
docs/reading-captures.md and writes its picture.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from matrix_lib.core.grid import Grid
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.phrases import parse_phrases
from matrix_lib.draw.followed import draw_followed
from matrix_lib.evaluation.layers.probe import Recipe, probe
from matrix_lib.evaluation.statistics import bootstrap, wilson
from matrix_lib.evaluation.trajectories.score import score_tracks
from matrix_lib.evaluation.verdicts import verdict
from matrix_lib.hosts.diffusers.load import Model, open_model
from matrix_lib.instrument.capture import Capture
from matrix_lib.instrument.readings.mix_ups import MixUp, find_mix_ups
from matrix_lib.instrument.readings.reading import read_capture
from matrix_lib.instrument.readings.word_masks import word_masks
from matrix_lib.io.captures import load_capture, save_capture
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from .steering_workflows import thumbnail

__all__ = ["doubled", "exchanged", "given_tracks", "main", "make"]

WORLD = WorldConfig(height=128, width=128, frames=17, single_motion_share=0.0, distractor_share=0.0, split="all")
RECIPE = Recipe("noise", 17, 128, 128, timesteps=(900, 700, 500, 300, 100))
MIDDLE = 9  # the frame in which the second one comes up: where a token frame begins
_SLOT, _AWAY = 4, -200.0


def make(seed: int, index: int) -> Clips:
    """Clip `index` of a seed, whatever the count."""
    return make_clips(seed, index + 1, WORLD).select([index])


def given_tracks(clip: Clips) -> MaskTracks:
    """The true masks of the named instances."""
    named = [spec.name for spec in parse_phrases(clip.phrases[0]) if spec.role != "verb"]
    return mask_tracks(clip, 0).select(named)


def doubled(clip: Clips) -> Clips:
    """The clip with another one of its agent from frame `MIDDLE` on, where there is most room."""
    paths = clip.trajectories.clone()
    steps = torch.arange(16.0, 113.0, 8.0)
    places = torch.cartesian_prod(steps, steps)
    there = [slot for slot in range(_SLOT) if bool(clip.present[0, slot])]
    room = (places[:, None, None] - clip.trajectories[0, there][None]).norm(dim=-1).amin((1, 2))
    paths[:, _SLOT] = places[room.argmax()].to(paths)
    paths[:, _SLOT, :MIDDLE] = _AWAY
    looks = {name: getattr(clip, name).clone() for name in ("shape", "colour", "radius", "present")}
    for values in looks.values():
        values[:, _SLOT] = values[:, 0]
    twice = replace(clip, trajectories=paths, **looks)
    return replace(twice, video=twice.repaint())


def exchanged(tracks: MaskTracks) -> MaskTracks:
    """The masks with the names of the first two exchanged."""
    first, second = tracks.names[:2]
    return tracks.rename({first: "nobody"}).rename({second: first}).rename({"nobody": second})


def _capture(model: Model | None, clip: Clips, tracks: MaskTracks, path: Path, seed: int) -> Capture:
    if not path.is_file():
        assert model is not None
        binding = model.bind(clip.prompts[0], parse_phrases(clip.phrases[0]))
        frames = clip.video[0].permute(0, 2, 3, 1)
        found = probe(model, RECIPE, binding, tracks, frames, seed=seed, maps=True, bins=0)
        assert found.capture is not None
        save_capture(found.capture, path)
    return load_capture(path)


def _cells(found: tuple[MixUp, ...], kind: str) -> set[tuple[int, int]]:
    return {cell for each in found if each.kind == kind for cell in each.cells}


def _table(rows: list[tuple[Clips, MaskTracks, Capture, Capture]]) -> None:
    grid: Grid = rows[0][2].stream().grid
    frames = [f for f in range(grid.frames) if grid.pixel_span(f)[0] >= MIDDLE]
    read = {
        "words": [word_masks(plain, tracks.names).tracks for _, tracks, plain, _ in rows],
        "words, mended": [read_capture(plain, names=tracks.names, mended=True).masks for _, tracks, plain, _ in rows],
        "instances": [word_masks(plain, tracks.names, kind="v2v").tracks for _, tracks, plain, _ in rows],
    }
    told: dict[str, np.ndarray] = {}
    for said, found in read.items():
        scores = [score_tracks(tracks, own).values for (_, tracks, _, _), own in zip(rows, found)]
        means = [bootstrap(np.array([each[name] for each in scores]), bounds=(0, 1)) for name in ("j", "f", "j_and_f")]
        told[said] = np.array([each["j_and_f"] for each in scores])
        print(f"masks of {said}: " + ", ".join(f"{name} {each}" for name, each in zip(("J", "F", "J&F"), means)))
    print("J&F mended above as read:", verdict(bootstrap(told["words, mended"] - told["words"], bounds=(-1, 1)), 0.05))
    false = [bool(_cells(find_mix_ups(plain, tracks).found, "swapped")) for _, tracks, plain, _ in rows]
    crossed = [bool(_cells(find_mix_ups(plain, exchanged(tracks)).found, "swapped")) for _, tracks, plain, _ in rows]
    for said, hits in (("names exchanged: swap found", crossed), ("names right: swap found", false)):
        print(said, wilson(sum(hits), len(hits)))
    for reference in (True, False):
        right = wrong = 0
        for _, tracks, plain, twice in rows:
            masks = tracks if reference else None
            late = [cell for cell in _cells(find_mix_ups(twice, masks).found, "doubled") if cell[0] >= 3]
            right += bool({f for _, f in late} & set(frames))
            wrong += any(step >= 3 for step, _ in _cells(find_mix_ups(plain, masks).found, "doubled"))
        how = "given masks" if reference else "first-frame tokens"
        print(f"double found in the two least noisy steps, by {how}: {wilson(right, len(rows))}")
        print(f"double found where there is none, by {how}: {wilson(wrong, len(rows))}")


def _picture(clip: Clips, tracks: MaskTracks, capture: Capture, path: Path) -> None:
    """Truth, masks of the words and of the first-frame tokens, over a few frames."""
    video = clip.video[0].permute(0, 2, 3, 1).numpy()
    shown = [("the true masks", tracks)]
    for kind, said in (("v2t", "masks of the words"), ("v2v", "masks of where first-frame tokens look")):
        shown.append((said, word_masks(capture, tracks.names, kind=kind).tracks.with_palette(tracks.palette)))
    rows = []
    for said, masks in shown:
        pictures = [np.asarray(each) for each in draw_followed(None, masks, lambda i: video[i], width=480)]
        rows.append((said, torch.from_numpy(np.stack(pictures)[:, :480])))
    picture: Image.Image = thumbnail(rows)
    picture.convert("RGB").save(path, quality=80)
    print(path, path.stat().st_size // 1024, "KiB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.reading_truth", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    rows = []
    model: Model | None = None
    for index in range(chosen.count):
        clip = make(chosen.seed, index)
        tracks, captures = given_tracks(clip), []
        for what, shown in (("plain", clip), ("doubled", doubled(clip))):
            path = chosen.out / f"{what}_{chosen.seed}_{index}.safetensors"
            if model is None and not path.is_file():
                model = open_model("mini", torch.device(chosen.device), torch.float32)
            captures.append(_capture(model, shown, tracks, path, index))
        rows.append((clip, tracks, captures[0], captures[1]))
    print(f"{len(rows)} clips of seed {chosen.seed}")
    _table(rows)
    if chosen.picture:
        _picture(*rows[0][:3], chosen.picture)


if __name__ == "__main__":
    main()
