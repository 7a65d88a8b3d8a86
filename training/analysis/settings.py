"""What a command line of `training.analyse` asks for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from matrix_lib.evaluation.layers.scores import SCORES
from matrix_lib.evaluation.layers.study import Options
from matrix_lib.evaluation.mini.clips import CRITERIA
from matrix_lib.io.clips.mask_values import MASKS_ARE, MasksAre

__all__ = ["PRECISIONS", "Settings", "parse"]

PRECISIONS = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Settings:
    """What a command line asks for.

    Args:
        source: a folder or `mini:COUNT[:SPLIT]`. model: `mini` or a folder. out: folder of the results.
        frames, height, width: of a clip; 0 takes the model's own.
        steps, guidance: 0 and -1 take 50 and 6, for mini 24 and 4.
        labels: "none", "judge" (mini clips), or a CSV file; column, threshold: see `read_labels`.
        criteria: answers of the judge that have to be yes for a success.
        tracks: "given" with the clip, or "seen" in what was generated (mini clips; every clip is made twice).
        lora: LoRA files, checkpoints or runs that the model is analysed with, at this strength: one, or of a model with
            two experts up to two (see `AnalysedLoRAs.read`).
        examples: runs that the report shows. limit: analyse the first clips only, 0 for all.
        seed_steps: also fit a seed rule on so many first steps; 0 fits none.
        seed_rule: instead, a seed rule's file, to be tried on these runs; "" for none.
        part: (i, n), measure the i-th of n parts of the runs, i from 1, and report nothing; None for everything.
        roots, masks_are: see `scan_clips`.
    """

    source: str
    model: str
    out: Path
    mode: Literal["generate", "noise"] = "generate"
    frames: int = 0
    height: int = 0
    width: int = 0
    steps: int = 0
    guidance: float = -1.0
    negative: str = ""
    timesteps: tuple[int, ...] = (900, 700, 500, 300, 100)
    seeds: tuple[int, ...] = (0,)
    tracks: Literal["given", "seen"] = "given"
    labels: str = "none"
    column: str = "success"
    threshold: float = 0.5
    criteria: tuple[str, ...] = CRITERIA
    options: Options = field(default_factory=Options)
    examples: int = 4
    limit: int = 0
    precision: str = ""
    offload: bool = False
    lora: tuple[str, ...] = ()
    strength: float = 1.0
    roots: str = ""
    masks_are: MasksAre = "ask"
    seed_steps: int = 0
    seed_rule: str = ""
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.labels == "judge" and (not self.source.startswith("mini:") or self.mode != "generate"):
            raise ValueError(
                "the judge knows the clips of the mini world and looks at what was generated: use --labels judge with "
                "mini:COUNT and --mode generate, or give a CSV of labels"
            )
        if self.tracks == "seen" and (not self.source.startswith("mini:") or self.mode != "generate"):
            raise ValueError(
                "--tracks seen looks at generated clips of the mini world: use mini:COUNT and --mode generate, or "
                "track the generated clips yourself and give those masks with the same seed"
            )
        asked = self.seed_steps or self.seed_rule
        if asked and (self.labels == "none" or self.tracks == "seen" or self.mode != "generate"):
            raise ValueError(
                "a seed rule is fitted (--seed-steps) or tried (--seed-rule) on judged runs, with masks that are known "
                "while a seed is tried: it takes --labels, --mode generate and --tracks given"
            )
        if self.seed_steps and self.seed_rule:
            raise ValueError("--seed-steps fits a seed rule and --seed-rule tries one that is there: give one of them")
        if self.seed_rule and not Path(self.seed_rule).is_file():
            raise ValueError(f"--seed-rule: there is no file {self.seed_rule!r}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are different numbers from 0 on; got {list(self.seeds)}")
        if min(self.examples, self.limit, self.seed_steps) < 0:
            given = f"{self.examples}, {self.limit} and {self.seed_steps}"
            raise ValueError(f"examples, limit and seed_steps are 0 or more; got {given}")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise ValueError(f"--part I/N is a part from 1 to N of N; got {self.part[0]}/{self.part[1]}")

    @property
    def mini_clips(self) -> bool:
        return self.source.startswith("mini:")


def parse(arguments: Sequence[str] | None = None, doc: str = "") -> Settings:
    """The settings that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m training.analyse", description=doc)
    parser.add_argument(
        "source", metavar="INPUT", help="folder of clips, or mini:COUNT[:train|heldout_pairs|all|look_alikes]"
    )
    parser.add_argument("model", metavar="MODEL", help="mini, or a folder of a diffusers pipeline")
    parser.add_argument("--out", type=Path, required=True, help="folder for results; an unfinished one is gone on with")
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--mode", choices=("generate", "noise"), default="generate", help="sample clips, or noise real ones"
    )
    for name in ("frames", "height", "width", "steps"):
        runs.add_argument(f"--{name}", type=int, default=0, help="default: the model's own")
    runs.add_argument("--guidance", type=float, default=-1.0, help="default: 6, for mini 4")
    runs.add_argument("--negative", default="", help="negative prompt")
    runs.add_argument("--timesteps", type=int, nargs="+", default=[900, 700, 500, 300, 100], help="of 1000, for noise")
    runs.add_argument("--seeds", type=int, nargs="+", default=[0])
    runs.add_argument("--limit", type=int, default=0, help="the first clips only")
    runs.add_argument(
        "--part", type=_part, metavar="I/N", help="measure this part of the runs alone, and report nothing"
    )
    runs.add_argument("--precision", choices=PRECISIONS, default="", help="default: bfloat16, on a CPU float32")
    runs.add_argument("--offload", action="store_true", help="keep the model's parts in main memory until they run")
    lora = "analyse the model with this LoRA: a file, a checkpoint or a run; of two experts high=FILE, low=FILE or both"
    runs.add_argument("--lora", action="append", default=[], help=lora)
    runs.add_argument("--strength", type=float, default=1.0, help="of the LoRA, on top of its own scale")
    where = "masks given with the clips, or seen in what was generated (mini clips)"
    runs.add_argument("--tracks", choices=("given", "seen"), default="given", help=where)
    runs.add_argument("--roots", default="", help="other folders, divided by commas, that links of INPUT may lead to")
    runs.add_argument("--masks-are", choices=MASKS_ARE, default="ask", help="where the thing is in masks; default: ask")
    success = parser.add_argument_group("success")
    success.add_argument("--labels", default="none", help="none, judge (mini clips), or a CSV with clip and success")
    success.add_argument("--column", default="success", help="column of the CSV")
    success.add_argument("--threshold", type=float, default=0.5, help="numbers from here on are a success")
    success.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA), help="of the judge")
    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--score", choices=sorted(SCORES), default="above", help="; ".join(map(": ".join, SCORES.items()))
    )
    for name, default in (("top", 0), ("keep", 0), ("preset", 3), ("least", 5), ("draws", 10000)):
        reading.add_argument(f"--{name}", type=int, default=default)
    reading.add_argument("--alpha", type=float, default=0.005, help="family-wise error of dominant layers")
    reading.add_argument("--seed-steps", type=int, default=0, help="fit a rule for MATRIX Pick Seeds on so many steps")
    reading.add_argument("--seed-rule", default="", metavar="FILE", help="try this rule on runs that it does not know")
    reading.add_argument("--examples", type=int, default=4, help="runs that the report shows")
    chosen = vars(parser.parse_args(arguments))
    names = ("score", "top", "keep", "preset", "alpha", "least", "draws")
    try:
        chosen["options"] = Options(**{name: chosen.pop(name) for name in names})
        lists = {name: tuple(chosen[name]) for name in ("timesteps", "seeds", "criteria", "lora")}
        return Settings(**{**chosen, **lists})
    except ValueError as error:
        parser.error(str(error))


def _part(text: str) -> tuple[int, int]:
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(f"a part is I/N, such as 1/8; got {text!r}")
    return int(first), int(second)
