"""The commands `python -m training.X`, few steps each: training curves and files, layer analysis, steering's table."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from .book import Book
from .host import Host
from .names import find

__all__ = ["analysis", "training"]

TUNE = (
    "data.frames=9", "data.height=64", "data.width=64", "data.bystanders=true", "data.skip_bad=true", "task.v2t=0",
    "task.v2v=1", "task.rank=4", "task.weights=fp32", "task.decoder=8", "optim.warmup=1", "optim.lr=1e-2",
    "run.log_every=1", "run.steps=3", "run.preview_every=0",
)  # fmt: skip
TARGET = ("task.lora_v2t=0,1", "data.masks=all", "task.v2t=0,1", "task.draw=1")
TUNED = {
    "matrix cogvideox": ("matrix_cogvideox_5b_i2v", "cogvideox", ()),
    "matrix wan": ("matrix_wan21_i2v_14b", "wan", ()),
    "matrix hunyuan": ("matrix_hunyuan_i2v", "hunyuan", ()),
    "tavid cogvideox": ("tavid_cogvideox_5b_i2v", "cogvideox", TARGET),
    "tavid wan, quantised": ("tavid_cogvideox_5b_i2v", "wan", (*TARGET, "task.quantise=nf4", "task.lora_v2t=1")),
}
STEERED = ("no guidance", "region bias", "masked attention", "dual-clock")


def command(module: str, *arguments: Any) -> str:
    """Runs `python -m MODULE ARGUMENTS` in this process; what it printed. Raises RuntimeError where it fails."""
    said, before = io.StringIO(), sys.argv
    sys.argv = [module, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"{' '.join(sys.argv)}: {end.code}\n{said.getvalue()}") from end
    finally:
        sys.argv = before
    return said.getvalue()


def training(book: Book, host: Host, helpers: Any) -> None:
    work = host.base.parent / "training"
    _fit(book, "codec_cpu", work / "codec", "codec_cpu")
    _fit(book, "mini_cpu", work / "mini", "mini_cpu", f"task.codec={work / 'codec'}")
    command("training.publish", work / "mini", work / "published")
    book.add_folder("training.published", work / "published", "*.safetensors")
    for method in ("both", "tavid"):
        condition = "target_mask" if method == "tavid" else "id_map"
        settings = (f"task.method={method}", f"task.condition={condition}")
        _fit(book, f"align_cpu, {method}", work / method, "align_cpu", *settings)
    clips = _clips(work / "clips", 5, 4, height=64, width=80)
    for name, (preset, family, more) in TUNED.items():
        model = work / family
        if not model.exists():
            _model(family, model, helpers)
        places = (f"task.model={model}", f"data.folder={clips}", f"data.cache={work / 'cache'}")
        _fit(book, name, work / name.replace(" ", "_"), preset, *TUNE, *places, *more)
    for to in ("diffusers", "comfyui", "diffsynth"):
        source, target = work / "matrix_wan" / "lora.safetensors", work / "converted" / f"{to}.safetensors"
        target.parent.mkdir(exist_ok=True)
        book.add(f"training.convert.{to}.said", command("training.convert", source, target, "--to", to))
        book.add_file(f"training.convert.{to}", target)


def _fit(book: Book, name: str, out: Path, preset: str, *settings: str) -> None:
    print(f"  {name}", flush=True)
    command("training.fit", preset, f"run.out={out}", "run.tensorboard=false", *settings)
    with (out / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            book.add(f"training.{name}.step {row['step']}", {k: v for k, v in row.items() if k != "seconds"})
    book.add_folder(f"training.{name}", out, "*.safetensors")


def _clips(folder: Path, seed: int, count: int, **size: int) -> Path:
    world = find("WorldConfig")(frames=9, single_motion_share=0.0, distractor_share=0.0, **size)
    find("export_clips")(find("make_clips")(seed, count, world), folder)
    return folder


def _model(family: str, folder: Path, helpers: Any) -> None:
    """A tiny pipeline of a family in diffusers' layout, whole."""
    models = helpers("support_models")
    if family == "cogvideox":
        models.make_cogvideox(folder, size="2b", sample=(9, 8, 8))
    elif family == "wan":  # of the two experts of 2.2 one, which needs no image encoder
        models.make_wan(folder, i2v=True, version="2.2")
        index = json.loads((folder / "model_index.json").read_text())
        index = {name: value for name, value in index.items() if name not in ("transformer_2", "boundary_ratio")}
        (folder / "model_index.json").write_text(json.dumps(index))
    else:
        parts = models.make_hunyuan(folder.with_name("parts"), i2v="token_replace")
        pipe = helpers("support_hunyuan").hunyuan_text(parts, helpers("comfy"), True, 64, 768)
        pipe.save_pretrained(folder)


def analysis(book: Book, host: Host, helpers: Any) -> None:
    """Layer analysis with tables, report and pictures; the table of steering with its report; counts of the judge."""
    work, models = host.base.parent / "analysis", helpers("support_models")
    clips = _clips(work / "clips", 3, 3)
    models.make_cogvideox(work / "cogvideox", sample=(9, 8, 8), layers=3)
    models.make_wan(work / "wan")
    size = ("--frames", "9", "--height", "64", "--width", "64")
    runs = {
        "generate": (clips, work / "cogvideox", "--steps", "2"),
        "noise": (clips, work / "wan", "--mode", "noise", "--timesteps", "700", "200", *size),
        "mini": ("mini:2", "mini", "--labels", "judge", "--steps", "2"),
    }
    for name, arguments in runs.items():
        print(f"  {name}", flush=True)
        command("training.analyse", *arguments, "--out", work / name, "--examples", "1", "--draws", "200")
        for pattern in ("*.safetensors", "*.parquet", "*.json", "*.html"):
            book.add_folder(f"analysis.{name}", work / name, pattern)
    out = work / "steering"
    common = ("--prompts", "1", "--batch", "1", "--steps", "2", "--tracks", "swapped", "--last-rank", "0")
    command("training.steer", "--out", out, *common, "--only", *STEERED)
    for path in sorted((out / "cells").glob("*.json")):  # times differ
        cell = json.loads(path.read_text())
        path.write_text(json.dumps({**cell, "seconds": 1.0}))
    command("training.steer", "--out", out, "--report")
    book.add_folder("analysis.steering", out)
