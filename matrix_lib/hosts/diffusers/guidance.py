"""Steers a diffusers transformer, under one context manager.

with steer(pipe, [RegionBias(layers=Layers((7, 11), (12,)))], binding, tracks):
    video = pipe(prompt=prompt, num_inference_steps=50).frames
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ...backbones import UNETS
from ...core.binding import PromptBinding
from ...core.guidance import Guidance, Perturbation, check_names
from ...core.intrinsic import IntrinsicDenoising
from ...core.tracks import MaskTracks
from ...instrument.intervene import Intervener
from ...instrument.refiner import Refiner
from ...instrument.session import Session
from .attach import attach, backbone_of, perturbed, sites_of
from .batches import Batches, Branch, Forward, batches_of, replayed
from .intrinsic import refining
from .unet import LevelIntervener, attach_unet, find_unet_sites

__all__ = ["steer"]


@contextlib.contextmanager
def steer(
    model: Any,
    guidance: Guidance | IntrinsicDenoising | Sequence[Guidance | IntrinsicDenoising],
    binding: PromptBinding | Sequence[PromptBinding] | None = None,
    tracks: MaskTracks | Sequence[MaskTracks | None] | None = None,
    *,
    steps: int | None = None,
    branches: Sequence[Branch] | None = None,
    lead: int = 0,
    seed: int = 0,
) -> Iterator[list[Intervener | Refiner]]:
    """While open, a pipeline or a bare transformer runs under `guidance`; composes with `watch`, in either order.

    Args:
        model: a diffusers pipeline (its transformer or U-Net and its scheduler are read), a transformer or a U-Net.
        guidance: one, or several that add up; one `IntrinsicDenoising` among them needs a pipeline (see `refining`).
        binding, tracks, branches, steps, lead: as in `watch`; without a binding only tracks are steered by.
        seed: of the noise that intrinsic denoising adds.

    Yields what acts, in the order of `guidance`: editors with their notes and variances, a `Refiner` with its taus.
    Guidance that changes nothing is left out. Perturbation guidance adds
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
    inner = [each for each in every if isinstance(each, IntrinsicDenoising)]
    editing = [each for each in every if not isinstance(each, IntrinsicDenoising)]
    if len(inner) > 1:
        raise ValueError("one IntrinsicDenoising at a time: raise its iterations or its strength instead")
    if inner and all(t is None for t in batches.tracks):
        raise ValueError("IntrinsicDenoising follows mask tracks: pass `tracks`")
    for each in editing:
        sites = [site for _, site in find_unet_sites(transformer)] if unet else sites_of(transformer)
        each.layers.check(site.layer for site in sites)
        if all(t is None for t in batches.tracks) and not (isinstance(each, Perturbation) and not each.bound):
            raise ValueError(f"{type(each).__name__} steers by mask tracks: pass `tracks`")
        check_names(each, dict.fromkeys(name for t in batches.tracks if t is not None for name in t.names))
    run = _Run(editing, batches, LevelIntervener if unet else Intervener)
    with contextlib.ExitStack() as stack:
        if any(isinstance(each, Perturbation) for each in editing):
            stack.enter_context(_alone(transformer))
            handle = transformer.register_forward_hook(run.second_predictions, with_kwargs=True)
            stack.callback(handle.remove)
        if editing:
            reach = attach_unet if unet else attach
            stack.enter_context(reach(transformer, Session(editors=run.editors), run.begin, lead))
        acting: list[Intervener | Refiner] = [*run.editors]
        for config in inner:  # inside, so that it sees outputs that second predictions have moved
            refiner = stack.enter_context(refining(model, config, batches.tracks, lead=lead, seed=seed))
            acting.insert(every.index(config), refiner)
        yield acting


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
