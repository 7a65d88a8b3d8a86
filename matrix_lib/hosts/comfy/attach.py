"""Reaches the attention of a native ComfyUI MODEL, with the host's public wrappers only.

Nothing is put on the shared module outside a single forward. Closures hold configuration; what a run collects lives in
a `Run` object made by the OUTER_SAMPLE wrapper and gone after it:

    OUTER_SAMPLE      a fresh run, the sampler and its callback wrapped, ended in `finally`
    CALC_COND_BATCH   which conditioning (uuid) carries which words and tracks
    APPLY_MODEL       hooks on the blocks and one attention override, chained in front of anybody else's
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...core.attention.masks import batch_part
from ...core.attention.sdpa_lse import LseTap
from ...core.guidance.part import RunPart
from ...instrument.editing import EditRunner
from ...instrument.gradient import StopForward
from ...instrument.session import PERTURBED, Session
from ..modules import Running, find_sites, marked
from .autograd import plain_tensors, running_blocks
from .bound_rows import bound_rows, row_notes
from .extra import apart
from .layout import Layout, layout_of
from .model import backbone_of, diffusion_model, grid_of
from .parts import run_part
from .run import GRADIENT_KEY, KEY, PERTURBED_KEY, PREFIX_FRAMES, TRACKS, Run, RunInfo
from .steps import stepped

__all__ = ["answered", "attach", "editor_of", "perturbed"]


def attach(model: Any, make_session: Callable[[RunInfo], Session]) -> Any:
    """A clone of MODEL whose every sampling run gets a session of its own from `make_session`.

    Several attachments to one MODEL work beside each other. The original is untouched. Raises ValueError for a MODEL
    that is not a video DiT that we know.
    """
    backbone_of(model)
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    first = not options.get(KEY)
    options[KEY] = (*options.get(KEY, ()), make_session)
    if first:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample)
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
    return holder.runs[0].info, {**options, "transformer_options": {**apart(inner), PERTURBED_KEY: token}}


def answered(options: dict[str, Any], conds: Iterable[dict[str, Any]]) -> bool:
    """Inside a run: whether a cache answered the last prediction of these conditionings, so that no block ran."""
    holder = options.get("transformer_options", {}).get(KEY)
    return isinstance(holder, _Runs) and any(holder.ran.get(cond["uuid"]) is False for cond in conds)


def editor_of(options: dict[str, Any], token: object) -> Any:
    """Inside a run: the editor of the second prediction called `token`."""
    runs = options["transformer_options"][KEY].runs
    return next(each for run in runs for each in run.session.editors if getattr(each, "token", None) is token)


# -- the wrappers -----------------------------------------------------------------------------------------------------
class _Runs:
    """The runs of one sampling, as an object: the host copies plain containers at each merge of options."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.editing = EditRunner() if any(run.session.editors for run in runs) else None
        self.ran: dict[Any, bool] = {}  # for each conditioning, whether its last prediction ran, or a cache answered


def _outer_sample(
    executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
):
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    factories = options.get(KEY, ())
    if not factories or isinstance(factories, _Runs):
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    part = run_part(guider.model_patcher, sigmas, noise, latent_image)
    runs = [_start(guider, noise, sigmas, part, factory) for factory in factories]
    # denoise_mask, callback, disable_pbar, seed: the host passes the callback by position
    given = list(args)
    if len(given) > 1:
        given[1] = _with_callback(given[1], runs)
    else:
        kwargs["callback"] = _with_callback(kwargs.get("callback"), runs)
    guider.model_options = {**guider.model_options, "transformer_options": {**options, KEY: _Runs(runs)}}
    hooks = [hook for run in runs for hook in run.session.hooks]
    try:
        sampler = stepped(sampler, hooks, part) if hooks else sampler
        return executor(noise, latent_image, sampler, sigmas, *given, **kwargs)
    finally:
        for run in runs:
            run.session.finished()


def _start(guider: Any, noise: Tensor, sigmas: Tensor, part: RunPart, factory: Callable[[RunInfo], Session]) -> Run:
    patcher = guider.model_patcher
    spec = backbone_of(patcher)
    modules = find_sites(diffusion_model(patcher.model), spec.native)
    if noise.ndim != 5:
        raise ValueError(f"a video latent is [batch, channels, frames, height, width]; got {list(noise.shape)}")
    prefix_frames = int(guider.model_options["transformer_options"].get(PREFIX_FRAMES, 0))
    t, h, w = noise.shape[-3:]
    positive = guider.conds.get("positive") or ()
    info = RunInfo(
        spec=spec,
        sites=tuple(site for _, site in modules),
        grid=grid_of(patcher, (t - prefix_frames, h, w), prefix_frames),
        sigmas=tuple(float(s) for s in sigmas[:-1]),
        samples=int(noise.shape[0]),
        prompts=max(1, len(positive)),
        given=tuple((bound_rows(cond), cond.get(TRACKS)) for cond in positive),
        latent_in=patcher.model.process_latent_in,
        channels=int(patcher.model.latent_format.latent_channels),
        part=part,
        notes=tuple(row_notes(positive)),
    )
    return Run(info, factory(info), modules)


def _with_callback(callback: Any, runs: list[Run]) -> Callable[..., None]:
    def after(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        if callback is not None:
            callback(step, denoised, x, total)
        for run in runs:  # after the host's own preview, so that a live panel is what stays on the node
            run.session.step_done(step, denoised)

    return after


def _calc_cond_batch(executor: Any, model: Any, conds: list, x_in: Tensor, timestep: Tensor, model_options: dict):
    holder = model_options.get("transformer_options", {}).get(KEY)
    if isinstance(holder, _Runs):
        for ordinal, cond in enumerate(conds[0] or ()):
            for run in holder.runs:
                run.rows[cond["uuid"]] = (ordinal, bound_rows(cond), cond.get(TRACKS))
    return executor(model, conds, x_in, timestep, model_options)


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
    options = dict(transformer_options or {})
    holder = options.get(KEY)
    if not isinstance(holder, _Runs) or c_crossattn is None:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    module = diffusion_model(executor.class_obj)
    wanted = [
        (found, site) for found, site in holder.runs[0].modules if any(run.session.wants(site) for run in holder.runs)
    ]
    if not wanted and GRADIENT_KEY not in options:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    layout = layout_of(module, holder.runs[0].info, x, c_crossattn, options, kwargs)
    override = options.get("optimized_attention_override")
    with marked(wanted) as running:
        options["optimized_attention_override"] = _override(running, layout, holder, override)
        if GRADIENT_KEY not in options:
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            if PERTURBED_KEY not in options:
                holder.ran.update((uuid, running.ran) for uuid, _ in layout.chunks)
            return out
        with running_blocks(module, holder.runs[0].modules, running, again=options[GRADIENT_KEY]):
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


def _override(running: Running, layout: Layout, holder: _Runs, earlier: Any) -> Callable[..., Tensor]:
    """Our attention override, in front of the one that was there (`earlier`)."""

    def attention(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **kwargs: Any) -> Tensor:
        def host(q: Tensor = q, k: Tensor = k, v: Tensor = v, mask: Any = mask) -> Tensor:
            if earlier is not None:
                return earlier(func, q, k, v, heads, mask=mask, **kwargs)
            return func(q, k, v, heads, mask=mask, **kwargs)

        site = running.site
        if site is None:  # not a block's own attention: HunyuanVideo's text refiner, say
            return host()
        running.calls += 1
        if site.kind == "cross" and _image_comes_first(running) and running.calls == 1:
            return host()
        split = _split_heads if not kwargs.get("skip_reshape") else lambda t, _: t
        q4, k4, v4 = split(q, heads), split(k, heads), split(v, heads)
        scale = kwargs.get("scale") or q4.shape[-1] ** -0.5
        call = layout.call(site, q4, k4, v4, scale, mask)

        def host_rows(part: slice) -> tuple[Tensor, Tensor | None]:
            with LseTap() as tap:
                out = host(q[part], k[part], v[part], batch_part(mask, part))
            if not kwargs.get("skip_output_reshape"):
                out = _split_heads(out, heads)
            return out, tap.lse_for(q4[part])

        # an extra prediction is only to be looked at by who made it
        shown = layout.extra.get(PERTURBED)
        watching = [run for run in holder.runs if run.session.prediction == shown and run.session.watches(site)]
        edits = []
        if holder.editing is not None:
            editing = [run for run in holder.runs if run.session.editors]
            edits = [given for run in editing for given in run.session.edits(layout.with_rows(call, run))]
        if edits:
            assert holder.editing is not None
            edited = holder.editing.run(call, edits, host_rows)
            out, lse = edited.out, edited.lse
            if not kwargs.get("skip_output_reshape"):
                out = out.transpose(1, 2).flatten(2)
            call = edited.seen() if watching else call
        elif watching:
            with LseTap() as tap:
                out = host()
            lse = tap.lse_for(q4)
        else:
            return host()
        for run in watching:
            run.session.observe(layout.with_rows(call, run), lse)
        return out

    return attention


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) -> (B, H, N, D), a view."""
    b, n, width = tensor.shape
    return tensor.view(b, n, heads, width // heads).transpose(1, 2)


def _image_comes_first(running: Running) -> bool:
    """Wan I2V's cross-attention attends to the image before it attends to the text; lengths do not tell them apart."""
    return hasattr(running.module, "k_img")
