"""What Local Gram Flow teaches, and what mini says before it is taught: the picture in docs/alignment-losses.md.

python -m scripts.flow_picture [--seed S] [--index I] [--layer L] [--count N]

A clip of the mini world is shown to mini under noise. For each token the mean of its flow, which is where its nearest
relatives are in the next token frame, is drawn as an arrow: by mask tracks, by clean latents, by mini's attention, and
by the values of the same layer. Prints how far mini is from both teachers on N clips (KL in nats, 95 % over clips).
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from matrix_lib.core.losses.flow import FlowOf, feature_flow, flow_loss, flow_maps, latents_on, mask_flow
from matrix_lib.core.sites import AttentionCall, AttentionSite
from matrix_lib.evaluation.statistics import bootstrap
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.instrument.session import BaseObserver, Session
from matrix_lib.mini.world import Clips
from training.models.mini_encoders import MiniEncoders
from training.models.video_model import VideoModel
from training.run.task_settings import AlignTask

from .comfyui import ROOT
from .reading_truth import given_tracks, make

_SIDE, _TOKEN, _LEVEL, _SHOWN = 170, 2, 0.3, 9  # pixels of a panel; the token frame; of the noise; tokens a side
_STUDENTS: tuple[FlowOf, FlowOf] = ("attention", "values")


class _Flow(BaseObserver):
    """Both flows of one layer."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.maps: dict[str, Tensor] = {}

    def wants(self, site: AttentionSite) -> bool:
        return site.layer == self.layer and site.has_v2v

    def observe(self, call: AttentionCall, lse: Tensor | None = None) -> None:
        self.maps = {of: flow_maps(call, of=of) for of in _STUDENTS}


@torch.no_grad()
def _flows(encoders: MiniEncoders, model: VideoModel, clip: Clips, layer: int, seed: int) -> dict[str, Tensor]:
    """(N, F - 1, W * W, h, w) probabilities of teachers, and log-probabilities of students."""
    latents = encoders.encode(clip.video)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy, _, t, _ = model.add_noise(latents, noise, torch.tensor([_LEVEL]))
    first = torch.zeros_like(latents)
    first[:, 0] = latents[:, 0]
    beside = SimpleNamespace(image=first, extra=latents[:, :, :0])
    inputs = model.inputs(noisy, beside, {"rows": encoders.encode_text(clip.prompts)}, t)
    seen = _Flow(layer)
    with attach(model.transformer, Session([seen]), lambda forward: None):
        model.transformer(**inputs)
    masks = given_tracks(clip).to_grid(encoders.grid, "nearest").maps > 0
    taught = {"masks": mask_flow(masks), "latents": feature_flow(latents_on(latents.transpose(1, 2), encoders.grid))}
    return taught | seen.maps


def _arrows(picture: Image.Image, flow: Tensor) -> Image.Image:
    """The mean of a flow (W * W, h, w) over a frame."""
    side = int(len(flow) ** 0.5)
    steps = torch.arange(side) - side // 2
    ys, xs = (each.flatten()[:, None, None] for each in torch.meshgrid(steps, steps, indexing="ij"))
    dy, dx = (flow * ys).sum(0), (flow * xs).sum(0)
    ink, cell = ImageDraw.Draw(picture), picture.width / flow.shape[-1]
    for y, x in (flow.sum(0) > 0).nonzero().tolist():
        at = np.array([x + 0.5, y + 0.5]) * cell
        to = at + np.array([float(dx[y, x]), float(dy[y, x])]) * cell
        ink.line([*at, *to], fill="white", width=1)
        ink.ellipse([*(to - 1.5), *(to + 1.5)], fill="white")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.flow_picture", description=(__doc__ or "").split("\n")[0])
    for name, value in (("seed", 101), ("index", 0), ("layer", 5), ("count", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    encoders = MiniEncoders("", torch.device("cpu"))
    model = VideoModel(AlignTask(condition="none"), encoders)
    clip = make(given.seed, given.index)
    found = _flows(encoders, model, clip, given.layer, given.seed)
    start, stop = encoders.grid.pixel_span(_TOKEN)
    frame = Image.fromarray(clip.video[0, (start + stop) // 2].permute(1, 2, 0).numpy())
    there = found["masks"][:, _TOKEN].sum((0, 1)).nonzero().float().mean(0).round().int().tolist()
    top, left = (min(max(at - _SHOWN // 2, 0), encoders.grid.height - _SHOWN) for at in there)
    wide = encoders.grid.token_pixels[0]
    bottom, right = top + _SHOWN, left + _SHOWN
    frame = frame.crop((left * wide, top * wide, right * wide, bottom * wide))
    whole = Image.new("RGB", (4 * _SIDE + 12, _SIDE + 22), "#111118")
    shown = {"masks": "taught by masks", "latents": "taught by latents", "attention": "attention", "values": "values"}
    for place, (each, said) in enumerate(shown.items()):
        flow = found[each] if each in ("masks", "latents") else found[each].exp()
        panel = _arrows(frame.resize((_SIDE, _SIDE)), flow[:, _TOKEN].sum(0)[:, top:bottom, left:right])
        whole.paste(panel, (place * (_SIDE + 4), 22))
        ImageDraw.Draw(whole).text((place * (_SIDE + 4) + 4, 4), said, fill="white")
    path = ROOT / "docs" / "images" / "flow.webp"
    whole.save(path, quality=30, method=6)
    print(path, path.stat().st_size, "bytes:", clip.prompts[0])
    losses: dict[tuple[str, str], list[float]] = {}
    for index in range(given.count):
        found = _flows(encoders, model, make(given.seed, index), given.layer, index)
        for teacher in ("masks", "latents"):
            for student in ("attention", "values"):
                maps = {0: found[student].expand_as(found[teacher])}
                loss = float(flow_loss(maps, found[teacher])) / len(found[teacher])
                losses.setdefault((teacher, student), []).append(loss)
    for (teacher, student), values in losses.items():
        print(f"{student} from {teacher}: {bootstrap(torch.tensor(values))} nats")


if __name__ == "__main__":
    main()
