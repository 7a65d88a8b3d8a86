"""Steers a native ComfyUI MODEL, whatever the way: on its attention, by second predictions, or before each step.

    steered = steer(model, RegionBias(layers=Layers.only([7, 11, 12])))
    held = steer(model, DualClockDenoising(0.67, 0.5), reference=latent)

Words and tracks are those that the positive conditioning carries. Schedules, clocks and frozen steps count the steps of
the whole schedule, of which a run may be a part (`parts`). Steering stacks: with itself, with capture, and with
other patches of the MODEL. What acts before steps changes the latent of the sampler itself, under any of the host's
samplers whose state can be reached.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.guidance.base import Guidance, check_finite
from ...core.guidance.timed_words import TimedWords
from ...core.layers import Layers
from ...core.tracks.tracks import MaskTracks
from ...instrument.session import Session
from ...instrument.steering import Actor, SteeredRun, actor_for
from ..modules import text_trouble
from .attach import answered, asked_for, attach, editor_of, perturbed
from .attribution import prompt_lists
from .extra import named_apart
from .model import backbone_of, diffusion_model, modules_of, rate_doubt, sites_of
from .run import STEERED, RunInfo, step_of, unwatched
from .warn import warn

__all__ = ["log_run", "steer"]


def steer(
    model: Any,
    guidance: Guidance,
    *,
    tracks: MaskTracks | None = None,
    reference: dict[str, Any] | None = None,
    done: Callable[[Any], None] | None = None,
) -> Any:
    """A clone of MODEL that samples under `guidance`; one that changes nothing is the plain clone.

    Args:
        tracks: what the latent follows, for guidance before steps; None: the tracks that the positive conditionings
            carry, all of them. Attention always takes those of its own conditioning.
        reference: for `DualClockDenoising`, the host's LATENT of the reference clip, of one sample or of as many as are
            sampled, from this model's own VAE. A refining pass over a clip that is there is not held.
        done: called after each run with what acted in it (`instrument.steering.Actor`: notes, figures, and what it
            measured); by default these are logged.

    Raises ValueError for a MODEL that is not a video DiT that we know, for layers that it does not have, for a second
    guidance of a kind that a model takes once, and for a LATENT that is no video; when sampling starts, for
    conditioning without the words and tracks that the guidance needs, for a reference or tracks that do not fit, and
    for samplers whose state cannot be reached.
    """
    guidance.check_layers(site.layer for site in sites_of(model))
    if isinstance(layers := getattr(guidance, "layers", None), Layers):
        layers.check_part((), "a MODEL is one of the experts: steer each of them with layers of its own; it")
    spec = backbone_of(model)
    guidance.check_text(spec.title, text_trouble(diffusion_model(model.model), spec, "native", modules_of(model)))
    samples = _samples(reference) if guidance.needs_reference else None
    if guidance.idle:
        return model.clone()
    before = model.model_options.get("transformer_options", {}).get(STEERED, ())
    if guidance.only_one and any(type(each) is type(guidance) for each in before):
        raise ValueError(f"this MODEL has {type(guidance).__name__} already: {guidance.only_one}")
    token = object()

    def start(info: RunInfo) -> Session:
        actor: Any = actor_for(guidance, _run(guidance, info, tracks, samples, token))
        if isinstance(guidance, TimedWords) and not guidance.fps and (doubt := rate_doubt(model)):
            actor.notes.append(doubt)
        if guidance.where != "step" or guidance.needs_words:
            actor.notes += [note for note in info.notes if note not in actor.notes]
        ended = functools.partial(done or log_run, actor)
        if guidance.where != "step":
            return Session(editors=[actor], done=ended)
        if not guidance.needs_words:
            return Session(hooks=[actor], done=ended)
        return Session([actor], hooks=[actor], prediction=actor, forward_done=actor.forward_done, done=ended)

    clone = attach(model, start)
    clone.model_options["transformer_options"][STEERED] = (*before, guidance)
    if guidance.where == "prediction":
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, STEERED, _second_prediction(guidance, token))
    return clone


def log_run(actor: Actor) -> None:
    """Writes to the log what a run had to say: what could not be steered, what was measured."""
    for note in actor.notes:
        warn(f"{actor.title}: {note}")
    for figure in actor.figures():
        logging.info("MATRIX %s: %s", actor.title, figure)


def _samples(reference: dict[str, Any] | None) -> Tensor:
    """The latents of a reference clip. Raises ValueError for anything else."""
    samples = (reference or {}).get("samples")
    if not isinstance(samples, Tensor) or samples.ndim != 5 or not len(samples):
        shape = list(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(
            f"the reference is a video LATENT [batch, channels, frames, height, width]; got {shape}: encode all frames "
            "of the rough animation at once, with this model's VAE"
        )
    return samples


def _run(
    guidance: Guidance, info: RunInfo, tracks: MaskTracks | None, samples: Tensor | None, token: object
) -> SteeredRun:
    """What is known of a run that starts. Raises ValueError where it lacks what the guidance needs."""
    found = _tracks(guidance, info, tracks)
    guidance.check_words([binding for binding, _ in info.given if binding is not None])
    references: list[Tensor] = []
    if samples is not None:
        if samples.shape[1] != info.channels:
            raise ValueError(
                f"the reference has {samples.shape[1]} latent channels, but this model's latents have {info.channels}: "
                "encode the rough animation with this model's own VAE"
            )
        references = list(info.latent_in(samples.clone()))
    return SteeredRun(
        grid=info.grid,
        part=info.part,
        sites=info.sites,
        strides=info.grid.strides,
        tracks=[found] * max(1, len(references)),
        references=references,
        token=token,
    )


def _tracks(guidance: Guidance, info: RunInfo, tracks: MaskTracks | None) -> list[MaskTracks]:
    """What is followed: `tracks`, or those of the positive conditionings, each once."""
    if not guidance.needs_tracks:
        return []
    own = tracks if guidance.where == "step" else None
    found = [] if own is None else [own]
    for binding, each in info.given if own is None else ():
        if each is not None and each not in found and not (guidance.needs_words and binding is None):
            found.append(each)
    if not found:
        what = "words and mask tracks" if guidance.needs_words else "mask tracks"
        here = "this node, or to " if guidance.where == "step" and not guidance.needs_words else ""
        raise ValueError(
            f"The positive conditioning carries no {what}, so there is nothing to steer by. Connect tracks to {here}"
            "'MATRIX Bind Prompt' and its CONDITIONING to the sampler (through any conditioning nodes)."
        )
    guidance.check_names(dict.fromkeys(name for each in found for name in each.names))
    if guidance.steers_uncond and info.shared_tracks is None:
        raise ValueError(
            f"{len(info.given)} positive conditionings carry different tracks, so it is open whose tracks the "
            "unconditional prediction should follow. Steer the conditional branch only, or give all the same tracks."
        )
    return found


def _second_prediction(guidance: Guidance, token: object) -> Callable[..., Tensor]:
    """What the guider predicts + strength * (the prompt's prediction - the same, perturbed), around the guider itself:
    whatever it mixes, and in whatever order, its own prediction of the prompt is what is moved away from.

    Where a cache answers a step from the last one that ran, the difference is that step's, too.
    """

    def predict(executor: Any, x: Tensor, timestep: Tensor, model_options: dict, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = executor(x, timestep, model_options, *args, **kwargs)
        run = perturbed(model_options, token)
        if run is None:
            return result
        info, options = run
        step = step_of(info, float(timestep.flatten()[0]))
        strength = guidance.at(info.part.place(step), info.part.steps)
        if strength == 0:
            return result
        guider, editor = executor.class_obj, editor_of(options, token)
        conds = guider.conds[_only_list(guider)]

        def ask(conds: Any, options: dict[str, Any]) -> Tensor:
            (out,) = comfy.samplers.calc_cond_batch(guider.inner_model, [conds], x, timestep, options)
            return out  # type: ignore[no-any-return]

        asked, own = asked_for(options)
        if asked and (editor.away is None or not answered(options, conds)):
            own = ask(conds, unwatched(model_options)) if own is None else own
            editor.away = own - ask(named_apart(conds, token), options)
        if editor.away is None:
            return result
        moved: Tensor = result + editor.away * strength
        check_finite(result, moved, "perturbation", step)
        return moved

    return predict


def _only_list(guider: Any) -> str:
    """The one list of conditionings that is the prompt. Raises ValueError where several are, or none."""
    names = prompt_lists(guider.conds)
    if len(names) != 1:
        raise ValueError(
            f"{type(guider).__name__} predicts {', '.join(guider.conds)}, and "
            f"{'none' if not names else 'several'} of these is the prompt, so it is open which prediction is to be "
            "perturbed: bind the words of one, or name it 'positive'"
        )
    return names[0]
