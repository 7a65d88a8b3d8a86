"""What steering has to do, by an implementation of its own: dense attention in float64, at the kernel.

The tables of biases are the library's (they have tests of their own); which calls and rows they act on, and how, is
decided here: on every row that reads the bound prompt, in whatever prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from support_native import flat
from torch import Tensor

from .graphs import Graph, binding_of, grid_of
from .step_reference import stepping, uncached
from .truth import Bottom, Call

__all__ = ["WAYS", "Way", "reference"]


@dataclass(frozen=True)
class Way:
    """A way of steering: its settings; `second`: they act in a second prediction; `steps`: they act before steps."""

    guidance: Callable[[Graph], Any]
    second: bool = False
    steps: bool = False


def _bias(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.region_bias").RegionBias(3.0, 2.0, 2.0, 1.0)


def _partition(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.partition").Partition(100, match=None, branches="cond")


def _perturbation(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.perturbation").Perturbation("both", 1.5)


def _timed(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.timed_words").TimedWords(6.0, 6.0, 0.2)


def _gradient(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.gradient").GradientGuidance(0.3)


def _clock(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.dual_clock").DualClockDenoising(0.67, 0.34)


def _intrinsic(graph: Graph) -> Any:
    return graph.pack.lib("core.guidance.intrinsic").IntrinsicDenoising()


WAYS: dict[str, Way] = {
    "region bias": Way(_bias),
    "partition": Way(_partition),
    "timed words": Way(_timed),
    "perturbation": Way(_perturbation, second=True),
    "gradient guidance": Way(_gradient, steps=True),
    "dual clock": Way(_clock, steps=True),
    "intrinsic denoising": Way(_intrinsic, steps=True),
}


def reference(graph: Graph, way: Way) -> Callable[..., tuple[Tensor, None]]:
    """`sampling` for `Graph.sample` under steering, without any of this pack's attachments."""

    def run(guider: Any, noise: Any, sampler: Any, sigmas: Tensor, latent: Any) -> tuple[Tensor, None]:
        guidance = way.guidance(graph)
        if way.steps:
            bottom = Bottom(graph, keep=False)
            with bottom.watching(guider):
                made = noise.generate_noise(latent)
                fresh = bool(flat(made).any())
                mine = stepping(graph, guidance, guider, bottom, sigmas, fresh, latent["samples"])
                return guider.sample(made, latent["samples"], mine, sigmas, disable_pbar=True, seed=noise.seed), None
        dense = _Dense(graph, guidance, sigmas, guider.original_conds["positive"])
        bottom = Bottom(graph, dense, acts=not way.second, keep=False)
        dense.bottom = bottom
        with bottom.watching(guider):
            if way.second:
                _away(guider, bottom, dense)
            made = noise.generate_noise(latent)
            out = guider.sample(made, latent["samples"], sampler, sigmas, disable_pbar=True, seed=noise.seed)
        return out, None

    return run


def _away(guider: Any, bottom: Bottom, dense: _Dense) -> None:
    """Moves every prediction of a guider away from the prompt's, made with edited attention."""
    import comfy.samplers

    predict = guider.predict_noise
    last: list[Tensor] = []

    def moved(x: Tensor, timestep: Tensor, model_options: Any = {}, seed: Any = None) -> Tensor:  # noqa: B006
        seen = bottom.seen
        out = predict(x, timestep, model_options=model_options, seed=seed)
        cached = bottom.seen == seen  # a cache answered from the last step that ran: it is moved as that was
        strength = dense.strength(float(timestep.flatten()[0]))
        if cached and last:
            return out + last[-1] * strength
        given = (guider.inner_model, [guider.conds["positive"]], x, timestep, uncached(model_options))
        bottom.begin(float(timestep.flatten()[0]))
        try:
            with bottom.apart():
                (plain,) = comfy.samplers.calc_cond_batch(*given)
                bottom.acts = True
                (broken,) = comfy.samplers.calc_cond_batch(*given)
        finally:
            bottom.acts = False
            bottom.end()
        last.append(plain - broken)
        return out + last[-1] * strength

    guider.predict_noise = moved


class _Dense:
    """The edited output (H, Nq, D) of a call, None where it is not edited."""

    bottom: Bottom

    def __init__(self, graph: Graph, guidance: Any, sigmas: Tensor, positives: list[dict]) -> None:
        self.graph, self.guidance, self.positives = graph, guidance, positives
        self.levels = [float(s) for s in sigmas[:-1]]
        self.places, self.steps = graph.places(sigmas)
        self.run = graph.pack.lib("hosts.comfy.run")
        self.scenes = graph.pack.lib("core.guidance.scene")
        self.grid = grid_of(graph)
        self._grids: dict[int, Any] = {}
        self._bindings: dict[int, Any] = {}

    def strength(self, sigma: float) -> float:
        step = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - sigma))
        return self.guidance.at(self.places[step], self.steps)

    def __call__(self, call: Call) -> Tensor | None:
        if call.prompt is None or call.prompt[0] != "positive":
            return None
        cond = self.positives[call.prompt[1]]
        strength = self.strength(call.sigma)
        if strength == 0 or (self.run.TRACKS not in cond and self.guidance.needs_tracks):
            return None
        site = self.graph.pack.lib("core.sites").AttentionSite(call.layer, call.kind, call.name)
        layers = self.guidance.layers
        text, video = layers.acts_on_text(site), layers.acts_on_video(site)
        binding = self._binding(call.prompt[1])
        text = text and (binding is not None or not (self.guidance.needs_tracks or self.guidance.needs_words))
        video = video and self.guidance.edits_video
        if not (text or video):
            return None
        edit = self.guidance.edit(self._scene(call, cond, site), self._spans(call), strength, text, video)
        return None if edit is None else _attend(call, edit)

    def _binding(self, at: int) -> Any:
        if at not in self._bindings:
            self._bindings[at] = binding_of(self.graph.pack, self.positives[at])
        return self._bindings[at]

    def _scene(self, call: Call, cond: dict[str, Any], site: Any) -> Any:
        if not (self.guidance.needs_tracks or self.guidance.needs_words):
            return None
        at = call.prompt[1]
        if at not in self._grids:
            tracks = cond[self.run.TRACKS] if self.guidance.needs_tracks else None
            self._grids[at] = self.scenes.GridScene(self.grid, tracks, self._binding(at))
        grid = SimpleNamespace(frames=call.grid[0], shape=call.grid)
        given = {"text_k": call.words, "text_cropped": call.behind, "frame_index": call.frames, "grid": grid}
        return self._grids[at].scene(SimpleNamespace(site=site, **given))

    def _spans(self, call: Call) -> Any:
        video = None if call.kind == "cross" else call.clip
        return self.scenes.Spans(call.q.shape[1], call.k.shape[1], call.clip, video, call.words)


def _attend(call: Call, edit: Any) -> Tensor:
    logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
    if call.mask is not None:
        mask = call.mask
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    layout = edit.layout
    logits = logits + layout.bias.double()[layout.query][:, layout.key]
    p = logits.softmax(-1).masked_fill((logits == -torch.inf).all(-1, keepdim=True), 0.0)  # nothing is left to look at
    if layout.zeroed is not None:
        p = p.masked_fill(layout.zeroed[layout.query][:, layout.key], 0.0)
    return p @ call.v.double()
