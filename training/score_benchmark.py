"""`python -m training.score_benchmark peekaboo|tracks|movebench`: tables of other benchmarks from their own files.

    peekaboo INPUTS FOUND        mIoU, coverage, centre distance, AP50, in the released form and in ours.
                                 FOUND: a JSON list of boxes, or a folder of ID.tracks.safetensors
    tracks INPUTS FOLDER         writes the boxes of INPUTS as mask tracks, to steer by and to score against
    movebench FOLDER VIDEOS      end-point error and, with --masks, mask IoU

See docs/track-scores.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from matrix_lib.evaluation.benchmarks.movebench import read_movebench, score_movebench
from matrix_lib.evaluation.benchmarks.peekaboo import BoxClip, from_tracks, read_boxes, score_boxes
from matrix_lib.evaluation.statistics import estimate
from matrix_lib.io.files import whole_file
from matrix_lib.io.tracks import load_tracks, save_tracks

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where everything was scored, 2 where something is missing, 1 for what cannot be done."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except (ValueError, OSError) as error:
        print(f"python -m training.score_benchmark: {error}", file=sys.stderr)
        return 1


def _peekaboo(given: argparse.Namespace) -> int:
    clips = read_boxes(given.inputs, given.order)
    table = score_boxes(clips, _found(clips, given.found), tuple(given.size))
    print("| form | mIoU | coverage | centre distance | AP50 |\n|---|---|---|---|---|")
    for form, row in (("released", table.released), ("ours", table.ours)):
        print(
            f"| {form} | {row['miou']:.4f} | {row['coverage']:.4f} | {row['centre_distance']:.4f} | {row['ap50']:.4f} |"
        )
    print(f"\n{table.clips} of {len(clips)} clips count; only the released form may stand beside published numbers")
    for words, names in (("nothing was found for", table.missing), ("no box is given for", table.empty)):
        if names:
            print(f"{words}: {', '.join(names[:20])}{', ...' * (len(names) > 20)}", file=sys.stderr)
    _write(given.out, asdict(table))
    return 2 if table.missing else 0


def _found(clips: Sequence[BoxClip], place: Path) -> list[BoxClip]:
    """Found boxes, from a file or from tracks."""
    if not place.is_dir():
        return read_boxes(place)
    paths = {clip.id: place / f"{clip.id}.tracks.safetensors" for clip in clips}
    found = [from_tracks(clip, load_tracks(paths[clip.id])) for clip in clips if paths[clip.id].is_file()]
    if not found:
        raise ValueError(f"there is no ID.tracks.safetensors of any of the {len(clips)} clips in {place}")
    return found


def _tracks(given: argparse.Namespace) -> int:
    left, (height, width) = [], given.size
    for clip in read_boxes(given.inputs, given.order):
        try:
            save_tracks(clip.tracks(height, width, given.fps), given.folder / f"{clip.id}.safetensors")
        except ValueError as error:
            left.append(f"{clip.id}: {error}")
    for line in left:
        print(f"left out: {line}", file=sys.stderr)
    return 2 if left else 0


def _movebench(given: argparse.Namespace) -> int:
    scores = score_movebench(read_movebench(given.folder, given.mode, given.language), given.videos, given.masks)
    for score in scores:
        if score.why:
            print(f"{score.id}: {score.why}", file=sys.stderr)
    means = {}
    for name in ("epe", "mask_iou"):
        values = np.array([value for value in (getattr(score, name) for score in scores) if not math.isnan(value)])
        means[name] = str(estimate(values)) if len(values) else "not known"
        print(f"{name}: {means[name]}, {len(values)} of {len(scores)} clips")
    print(
        "which tracker found the points belongs beside these numbers; how the published ones average is not known here"
    )
    lines = [{name: None if value != value else value for name, value in asdict(score).items()} for score in scores]
    _write(given.out, {"means": means, "clips": lines})
    return 2 if any(score.why for score in scores) else 0


def _write(out: Path | None, content: object) -> None:
    if out is not None:
        with whole_file(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.score_benchmark", description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    boxes = kinds.add_parser("peekaboo", help="boxes that were found against those that were asked for")
    boxes.add_argument("inputs", type=Path, help="imc_inputs.json or the like")
    boxes.add_argument("found", type=Path, help="JSON of found boxes, or a folder of ID.tracks.safetensors")
    boxes.set_defaults(run=_peekaboo)
    tracks = kinds.add_parser("tracks", help="the boxes of an input file as mask tracks")
    tracks.add_argument("inputs", type=Path)
    tracks.add_argument("folder", type=Path)
    tracks.add_argument("--fps", type=float, default=8.0)
    tracks.set_defaults(run=_tracks)
    for each in (boxes, tracks):
        each.add_argument("--order", choices=("xyxy", "xxyy"), default="xyxy", help="of a box's numbers in INPUTS")
        each.add_argument("--size", type=int, nargs=2, default=(320, 576), metavar=("HEIGHT", "WIDTH"))
    move = kinds.add_parser("movebench", help="points that were found against those that were asked for")
    move.add_argument("folder", type=Path, help="the data set")
    move.add_argument("videos", type=Path, help="folder with ID_tracks.npy of the generated videos")
    move.add_argument("--mode", choices=("single", "multi"), default="single")
    move.add_argument("--language", choices=("en", "zh"), default="en")
    move.add_argument("--masks", type=Path, help="folder of given masks, ID.tracks.safetensors")
    move.set_defaults(run=_movebench)
    for each in (boxes, move):
        each.add_argument("--out", type=Path, help="JSON file for the numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
