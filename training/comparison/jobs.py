"""One job of a comparison: an arm trained with one seed, then judged on held-out prompts. Its JSON is written last.

N clips, X channels of the mask condition.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix_lib.evaluation.mini.judges import judge
from matrix_lib.hosts.diffusers.lora import merge_lora
from matrix_lib.hosts.diffusers.mini import Sizes, move, sample
from matrix_lib.io.files import whole_file
from matrix_lib.io.lora.read import load_lora
from matrix_lib.io.strict_json import own_object
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from ..data.alignment_clips import condition_of
from ..data.world import seed_of
from ..fit import Trainer
from ..models.mini_encoders import MiniEncoders
from ..run.config import FitConfig
from ..run.exported import find_lora
from ..run.record import LORA, FinishedRunError, config_differences
from ..run.task_settings import AlignTask

__all__ = ["RESULT", "SCORES", "SETS", "Arm", "Judging", "evaluate", "run_job"]

RESULT = "result.json"
JUDGED_SEED = 74_000_000  # far from every seed that anything was trained on
SCORES = ("right_roles", "right_path", "intact", "interaction_fidelity", "kisa", "sgi", "spi", "trajectory_iou")
SETS = {
    "seen": {"split": "train", "distractor_share": 0.0},
    "unseen pairs": {"split": "heldout_pairs", "distractor_share": 0.0},
    "look-alikes": {"split": "train", "distractor_share": 1.0},
}
"""Verb-object pairs that training showed, pairs that it never showed, and clips in which somebody looks just like a
named instance, which words cannot tell apart. Interactions alone, new seeds."""


@dataclass(frozen=True)
class Arm:
    """One way to train. `task` None is the model as it was published."""

    name: str
    task: AlignTask | None


@dataclass(frozen=True)
class Judging:
    """How models are judged: prompts per set, sampling steps, guidance, clips at once."""

    prompts: int = 160
    steps: int = 24
    cfg: float = 3.0
    batch: int = 128


def run_job(arm: Arm, seed: int, config: FitConfig, judging: Judging, folder: Path) -> dict[str, Any]:
    """Trains and judges, or reads what was found when this was done before.

    Raises ValueError where the folder holds a job of other settings.
    """
    if arm.task is not None:
        config = replace(config, task=arm.task, run=replace(config.run, seed=seed, out=str(folder / "run")))
    asked = json.loads(json.dumps({"arm": arm.name, "seed": seed, "judging": asdict(judging), "fit": asdict(config)}))
    asked["fit"]["run"].pop("out")
    _same(folder / "settings.json", asked, config)
    if (folder / RESULT).is_file():
        return own_object(folder / RESULT)
    began = time.monotonic()
    bundle = config.task.bundle
    lora = None if arm.task is None else train(config, folder / "run")
    trained = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scores = evaluate(bundle, lora, arm.task.condition if arm.task else "none", judging, device)
    result = {
        "arm": arm.name,
        "seed": seed,
        "settings": asked,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "train_seconds": round(trained - began, 1),
        "judge_seconds": round(time.monotonic() - trained, 1),
        "curve": _curve(folder / "run" / "metrics.csv"),
        "scores": scores,
    }
    _write(folder / RESULT, result)
    return result


def _same(path: Path, asked: dict[str, Any], config: FitConfig) -> None:
    if path.is_file():
        was = own_object(path)
        others = {name: value for name, value in was.items() if name != "fit"}
        if others != {name: value for name, value in asked.items() if name != "fit"} or config_differences(
            was["fit"], config
        ):
            raise ValueError(
                f"{path.parent} holds a job of other settings: choose another --out, or delete that folder"
            )
    else:
        _write(path, asked)


def _write(path: Path, value: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1))


def _curve(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def train(config: FitConfig, folder: Path) -> Path:
    """The LoRA file of a finished run; goes on with a run that was cut short."""
    made = folder / LORA
    if not made.is_file():  # it is written at the very end
        try:
            trainer = Trainer(config)
        except FinishedRunError:  # and the file is gone; the last checkpoint has it, too
            return find_lora(folder)
        trainer.run()
        if trainer.stopping:
            raise KeyboardInterrupt
    return made


@torch.no_grad()
def evaluate(
    bundle: str, lora: Path | None, condition: str, judging: Judging, device: torch.device
) -> dict[str, dict[str, list[float]]]:
    """What the judge says of each held-out clip, {set: {score: one number a clip}}, with the LoRA merged into the
    model and the masks of the first frame as its condition. Clips and noise are the same for every model."""
    model = MiniEncoders(bundle, device)
    if lora is not None:
        merge_lora(model.pipeline.transformer, load_lora(lora))
    move(model.pipeline, device, model.codec_dtype)
    out: dict[str, dict[str, list[float]]] = {}
    for name in SETS:
        clips = held_out(name, model.sizes, judging.prompts, device)
        found: dict[str, list[Tensor]] = {score: [] for score in SCORES}
        for start in range(0, len(clips), judging.batch):
            part = clips.select(slice(start, start + judging.batch))
            extra = condition_of(condition, part, model)
            first = part.video[:, 0]
            seed = seed_of(JUDGED_SEED, start)
            video = sample(model.pipeline, model.sizes, part.prompts, first, judging.steps, judging.cfg, seed, extra)
            verdict = judge(video, part)
            for score, values in found.items():
                given = verdict.iou.nanmean(dim=1) if score == "trajectory_iou" else getattr(verdict, score)
                values.append(given.float().cpu())
        out[name] = {score: [round(x, 4) for x in torch.cat(values).tolist()] for score, values in found.items()}
    return out


@lru_cache(maxsize=8)
def held_out(name: str, sizes: Sizes, prompts: int, device: torch.device) -> Clips:
    """The clips of one set."""
    settings: Mapping[str, Any] = SETS[name]
    world = WorldConfig(
        height=sizes.height, width=sizes.width, frames=sizes.frames, single_motion_share=0.0, **settings
    )
    wanted = settings["distractor_share"] > 0
    number = list(SETS).index(name)
    clips = make_clips(seed_of(JUDGED_SEED, number), prompts * (2 if wanted else 1), world, device)
    if not wanted:
        return clips
    kept = clips.ambiguous.cpu().nonzero()[:, 0][:prompts]  # not everybody's double finds room
    if len(kept) < prompts:
        raise ValueError(f"only {len(kept)} of {len(clips)} clips have look-alikes; {prompts} are wanted")
    return clips.select(kept.tolist())
