"""`python -m training.compare off sga spa both --steps 300`: the same fine-tuning with different losses, side by side.

Arms (each is trained with every seed, on the same layers and the same clips, then judged on the same prompts):

    base             the model as published, nothing trained, no condition
    plain            LoRA alone, no mask condition, no attention loss
    off              LoRA and mask condition (ID map), no attention loss
    sga, spa, both   the same, with MATRIX's losses
    flow             as both, with Local Gram Flow from masks in place of MATRIX's losses
    mix              as both, with Local Gram Flow of the values beside them, taught by latents
    tavid_off, tavid LoRA and target mask, without and with TAViD's loss
    elsewhere_off, elsewhere   as off and both, on the layers of --other-v2t and --other-v2v

A job whose result.json is there is not run again, and one that was cut short goes on from its last checkpoint: the same
command finishes what is missing. It then writes report.md, report.json, comparison.svg and curves.svg.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from matrix_lib.core.layers import LayerSet

from .comparison.jobs import Arm, Judging, run_job
from .comparison.report import report
from .run.config import FitConfig, numbers, override
from .run.presets import PRESETS
from .run.task_settings import AlignTask

__all__ = ["ARMS", "main", "make_arms"]

ARMS: dict[str, dict[str, str] | None] = {
    "base": None,
    "plain": {"method": "off", "condition": "none"},
    "off": {"method": "off", "condition": "id_map"},
    "sga": {"method": "sga", "condition": "id_map"},
    "spa": {"method": "spa", "condition": "id_map"},
    "both": {"method": "both", "condition": "id_map"},
    "flow": {"method": "flow", "condition": "id_map"},
    "mix": {"method": "all", "condition": "id_map", "flow_of": "values", "teacher": "latents"},
    "tavid_off": {"method": "off", "condition": "target_mask"},
    "tavid": {"method": "tavid", "condition": "target_mask"},
    "elsewhere_off": {"method": "off", "condition": "id_map"},
    "elsewhere": {"method": "both", "condition": "id_map"},
}


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"{', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", choices=[n for n in PRESETS if n.startswith("align")], default="align")
    parser.add_argument("--steps", type=int, help="training steps of every run")
    parser.add_argument("--prompts", type=int, default=160, help="judged prompts per set (there are three)")
    parser.add_argument("--sampling-steps", type=int, default=24)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--judge-batch", type=int, default=128)
    parser.add_argument("--v2t", help="layers of the grounding loss, such as 9,10")
    parser.add_argument("--v2v", help="layers of the propagation loss")
    parser.add_argument("--other-v2t", help="the same for the arms elsewhere_off and elsewhere")
    parser.add_argument("--other-v2v")
    parser.add_argument("--layers", type=Path, help="layers.json of the layer analysis, for whatever is not given")
    parser.add_argument("--count", type=int, nargs=2, default=(2, 1), help="V2T and V2V layers taken from layers.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="setting=value", help="such as optim.lr=3e-4")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th job from the i-th on; the report is left out")
    parser.add_argument("--gpus", type=int, default=0, help="start one process on each of this many GPUs")
    parser.add_argument("--report", action="store_true", help="only write the report of what is finished")
    return parser.parse_args(arguments)


def layers_of(chosen: argparse.Namespace, task: AlignTask) -> dict[str, tuple[int, ...]]:
    """v2t, v2v, other_v2t, other_v2v: from the command line, else from layers.json, else the preset's. The others in
    layers.json are those with the lowest scores."""
    found: dict[str, tuple[int, ...]] = {"v2t": task.v2t, "v2v": task.v2v}
    if chosen.layers is not None:
        given = LayerSet.from_json(chosen.layers.read_text())
        for kind, best, count in zip(("v2t", "v2v"), (given.v2t, given.v2v), chosen.count):
            found[kind] = tuple(sorted(best[:count]))
            scores = given.scores.get(kind, {})
            worst = sorted((int(layer) for layer in scores if int(layer) not in best), key=lambda n: scores[str(n)])
            if len(worst) >= count:
                found[f"other_{kind}"] = tuple(sorted(worst[:count]))
    for kind in ("v2t", "v2v", "other_v2t", "other_v2v"):
        text = getattr(chosen, kind)
        if text is not None:
            found[kind] = numbers(text, f"--{kind.replace('_', '-')}")
    return found


def make_arms(names: Sequence[str], task: AlignTask, layers: dict[str, tuple[int, ...]]) -> list[Arm]:
    """The arms by name. The trained layers follow the losses' layers, which are those of all arms but the two
    elsewhere, unless the task sets `lora_v2t` and `lora_v2v`."""
    arms = []
    for name in names:
        changes = ARMS[name]
        if changes is None:
            arms.append(Arm(name, None))
            continue
        away = name.startswith("elsewhere")
        places = {kind: layers.get(f"other_{kind}" if away else kind, ()) for kind in ("v2t", "v2v")}
        if away and not (places["v2t"] and places["v2v"]):
            raise ValueError(f"arm {name!r} needs --other-v2t and --other-v2v, or a layers.json with scores")
        arms.append(Arm(name, replace(task, **places, **changes)))  # type: ignore[arg-type]
    return arms


def _shard(text: str) -> tuple[int, int]:
    part, slash, count = text.partition("/")
    if not slash or not part.isdecimal() or not count.isdecimal() or not int(part) < int(count):
        raise ValueError(f"--shard is i/n with i from 0 to n - 1; got {text!r}")
    return int(part), int(count)


def _spread(arguments: Sequence[str], gpus: int) -> int:
    """One process a GPU with its share of the jobs. Returns how many of them failed."""
    if gpus > (found := torch.cuda.device_count()):
        raise ValueError(f"--gpus {gpus}, and this machine has {found}")
    children = []
    for i in range(gpus):
        command = [sys.executable, "-m", "training.compare", *arguments, "--gpus", "0", "--shard", f"{i}/{gpus}"]
        children.append(subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": str(i)}))
    return sum(child.wait() != 0 for child in children)


def _run(chosen: argparse.Namespace) -> None:
    settings = list(chosen.set)
    if chosen.steps is not None:
        settings.append(f"run.steps={chosen.steps}")
    config: FitConfig = override(PRESETS[chosen.preset](), settings)
    arms = make_arms(chosen.arms, config.task, layers_of(chosen, config.task))
    judging = Judging(chosen.prompts, chosen.sampling_steps, chosen.cfg, chosen.judge_batch)
    place, count = _shard(chosen.shard)
    # a model that was not trained has no seeds; it comes last, where a process is free
    jobs = [(arm, seed) for seed in chosen.seeds for arm in arms if arm.task is not None]
    jobs += [(arm, chosen.seeds[0]) for arm in arms if arm.task is None]
    for arm, seed in jobs[place::count]:
        print(f"{arm.name}, seed {seed}", flush=True)
        found = run_job(arm, seed, config, judging, chosen.out / f"{arm.name}-{seed}")
        means = {name: sum(v["right_roles"]) / len(v["right_roles"]) for name, v in found["scores"].items()}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        spent = f"trained {found['train_seconds']} s, judged {found['judge_seconds']} s"
        print(f"{arm.name}, seed {seed}: right roles {shown}; {spent}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every job is done; 1 when a process failed (what it finished is kept)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _arguments(given)
    failed = 0
    try:
        if not chosen.report:
            if not chosen.arms:
                raise ValueError(f"name the arms to compare: {', '.join(ARMS)}")
            if unknown := [name for name in chosen.arms if name not in ARMS]:
                raise ValueError(f"there is no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
            failed = _spread(given, chosen.gpus) if chosen.gpus else 0
            if not chosen.gpus:
                _run(chosen)
        if chosen.shard == "0/1":
            print(report(chosen.out, list(ARMS)))
    except (ValueError, OSError) as error:
        sys.exit(f"training.compare: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
