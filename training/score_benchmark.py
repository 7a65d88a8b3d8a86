"""`python -m training.score_benchmark KIND`: tables of other benchmarks from their own files.

    peekaboo INPUTS FOUND        mIoU, coverage, centre distance, AP50, in the released form and in ours.
                                 FOUND: a JSON list of boxes, or a folder of ID.tracks.safetensors
    tracks INPUTS FOLDER         writes the boxes of INPUTS, the masks of a MagicBench folder, or squares around the
                                 drawn points of a MotiBench folder (--side, --frames), as mask tracks, to steer by and
                                 to track and score against
    movebench FOLDER VIDEOS      end-point error and, with --masks, mask IoU
    magicbench FOLDER VIDEOS     mask IoU and box IoU in percent, by the number of objects
    motibench FOLDER             a judge's scores (--ratings), its choices between models (--choices), and end-point
                                 errors (--videos)

See docs/track-scores.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.benchmarks.magicbench import magic_table, read_magicbench, score_magicbench
from matrix_lib.evaluation.benchmarks.motibench import (
    QUESTIONS,
    RATINGS,
    MotiFields,
    preferences,
    rated,
    read_motibench,
    score_motibench,
)
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
    left: list[str] = []
    height, width = given.size
    made: list[tuple[str, Callable[[], MaskTracks]]] = []
    if (given.inputs / "test.jsonl").is_file():
        if not given.side:
            raise ValueError("MotiBench draws points: say with --side how many pixels of a thing are around each")
        moti = read_motibench(given.inputs, MotiFields(given.prompt, given.paths, given.category))
        made += [(c.id, partial(c.tracks, given.frames, height, width, given.side, given.fps)) for c in moti]
    elif given.inputs.is_dir():
        made += [(clip.id, partial(clip.tracks, given.fps)) for clip in read_magicbench(given.inputs)]
    else:
        boxes = read_boxes(given.inputs, given.order)
        made += [(clip.id, partial(clip.tracks, height, width, given.fps)) for clip in boxes]
    for name, tracks in made:
        try:
            save_tracks(tracks(), given.folder / f"{name}.safetensors")
        except ValueError as error:
            left.append(f"{name}: {error}")
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
    _write(given.out, {"means": means, "clips": [_known(asdict(score)) for score in scores]})
    return 2 if any(score.why for score in scores) else 0


def _magicbench(given: argparse.Namespace) -> int:
    scores = score_magicbench(read_magicbench(given.folder), given.videos)
    for score in scores:
        if score.why:
            print(f"{score.id}: {score.why}", file=sys.stderr)
    table = magic_table(scores)
    print("| objects | M_IoU % | B_IoU % |\n|---|---|---|")
    for group, row in table.items():
        print(f"| {group} | {row['mask_iou']} | {row['box_iou']} |")
    print(
        "\nwhich tracker found the masks belongs beside these numbers; how the published ones average is not known here"
    )
    means = {group: {name: str(value) for name, value in row.items()} for group, row in table.items()}
    _write(given.out, {"means": means, "clips": [_known(asdict(score)) for score in scores]})
    return 2 if any(score.why for score in scores) else 0


def _motibench(given: argparse.Namespace) -> int:
    clips = read_motibench(given.folder, MotiFields(given.prompt, given.paths, given.category))
    if given.ratings is given.choices is given.videos is None:
        raise ValueError("there is nothing to score: give --ratings, --choices or --videos")
    told: dict[str, object] = {}
    missing = False
    if given.ratings is not None:
        models = rated(given.ratings, clips)
        print(f"| model | {' | '.join(RATINGS)} |\n|{'---|' * (1 + len(RATINGS))}")
        for model, row in models.items():
            print(f"| {model} | {' | '.join(str(row[name]) for name in RATINGS)} |")
        told["ratings"] = {model: {name: str(value) for name, value in row.items()} for model, row in models.items()}
        missing |= any(row[name].count < len(clips) for row in models.values() for name in RATINGS)
    if given.choices is not None:
        pairs = preferences(given.choices, clips)
        print(f"| preferred | {' | '.join(QUESTIONS)} |\n|{'---|' * (1 + len(QUESTIONS))}")
        for (first, second), row in pairs.items():
            print(f"| {first} over {second} | {' | '.join(str(row[name]) for name in QUESTIONS)} |")
        told["choices"] = {" over ".join(pair): {n: str(v) for n, v in row.items()} for pair, row in pairs.items()}
        missing |= any(row[name].count < len(clips) for row in pairs.values() for name in QUESTIONS)
    if given.videos is not None:
        scores = score_motibench(clips, given.videos, tuple(given.size))
        for score in scores:
            if score.why:
                print(f"{score.id}: {score.why}", file=sys.stderr)
        found = np.array([score.epe for score in scores if not score.why])
        told["epe"] = str(estimate(found)) if len(found) else "not known"
        print(f"epe (ours, not the paper's): {told['epe']}, {len(found)} of {len(scores)} pictures")
        told["clips"] = [_known(asdict(score)) for score in scores]
        missing |= any(score.why for score in scores)
    _write(given.out, told)
    return 2 if missing else 0


def _known(values: dict[str, object]) -> dict[str, object]:
    """What is not known as None."""
    return {name: None if value != value else value for name, value in values.items()}


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
    tracks = kinds.add_parser("tracks", help="the boxes of an input file, or the masks of a folder, as mask tracks")
    tracks.add_argument("inputs", type=Path)
    tracks.add_argument("folder", type=Path)
    tracks.add_argument("--fps", type=float, default=8.0)
    tracks.add_argument("--side", type=int, default=0, help="pixels of the squares around MotiBench's points")
    tracks.add_argument("--frames", type=int, default=49, help="of the videos, for MotiBench")
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
    magic = kinds.add_parser("magicbench", help="masks that were found against those that were asked for")
    magic.add_argument("folder", type=Path, help="the data set, with masks/ID/")
    magic.add_argument("videos", type=Path, help="folder with ID.tracks.safetensors of the generated videos")
    magic.set_defaults(run=_magicbench)
    moti = kinds.add_parser("motibench", help="what a judge said of the videos, and where the drawn points went")
    moti.add_argument("folder", type=Path, help="the data set, with test.jsonl")
    moti.add_argument("--ratings", type=Path, help='lines {"id", "models", "raw"} of a judge that scored videos')
    moti.add_argument("--choices", type=Path, help='lines {"id", "a", "b", "raw"} of a judge that chose between two')
    moti.add_argument("--videos", type=Path, help="folder with ID_tracks.npy of one model's videos")
    moti.add_argument(
        "--size", type=int, nargs=2, default=(480, 832), metavar=("HEIGHT", "WIDTH"), help="of the videos"
    )
    for name, default in asdict(MotiFields()).items():
        for each in (moti, tracks):
            each.add_argument(f"--{name}", default=default, help=f"field of test.jsonl (default: {default})")
    moti.set_defaults(run=_motibench)
    for each in (boxes, move, magic, moti):
        each.add_argument("--out", type=Path, help="JSON file for the numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
