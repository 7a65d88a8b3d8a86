"""Looks at and writes out the mini world.

python -m scripts.mini_world sheet OUT.png [--seed 0]             one clip of every verb as a picture
python -m scripts.mini_world clips FOLDER                        the example clips, as matrix_lib/mini/clips has them
python -m scripts.mini_world export FOLDER --count 16 [--seed 0]  clips in the MATRIX-11K folder format
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matrix_lib.io.video import write_video
from matrix_lib.mini.examples import EXAMPLES, example_world
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.sheet import contact_sheet
from matrix_lib.mini.verbs import VERB_NAMES
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from .templates.squares import FPS, FRAMES, STILLS, drawn

__all__ = ["EXAMPLES", "example_world", "main", "one_of_each"]

EXAMPLE_QUALITY = 6


def one_of_each(clips: Clips) -> list[int]:
    """The first clip of every verb; a second of the first one with a look-alike goes last."""
    rows = [clips.verb.index(verb) for verb in VERB_NAMES if verb in clips.verb]
    twins = [index for index in clips.ambiguous.nonzero().flatten().tolist() if index not in rows]
    return rows + twins[:1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.mini_world", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("sheet", "clips", "export"))
    parser.add_argument("target", type=Path, help="a .png for a sheet, a folder for an export")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=16, help="clips to export")
    parser.add_argument("--split", choices=("train", "heldout_pairs", "all"), default="all")
    parser.add_argument("--camera", action="store_true", help="let the camera move in half of the clips")
    choice = parser.parse_args(arguments)
    config = WorldConfig(split=choice.split, camera=choice.camera)
    if choice.what == "sheet":
        clips = make_clips(choice.seed, 200, config)
        choice.target.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(clips, one_of_each(clips)).save(choice.target, optimize=True)
    elif choice.what == "clips":
        world = example_world()
        for name, index in EXAMPLES.items():
            frames = world.video[index].permute(0, 2, 3, 1)
            write_video(choice.target / f"{name}.mp4", frames, world.config.fps, EXAMPLE_QUALITY)
        for name in STILLS:
            write_video(choice.target / f"{name}.mp4", drawn(name).expand(FRAMES, -1, -1, -1), FPS, crf=0)
    else:
        names = export_clips(make_clips(choice.seed, choice.count, config), choice.target)
        print(f"{len(names)} clips in {choice.target}")


if __name__ == "__main__":
    main()
