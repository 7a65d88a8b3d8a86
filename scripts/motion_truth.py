"""How often followed points and told motion are right, on clips of the mini world that mini sees under noise.

python -m scripts.motion_truth --out FOLDER [--count N] [--seed S] [--device cuda] [--picture FILE]

Each clip is shown as it is, with heads apart and three pinned points: the middle of its agent and of what it acts on,
and the emptiest place. Clips whose object begins to move at the contact are shown once more with the contact moved to
another frame, which neither the first frame nor the words tell. The truth is the world's. Captures are kept in FOLDER;
those that are there are not made again. Prints the tables of docs/reading-captures.md and writes its picture.
"""

from __future__ import annotations

import argparse
import functools
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
from matrix_lib.draw.heatmaps import overlay
from matrix_lib.evaluation.layers.probe import probe
from matrix_lib.evaluation.statistics import bootstrap, wilson
from matrix_lib.evaluation.verdicts import verdict
from matrix_lib.hosts.diffusers.load import Model, open_model
from matrix_lib.instrument.capture import Capture
from matrix_lib.instrument.readings.motion_heads import Motion, find_motion, separation
from matrix_lib.instrument.readings.point_tracks import PointTracks, follow_points
from matrix_lib.instrument.readings.readers import Reader, readers_of, readers_text
from matrix_lib.io.captures import load_capture, save_capture
from matrix_lib.mini.world import Clips

from .reading_truth import RECIPE, given_tracks, make
from .steering_workflows import thumbnail

__all__ = ["TOUCHED", "Seen", "captured", "main", "moves", "paths", "pinned", "retimed"]

TOUCHED = ("push", "pull", "lift", "hit")  # what is acted on rests until the contact, and moves from there on
CONTACTS = (4, 7, 10, 13)  # frames that the contact is moved to, in turns
_STILL = 0.5  # pixels a frame
_MATTERS = {
    "pixels": 2.0,
    "frames": 0.5,
}  # the smallest differences that would matter: a quarter of a token, half a frame


@dataclass(frozen=True)
class Seen:
    """A clip and what mini's attention was on it."""

    clip: Clips
    capture: Capture

    @functools.cached_property
    def motion(self) -> Motion:
        return find_motion(self.capture)

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


def captured(model: Model | None, clip: Clips, path: Path, seed: int) -> Capture:
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
    return torch.stack([_off(found.xy, paths(each.clip)) for each, found in zip(seen, tracks)])


def _off(found: Tensor, truth: Tensor) -> Tensor:
    return (found - truth).norm(dim=-1)[:, 1:].mean(-1)


def _moving(seen: Sequence[Seen]) -> Tensor:
    """(clips, 3) bool: whether a pinned place moves at all."""
    return torch.stack([(paths(each.clip) - paths(each.clip)[:, :1]).norm(dim=-1).amax(-1) > 4 for each in seen])


def _follow(each: Seen, readers: Sequence[Reader]) -> PointTracks:
    return follow_points(each.capture, readers=readers, motion=each.motion)


def _best_heads(seen: Sequence[Seen]) -> tuple[Reader, ...]:
    """The three heads with the smallest error of points on things that move."""
    readers = readers_of(seen[0].capture.stream().get("v2v"))
    errors = [_errors(seen, [_follow(each, [reader]) for each in seen]) for reader in readers]
    order = np.argsort([float(each[_moving(seen)].mean()) for each in errors])
    return tuple(readers[i] for i in order[:3])


def _points(seen: Sequence[Seen]) -> None:
    moving, named = _moving(seen), torch.tensor([True, True, False])
    every = readers_of(seen[0].capture.stream().get("v2v"))
    other, learnt = [_best_heads(half) for half in (seen[1::2], seen[::2])], torch.empty(len(seen), 3)
    for at, heads in enumerate(other):
        learnt[at::2] = _errors(seen[at::2], [_follow(each, heads) for each in seen[at::2]])
    rows = {
        "three heads, without labels": _errors(seen, [follow_points(each.capture) for each in seen]),
        "three heads, best on the other clips": learnt,
        "one layer, without labels, heads not apart": _errors(seen, [follow_points(e.joined.capture) for e in seen]),
        "all heads": _errors(seen, [_follow(each, every) for each in seen]),
        "stays where it is": torch.stack([_off(paths(e.clip)[:, :1], paths(e.clip)) for e in seen]),
    }
    for said, errors in rows.items():
        print(f"points, {said}:")
        for what, part in (
            ("moving", moving & named),
            ("at rest", ~moving & named),
            ("empty", ~named.expand_as(moving)),
        ):
            print(f"  {what}: {bootstrap(errors[part])}, median {float(errors[part].median()):.1f} pixels")
    ours = rows["three heads, without labels"]
    for what, beside, part in (
        ("staying, moving", "stays where it is", moving & named),
        ("all heads, at rest", "all heads", ~moving & named),
    ):
        gain = bootstrap((rows[beside] - ours)[part])
        print(f"points, pixels nearer than {what}: {verdict(gain, _MATTERS['pixels'])}")
    print("best on the other clips:", "; ".join(readers_text(each) for each in other))


# ---- motion


def _motion(said: str, seen: Sequence[Seen], reader: Reader | None = None, last: int = 0) -> None:
    """last: how many of the least noisy steps are read, 0 for all."""
    steps = [step.index for step in seen[0].capture.steps][-last:]
    found = [find_motion(each.capture, reader=reader, steps=steps) for each in seen]
    truth = torch.stack([moves(each.clip, each.capture.stream().grid) for each in seen])[..., 1:]
    places = [[motion.entities.index(name) for name in each.clip.names[0][:2]] for each, motion in zip(seen, found)]
    told = torch.stack([motion.moving[rows] for motion, rows in zip(found, places)])[..., 1:]
    cells = torch.stack([motion.stands_out[rows] for motion, rows in zip(found, places)])[..., 1:]
    auc = float((cells[truth][:, None] > cells[~truth][None]).float().mean())
    readers = [readers_text([motion.reader]) for motion in found]
    most = max(set(readers), key=readers.count)
    print(f"motion, {said}: {len(seen)} clips, read off {most} in {readers.count(most)}")
    for what, part in (("move", truth), ("are at rest", ~truth)):
        print(f"  told to move: {int(told[part].sum())} of {int(part.sum())} cells that {what}")
    print(f"  AUC {auc:.2f}; all cells right in clips: {wilson(int((told == truth).all((1, 2)).sum()), len(seen))}")
    _contacts(seen, found)


def _contacts(seen: Sequence[Seen], found: Sequence[Motion]) -> None:
    """The frame of the contact: the one before the first in which the object is told to move."""
    touched = [each.clip.verb[0] in TOUCHED for each in seen]
    for what, wanted in (("something is set in motion", True), ("nothing is", False)):
        own = [bool(motion.contacts) for motion, there in zip(found, touched) if there == wanted]
        if own:
            print(f"  told to begin where {what}: {wilson(sum(own), len(own))}")
    both = [
        (float(each.clip.contact[0].int().argmax()), motion.contacts[0].frames[0] - 1.0)
        for each, motion, there in zip(seen, found, touched)
        if there and motion.contacts
    ]
    if both:
        truth, said = torch.tensor(both).T
        off, same = (truth - said).abs(), (truth - truth.median()).abs()
        print(
            f"  contact: {bootstrap(off)} frames off; frame {float(truth.median()):.0f} said of each: {bootstrap(same)}"
        )
        gain = bootstrap(same - off)
        print(f"  frames nearer than that: {verdict(gain, _MATTERS['frames'])}")


def _separating(seen: Sequence[Seen]) -> Reader:
    """The layer that separates best on average, and the head that does in it; prints the first few."""
    found = [separation(each.capture) for each in seen]
    mean = {reader: float(np.mean([each[reader] for each in found])) for reader in found[0]}
    order = sorted(mean, key=lambda reader: -mean[reader])
    print("separate best, in nats:", ", ".join(f"{readers_text([each])} {mean[each]:.1f}" for each in order[:6]))
    layer = next(reader[0] for reader in order if reader[1] is None)
    return next(reader for reader in order if reader[0] == layer and reader[1] is not None)


# ---- the picture


def _picture(seen: Seen, path: Path) -> None:
    """The clip with followed points, and the words' maps of the head that carries motion."""
    clip, capture = seen.clip, seen.capture
    video, grid = clip.video[0].permute(0, 2, 3, 1).numpy(), capture.stream().grid
    large = [np.asarray(Image.fromarray(each).resize((480, 480), Image.Resampling.LANCZOS)) for each in video]
    points, motion, maps = follow_points(capture), find_motion(capture), capture.stream().get("v2t")
    drawn = draw_followed(None, given_tracks(clip), lambda i: video[i], width=480, points=points)
    rows = [("points that were pinned in the first frame, on the true masks", [np.asarray(each) for each in drawn])]
    layer, head = motion.reader
    own = maps if head is None else maps.of_head(head)
    for name in clip.names[0][:2]:
        heat = own.mean([maps.layers.index(layer)], range(maps.bins), maps.entities.index(name))
        values = (heat / heat.max()).numpy()
        spans = enumerate(grid.pixel_spans())
        frames = [overlay(large[i], values[token]) for token, (start, stop) in spans for i in range(start, stop)]
        rows.append((f"{name!r} in {readers_text([motion.reader])}", frames))
    picture: Image.Image = thumbnail([(said, torch.from_numpy(np.stack(each)[:, :480])) for said, each in rows])
    picture.convert("RGB").save(path, quality=45, method=6)
    print(path, path.stat().st_size // 1024, "KiB:", clip.prompts[0])


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
            into.append(Seen(each, captured(model, each, path, index)))
    _points(plain)
    best = _separating(plain)
    _motion("as they are", plain)
    _motion("as they are, heads not apart", [each.joined for each in plain])
    _motion("as they are, one head for all clips", plain, best)
    if other:
        for last in (0, 2, 1):
            _motion(f"contact moved, {last or 'all'} steps", other, best, last)
    if chosen.picture:
        _picture(plain[chosen.shown], chosen.picture)


if __name__ == "__main__":
    main()
