"""`python -m training.evaluate FOLDER [--prompts 1024]`: samples held-out prompts and lets the judge count.

FOLDER is a run of `training.fit mini` or a published bundle. Prompts that words can resolve are counted apart from
those with look-alikes, which only a mask could tell apart.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix_lib.evaluation.mini.judges import Verdict, judge
from matrix_lib.hosts.diffusers.mini import Sizes, move, sample
from matrix_lib.io.files import whole_file
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from .data.world import seed_of
from .models.mini_run import pipeline_of
from .run.ending import ending, probe

__all__ = ["evaluate", "main"]

HELD_OUT_SEED = 71_000_000  # far from every seed that training draws
SPLITS = ("train", "heldout_pairs")
SCORES = ("right_path", "right_roles", "intact", "kisa", "sgi", "spi", "interaction_fidelity", "trajectory_iou")


def worlds(sizes: Sizes) -> dict[str, WorldConfig]:
    """New seeds with the verb-object pairs of training, and pairs that training never showed."""
    return {
        split: WorldConfig(height=sizes.height, width=sizes.width, frames=sizes.frames, split=split)  # type: ignore[arg-type]
        for split in SPLITS
    }


def evaluate(
    pipeline: Any,
    sizes: Sizes,
    prompts: int,
    batch: int,
    steps: int,
    cfg: float,
    splits: Sequence[str] = SPLITS,
    seed: int = HELD_OUT_SEED,
    seen: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Scores with 95 % intervals for each split: of the model, each verb of it, and true clips that only went through
    the codec. `seen` gets what is known after every batch, so that a run that is cut short is not lost."""
    device = pipeline.transformer.device
    results: dict[str, Any] = {}
    for number, (split, world) in enumerate(worlds(sizes).items()):
        if split not in splits:
            continue
        made: list[Verdict] = []
        coded: list[Verdict] = []
        plain: list[Tensor] = []
        verbs: list[str] = []
        for start in range(0, prompts, batch):
            clips = make_clips(seed_of(seed, number, start), min(batch, prompts - start), world, device)
            video = sample(pipeline, sizes, clips.prompts, clips.video[:, 0], steps, cfg, seed=start)
            made.append(judge(video, clips))
            if start == 0:
                coded.append(judge(through_codec(pipeline, clips), clips))
            plain.append(~clips.ambiguous.cpu())
            verbs += clips.verb
            clear = torch.cat(plain)
            results[split] = {"resolvable": scores(made, clear), "ambiguous": scores(made, ~clear)}
            seen(results)
        results[split]["codec"] = scores(coded, plain[0] | True)
        for verb in sorted(set(verbs)):
            results[split][verb] = scores(made, clear & torch.tensor([v == verb for v in verbs]))
        seen(results)
    return results


@torch.no_grad()
def through_codec(pipeline: Any, clips: Clips, piece: int = 32) -> Tensor:
    """True clips encoded and decoded, (N, F, 3, H, W) uint8: what no transformer can do better than."""
    out = []
    for video in clips.video.split(piece):
        pixels = video.transpose(1, 2).to(pipeline.vae.dtype).div(127.5).sub(1.0)
        decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample.transpose(1, 2)
        out.append(decoded.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)


def scores(verdicts: Sequence[Verdict], chosen: Tensor) -> dict[str, Any]:
    """Mean and interval of each score over the chosen clips."""
    if not bool(chosen.any()):
        return {"clips": 0}
    fields = Verdict.__dataclass_fields__
    whole = Verdict(**{name: torch.cat([getattr(v, name).cpu() for v in verdicts]) for name in fields})
    summary = whole.select(chosen).summary()
    out: dict[str, Any] = {"clips": int(chosen.sum())}
    for name in SCORES:
        found = summary[name]
        out[name] = [round(float(x), 4) for x in (found.mean, found.low, found.high)]
    return out


def table(results: dict[str, Any]) -> str:
    """The results as lines for people."""
    lines = []
    for split, kinds in results.items():
        for kind, values in kinds.items():
            cells = "  ".join(f"{n} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for n, v in values.items() if n != "clips")
            lines.append(f"{split:14} {kind:10} n={values['clips']:<5} {cells}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run of training.fit, or a bundle")
    parser.add_argument("--prompts", type=int, default=1024, help="prompts per split")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--cfg", type=float, nargs="+", default=[2.0], help="guidance scales to try")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the prompts; another to choose a model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    chosen = parser.parse_args(arguments)
    with ending("training.evaluate", "what --out holds is of the batches that were done"):
        _run(chosen)


def _run(chosen: argparse.Namespace) -> None:
    if min(chosen.prompts, chosen.batch, chosen.steps) < 1 or not all(math.isfinite(cfg) for cfg in chosen.cfg):
        raise ValueError("prompts, batch and steps are 1 or more, and guidance scales finite numbers")
    if chosen.out:
        probe(chosen.out.parent)
    pipeline, sizes = pipeline_of(chosen.folder)
    half = torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32
    move(pipeline, chosen.device, half)
    report = {}
    for cfg in chosen.cfg:
        began = time.monotonic()

        def keep(results: dict[str, Any], cfg: float = cfg) -> None:
            report[str(cfg)] = results
            if chosen.out:
                with whole_file(chosen.out) as place:
                    place.write_text(json.dumps({"steps": chosen.steps, "guidance": report}, indent=1))
            done = sum(kinds[kind]["clips"] for kinds in results.values() for kind in ("resolvable", "ambiguous"))
            print(f"\r{done} of {chosen.prompts * len(chosen.splits)} prompts", end="", file=sys.stderr, flush=True)

        evaluate(pipeline, sizes, chosen.prompts, chosen.batch, chosen.steps, cfg, chosen.splits, chosen.seed, keep)
        seconds = time.monotonic() - began
        print(f"guidance {cfg}, {chosen.steps} steps, {seconds:.0f} s\n{table(report[str(cfg)])}", flush=True)


if __name__ == "__main__":
    main()
