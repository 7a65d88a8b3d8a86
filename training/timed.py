"""`python -m training.timed --out FOLDER --clips N`: do things happen in the order and at the time that words say?

The mini model is asked two questions, of clips that nothing was trained on, clip by clip with the same noise:

order    two things of a first frame move, one in each half of the clip. Which of them is asked to be first, and which
         is said first, alternate, so that the order of the words says nothing.
contact  a verb whose parts touch in the middle of the clip is asked for `LATE` seconds later.

Beside no guidance there are words in time on verbs alone and on whole clauses, and the penalty of Prompt Relay (arXiv
2604.10030), all by `TimedWords`. Written are every clip's values (rows.csv) and a table with intervals and verdicts.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.timed_words import TimedWords
from matrix_lib.core.words.phrases import PhraseSpec, Time, Words
from matrix_lib.evaluation.mini.judges import judge
from matrix_lib.evaluation.mini.object_tracking import look
from matrix_lib.evaluation.statistics import Estimate, bootstrap, estimate, holm
from matrix_lib.evaluation.verdicts import floor, verdict
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.batches import Branch
from matrix_lib.hosts.diffusers.mini import Sizes, move, sample
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.io.files import whole_file
from matrix_lib.mini.shapes import MAX_REACH
from matrix_lib.mini.verbs import verb_named
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from .models.mini_run import pipeline_of
from .run.ending import ending, probe

__all__ = ["main"]

LATE = 0.75
_SEED = 97_000_000  # far from every seed that training, the evaluation or an analysis draws
# Where the world's verbs lead, in 1/64 of the frame's shorter side.
_WAYS = {"move_left": (-20, 0), "move_right": (20, 0), "move_up": (0, -20), "move_down": (0, 20)}
_TOUCHING = ("push", "pull", "lift", "hit", "bounce")  # they touch in the middle of the clip
_SIGMA = 1 / math.log(1e3)  # Prompt Relay's, in latent frames
_NONE = "no guidance"
Spoken = tuple[str, str, Time]  # name, words, when


@dataclass(frozen=True)
class Asked:
    """One question: `clips` as they were asked for, and for each arm but the first what is said of each prompt."""

    name: str
    clips: Clips
    prompts: list[str]
    arms: dict[str, tuple[TimedWords, list[list[Spoken]]]]
    first: Tensor  # (N,) slot that is asked to be first

    def measured(self, video: Tensor) -> dict[str, Tensor]:
        """Each (N,) float."""
        sight = look(video, self.clips)
        told = judge(video, self.clips, sight=sight)
        found = _in_order(self, sight.centres) if self.name == "order" else _in_touch(self.clips, told.contact)
        return {**found, "spi": told.spi.float()}


# what counts for each question: its measure, whether more is better, the difference that would matter, and what has to
# happen at all without guidance
_CLAIMS = {"order": ("in order", True, 0.1, "both happen"), "contact": ("frames off", False, 1.0, "they touch")}


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parse(arguments)
    with ending("training.timed"):
        _run(chosen)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.timed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the table")
    parser.add_argument("--clips", type=int, default=256, help="of each question; default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="clips sampled together")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--cfg", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="clip i gets the noise of seed + i")
    parser.add_argument("--model", type=Path, default=bundle.HOME, help="a bundle, or a run of training.fit")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _run(chosen: argparse.Namespace) -> None:
    if min(chosen.clips, chosen.batch, chosen.steps) < 1 or not chosen.cfg >= 1:
        raise ValueError("clips, batch, steps and cfg are 1 or more")
    probe(chosen.out)
    pipeline, sizes = pipeline_of(chosen.model)
    move(pipeline, chosen.device, torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32)
    rows: list[dict[str, Any]] = []
    for asked in (_order(chosen.clips, sizes, chosen.device), _contact(chosen.clips, sizes, chosen.device)):
        for arm in (_NONE, *asked.arms):
            found = asked.measured(_sampled(chosen, pipeline, sizes, asked, arm))
            values = {name: value.double().cpu().tolist() for name, value in found.items()}
            rows += [
                {"question": asked.name, "arm": arm, "clip": i, "seed": chosen.seed + i, "prompt": asked.prompts[i]}
                | {name: value[i] for name, value in values.items()}
                for i in range(chosen.clips)
            ]
            print(f"{asked.name}, {arm}: {', '.join(f'{n} {np.mean(v):.3f}' for n, v in values.items())}", flush=True)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(chosen.out / "rows.csv") as place, place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    with whole_file(chosen.out / "README.md") as place:
        place.write_text(_report(chosen, rows), encoding="utf-8")
    print(f"wrote {chosen.out / 'README.md'}")


@torch.no_grad()
def _sampled(chosen: argparse.Namespace, pipeline: Any, sizes: Sizes, asked: Asked, arm: str) -> Tensor:
    """(N, F, 3, H, W) uint8."""
    videos = []
    guide, spoken = asked.arms.get(arm, (None, []))
    branches: tuple[Branch, ...] = ("uncond", "cond") if chosen.cfg != 1 else ("cond",)
    for start in range(0, len(asked.prompts), chosen.batch):
        part = slice(start, start + chosen.batch)
        prompts = asked.prompts[part]
        with contextlib.ExitStack() as stack:
            if guide is not None:
                bindings = [
                    bind_prompt(pipeline, prompt, _specs(said), max_sequence_length=sizes.text_length)
                    for prompt, said in zip(prompts, spoken[part], strict=True)
                ]
                stack.enter_context(steer(pipeline, guide, bindings, steps=chosen.steps, branches=branches))
            first = asked.clips.video[part, 0]
            videos.append(sample(pipeline, sizes, prompts, first, chosen.steps, chosen.cfg, chosen.seed + start))
    return torch.cat(videos)


def _specs(said: Sequence[Spoken]) -> list[PhraseSpec]:
    return [PhraseSpec(name, (Words.parse(words),), "word", time=time) for name, words, time in said]


# -- the two questions
def _world(sizes: Sizes, verbs: Sequence[str], single: float) -> WorldConfig:
    return WorldConfig(
        height=sizes.height, width=sizes.width, frames=sizes.frames, max_instances=3, single_motion_share=single,
        distractor_share=0.0, occlusion_share=0.0, verbs=tuple(verbs),
    )  # fmt: skip


def _order(count: int, sizes: Sizes, device: str) -> Asked:
    """Slot 0 moves as its clip says, slot 1 another way in which there is room."""
    clips = make_clips(_SEED, count, _world(sizes, list(_WAYS), 1.0), device)
    config, half = clips.config, clips.config.frames // 2
    cut = half / config.fps
    rise = torch.arange(config.frames, device=device) / half
    first, paths, prompts = torch.arange(count) // 2 % 2, clips.trajectories.clone(), []
    verbs: list[list[Spoken]] = []
    clauses: list[list[Spoken]] = []
    relayed: list[list[Spoken]] = []
    for i in range(count):
        ways = [clips.verb[i], _roomiest(clips, i)]
        said = []
        for slot, way in enumerate(ways):
            later = slot != int(first[i])
            go = (rise - float(later)).clamp(0, 1)[:, None] * torch.tensor(_WAYS[way], device=device) * config.unit
            paths[i, slot] = clips.trajectories[i, slot, :1] + go
            words = verb_named(way).words
            said.append((f"the {clips.names[i][slot]}", words, (cut, None) if later else (0.0, cut)))
        if i % 2:
            said.reverse()
        prompts.append(", ".join(f"{who} {words}" for who, words, _ in said))
        verbs.append([(words, words, time) for _, words, time in said])
        clauses.append([(f"{who} {words}", f"{who} {words}", time) for who, words, time in said])
        relayed.append([(name, words, _relayed(config, time)) for name, words, time in clauses[-1]])
    step = 4 / config.fps
    arms = {
        "verbs in time": (TimedWords(), verbs),
        "clauses in time": (TimedWords(), clauses),
        "clauses under Prompt Relay's penalty": (TimedWords(100.0, fade=math.sqrt(200) * _SIGMA * step), relayed),
    }
    return Asked("order", clips.restage(paths), prompts, arms, first.to(device))


def _roomiest(clips: Clips, i: int) -> str:
    """The way, another than that of slot 0, in which slot 1 keeps farthest from the border and from slot 0's path."""
    config, start = clips.config, clips.trajectories[i, 1, 0]
    size = torch.tensor((config.width, config.height), device=start.device)

    def room(way: str) -> float:
        end = start + torch.tensor(_WAYS[way], device=start.device) * config.unit
        border = torch.minimum(end, size - end).amin() - clips.radius[i, 1] * MAX_REACH
        return float(torch.minimum(border, (end - clips.trajectories[i, 0]).norm(dim=-1).amin()))

    return max((way for way in _WAYS if way != clips.verb[i]), key=room)


def _relayed(config: WorldConfig, time: Time) -> Time:
    """The window of a segment as Prompt Relay takes it: L // 2 - 2 latent frames on each side of its middle one."""
    grid = Grid.from_pixels(config.frames, config.height, config.width, patch=(1, 1, 1))
    middles = [(first + stop - 1) / 2 / config.fps for first, stop in grid.pixel_spans()]
    inside = [f for f, at in enumerate(middles) if time[0] <= at < (math.inf if time[1] is None else time[1])]
    length = len(inside)
    middle, window = (2 * inside[0] + length) // 2, max(length // 2 - 2, 0)
    ends = [middles[max(0, min(grid.frames - 1, middle + by))] for by in (-window, window)]
    return max(0.0, ends[0] - 1e-3), ends[1] + 1e-3


def _contact(count: int, sizes: Sizes, device: str) -> Asked:
    """Everybody's path begins `LATE` seconds later, and takes the rest of the clip."""
    clips = make_clips(_SEED + 1, count, _world(sizes, _TOUCHING, 0.0), device)
    config = clips.config
    late = LATE * config.fps
    frames = torch.arange(config.frames, device=device)
    at = (frames - late).clamp(min=0) * (config.frames - 1) / (config.frames - 1 - late)
    low = at.floor().long().clamp(max=config.frames - 2)
    share = (at - low)[:, None]
    paths = clips.trajectories[:, :, low] * (1 - share) + clips.trajectories[:, :, low + 1] * share
    verbs: list[list[Spoken]] = [[(words := verb_named(verb).words, words, (LATE, None))] for verb in clips.verb]
    whole: list[list[Spoken]] = [[(prompt, prompt, (LATE, None))] for prompt in clips.prompts]
    arms = {"verbs in time": (TimedWords(), verbs), "sentences in time": (TimedWords(), whole)}
    return Asked("contact", clips.restage(paths), list(clips.prompts), arms, torch.zeros(count, device=device).long())


def _in_order(asked: Asked, centres: Tensor) -> dict[str, Tensor]:
    """both happen: each of the two has gone more than half of its way at the end, and not twice it. in order: and the
    one that was asked to be first is half way at least two frames before the other. frames off: how far both are from
    being half way when they should; all frames where one does not happen."""
    clips, last = asked.clips, asked.clips.config.frames - 1
    way = clips.trajectories[:, :2, last] - clips.trajectories[:, :2, 0]  # (N, 2, 2)
    off_start = centres[:, :2] - clips.trajectories[:, :2, :1]
    gone = (off_start * way[:, :, None]).sum(-1) / way.square().sum(-1)[..., None]  # (N, 2, F), shares of the way
    happened = (gone[..., last] > 0.5) & (gone[..., last] < 2)
    half = (gone >= gone[..., last:] / 2).int().argmax(-1).float()  # (N, 2)
    row, first = torch.arange(len(half), device=half.device), asked.first
    both = happened.all(1)
    due = torch.full_like(half, 0.75 * last)
    due[row, first] = 0.25 * last
    off = torch.where(happened, (half - due).abs(), float(last)).mean(1)
    return {
        "in order": (both & (half[row, first] + 2 <= half[row, 1 - first])).float(),
        "both happen": both.float(),
        "frames off": off,
    }


def _in_touch(clips: Clips, contact: Tensor) -> dict[str, Tensor]:
    """frames off: of the first frame in which the two are seen to touch; all frames where they never do."""
    last = clips.config.frames - 1
    touched, wanted = contact.any(1), clips.contact.int().argmax(1).float()
    seen = contact.int().argmax(1).float()
    off = torch.where(touched, (seen - wanted).abs(), float(last))
    return {"frames off": off, "they touch": touched.float(), "first touch": torch.where(touched, seen, float(last))}


# -- what came out
def _report(chosen: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> str:
    """Tables and verdicts, as Markdown."""
    lines = [
        "# Words in time on the mini model",
        "",
        f"`python -m training.timed --clips {chosen.clips} --steps {chosen.steps} --cfg {chosen.cfg:g} "
        f"--seed {chosen.seed}`, {'bfloat16' if chosen.device.startswith('cuda') else 'float32'}; the same clips and "
        "noise for every arm. Intervals are Wilson's for shares and the bootstrap's for means, 95 %; gains by clip.",
    ]
    asked: list[tuple[str, str, Estimate, float, Estimate]] = []
    for question, (measure, better, margin, what) in _CLAIMS.items():
        own = [row for row in rows if row["question"] == question]
        names = [name for name in own[0] if name not in ("question", "arm", "clip", "seed", "prompt")]
        lines += ["", f"## {question}", "", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        arms = list(dict.fromkeys(row["arm"] for row in own))
        table = {arm: {n: np.array([row[n] for row in own if row["arm"] == arm]) for n in names} for arm in arms}
        for arm, values in table.items():
            cells = (_estimated(name, value).interval for name, value in values.items())
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        base = table[_NONE]
        for arm in arms[1:]:
            gain = (table[arm][measure] - base[measure]) * (1 if better else -1)
            asked.append((question, arm, bootstrap(gain), bootstrap(gain - margin).p, _estimated(what, base[what])))
    corrected = zip(holm([gain.p for _, _, gain, _, _ in asked]), holm([p for *_, p, _ in asked]), strict=True)
    lines += ["", "## Against no guidance", "", "| question | arm | gain | verdict |", "|---|---|---|---|"]
    for (question, arm, gain, _, happens), both in zip(asked, corrected, strict=True):
        measure, _, margin, what = _CLAIMS[question]
        check = floor(happens.mean, 0.0)
        check = replace(check, said=f"{what} without guidance: {happens.interval}")
        lines.append(f"| {question} | {arm} | {measure}: {gain.interval} | {verdict(gain, margin, [check], *both)} |")
    return "\n".join(lines) + "\n"


def _estimated(name: str, values: np.ndarray) -> Estimate:
    shares = name not in ("frames off", "first touch", "spi")
    return estimate(values > 0.5) if shares else bootstrap(values, bounds=(0, 1) if name == "spi" else None)


if __name__ == "__main__":
    main()
