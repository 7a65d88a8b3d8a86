"""The frame of a contact by how two instances' maps run into each other, on clips that nothing was chosen on.

python -m scripts.contact_truth --out FOLDER [--fit SEED COUNT] [--held SEED COUNT] [--device cuda]

Clips of the mini world in which something is set in motion, their contact moved to a frame from 4 to 13 that neither
the first frame nor the words tell, are shown to mini under noise. A line is fitted on the first seed's clips and read
on the second's, beside one frame said of all, the one that heads of words tell, and the distance of followed points.
Prints the table of docs/reading-captures.md. Captures are kept in FOLDER; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from matrix_lib.evaluation.statistics import bootstrap, holm
from matrix_lib.evaluation.verdicts import verdict
from matrix_lib.hosts.diffusers.load import Model, open_model
from matrix_lib.instrument.capture import Capture
from matrix_lib.instrument.readings.contacts import bend, meeting
from matrix_lib.instrument.readings.motion_heads import find_motion
from matrix_lib.instrument.readings.point_tracks import follow_points
from matrix_lib.mini.world import make_clips

from .motion_truth import TOUCHED, captured, retimed
from .reading_truth import WORLD

__all__ = ["main"]

_LAYER, _LAST, _MARGIN = 5, 2, 0.5  # chosen on seed 301; steps that are read, the least noisy; frames that matter
_HEAD = (9, 2)  # of words, that carries motion


def _shown(seed: int, count: int, out: Path, device: str) -> list[tuple[float, tuple[str, str], Capture]]:
    """(frame of the contact, agent and recipient, capture) of `count` clips."""
    clips, draw, found = make_clips(seed, 3 * count, WORLD), random.Random(seed), []
    model: Model | None = None
    for index in (i for i in range(len(clips)) if clips.verb[i] in TOUCHED):
        frame, path = draw.randint(4, 13), out / f"{seed}_{index}"
        path = path.with_name(f"{path.name}_{frame}.safetensors")
        if model is None and not path.is_file():
            model = open_model("mini", torch.device(device), torch.float32)
        clip = retimed(clips.select([index]), frame)
        found.append((float(frame), (clip.names[0][0], clip.names[0][1]), captured(model, clip, path, index)))
        if len(found) == count:
            return found
    raise ValueError(f"{3 * count} clips of seed {seed} have only {len(found)} in which something is set in motion")


def _heads(capture: Capture) -> float:
    contacts = find_motion(capture, reader=_HEAD, steps=[capture.steps[-1].index]).contacts
    return contacts[0].frames[0] - 1.0 if contacts else math.nan


def _points(capture: Capture) -> float:
    """The bend of the distance between the followed middles of both."""
    steps = [step.index for step in capture.steps][-_LAST:]
    xy = follow_points(capture, motion=find_motion(capture, reader=_HEAD, steps=steps), steps=steps).xy
    spans = capture.stream().grid.pixel_spans()
    means = [(xy[0] - xy[1])[slice(*span)].mean(0).norm() for span in spans]
    return bend(torch.stack(means), spans)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.contact_truth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fit", type=int, nargs=2, default=(301, 16))
    parser.add_argument("--held", type=int, nargs=2, default=(302, 24))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    fitted, held = (_shown(seed, count, given.out, given.device) for seed, count in (given.fit, given.held))

    def read(capture: Capture, pair: tuple[str, str], line: tuple[float, float] = (0.0, 1.0)) -> float:
        return meeting(capture, pair, _LAYER, steps=[s.index for s in capture.steps][-_LAST:], line=line)

    known = [frame for frame, _, _ in fitted]
    slope, offset = np.polyfit([read(capture, pair) for _, pair, capture in fitted], known, 1)
    print(f"line: {offset:.2f} + {slope:.3f} times the bend, on {len(fitted)} clips of seed {given.fit[0]}")
    truth = torch.tensor([frame for frame, _, _ in held])
    same, own = (truth - float(np.median(known))).abs(), (truth - truth.median()).abs()
    print(f"one frame said of all, the fitted clips' median: {bootstrap(same)}; their own: {bootstrap(own)}")
    rows: dict[str, Tensor] = {
        "overlap": torch.tensor([read(capture, pair, (offset, slope)) for _, pair, capture in held]),
        "distance of points": torch.tensor([_points(capture) for _, _, capture in held]),
        "head of words": torch.tensor([_heads(capture) for _, _, capture in held]),
    }
    gains = {}
    for said, found in rows.items():
        told = ~found.isnan()
        off = (found - truth).abs()[told]
        gains[said] = [bootstrap(each[told] - off) for each in (same, own)]
        print(f"{said}: told in {int(told.sum())} of {len(held)}, {bootstrap(off)} frames off")
    for at, beside in enumerate(("that frame", "their own median")):
        ps = holm([each[at].p for each in gains.values()])
        for (said, each), p in zip(gains.items(), ps, strict=True):
            print(f"{said}, nearer than {beside}: {verdict(each[at], _MARGIN, p=p)}; p {p:.3f}")


if __name__ == "__main__":
    main()
