"""`python -m training.instance_captions --out FOLDER --clips N`: does each instance do what its own caption says?

Two or four things stand side by side in the first frame, each in the middle of its own strip of the picture, so that
neither places nor masks tell who does what:

each    all move, some up and some down; their looks differ
alike   one moves, up or down, and the others rest; all look the same, so that no prompt could say which

Arms, on the same clips and noise:

one prompt              all that moves, in one text
regional prompting      the mechanism of arXiv 2411.02395: two attentions with dense masks, mixed, in the first steps
captions                each in its instance's strip (`InstanceCaptions`), beside a prompt that says who is there
captions, whole prompt  the same beside the one prompt
captions, exchanged     each in another's strip: what captions do where they are

Written are every clip's values (rows.csv, after every arm) and a table with intervals and verdicts (README.md). Stop it
whenever you like: the same command goes on with the arms that are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from matrix_lib.core.guidance.instance_captions import InstanceCaptions
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.mini.object_tracking import look
from matrix_lib.evaluation.statistics import Estimate, bootstrap, estimate, holm
from matrix_lib.evaluation.verdicts import Check, ceiling, floor, manipulated, verdict
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.captions import bind_captions
from matrix_lib.hosts.diffusers.mini import Sizes, move, sample, text_rows
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.io.files import whole_file
from matrix_lib.mini.shapes import COLOURS, SHAPES
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

from .models.mini_run import pipeline_of
from .run.ending import alone, ending
from .run.kept_rows import goes_on, read_rows, write_rows

__all__ = ["main"]

QUESTIONS = tuple((kind, count) for kind in ("each", "alike") for count in (2, 4))
ONE, DENSE = "one prompt", "regional prompting"
OURS, WHOLE, EXCHANGED = "captions", "captions, whole prompt", "captions, exchanged"
ARMS = (ONE, DENSE, OURS, WHOLE, EXCHANGED)
# what counts: whether more of it is better, and the smallest difference that would matter
CLAIMED = {"own": (True, 0.05), "leaked": (False, 0.05)}
_FLAGS = ("all right",)
_KEYS = ("question", "instances", "arm", "clip", "seed", "prompt", "seconds")
_SEED = 101_000_000  # far from every seed that training, the evaluation or an analysis draws
_WAY, _PLAYED, _REST = 20.0, 8.0, 5.0  # a move of this world, and how far off still counts; 1/64 of the shorter side
_RADIUS = 6.0  # small enough for four strips
_BASE, _INJECTED = 0.2, 10 / 24  # regional prompting: share of the base prompt, and of the steps


@dataclass(frozen=True)
class Asked:
    """Clips with as many things each. looks: of each slot. ways (N, K): 1 for down, -1 for up, 0 for rest."""

    clips: Clips
    looks: list[list[str]]
    ways: Tensor

    @property
    def captions(self) -> list[list[str]]:
        """Of each slot."""
        said = {1: " moves down", -1: " moves up", 0: ""}
        return [
            [f"the {look}{said[way]}" for look, way in zip(*each, strict=True)]
            for each in zip(self.looks, self.ways.tolist(), strict=True)
        ]

    @property
    def whole(self) -> list[str]:
        """The one prompt: captions of what moves."""
        each = zip(self.captions, self.ways.tolist(), strict=True)
        return [", ".join(text for text, way in zip(said, ways, strict=True) if way) for said, ways in each]

    @property
    def there(self) -> list[str]:
        """Who is there."""
        return [" and ".join(dict.fromkeys(f"the {look}" for look in looks)) for looks in self.looks]

    def measured(self, video: Tensor) -> dict[str, list[float]]:
        """own: share of what is to move that went its way. leaked: share of the things that went a way that another's
        caption says, and their own does not. all right: all do what theirs says, so that nobody was taken for another.
        lost: share of the things that are not there at the end."""
        count, unit = self.ways.shape[1], self.clips.config.unit
        sight, ways = look(video, self.clips), self.ways
        gone = (sight.centres[:, :count, -1] - self.clips.trajectories[:, :count, 0]) / unit
        lost = sight.lost[:, :count, -1]

        def went(way: int) -> Tensor:
            goal = gone.new_tensor([0.0, way * _WAY])
            return ((gone - goal).norm(dim=-1) <= (_PLAYED if way else _REST)) & ~lost

        right = torch.stack([went(way) & (ways == way) for way in (-1, 0, 1)]).any(0)
        strayed = [went(way) & (ways != way) & (ways == way).any(1, keepdim=True) for way in (-1, 1)]
        moving = ways != 0
        found = {
            "own": (right & moving).sum(1) / moving.sum(1),
            "leaked": torch.stack(strayed).any(0).float().mean(1),
            "all right": right.all(1).float(),
            "lost": lost.float().mean(1),
        }
        return {name: value.cpu().tolist() for name, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parse(arguments)
    with ending("training.instance_captions", "every arm that is done is kept, and the same command goes on from here"):
        _run(chosen)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    first = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m training.instance_captions", description=first)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and the table")
    parser.add_argument("--clips", type=int, default=256, help="of each question; default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="clips sampled together")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="clip i gets the noise of seed + i")
    parser.add_argument("--model", type=Path, default=bundle.HOME, help="a bundle, or a run of training.fit")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def _run(chosen: argparse.Namespace) -> None:
    if min(chosen.clips, chosen.batch, chosen.steps) < 1:
        raise ValueError("clips, batch and steps are 1 or more")
    with alone(chosen.out):
        _ask_all(chosen)


def _ask_all(chosen: argparse.Namespace) -> None:
    rows = _before(chosen)
    pipeline, sizes = pipeline_of(chosen.model)
    move(pipeline, chosen.device, torch.bfloat16 if chosen.device.startswith("cuda") else torch.float32)
    for kind, count in QUESTIONS:
        asked = _asked(kind, count, chosen.clips, sizes, chosen.device)
        for arm in ARMS:
            if any((row["question"], row["instances"], row["arm"]) == (kind, count, arm) for row in rows):
                continue
            started = time.perf_counter()
            values = asked.measured(_sampled(chosen, pipeline, sizes, asked, arm))
            took = (time.perf_counter() - started) / chosen.clips / chosen.steps
            for i in range(chosen.clips):
                said = (kind, count, arm, i, chosen.seed + i, asked.whole[i], took)
                rows.append(dict(zip(_KEYS, said)) | {name: value[i] for name, value in values.items()})
            write_rows(chosen.out / "rows.csv", rows)  # after every arm: a run that is cut short keeps what it has
            means = ", ".join(f"{name} {np.mean(value):.3f}" for name, value in values.items())
            print(f"{kind} of {count}, {arm}: {means}", flush=True)
    with whole_file(chosen.out / "README.md") as place:
        place.write_text(_report(chosen, rows), encoding="utf-8")
    print(f"wrote {chosen.out / 'README.md'}")


# -- what is asked
def _asked(kind: str, count: int, clips: int, sizes: Sizes, device: str) -> Asked:
    """Things in the middle of strips. "each": at least one goes up and at least one down."""
    config = WorldConfig(
        height=sizes.height, width=sizes.width, frames=sizes.frames, max_instances=5, single_motion_share=1.0,
        distractor_share=0.0, occlusion_share=0.0, split="all", verbs=("move_up", "move_down"),
    )  # fmt: skip
    made = make_clips(_SEED + count, clips, config, device)
    draw = torch.Generator().manual_seed(count)
    order = torch.stack([torch.randperm(count, generator=draw) for _ in range(clips)])
    up = 1 + torch.randint(count - 1, (clips, 1), generator=draw)
    ways = torch.where(order < up, -1, 1)
    if kind == "alike":
        ways *= order == 0
        ways[torch.arange(clips) % 2 == 1] *= -1
        alike = {name: getattr(made, name)[:, :1].expand_as(getattr(made, name)) for name in ("shape", "colour")}
        made = replace(made, **alike)
    middle = (torch.arange(5, device=device) + 0.5) * sizes.width / count
    start = torch.stack([middle, torch.full_like(middle, sizes.height / 2)], -1)
    go = torch.zeros(clips, 5, sizes.frames, 2, device=device)
    go[:, :count, :, 1] = ways.to(device)[..., None] * torch.linspace(0, _WAY * config.unit, sizes.frames).to(device)
    paths = start[:, None] + go
    staged = replace(
        made,
        present=(torch.arange(5, device=device) < count).expand(clips, 5),
        radius=torch.full_like(made.radius, _RADIUS * config.unit),
        trajectories=paths,
        camera=torch.zeros_like(made.camera),
    ).restage(paths)
    each = zip(made.colour[:, :count].tolist(), made.shape[:, :count].tolist(), strict=True)
    looks = [[f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(*both, strict=True)] for both in each]
    return Asked(staged, looks, ways.to(device))


@torch.no_grad()
def _sampled(chosen: argparse.Namespace, pipeline: Any, sizes: Sizes, asked: Asked, arm: str) -> Tensor:
    """(N, F, 3, H, W) uint8."""
    videos = []
    shared = asked.whole if arm in (ONE, DENSE, WHOLE) else asked.there
    count, captions = asked.ways.shape[1], asked.captions
    names = [str(slot) for slot in range(count)]
    tracks = _strips(names, sizes, 1 if arm == EXCHANGED else 0)
    for start in range(0, chosen.clips, chosen.batch):
        part = slice(start, min(start + chosen.batch, chosen.clips))
        first, seed = asked.clips.video[part, 0], chosen.seed + start
        with contextlib.ExitStack() as stack:
            rows = None
            if arm != ONE:
                texts = [shared[part], *(list(slot) for slot in zip(*captions[part], strict=True))]
                rows = torch.cat([text_rows(pipeline, sizes, each) for each in texts], 1)
            if arm == DENSE:
                masks = _dense_masks(sizes, count, chosen.device)
                regional = _Regional(masks, sizes.text_length, round(_INJECTED * chosen.steps))
                stack.enter_context(_processed(pipeline.transformer, regional))
            elif arm != ONE:
                pipeline.scheduler.set_timesteps(chosen.steps)
                bindings = [
                    bind_captions(pipeline, prompt, dict(zip(names, said)), max_sequence_length=sizes.text_length)
                    for prompt, said in zip(shared[part], captions[part], strict=True)
                ]
                stack.enter_context(steer(pipeline, InstanceCaptions(), bindings, tracks, branches=("cond",)))
            videos.append(sample(pipeline, sizes, shared[part], first, chosen.steps, 1.0, seed, rows=rows))
    return torch.cat(videos)


def _strips(names: Sequence[str], sizes: Sizes, turned: int) -> MaskTracks:
    """The strip of each thing; or of one that is `turned` places on."""
    wide, boxes = sizes.width // len(names), {}
    for slot, name in enumerate(names):
        left = (slot + turned) % len(names) * wide
        boxes[name] = {0: (left, 0, left + wide, sizes.height)}
    return MaskTracks.from_boxes(boxes, sizes.frames, sizes.height, sizes.width, hold=True)


# -- regional prompting by dense masks, as its authors' processor does it, on CogVideoX's joint attention
def _dense_masks(sizes: Sizes, count: int, device: str) -> tuple[Tensor, Tensor]:
    """(N, N) bool, who sees whom: of the base prompt, whose text and clip see all but captions; and of the regions,
    each a caption and its strip of the clip, which see themselves."""
    frames, height, width = sizes.latent_shape
    strip = torch.arange(width, device=device) * count // width + 1
    text = torch.arange(count + 1, device=device).repeat_interleave(sizes.text_length)  # 0: the base prompt
    label = torch.cat([text, strip.repeat(frames * height)])
    base = (label == 0) | (torch.arange(len(label), device=device) >= len(text))
    alone = torch.eye(len(label), dtype=torch.bool, device=device)  # a row that sees nothing would be NaN
    return (base[:, None] & base) | alone, label[:, None] == label


class _Regional:
    """An attention processor: the clip's attention is a mix of both masks for some steps, then that of the base prompt.

    masks: see `_dense_masks`. text: rows of the base prompt. step: of the run.
    """

    def __init__(self, masks: tuple[Tensor, Tensor], text: int, steps: int) -> None:
        self.masks, self.text, self.steps, self.step = masks, text, steps, -1

    def next_step(self, *_: Any) -> None:
        self.step += 1

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Any = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        text = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], 1)
        q, k, v = (to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for to in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        q, k = (torch.cat([t[:, :, :text], apply_rotary_emb(t[:, :, text:], image_rotary_emb)], 2) for t in (q, k))
        base, own = (scaled_dot_product_attention(q, k, v, attn_mask=mask) for mask in self.masks)
        share = _BASE if self.step < self.steps else 1.0
        told = torch.cat([base[:, :, : self.text], own[:, :, self.text : text]], 2)
        out = torch.cat([told, share * base[:, :, text:] + (1 - share) * own[:, :, text:]], 2)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        return out[:, text:], out[:, :text]


@contextlib.contextmanager
def _processed(transformer: Any, processor: _Regional) -> Iterator[None]:
    """While open, all of its attention goes through `processor`."""
    before = transformer.attn_processors
    handle = transformer.register_forward_pre_hook(processor.next_step)
    try:
        transformer.set_attn_processor(processor)
        yield
    finally:
        handle.remove()
        transformer.set_attn_processor(before)


# -- files
def _before(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows that the same command wrote before it was stopped. Raises ValueError where the folder holds those of another
    one."""
    asked = {"clips": chosen.clips, "steps": chosen.steps, "seed": chosen.seed, "model": str(chosen.model)}
    asked["device"] = chosen.device.split(":")[0]
    kinds = {"question": str, "arm": str, "prompt": str, "instances": int, "clip": int, "seed": int}
    held = read_rows(chosen.out / "rows.csv") if goes_on(chosen.out, asked) else []
    return [{name: kinds.get(name, float)(value) for name, value in row.items()} for row in held]


# -- what came out
def _report(chosen: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> str:
    """Tables and verdicts, as Markdown."""
    lines = [
        "# A caption for each instance, on the mini model",
        "",
        f"`python -m training.instance_captions --clips {chosen.clips} --steps {chosen.steps} --seed {chosen.seed}`, "
        f"{'bfloat16' if chosen.device.startswith('cuda') else 'float32'}; the same clips and noise for every arm. "
        "Intervals are Wilson's for shares and the bootstrap's for means, 95 %; gains by clip. Time is that of a "
        "step and clip, beside one prompt.",
    ]
    asked: list[tuple[str, str, str, Estimate, float, list[Check]]] = []
    for kind, count in QUESTIONS:
        own = [row for row in rows if (row["question"], row["instances"]) == (kind, count)]
        names = [name for name in own[0] if name not in _KEYS]
        kept, title = (*names, "seconds"), f"{kind} of {count}"
        table = {arm: {n: np.array([r[n] for r in own if r["arm"] == arm]) for n in kept} for arm in ARMS}
        lines += ["", f"## {title}", "", f"| | {' | '.join(names)} | time |", "|---" * (len(names) + 2) + "|"]
        for arm, values in table.items():
            cells = [_estimated(name, values[name]).interval for name in names]
            pace = values["seconds"][0] / table[ONE]["seconds"][0]
            lines.append(f"| {arm} | {' | '.join(cells)} | {pace:.2f} |")
        moved = bootstrap(table[OURS]["own"] - table[EXCHANGED]["own"])
        for other in (ONE, DENSE):
            for measure, (better, margin) in CLAIMED.items():
                apart = (table[OURS][measure] - table[other][measure]) * (1 if better else -1)
                gain, beside = bootstrap(apart), bootstrap(apart - margin).p
                level = float(table[other][measure].mean())
                room = ceiling(level) if better else floor(level, 0.0)
                asked.append((title, other, measure, gain, beside, [room, manipulated(moved)]))
    corrected = zip(holm([gain.p for *_, gain, _, _ in asked]), holm([p for *_, p, _ in asked]), strict=True)
    lines += ["", "## Captions against others", "", "| | against | | gain | verdict |", "|---" * 5 + "|"]
    for (title, other, measure, gain, _, checks), both in zip(asked, corrected, strict=True):
        outcome = verdict(gain, CLAIMED[measure][1], checks, *both)
        lines.append(f"| {title} | {other} | {measure} | {gain.interval} | {outcome} |")
    return "\n".join(lines) + "\n"


def _estimated(name: str, values: np.ndarray) -> Estimate:
    return estimate(values > 0.5) if name in _FLAGS else estimate(values, bounds=(0, 1))


if __name__ == "__main__":
    main()
