"""Reaches the attention of a native ComfyUI MODEL, with the host's public wrappers only.

Nothing is put on the shared module outside a single forward. Closures hold configuration; what a run collects lives in
a `Run` object made by the OUTER_SAMPLE wrapper and gone after it:

    OUTER_SAMPLE      a fresh run, the sampler and its callback wrapped, ended in `finally`
    PREDICT_NOISE     one call of the guider
    CALC_COND_BATCH   which conditionings are predicted, and whether the guider itself asks for them
    APPLY_MODEL       hooks on the blocks and one attention override, chained in front of anybody else's
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...core.guidance.part import RunPart
from ...core.no_compile import hidden
from ...core.sites import AttentionSite
from ...instrument.editing import EditRunner
from ...instrument.gradient import StopForward
from ...instrument.session import Session
from ..compiled import Compiled, compiled_parts
from ..modules import Running, find_sites, marked
from .attribution import Predictions, prompt_lists, prompts_of, who
from .autograd import plain_tensors, pytorch_kernel, running_blocks
from .bound_rows import row_notes
from .captions import unread_notes
from .clip_latent import ClipLatent, clip_shape, packed_shapes
from .compiled import apart
from .extra import COMPILED, OWNER, isolated
from .families import family
from .layout import Layout, layout_of, part_of_run
from .model import backbone_of, diffusion_model, grid_of, modules_of
from .override import Foreign, Override, Troubles, replaced
from .parts import run_part
from .run import CLIP_LATENT, FRONT_FRAMES, GRADIENT_KEY, KEY, PERTURBED_KEY, PREFIX_FRAMES, STEERED, Run, RunInfo
from .steps import stepped
from .texts import TextWay, checked_blocks, checking, given_to
from .warn import warn

__all__ = ["answered", "asked_for", "attach", "editor_of", "perturbed"]

Sites = list[tuple[nn.Module, AttentionSite]]
_SKIPPED = "the model was not asked at some steps (a cache answered): they are not in the maps"


def attach(model: Any, make_session: Callable[[RunInfo], Session]) -> Any:
    """A clone of MODEL whose every sampling run gets a session of its own from `make_session`.

    Several attachments to one MODEL work beside each other. The original is untouched. Raises ValueError for a MODEL
    that is not a video DiT that we know, or one whose tokens or attention cannot be followed.
    """
    family(backbone_of(model).name).check(diffusion_model(model.model))
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    first = not options.get(KEY)
    options[KEY] = (*options.get(KEY, ()), make_session)
    if first:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample)
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _predict_noise)
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _calc_cond_batch)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_model)
    return clone


def perturbed(options: dict[str, Any], token: Any) -> tuple[RunInfo, dict[str, Any]] | None:
    """Inside a run: what is known of it, and the model options of a second prediction called `token`, in which the
    editors of that name act and nobody watches. None outside of a run of ours."""
    inner = options.get("transformer_options", {})
    holder = inner.get(KEY)
    if not isinstance(holder, _Runs):
        return None
    return holder.runs[0].info, {**options, "transformer_options": {**isolated(inner), PERTURBED_KEY: token}}


def answered(options: dict[str, Any], conds: Iterable[dict[str, Any]]) -> bool:
    """Inside a run: whether a cache answered the last prediction of these conditionings, so that no block ran."""
    holder = options.get("transformer_options", {}).get(KEY)
    return isinstance(holder, _Runs) and any(holder.ran.get(cond["uuid"]) is False for cond in conds)


def asked_for(options: dict[str, Any]) -> tuple[bool, Tensor | None]:
    """Inside a run: whether the guider asked the model for anything in its open call, and the prompt's prediction that
    it got; None where context windows put it together."""
    predictions = options["transformer_options"][KEY].predictions
    return predictions.asked_now, predictions.own


def editor_of(options: dict[str, Any], token: object) -> Any:
    """Inside a run: the editor of the second prediction called `token`."""
    runs = options["transformer_options"][KEY].runs
    return next(each for run in runs for each in run.session.editors if getattr(each, "token", None) is token)


# -- the wrappers -----------------------------------------------------------------------------------------------------
class _Runs:
    """The runs of one sampling, as an object: the host copies plain containers at each merge of options."""

    text_way: TextWay

    def __init__(self, runs: list[Run], network: nn.Module, conds: Sequence[dict[str, Any]]) -> None:
        self.runs = runs
        self.editing = EditRunner() if any(run.session.editors for run in runs) else None
        self.ran: dict[Any, bool] = {}  # for each conditioning, whether its last prediction ran, or a cache answered
        self.owners: dict[Any, Any] = {}  # of ids of our own predictions' conditionings, those that they are of
        self.predictions = Predictions(conds, runs[0].prompts)
        self.troubles, self.foreign = Troubles(), Foreign()
        self.compiled, self.has_compiled = Compiled(self.troubles.add), bool(compiled_parts(network))
        self.inside = threading.local()  # `now`: in a call of the model that came by our wrapper
        self._logged: set[str] = set()
        self._sites: dict[int, Sites | None] = {id(network): runs[0].modules}

    def sites(self, network: nn.Module) -> Sites | None:
        """The attention of a network that predicts in this run, where it is built as the run's own; else None. A guider
        may predict the negative with another model."""
        if id(network) not in self._sites:
            spec, own = self.runs[0].info.spec, self.runs[0].modules
            try:
                found = find_sites(network, spec.native)
            except ValueError:
                found = []
            same = [site for _, site in found] == [site for _, site in own]
            self._sites[id(network)] = found if same else None
        if self._sites[id(network)] is None:
            self.troubles.add(
                f"some predictions are made by another model ({type(network).__name__}), which is neither watched nor "
                "steered"
            )
        return self._sites[id(network)]

    def tell(self, done: bool) -> None:
        """Notes of the run to its sessions, at the end; to the log as soon as they are known."""
        found = [*self.predictions.notes, *self.troubles.sentences()]
        if done:
            for run in self.runs:
                for text in found:
                    run.session.note(text)
            return
        for text in [*self.predictions.notes, *self.troubles.found]:
            if text not in self._logged:
                self._logged.add(text)
                warn(text)


def _outer_sample(
    executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
):
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    factories = options.get(KEY, ())
    if not factories or isinstance(factories, _Runs):
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    clip = _clip_latent(guider, noise, packed_shapes(args, kwargs))
    start = clip.of(latent_image) if isinstance(latent_image, Tensor) else latent_image
    part = run_part(guider.model_patcher, sigmas, clip.of(noise), start)
    runs = [_start(guider, clip, noise, sigmas, part, factory) for factory in factories]
    holder = _Runs(runs, diffusion_model(guider.model_patcher.model), _conds(guider))
    modules = {} if COMPILED in guider.model_options else modules_of(guider.model_patcher)
    own = modules_of(guider.model_patcher, patched=False) if modules else {}
    holder.text_way = TextWay(modules, own, runs[0], holder.troubles)
    # denoise_mask, callback, disable_pbar, seed, latent_shapes: the host passes the callback by position
    given = list(args)
    if len(given) > 1:
        given[1] = _with_callback(given[1], holder)
    else:
        kwargs["callback"] = _with_callback(kwargs.get("callback"), holder)
    ours = {KEY: holder, FRONT_FRAMES: runs[0].info.front_frames, CLIP_LATENT: clip}
    guider.model_options = {**guider.model_options, "transformer_options": {**options, **ours}}
    hooks = [hook for run in runs for hook in run.session.hooks]
    try:
        sampler = stepped(sampler, hooks, part) if hooks else sampler
        with holder.text_way.opened():
            return executor(noise, latent_image, sampler, sigmas, *given, **kwargs)
    finally:
        holder.tell(done=True)
        for run in runs:
            run.session.finished()


def _clip_latent(guider: Any, noise: Tensor, shapes: Any) -> ClipLatent:
    """Where the clip lies in the latent that is sampled. shapes: of the latents that it packs."""
    shape = clip_shape(noise, shapes)
    found = family(backbone_of(guider.model_patcher).name)
    return ClipLatent(shape, noise.ndim != 5, found.frames_behind(_conds(guider), (shape[1], shape[2], shape[3])))


def _conds(guider: Any) -> list[dict[str, Any]]:
    return [cond for conds in guider.conds.values() for cond in conds or ()]


def _start(
    guider: Any, clip: ClipLatent, noise: Tensor, sigmas: Tensor, part: RunPart, factory: Callable[[RunInfo], Session]
) -> Run:
    patcher = guider.model_patcher
    spec = backbone_of(patcher)
    network = diffusion_model(patcher.model)
    modules = find_sites(network, spec.native, modules_of(patcher))
    prefix_frames = int(guider.model_options["transformer_options"].get(PREFIX_FRAMES, 0))
    _, t, h, w = clip.shape
    prompts = prompts_of(guider.conds, lambda cond: family(spec.name).text_rows(network, cond))
    steered = guider.model_options["transformer_options"].get(STEERED, ())
    front_frames = family(spec.name).frames_in_front(patcher.model, _conds(guider), (t, h, w))
    grid = grid_of(patcher, (t - prefix_frames - front_frames - clip.behind, h, w), prefix_frames)
    info = RunInfo(
        spec=spec,
        sites=tuple(site for _, site in modules),
        grid=replace(grid, fps=family(spec.name).frame_rate(_conds(guider), grid.fps)),
        sigmas=tuple(sigmas[:-1].tolist()),
        samples=int(noise.shape[0]),
        prompts=max(1, len(prompts)),
        given=tuple((prompt.binding, prompt.tracks) for prompt in prompts.values()),
        latent_in=patcher.model.process_latent_in,
        channels=int(clip.shape[0]),
        latent=clip,
        front_frames=front_frames,
        part=part,
        notes=(
            *row_notes([cond for name in prompt_lists(guider.conds) for cond in guider.conds[name]]),
            *unread_notes((prompt.binding for prompt in prompts.values()), steered),
        ),
    )
    text_rows = {cond["uuid"]: getattr(cond.get("cross_attn"), "shape", (0, 0))[1] for cond in _conds(guider)}
    return Run(info, factory(info), modules, prompts, text_rows)


def _with_callback(callback: Any, holder: _Runs) -> Callable[..., None]:
    def after(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        if callback is not None:
            callback(step, denoised, x, total)
        for run in holder.runs:  # after the host's own preview, so that a live panel is what stays on the node
            run.info.clock.done = step + 1
            run.session.step_done(step, run.info.latent.of(denoised)[:, :, run.info.front_frames :])
        if not holder.predictions.asked:  # a cache in front of the guider, even
            holder.troubles.add(_SKIPPED)
        holder.predictions.asked = False
        holder.tell(done=False)

    return after


def _predict_noise(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any, **kwargs: Any
):
    holder = model_options.get("transformer_options", {}).get(KEY)
    if not isinstance(holder, _Runs):
        return executor(x, timestep, model_options, *args, **kwargs)
    with (
        holder.predictions.predicting(model_options),
        _past_us(holder, executor.class_obj.inner_model, model_options, executor.class_obj),
    ):
        return executor(x, timestep, model_options, *args, **kwargs)


@contextlib.contextmanager
def _past_us(holder: _Runs, model: Any, model_options: dict[str, Any], guider: Any = None) -> Iterator[None]:
    """One call of a guider, or a prediction of ours, in which nobody may run the model past ComfyUI's wrappers, and
    ours with them. Compiled models are not looked at: hooks would be in their graphs."""

    def reached(*_: Any) -> None:
        if getattr(holder.inside, "now", False):
            return
        by = replaced(model, "apply_model") or model_options.get("model_function_wrapper") or guider or model
        text = f"the model was called past ComfyUI's wrappers ({who(by)})"
        steers = guider is None or (
            any(run.session.steers for run in holder.runs) and not holder.predictions.claimed_now
        )
        if steers:
            raise ValueError(f"this run cannot be steered: {text}. Take that off this model, or sample without MATRIX")
        holder.troubles.add(f"{text}: those calls are neither shown nor steered")

    if COMPILED in model_options or holder.has_compiled:
        yield
        return
    # the network before it computes anything (what it does in place under gradients would stay, in a circle of
    # PyTorch's), and its first attention, where somebody calls its forward alone
    told, first = hidden(reached), holder.runs[0].modules[0][0]
    handles = [each.register_forward_pre_hook(told) for each in (diffusion_model(model), first)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calc_cond_batch(executor: Any, model: Any, conds: list, x_in: Tensor, timestep: Tensor, model_options: dict):
    options = model_options.get("transformer_options", {})
    holder = options.get(KEY)
    if not isinstance(holder, _Runs) or options.get(PERTURBED_KEY) is not holder.predictions.token:
        if isinstance(holder, _Runs):
            holder.owners.update((cond["uuid"], cond[OWNER]) for each in conds for cond in each or () if OWNER in cond)
        ours = isinstance(holder, _Runs) and PERTURBED_KEY in options
        with _past_us(holder, model, model_options) if ours else contextlib.nullcontext():
            return executor(model, conds, x_in, timestep, model_options)
    with holder.predictions.batch(conds, model_options):
        out = executor(model, conds, x_in, timestep, model_options)
        holder.predictions.got(conds, out, holder.runs[0].prompts)
        return out


def _apply_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **kwargs: Any,
):
    holder = (transformer_options or {}).get(KEY)
    if not isinstance(holder, _Runs):
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    before, holder.inside.now = getattr(holder.inside, "now", False), True
    holder.predictions.claimed_now |= GRADIENT_KEY in (transformer_options or {})
    try:
        return _watched(holder, executor, x, t, c_concat, c_crossattn, control, dict(transformer_options or {}), kwargs)
    finally:
        holder.inside.now = before


def _watched(
    holder: _Runs,
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None,
    c_crossattn: Tensor | None,
    control: Any,
    options: dict,
    kwargs: dict,
):
    if c_crossattn is None:
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    module = diffusion_model(executor.class_obj)
    sites = holder.sites(module)
    wanted = [(found, site) for found, site in sites or () if any(run.session.wants(site) for run in holder.runs)]
    if sites is None or (not wanted and GRADIENT_KEY not in options):
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    chunks = _chunks(holder, options, c_crossattn)
    if partial := part_of_run(holder.runs[0].info, x, options, kwargs, chunks):
        shown = options.get(PERTURBED_KEY)
        if any(run.session.steers and (run.session.editors or run.session.prediction == shown) for run in holder.runs):
            raise ValueError(f"this run cannot be steered: {partial}")
        holder.troubles.add(f"{partial}. Its attention is not in the maps")
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    layout = layout_of(module, holder.runs[0].info, x, c_crossattn, options, kwargs, chunks, holder.predictions.level)
    shown = options.get(PERTURBED_KEY)  # an extra prediction is only to be looked at by who made it
    watching = [run for run in holder.runs if run.session.prediction == shown] if layout.own else []
    kernel = pytorch_kernel if GRADIENT_KEY in options else None
    earlier = options.get("optimized_attention_override")
    running = Running()
    override = Override(
        running, layout, earlier, holder.runs, watching, holder.editing, holder.troubles, holder.foreign, kernel
    )
    options["optimized_attention_override"] = hidden(override.__call__)
    executor = apart(executor, holder.compiled, checking(holder.predictions, override, c_crossattn))
    checked_blocks(module, options, override)
    holder.text_way.begin(override)
    with marked(wanted, running, leave=override.left), given_to(wanted, override):
        if GRADIENT_KEY not in options:
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            if PERTURBED_KEY not in options:
                holder.ran.update((name, bool(running.entered)) for name, own in chunks if own)
            _check_ran(holder, layout, wanted, running)
            return out
        in_place = family(holder.runs[0].info.spec.name).adds_in_place
        with running_blocks(module, sites, running, again=options[GRADIENT_KEY], in_place=in_place):
            c_concat, c_crossattn, t = (plain_tensors(each) for each in (c_concat, c_crossattn, t))
            given = {name: plain_tensors(value) for name, value in kwargs.items()}
            fed = x.detach().requires_grad_()  # a graph of its own: context windows share what is before it
            try:
                out = executor(fed, t, c_concat, c_crossattn, control, options, **given)
            except StopForward:
                out = torch.zeros_like(x)
            for run in holder.runs:
                if run.session.forward_done is not None and run.session.prediction == options[PERTURBED_KEY]:
                    run.session.forward_done(fed, x)
            return out


def _chunks(holder: _Runs, options: dict[str, Any], text: Tensor) -> tuple[tuple[Any, bool], ...]:
    """For each part of a batch its conditioning, and whether it is the guider's own prediction, or one of ours."""
    ids = options.get("uuids")
    if PERTURBED_KEY in options and ids is not None:
        names = [holder.owners.get(name, name) for name in ids]
        read = holder.predictions.read(names, text, options["sigmas"])
        return tuple((name, name is not None) for name in read)
    rows = len(options.get("cond_or_uncond") or ())
    return holder.predictions.claim(ids, rows, text=text, sigma=options["sigmas"])


def _check_ran(holder: _Runs, layout: Layout, wanted: Sites, running: Running) -> None:
    """Blocks that somebody left out of a forward are named; where all were, the step was skipped."""
    if not layout.own:
        return
    heard = any(site.has_sound and site.name in running.entered for _, site in wanted)
    due = [site for _, site in wanted if heard or not site.has_sound]  # a latent need not hold sound
    missing = [site for site in due if site.name not in running.entered]
    if due and len(missing) == len(due):
        holder.troubles.add(_SKIPPED)
        return
    for site in missing:
        holder.troubles.add("it did not run at some steps (layers are skipped), and is not in the maps there", site)
