"""Pictures and numbers of the mini model's card.

python -m scripts.mini_card attention OUT.png [--clips 8]    attention of every layer against chance, also as a table
python -m scripts.mini_card sheet OUT.png [--clips 4]        held-out prompts: the truth and what the model makes
python -m scripts.mini_card loss OUT.svg                     loss curves of its training

Attention is measured on true clips under noise at four timesteps, so it does not depend on whether the model would
have made that clip.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from matrix_lib.draw.charts import Scores, layer_bars
from matrix_lib.draw.svg import curves, stand_alone
from matrix_lib.evaluation.layers.probe import Recipe, fit_clip, probe
from matrix_lib.evaluation.mini.clips import mini_clips
from matrix_lib.hosts.bundle import HOME
from matrix_lib.hosts.diffusers.load import open_model
from matrix_lib.hosts.diffusers.mini import sample
from matrix_lib.mini.sheet import contact_sheet
from matrix_lib.mini.world import Clips, make_clips
from training.data.world import seed_of
from training.evaluate import HELD_OUT_SEED, worlds
from training.models.mini_run import pipeline_of

TIMESTEPS = (900, 700, 500, 300)
ROLES = {"subject": "agent", "object": "recipient", "verb": "verb (both)"}
KINDS = {"v2t": "to words", "v2v": "to video"}


@dataclass(frozen=True)
class Row:
    """Shares of one clip and one kind of map that lie on the masks: share (L, St, E), chance (E,)."""

    kind: str
    roles: tuple[str, ...]
    share: NDArray[np.floating]
    chance: NDArray[np.floating]


def measure(count: int) -> list[Row]:
    """Attention of the mini model on `count` true clips."""
    model = open_model("mini", torch.device("cpu"), torch.float32)
    frames, height, width = model.size
    recipe = Recipe("noise", frames, height, width, timesteps=TIMESTEPS, guidance=1.0)
    rows = []
    for seed, clip in enumerate(mini_clips(f"mini:{count}:all", frames, height, width)):
        pixels, tracks = fit_clip(clip.frames(frames), clip.tracks(), recipe)
        found = probe(model, recipe, model.bind(clip.prompt, clip.phrases), tracks, pixels, seed)
        for kind, scores in found.kinds.items():
            rows.append(Row(kind, scores.roles, scores.each_step("share"), scores.area))
        print(f"{seed + 1}/{count} {clip.prompt}", file=sys.stderr, flush=True)
    return rows


def collect(rows: Sequence[Row]) -> Scores:
    """Means over clips, one entity for each role and kind."""
    names, values, chance = [], [], []
    for kind, how in KINDS.items():
        for role, who in ROLES.items():
            places = [
                (row, e) for row in rows if row.kind == kind for e, found in enumerate(row.roles) if found == role
            ]
            names.append(f"{who}, {how}")
            values.append(np.mean([row.share[..., e] for row, e in places], axis=0))
            chance.append(float(np.mean([row.chance[e] for row, e in places])))
    layers, steps = values[0].shape
    return Scores(
        np.stack(values, axis=-1),
        range(layers),
        range(steps),
        [t / 1000 for t in TIMESTEPS],
        [1] * steps,
        names,
        "share of attention on the mask",
        chance,
    )


def table(scores: Scores) -> str:
    """Markdown: the share on the mask as a multiple of chance, layer by layer."""
    head = ["layer", *scores.names]
    lines = [head, ["---"] * len(head)]
    assert scores.chance is not None
    for layer, values in zip(scores.layers, scores.per_layer() / np.asarray(scores.chance)):
        lines.append([str(layer), *(f"{value:.1f}" for value in values)])
    lines.append(["*chance*", *(f"{value:.3f}" for value in scores.chance)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(scores: Scores, clips: int) -> Image.Image:
    return layer_bars(
        scores,
        "Which layers of the mini model look at whom",
        f"Share of attention on the mask, mean over heads, {clips} true clips under noise at t = "
        f"{', '.join(map(str, TIMESTEPS))} of 1000",
    )


def sheet(clips: Clips, video: Tensor, shown: Sequence[int]) -> Image.Image:
    return contact_sheet(
        clips,
        shown,
        columns=6,
        versions={"truth": clips.video, "mini": video},
        title="The mini model, held-out prompts",
    )


def make_sheet(count: int) -> Image.Image:
    """The first clips that `training.evaluate` samples, with its seed."""
    pipeline, sizes = pipeline_of(HOME)
    clips = make_clips(seed_of(HELD_OUT_SEED, 0, 0), count, worlds(sizes)["train"])
    return sheet(clips, sample(pipeline, sizes, clips.prompts, clips.video[:, 0], 24, 2.0), range(count))


def losses(folder: Path) -> str:
    """Loss curves of every `NAME.csv` (a run's `metrics.csv`) in a folder, as SVG: the codec's apart."""
    runs: dict[str, list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            runs[path.stem] = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    if not runs:
        sys.exit(f"no CSV files in {folder}: give a folder of metrics.csv files, named as their runs")
    codec = {name: [run] for name, run in runs.items() if name.startswith("codec")}
    model = {name: [run] for name, run in runs.items() if name not in codec}
    return stand_alone(
        {"Transformer: weighted error of the velocity": curves(model), "Codec: weighted absolute error": curves(codec)}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.mini_card", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("attention", "sheet", "loss"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=0, help="how many clips; 8 for attention, 4 for the sheet")
    parser.add_argument("--curves", type=Path, default=Path("benchmarks/results/mini-training"), help="CSV files")
    chosen = parser.parse_args(arguments)
    if chosen.what == "loss":
        chosen.out.write_text(losses(chosen.curves))
        return
    if chosen.what == "sheet":
        make_sheet(chosen.clips or 4).save(chosen.out, optimize=True)
        return
    count = chosen.clips or 8
    scores = collect(measure(count))
    draw(scores, count).save(chosen.out, optimize=True)
    print(table(scores))


if __name__ == "__main__":
    main()
