"""How often followed points and told motion are right, on clips of the mini world that mini sees under noise.

python -m scripts.motion_truth --out FOLDER [--count N] [--seed S] [--device cuda] [--picture FILE]

Each clip is shown as it is, with heads apart and three pinned points: the middle of its agent and of what it acts on,
and the emptiest place. Clips whose object begins to move at the contact are shown once more with the contact moved to
another frame, which neither the first frame nor the words tell. The truth is the world's. Captures are kept in FOLDER;
those that are there are not made again. Prints the tables of docs/reading-captures.md and writes its picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from matrix_lib.core.grid import Grid
from matrix_lib.core.words.phrases import parse_phrases
from matrix_lib.draw.followed import draw_followed
from matrix_lib.evaluation.layers.probe import probe
from matrix_lib.evaluation.statistics import wilson
from matrix_lib.hosts.diffusers.load import Model, open_model
from matrix_lib.instrument.capture import Capture
from matrix_lib.instrument.motion_heads import Motion, find_motion, separation
from matrix_lib.instrument.point_tracks import PointTracks, follow_points
from matrix_lib.instrument.readers import Reader, readers_of, readers_text
from matrix_lib.io.captures import load_capture, save_capture
from matrix_lib.mini.world import Clips

from .reading_truth import RECIPE, given_tracks, make
from .steering_workflows import thumbnail

__all__ = ["Seen", "main", "moves", "paths", "pinned", "retimed"]

TOUCHED = ("push", "pull", "lift", "hit")  # what is acted on rests until the contact, and moves from there on
CONTACTS = (4, 7, 10, 13)  # frames that the contact is moved to, in turns
_STILL = 0.5  # pixels a frame


@dataclass(frozen=True)
class Seen:
    """A clip and what mini's attention was on it."""

    clip: Clips
    capture: Capture

    @property
    def joined(self) -> Seen:
        """The same with means over heads alone, as captures are without *heads*."""
        stream = self.capture.stream()
        maps = {kind: replace(own, values=own.dense(), heads=()) for kind, own in stream.maps.items()}
        return Seen(self.clip, replace(self.capture, streams=[replace(stream, maps=maps)]))


def pinned(clip: Clips) -> list[tuple[float, float]]:
    """Three places of the first frame: the middles of agent and recipient, and where most room is."""
    first = clip.trajectories[0, :, 0]
    steps = torch.arange(12.0, 117.0, 8.0)
    places = torch.cartesian_prod(steps, steps)
    there = clip.trajectories[0][clip.present[0]].flatten(0, 1)
    room = torch.cdist(places, there.to(places)).amin(1)
    return [tuple(first[0].tolist()), tuple(first[1].tolist()), tuple(places[room.argmax()].tolist())]


def paths(clip: Clips) -> Tensor:
    """(3, n, 2): where the pinned places are in every frame. Shapes move as a whole and do not turn."""
    places = torch.tensor(pinned(clip))
    still = places[2].expand(clip.trajectories.shape[2], 2)
    return torch.stack([*clip.trajectories[0, :2].float(), still])


def retimed(clip: Clips, contact: int) -> Clips:
    """The clip on the same paths, with the contact in another frame: slower before and faster after it, or the other
    way round."""
    count = clip.trajectories.shape[2]
    own, frame = int(clip.contact[0].int().argmax()), torch.arange(float(count))
    late = own + (frame - contact) * (count - 1 - own) / (count - 1 - contact)
    time = torch.where(frame <= contact, frame * own / contact, late)
    left = time.floor().long().clamp(max=count - 2)
    part = (time - left)[None, None, :, None]
    return clip.restage(clip.trajectories[:, :, left] * (1 - part) + clip.trajectories[:, :, left + 1] * part)


def moves(clip: Clips, grid: Grid) -> Tensor:
    """(2, F) bool: whether agent and recipient move in each token frame, False in the first."""
    speed = (clip.trajectories[0, :2, 1:] - clip.trajectories[0, :2, :-1]).norm(dim=-1)
    spans = [speed[:, start - 1 : stop - 1].mean(-1) for start, stop in grid.pixel_spans()[1:]]
    return torch.stack([torch.zeros(2), *spans], 1) > _STILL


def _capture(model: Model | None, clip: Clips, path: Path, seed: int) -> Capture:
    if not path.is_file():
        assert model is not None
        binding = model.bind(clip.prompts[0], parse_phrases(clip.phrases[0]))
        points = "; ".join(f"{x:.1f},{y:.1f}" for x, y in pinned(clip))
        frames, tracks = clip.video[0].permute(0, 2, 3, 1), given_tracks(clip)
        found = probe(model, RECIPE, binding, tracks, frames, seed=seed, maps=True, bins=0, heads="all", points=points)
        assert found.capture is not None
        save_capture(found.capture, path)
    return load_capture(path)


# ---- points


def _errors(seen: Sequence[Seen], tracks: Sequence[PointTracks]) -> Tensor:
    """(clips, 3) pixels, the mean over the frames behind the first."""
    off = [(found.xy - paths(each.clip)).norm(dim=-1)[:, 1:].mean(-1) for each, found in zip(seen, tracks)]
    return torch.stack(off)


def _best_heads(seen: Sequence[Seen], count: int = 3) -> tuple[Reader, ...]:
    """The heads with the smallest error of points on things that move."""
    readers = readers_of(seen[0].capture.stream().get("v2v"))
    score = []
    for reader in readers:
        errors = _errors(seen, [follow_points(each.capture, readers=[reader]) for each in seen])
        score.append(float(errors[_moving(seen)].mean()))
    return tuple(readers[i] for i in np.argsort(score)[:count])


def _moving(seen: Sequence[Seen]) -> Tensor:
    """(clips, 3) bool: whether a pinned place moves at all."""
    return torch.stack([(paths(each.clip) - paths(each.clip)[:, :1]).norm(dim=-1).amax(-1) > 4 for each in seen])


def _points(seen: Sequence[Seen]) -> None:
    moving, named = _moving(seen), torch.tensor([True, True, False]).expand(len(seen), 3)
    halves = [list(seen[::2]), list(seen[1::2])]
    chosen = [_best_heads(half) for half in halves]
    learnt = torch.empty(len(seen), 3)
    for at, (half, heads) in enumerate(zip(halves, reversed(chosen))):
        learnt[at::2] = _errors(half, [follow_points(each.capture, readers=heads) for each in half])
    every = [follow_points(e.capture, readers=readers_of(e.capture.stream().get("v2v"))) for e in seen]
    rows = {
        "heads chosen without labels": _errors(seen, [follow_points(each.capture) for each in seen]),
        "heads that are best on the other half of the clips": learnt,
        "all heads": _errors(seen, every),
        "the layer chosen without labels, heads not apart": _errors(
            seen, [follow_points(each.joined.capture) for each in seen]
        ),
        "a point that stays where it is": torch.stack(
            [(paths(each.clip) - paths(each.clip)[:, :1]).norm(dim=-1)[:, 1:].mean(-1) for each in seen]
        ),
    }
    print(
        f"points: {int((moving & named).sum())} on things that move, {int((~moving & named).sum())} on things at rest"
    )
    for said, errors in rows.items():
        parts = (errors[moving & named], errors[~moving & named], errors[:, 2])
        values = [f"{float(part.mean()):.1f} (median {float(part.median()):.1f})" for part in parts]
        print(f"{said}: moving {values[0]}, at rest {values[1]}, empty place {values[2]} pixels")
    print("best on each half:", "; ".join(readers_text(each) for each in chosen))


# ---- motion


def _motion(said: str, seen: Sequence[Seen]) -> None:
    found = [find_motion(each.capture) for each in seen]
    clips = 0
    above: list[Tensor] = []
    below: list[Tensor] = []
    hits: list[Tensor] = []
    alarms: list[Tensor] = []
    for each, motion in zip(seen, found):
        truth, (cells, told) = moves(each.clip, each.capture.stream().grid)[:, 1:], _named(each, motion)
        clips += bool((truth == told).all())
        above.append(cells[truth])
        below.append(cells[~truth])
        hits.append(told[truth])
        alarms.append(told[~truth])
    high, low, hit, alarm = (torch.cat(parts) for parts in (above, below, hits, alarms))
    auc = float((high[:, None] > low[None]).float().mean()) if len(high) and len(low) else float("nan")
    readers = [readers_text([motion.reader]) for motion in found]
    most = max(set(readers), key=readers.count)
    print(f"{said}: {len(seen)} clips, read off {most} in {readers.count(most)}")
    print(
        f"  told to move: {int(hit.sum())} of {len(hit)} that move, {int(alarm.sum())} of {len(alarm)} at rest;",
        end=" ",
    )
    print(f"AUC {auc:.2f}; all right in clips: {wilson(clips, len(seen))}")
    _contacts(seen, found)


def _named(each: Seen, motion: Motion) -> tuple[Tensor, Tensor]:
    """What is told of agent and recipient behind the first token frame: (2, F - 1) how far their maps stand out, and
    whether they move."""
    rows = [motion.entities.index(name) for name in each.clip.names[0][:2]]
    return motion.stands_out[rows, 1:], motion.moving[rows, 1:]


def _contacts(seen: Sequence[Seen], found: Sequence[Motion]) -> None:
    """The frame of the contact: the one before the first in which the object is told to move."""
    others = [motion for each, motion in zip(seen, found) if each.clip.verb[0] not in TOUCHED]
    if others:
        said = sum(bool(motion.contacts) for motion in others)
        print(f"  something is told to begin where nothing is set in motion: {wilson(said, len(others))}")
    rows = [(each, motion) for each, motion in zip(seen, found) if each.clip.verb[0] in TOUCHED]
    truth = torch.tensor([float(each.clip.contact[0].int().argmax()) for each, _ in rows])
    told = [[c.frames[0] - 1.0 for c in motion.contacts] for _, motion in rows]
    have = [place for place, frames in enumerate(told) if frames]
    if not have:
        print(f"  contact: told in 0 of {len(rows)} clips")
        return
    print(f"  contact: told in clips that have one: {wilson(len(have), len(rows))}")
    off = (torch.tensor([told[place][0] for place in have]) - truth[have]).abs()
    same = (truth - truth.median()).abs()
    print(
        f"  contact: {float(off.mean()):.1f} frames off; frame {float(truth.median()):.0f} said of every clip:", end=" "
    )
    print(f"{float(same.mean()):.1f} off")


def _separations(seen: Sequence[Seen]) -> None:
    found = [separation(each.capture) for each in seen]
    mean = {reader: float(np.mean([each[reader] for each in found])) for reader in found[0]}
    for said, whole in (("layers", True), ("heads", False)):
        best = sorted((reader for reader in mean if (reader[1] is None) == whole), key=lambda r: -mean[r])[:4]
        print(f"{said} that separate best:", ", ".join(f"{readers_text([r])} {mean[r]:.1f}" for r in best))


# ---- the picture


def _picture(seen: Seen, path: Path) -> None:
    """The clip with followed points, and the words' maps of the head that carries motion."""
    clip, capture = seen.clip, seen.capture
    video = clip.video[0].permute(0, 2, 3, 1).numpy()
    tracks, points, motion = given_tracks(clip), follow_points(capture), find_motion(capture)
    followed = [np.asarray(p) for p in draw_followed(None, tracks, lambda i: video[i], width=480, points=points)]
    rows = [("points that were pinned in the first frame, on the true masks", torch.from_numpy(np.stack(followed)))]
    maps = capture.stream().get("v2t")
    own = maps if motion.reader[1] is None else maps.of_head(motion.reader[1])
    bins, place = range(maps.bins), maps.layers.index(motion.reader[0])
    for name in clip.names[0][:2]:
        heat = own.mean([place], bins, maps.entities.index(name))
        rows.append((f"{name!r} in {readers_text([motion.reader])}", _over(heat, video, capture.stream().grid)))
    picture: Image.Image = thumbnail([(said, frames[:, :480]) for said, frames in rows])
    picture.convert("RGB").save(path, quality=45, method=6)
    print(path, path.stat().st_size // 1024, "KiB:", clip.prompts[0])


def _over(heat: Tensor, video: np.ndarray, grid: Grid) -> Tensor:
    """(n, 480, 480, 3) uint8: a map over the frames, on one scale for the clip."""
    from matrix_lib.draw.heatmaps import overlay

    values = (heat / heat.max()).numpy()
    frames = []
    for token, (start, stop) in enumerate(grid.pixel_spans()):
        for number in range(start, stop):
            large = np.asarray(Image.fromarray(video[number]).resize((480, 480), Image.Resampling.LANCZOS))
            frames.append(overlay(large, values[token]))
    return torch.from_numpy(np.stack(frames))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.motion_truth", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--shown", type=int, default=0, help="the clip of the picture")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    plain: list[Seen] = []
    other: list[Seen] = []
    model: Model | None = None
    for index in range(chosen.count):
        clip = make(chosen.seed, index)
        shown = [("heads", clip, plain)]
        if clip.verb[0] in TOUCHED:
            shown.append(("retimed", retimed(clip, CONTACTS[len(other) % len(CONTACTS)]), other))
        for what, each, into in shown:
            path = chosen.out / f"{what}_{chosen.seed}_{index}.safetensors"
            if model is None and not path.is_file():
                model = open_model("mini", torch.device(chosen.device), torch.float32)
            into.append(Seen(each, _capture(model, each, path, index)))
    _points(plain)
    _separations(plain)
    _motion("clips as they are", plain)
    _motion("clips as they are, heads not apart", [each.joined for each in plain])
    if other:
        _motion("contact moved", other)
    if chosen.picture:
        _picture(plain[chosen.shown], chosen.picture)


if __name__ == "__main__":
    main()
