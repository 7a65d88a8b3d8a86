"""`python -m training.steer --out FOLDER`: how well each way of steering makes the mini model follow mask tracks.

Samples every condition under every kind of tracks, lets the exact judge measure the clips, and keeps one file for each;
the same command goes on where it stopped. `--shard 0/4` ... `--shard 3/4` share the work among processes, one a GPU.
`--report` makes tables and pictures of what a folder holds, however much of it is there.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from matrix_lib.evaluation.steering.choice import best_of
from matrix_lib.evaluation.steering.plan import SETS, Cell, cells, conditions, shares
from matrix_lib.evaluation.steering.report import write_report
from matrix_lib.evaluation.steering.results import is_done, keep_plan, load_cells, write_cell
from matrix_lib.evaluation.steering.run import Bench, SteerRecipe
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import move
from matrix_lib.mini.paths import PATHS

from .models.mini_run import pipeline_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parse(arguments)
    try:
        if chosen.report:
            print(f"wrote {write_report(chosen.out, load_cells(chosen.out), chosen.page)}")
        else:
            _run(chosen)
    except (ValueError, OSError) as error:
        sys.exit(f"training.steer: {error}")
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept, and the same command goes on from here", flush=True)
        sys.exit(130)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.steer", description=(__doc__ or "").splitlines()[0])
    recipe = SteerRecipe()
    parser.add_argument("--out", type=Path, required=True, help="folder of the measurements")
    parser.add_argument("--report", action="store_true", help="make tables and pictures of the folder, sample nothing")
    parser.add_argument("--page", type=Path, help="with --report: a page of documentation that gets the same")
    parser.add_argument("--set", choices=SETS, default="table", help="which conditions; default: %(default)s")
    parser.add_argument("--best", type=Path, help="folder of a sweep: its best setting of each mode joins the table")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="names that hold one of these")
    parser.add_argument("--tracks", nargs="+", choices=list(PATHS), default=[], help="these kinds of tracks alone")
    parser.add_argument("--last-rank", type=int, default=99, help="0: the main table alone; 1: ablations too")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="the I-th of N shares of the work, from 0")
    parser.add_argument("--model", type=Path, default=bundle.HOME, help="a bundle, or a run of training.fit")
    parser.add_argument("--prompts", type=int, default=recipe.prompts, help="clips of each condition")
    parser.add_argument("--batch", type=int, default=recipe.batch, help="clips sampled together")
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--cfg", type=float, default=recipe.cfg)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--list", action="store_true", help="say what would be measured, and stop")
    return parser.parse_args(arguments)


def _run(chosen: argparse.Namespace) -> None:
    draw = SETS.index(chosen.set)
    recipe = SteerRecipe(chosen.prompts, chosen.steps, chosen.cfg, chosen.batch, chosen.seed, draw)
    place, count = _shard(chosen.shard)
    pipeline, sizes = pipeline_of(chosen.model)
    best = {}
    if chosen.best is not None:
        best = best_of(load_cells(chosen.best), conditions("sweep", sizes.layers), "swapped")
    named = [c for c in conditions(chosen.set, sizes.layers, best) if _wanted(c.name, chosen.only)]
    every = [cell for cell in cells(named, chosen.tracks) if cell.rank <= chosen.last_rank]
    if not every:
        raise ValueError(f"no condition is called {', '.join(map(repr, chosen.only))}; --list names them")
    mine = shares(every, count)[place]
    if chosen.list:
        for cell in mine:
            print(f"rank {cell.rank}, cost {cell.condition.cost:.1f}: {cell.condition.name} ({', '.join(cell.tracks)})")
        return
    half = torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32
    move(pipeline, chosen.device, half)
    bench = Bench(pipeline, sizes, recipe, _stamp(chosen.model))
    keep_plan(chosen.out, bench.plan)
    todo = [cell for cell in mine if not _done(chosen.out, cell, bench.mark)]
    if len(todo) < len(mine):
        print(f"{len(mine) - len(todo)} of {len(mine)} are measured already; going on", flush=True)
    for number, cell in enumerate(todo, 1):
        began = time.monotonic()
        found = bench.run(cell)
        for one in found:
            write_cell(chosen.out, one)
        scores = [f"{one.tracks} IoU {one.mean('iou'):.3f}, SPI {one.mean('spi'):.3f}" for one in found]
        print(
            f"{number}/{len(todo)} {cell.condition.name} ({time.monotonic() - began:.1f} s): {'; '.join(scores)}",
            flush=True,
        )


def _wanted(name: str, parts: Sequence[str]) -> bool:
    return not parts or any(part.lower() in name.lower() for part in parts)


def _done(out: Path, cell: Cell, mark: str) -> bool:
    return all(is_done(out, cell.condition, kind, mark) for kind in cell.tracks)


def _shard(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if not (place.isdecimal() and count.isdecimal() and int(place) < int(count)):
        raise ValueError(f"a shard is written I/N with I from 0 to N - 1, such as 0/4; got {text!r}")
    return int(place), int(count)


def _stamp(model: Path) -> str:
    """What tells one model's files from another's."""
    if (found := bundle.find(model)) is not None:
        return hashlib.sha256((found / bundle.MANIFEST).read_bytes()).hexdigest()[:16]
    files = sorted((p.relative_to(model).as_posix(), p.stat().st_size) for p in model.rglob("*") if p.is_file())
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
