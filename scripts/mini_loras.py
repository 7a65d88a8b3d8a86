"""Takes mini's two example LoRAs out of a finished comparison, and writes down what they are.

python -m training.compare both tavid --seeds 0 --out runs/compare
python -m scripts.mini_loras runs/compare [--seed 0]      into matrix_lib/mini/loras
python -m scripts.lora_workflows                          then the thumbnails of workflows 02 and 03
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from matrix_lib.hosts.bundle import LORAS, MAX_FILE
from matrix_lib.hosts.diffusers.lora import merge_lora
from matrix_lib.io.files import whole_file
from matrix_lib.io.lora.read import load_lora
from training.comparison.jobs import RESULT
from training.models.mini_encoders import MiniEncoders
from training.tasks.alignment import LORA

__all__ = ["ARMS", "described", "take"]

ARMS = {"mini_matrix.safetensors": "both", "mini_tavid.safetensors": "tavid"}
"""Arm of `training.compare` that each file is of."""
PAGE = "README.md"
TABLE = re.compile(r"(<!-- table[^>]*-->\n).*?(\n<!-- /table -->)", re.DOTALL)


def take(runs: Path, seed: int = 0, folder: Path = LORAS) -> dict[str, Path]:
    """Copies the LoRAs of both arms to `folder`, and writes the table of its page. Returns the files.

    Raises ValueError where an arm is not finished, was trained on another model, or its LoRA does not fit mini; nothing
    is copied then.
    """
    jobs = {name: _job(runs / f"{arm}-{seed}", arm) for name, arm in ARMS.items()}
    for name in jobs:
        with whole_file(folder / name) as temporary:
            shutil.copyfile(runs / f"{ARMS[name]}-{seed}" / "run" / LORA, temporary)
    page = folder / PAGE
    text = page.read_text(encoding="utf-8")
    page.write_text(TABLE.sub(lambda m: m[1] + described(jobs, folder) + m[2], text), encoding="utf-8")
    return {name: folder / name for name in jobs}


def _job(folder: Path, arm: str) -> dict[str, Any]:
    """What a finished job says of itself, once its LoRA was found to be one for mini."""
    if not (folder / RESULT).is_file():
        raise ValueError(f"{folder} holds no finished job: run `python -m training.compare {arm} --seeds ...` first")
    job: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    task, file = job["settings"]["fit"]["task"], folder / "run" / LORA
    if task["bundle"]:
        raise ValueError(f"{folder} was trained on {task['bundle']!r}, not on the mini of this package")
    if file.stat().st_size >= MAX_FILE:
        raise ValueError(f"{file} is {file.stat().st_size} bytes, and {MAX_FILE} are the most")
    lora = load_lora(file, "cogvideox")
    mini = MiniEncoders("", torch.device("cpu"))
    wanted = int(mini.pipeline.transformer.config.in_channels) + mini.shape.extra_channels(task["condition"])
    if lora.info.condition != task["condition"] or lora.projection["weight"].shape[1] != wanted:
        raise ValueError(f"{file} is no LoRA for {task['condition']}")
    merge_lora(mini.pipeline.transformer, lora)
    return job


def described(jobs: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """The table: what each file is, from what its job says of itself."""
    rows: dict[str, list[str]] = {}
    for name, job in jobs.items():
        fit, data = job["settings"]["fit"], (folder / name).read_bytes()
        task, run = fit["task"], fit["run"]
        lora = load_lora(folder / name)
        rank, blocks = next(iter(lora.factors.values())).rank, ", ".join(lora.blocks)
        propagated = f", propagation in {_list(task['v2v'])}" if task["method"] == "both" else ""
        entries = {
            "size, SHA-256": f"{len(data):,} bytes, `{hashlib.sha256(data).hexdigest()[:16]}`",
            "input": f"`{task['condition']}`, +{lora.projection['weight'].shape[1] - lora.info.base_channels} channels",
            "losses": f"`{task['method']}`: words in {_list(task['v2t'])}{propagated}",
            "LoRA": f"rank {rank}, scale {lora.scales()[0]:g}, on {len(lora.factors)} modules in {blocks}",
            "training": f"{run['steps']} steps of {fit['data']['batch']} clips, rate {fit['optim']['lr']:g}, "
            f"seed {run['seed']}",
            "made on": f"{job['device']}, {job['train_seconds']:.0f} s",
        }
        for label, text in entries.items():
            rows.setdefault(label, []).append(text)
    names = [f"`{name}`" for name in jobs]
    lines = [["", *names], ["---"] * (len(names) + 1), *([label, *texts] for label, texts in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(layers: list[int]) -> str:
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.mini_loras", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="--out of training.compare")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    for name, path in take(chosen.runs, chosen.seed).items():
        print(name, path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
