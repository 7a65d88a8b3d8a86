"""Steers a diffusers transformer, under one context manager.

with steer(pipe, [RegionBias(layers=Layers((7, 11), (12,)))], binding, tracks):
    video = pipe(prompt=prompt, num_inference_steps=50).frames
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones import UNETS
from ...core.grid import Fit
from ...core.guidance.base import Guidance
from ...core.guidance.part import RunPart
from ...core.guidance.published import published
from ...core.layers import Layers
from ...core.no_compile import hidden
from ...core.sites import AttentionSite
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...instrument.attention_guidance import AttentionGuidance
from ...instrument.dual_clock import ReferenceClip
from ...instrument.gradient import GradientHook
from ...instrument.session import Session
from ...instrument.steering import Actor, SteeredRun, actor_for
from .attach import attach, backbone_of, no_other, perturbed, prediction, sites_of, transformers_of
from .batches import Batches, Branch, Forward, batches_of, replayed
from .families import family
from .laid_out import output_of, told_segments, with_output
from .latents import encode_clip
from .steps import acting_before_steps, nets_of
from .unet import LevelGuidance, attach_unet, find_unet_sites

__all__ = ["steer"]


@contextlib.contextmanager
def steer(
    model: Any,
    guidance: Guidance | Sequence[Guidance] | str,
    binding: PromptBinding | Sequence[PromptBinding] | None = None,
    tracks: MaskTracks | Sequence[MaskTracks | None] | None = None,
    *,
    steps: int | None = None,
    branches: Sequence[Branch] | None = None,
    prefix_frames: int = 0,
    seed: int = 0,
    reference: Tensor | Sequence[Tensor] | None = None,
    fit: Fit | None = None,
) -> Iterator[list[Actor]]:
    """While open, a pipeline or a bare transformer runs under `guidance`; composes with `watch`, in either order.

    Args:
        model: a diffusers pipeline (its transformers or U-Net and its scheduler are read), a transformer or a U-Net.
        guidance: one, or several that add up; or a paper's own by name ("ivg_da", see `core.guidance.published`). What
            acts before steps (`where` "step") needs a pipeline (of a family without one that fits, an error says so)
            and any scheduler with a `step` that takes a model output, a timestep and a sample:
            that `step` is wrapped. They act in the order given, those that ask for no predictions first.
            Of transformers that take turns (Wan 2.2 A14B) guidance acts in the steps of both, or with layers of one
            (`Layers(v2t, v2v, part="transformer_2")`) in its own: give one for each.
        binding, tracks, branches, steps, prefix_frames, fit: as in `watch`; without a binding tracks alone steer.
        seed: of the noise that intrinsic denoising adds and dual-clock denoising holds; row i of the batch draws from
            `seed + i`.
        reference: what `DualClockDenoising` holds to: the latent (C, T, h, w) of a clip (`latents.encode_clip`), or one
            per prompt. Of a clip that is made in segments (Wan Animate) frames (F, H, W, 3) uint8 of all of it, in the
            pixels that are made: the part of each segment is encoded by the pipeline's VAE.

    Yields what acts, in the order of `guidance`, with its notes and what it measured (`instrument.steering.Actor`).
    Guidance that changes nothing is left out. Perturbation guidance adds scale * (conditional - perturbed) to the
    outputs of both branches, which adds it to their combination at any CFG scale; its second prediction runs the whole
    batch again. Predictions that hooks ask for are steered as the sampler's own, and not recorded by `watch`.

    Raises ValueError for an unknown model, layers it does not have, and guidance without what it needs; when it runs,
    for a pipeline that feeds its transformer in another way than its scheduler steps, or combines predictions by more
    than CFG.
    """
    parts = {name: getattr(net, "_orig_mod", net) for name, net in transformers_of(model).items()}
    nets = [*parts.values()]
    transformer = nets[0]
    spec = backbone_of(transformer)
    unet = spec.name in UNETS
    given = published(guidance) if isinstance(guidance, str) else guidance
    every = list(given) if isinstance(given, Sequence) else [given]
    every = [each for each in every if not each.idle]
    batches = batches_of(model, binding, tracks, steps, branches, fit)
    sites = [site for _, site in find_unet_sites(transformer)] if unet else sites_of(transformer)
    if any(each.where == "step" for each in every):
        spec.check_modular("moving the latent before its steps")
    _check(every, batches, sites, reference)
    for layers in map(_layers, every):
        layers.check_part(parts, f"this {type(model).__name__}")
    trouble = "" if unet else family(spec.name).text_trouble(transformer)
    for each in every:
        each.check_text(spec.title, trouble)
    follow = [[] if each is None else [each] for each in batches.tracks]
    given_references = [reference] if isinstance(reference, Tensor) else list(reference or ())
    references = [_reference(model, each) for each in given_references]
    strides = (spec.temporal_stride, spec.stride(getattr(transformer, "config", {}).get("out_channels")))
    acting: list[Any] = []
    for place, each in enumerate(every):
        run = SteeredRun(
            None, None, sites, strides, follow, references, prefix_frames, seed, token=("steer", id(batches), place)
        )
        actor: Any = actor_for(each, run)
        acting.append(LevelGuidance(each, token=run.token) if unet and each.where != "step" else actor)
    hooks = [actor for actor in acting if actor.guidance.where == "step"]
    own = {actor: parts[part] for actor in acting if (part := _layers(actor.guidance).part)}
    editing = _Editing([actor for actor in acting if actor.guidance.where != "step"], batches, own)
    if hooks:
        nets_of(model)  # says what is no pipeline
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_other(model))
        stack.enter_context(told_segments(model))
        reach = attach_unet if unet else attach
        for net in nets if editing.away else ():
            stack.enter_context(_alone(net))
            handle = net.register_forward_hook(hidden(editing.second_predictions), with_kwargs=True)
            stack.callback(handle.remove)
        for net in nets if editing.editors else ():
            theirs = [editor for editor in editing.editors if own.get(editor, net) is net]
            stack.enter_context(reach(net, Session(editors=theirs), editing.begin, prefix_frames))
        for hook in hooks:
            if hook.guidance.needs_words:  # it watches its own predictions
                begin = functools.partial(_begin, batches_of(model, binding, tracks, steps, branches, fit), hook)
                for net in [own[hook]] if hook in own else nets:
                    stack.enter_context(reach(net, Session([hook], prediction=hook), begin, prefix_frames))
        if hooks:  # last, so that they see outputs that second predictions have moved
            stack.enter_context(acting_before_steps(model, hooks, own))
        yield acting


def _check(every: Sequence[Guidance], batches: Batches, sites: Sequence[AttentionSite], reference: Any) -> None:
    """What can be known before the first step."""
    tracked = [t for t in batches.tracks if t is not None]
    for place, each in enumerate(every):
        name = type(each).__name__
        if each.only_one and any(type(other) is type(each) for other in every[:place]):
            raise ValueError(f"one {name} at a time: {each.only_one}")
        if each.needs_tracks and not tracked:
            raise ValueError(f"{name} steers by mask tracks: pass `tracks`")
        if each.needs_words and all(binding is None for binding in batches.bindings):
            raise ValueError(f"{name} acts on words of the prompt: pass `binding`")
        if each.needs_reference and reference is None:
            raise ValueError(f"{name} holds to a clip: pass its latent as `reference` (`latents.encode_clip`)")
        each.check_words([binding for binding in batches.bindings if binding is not None])
        each.check_layers(site.layer for site in sites)
        _layers(each).check_sites(sites)
        each.check_names(dict.fromkeys(name for t in tracked for name in t.names))


def _reference(model: Any, given: Any) -> Any:
    """A latent as it is; frames with the way to their latents."""
    if not isinstance(given, Tensor) or given.dtype != torch.uint8:
        return given
    return ReferenceClip(given, functools.partial(encode_clip, model))


def _layers(guidance: Guidance) -> Layers:
    """Where it acts; everywhere for what knows no layers."""
    layers = getattr(guidance, "layers", None)
    return layers if isinstance(layers, Layers) else Layers()


def _begin(batches: Batches, losses: GradientHook, forward: Forward) -> None:
    batches.begin(forward)
    losses.grid = forward.grid


@contextlib.contextmanager
def _alone(transformer: nn.Module) -> Iterator[None]:
    """Second predictions are measured from the plain output, which one context at a time can see."""
    if transformer in _perturbing:
        raise ValueError("this transformer is under perturbation guidance already: pass all guidance in one `steer`")
    _perturbing.add(transformer)
    try:
        yield
    finally:
        _perturbing.discard(transformer)


_perturbing: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class _Editing:
    """The editors of one run, and the way from each conditional prediction to its perturbed one."""

    def __init__(
        self, editors: Sequence[AttentionGuidance], batches: Batches, own: Mapping[Any, nn.Module] | None = None
    ) -> None:
        """own: of transformers that take turns the one in whose steps alone an editor acts."""
        self.batches, self.editors, self.own = batches, list(editors), own or {}
        self.away = [editor for editor in editors if editor.guidance.where == "prediction"]
        self._forward: Forward | None = None
        self._moves: dict[Hashable, Tensor] = {}

    def begin(self, forward: Forward) -> None:
        before = self.batches.runs, self.batches.start, len(self.batches.seen)
        self.batches.begin(forward)
        self._forward = forward
        if (self.batches.runs, self.batches.start, len(self.batches.seen)) != before or replayed() == 0:
            self._moves.clear()
        if (self.batches.runs, self.batches.start) != before[:2]:
            part = _part(list(self.batches.timesteps()), forward.timestep)
            for editor in self.editors:
                editor.finished()  # what it knows of the segment before
                editor.grid = forward.grid
                editor.begin(part)
                if self.batches.untracked and editor.guidance.needs_tracks:
                    editor.note(self.batches.untracked)

    def second_predictions(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook. Branches that come in calls of their own: the conditional one comes first, as in pipelines."""
        forward = self._forward
        assert forward is not None
        if isinstance(prediction(), GradientHook):  # only its attention is wanted
            return output
        plain = output_of(output)
        cond = {row.key: place for place, row in enumerate(forward.rows) if row.branch == "cond"}
        for editor in self.away if cond else ():
            strength = editor.strength(forward.step)
            if strength == 0 or self.own.get(editor, module) is not module:
                continue
            with perturbed(editor.token):
                broken = output_of(module.forward(*args, **kwargs))
            for key, place in cond.items():
                away = (plain[place] - broken[place]) * strength
                self._moves[key] = self._moves[key] + away if key in self._moves else away
        if not self._moves:
            return output
        moved = plain.clone()
        for place, row in enumerate(forward.rows):
            if row.key in self._moves:
                moved[place] += self._moves[row.key]
        return with_output(output, moved)


def _part(times: list[float], first: float) -> RunPart:
    """Which part of its scheduler's timesteps a run is that begins at `first`: all, or the end of them where a pipeline
    begins from a clip. Of a bare transformer only their number is known."""
    if not any(times):
        return RunPart.all_of(max(1, len(times)))
    every = list(dict.fromkeys(times))
    place = every.index(first) if first in every else 0
    return RunPart(tuple(range(place, len(every))), len(every))
