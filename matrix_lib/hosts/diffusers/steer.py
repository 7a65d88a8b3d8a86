"""Steers a diffusers transformer, under one context manager.

with steer(pipe, [RegionBias(layers=Layers((7, 11), (12,)))], binding, tracks):
    video = pipe(prompt=prompt, num_inference_steps=50).frames
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ...backbones import UNETS
from ...core.guidance.dual_clock import DualClockDenoising
from ...core.guidance.gradient import GradientGuidance
from ...core.guidance.intrinsic import IntrinsicDenoising
from ...core.guidance.kinds import Guidance, check_names
from ...core.guidance.partition import Partition
from ...core.guidance.perturbation import Perturbation
from ...core.guidance.region_bias import RegionBias
from ...core.sites import AttentionSite
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...instrument.attention_guidance import Intervener
from ...instrument.dual_clock import Clocks
from ...instrument.gradient import LatentGradient
from ...instrument.intrinsic import Refiner
from ...instrument.session import Session
from .attach import attach, backbone_of, perturbed, prediction, sites_of
from .batches import Batches, Branch, Forward, batches_of, replayed
from .gradients import Descending
from .intrinsic import Refining, refiner_of
from .steps import Holder, Mover, acting_before_steps, nets_of
from .unet import LevelIntervener, attach_unet, find_unet_sites

__all__ = ["Acting", "Steering", "steer"]

Steering = Guidance | GradientGuidance | IntrinsicDenoising | DualClockDenoising
Acting = Intervener | Refiner | LatentGradient | Clocks


@contextlib.contextmanager
def steer(
    model: Any,
    guidance: Steering | Sequence[Steering],
    binding: PromptBinding | Sequence[PromptBinding] | None = None,
    tracks: MaskTracks | Sequence[MaskTracks | None] | None = None,
    *,
    steps: int | None = None,
    branches: Sequence[Branch] | None = None,
    lead: int = 0,
    seed: int = 0,
    reference: Tensor | Sequence[Tensor] | None = None,
) -> Iterator[list[Acting]]:
    """While open, a pipeline or a bare transformer runs under `guidance`; composes with `watch`, in either order.

    Args:
        model: a diffusers pipeline (its transformer or U-Net and its scheduler are read), a transformer or a U-Net.
        guidance: one, or several that add up. `GradientGuidance`, one `IntrinsicDenoising` and one `DualClockDenoising`
            among them need a pipeline (see `refining`); they act in the order given before each step, the clocks first.
        binding, tracks, branches, steps, lead: as in `watch`; without a binding only tracks are steered by.
        seed: of the noise that intrinsic denoising adds and the clocks hold; row i of the batch draws from `seed + i`.
        reference: what `DualClockDenoising` holds to: the latent (C, T, h, w) of a clip (`latents.encode_clip`), or one
            per prompt.

    Yields what acts, in the order of `guidance`: editors with their notes and variances, a `Refiner` with its taus, a
    `LatentGradient` with its losses, `Clocks`. Guidance that changes nothing is left out. Perturbation guidance adds
    scale * (conditional - perturbed) to the outputs of both branches, which adds it to their combination at any CFG
    scale; its second prediction runs the whole batch again.

    Raises ValueError for an unknown model, layers it does not have, and guidance without the tracks that it needs.
    """
    transformer = getattr(model, "transformer", None) or getattr(model, "unet", model)
    transformer = getattr(transformer, "_orig_mod", transformer)
    unet = backbone_of(transformer).name in UNETS
    every = [guidance] if not isinstance(guidance, Sequence) else list(guidance)
    every = [each for each in every if not each.idle]
    batches = batches_of(model, binding, tracks, steps, branches)
    editing = [each for each in every if isinstance(each, (RegionBias, Partition, Perturbation))]
    sites = [site for _, site in find_unet_sites(transformer)] if unet else sites_of(transformer)
    _check(every, batches, sites)
    run = _Run(editing, batches, LevelIntervener if unet else Intervener)
    editors = iter(run.editors)
    acting: list[Acting] = []
    movers: list[Mover] = []
    holders: list[Holder] = []
    with contextlib.ExitStack() as stack:
        if any(isinstance(each, Perturbation) for each in editing):
            stack.enter_context(_alone(transformer))
            handle = transformer.register_forward_hook(run.second_predictions, with_kwargs=True)
            stack.callback(handle.remove)
        reach = attach_unet if unet else attach
        if editing:
            stack.enter_context(reach(transformer, Session(editors=run.editors), run.begin, lead))
        for each in every:
            if isinstance(each, GradientGuidance):
                losses = LatentGradient(each, sites=sites)
                own = batches_of(model, binding, tracks, steps, branches)
                begin = functools.partial(_begin, own, losses)
                stack.enter_context(reach(transformer, Session([losses], prediction=losses), begin, lead))
                movers.append(Descending(losses))
                acting.append(losses)
            elif isinstance(each, IntrinsicDenoising):
                refiner = refiner_of(model, each, batches.tracks, lead, seed)
                movers.append(Refining(refiner))
                acting.append(refiner)
            elif isinstance(each, DualClockDenoising):
                clocks = _clocks(model, each, reference, batches.tracks, lead, seed)
                holders.append(clocks)
                acting.append(clocks)
            else:
                acting.append(next(editors))
        if movers or holders:  # last, so that they see outputs that second predictions have moved
            stack.enter_context(acting_before_steps(model, movers, holders))
        yield acting


def _check(every: Sequence[Steering], batches: Batches, sites: Sequence[AttentionSite]) -> None:
    """What can be known before the first step."""
    if sum(isinstance(each, IntrinsicDenoising) for each in every) > 1:
        raise ValueError("one IntrinsicDenoising at a time: raise its iterations or its strength instead")
    if sum(isinstance(each, DualClockDenoising) for each in every) > 1:
        raise ValueError("one DualClockDenoising at a time: draw one reference clip that says everything")
    tracked = [t for t in batches.tracks if t is not None]
    for each in every:
        if not tracked and not (isinstance(each, Perturbation) and not each.bound):
            raise ValueError(f"{type(each).__name__} steers by mask tracks: pass `tracks`")
        if isinstance(each, (IntrinsicDenoising, DualClockDenoising)):
            continue
        each.layers.check(site.layer for site in sites)
        if isinstance(each, GradientGuidance):
            if all(binding is None for binding in batches.bindings):
                raise ValueError("GradientGuidance grounds words and follows instances by name: pass `binding`")
        else:
            check_names(each, dict.fromkeys(name for t in tracked for name in t.names))


def _clocks(
    pipe: Any,
    config: DualClockDenoising,
    reference: Tensor | Sequence[Tensor] | None,
    tracks: Sequence[MaskTracks | None],
    lead: int,
    seed: int,
) -> Clocks:
    if reference is None:
        raise ValueError("DualClockDenoising holds to a clip: pass its latent as `reference` (`latents.encode_clip`)")
    spec = backbone_of(nets_of(pipe)[0])
    given = [reference] if isinstance(reference, Tensor) else list(reference)
    follow = [[] if each is None else [each] for each in tracks]
    return Clocks(config, given, follow, (spec.temporal_stride, spec.spatial_stride), lead, seed)


def _begin(batches: Batches, losses: LatentGradient, forward: Forward) -> None:
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


class _Run:
    """The editors of one run, and the way from each conditional prediction to its perturbed one."""

    def __init__(self, guidance: Sequence[Guidance], batches: Batches, editor: type[Intervener] = Intervener) -> None:
        self.batches = batches
        self.editors = [editor(each, token=(id(self), place)) for place, each in enumerate(guidance)]
        self._forward: Forward | None = None
        self._away: dict[Hashable, Tensor] = {}

    def begin(self, forward: Forward) -> None:
        before = len(self.batches.seen)
        self.batches.begin(forward)
        self._forward = forward
        if len(self.batches.seen) != before or replayed() == 0:
            self._away.clear()
        if not before:
            times = list(self.batches.timesteps())
            steps = len(dict.fromkeys(times)) if any(times) else len(times)  # of a bare transformer only the number
            for editor in self.editors:
                editor.grid, editor.steps = forward.grid, max(1, steps)

    def second_predictions(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook. Branches that come in calls of their own: the conditional one comes first, as in pipelines."""
        forward = self._forward
        assert forward is not None
        if isinstance(prediction(), LatentGradient):  # only its attention is wanted
            return output
        plain = _sample(output)
        cond = {row.key: place for place, row in enumerate(forward.rows) if row.branch == "cond"}
        for editor in self.editors if cond else ():
            strength = editor.guidance.strength(forward.step, editor.steps)
            if not isinstance(editor.guidance, Perturbation) or strength == 0:
                continue
            with perturbed(editor.token):
                broken = _sample(module.forward(*args, **kwargs))
            for key, place in cond.items():
                away = (plain[place] - broken[place]) * strength
                self._away[key] = self._away[key] + away if key in self._away else away
        if not self._away:
            return output
        moved = plain.clone()
        for place, row in enumerate(forward.rows):
            if row.key in self._away:
                moved[place] += self._away[row.key]
        return (moved, *output[1:]) if isinstance(output, tuple) else type(output)(sample=moved)


def _sample(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output.sample
