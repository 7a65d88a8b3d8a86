"""Reaches the attention of a native ComfyUI MODEL, with the host's public wrappers only.

Nothing is put on the shared module outside a single forward. Closures hold configuration; what a run collects lives in
a `_Run` object made by the OUTER_SAMPLE wrapper and gone after it:

    OUTER_SAMPLE      a fresh run, the sampler's callback wrapped, ended in `finally`
    CALC_COND_BATCH   which conditioning (uuid) carries which words and tracks
    APPLY_MODEL       hooks on the blocks and one attention override, chained in front of anybody else's
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...backbones import BackboneSpec, match
from ...core.attention import LseTap
from ...core.binding import PromptBinding
from ...core.grid import Grid
from ...core.sites import AttentionCall, AttentionSite, BatchRow
from ...core.tracks import MaskTracks
from ...instrument.gradients import Enough
from ...instrument.intervene import PERTURBED, Composer, batch_part
from ...instrument.session import Session
from ..modules import Running, find_sites, marked
from .autograd import plain_tensors, running_blocks
from .cogvideox import LEAD

__all__ = [
    "BINDING",
    "GRADIENT_KEY",
    "PERTURBED_KEY",
    "TRACKS",
    "RunInfo",
    "attach",
    "backbone_of",
    "grid_of",
    "patch_of",
    "perturbed",
    "sites_of",
    "step_of",
    "unwatched",
]

KEY = "matrix"
BINDING = "matrix_binding"  # keys that a conditioning carries
TRACKS = "matrix_tracks"
PERTURBED_KEY = "matrix_perturbed"  # in transformer_options: an extra prediction, and whose
GRADIENT_KEY = "matrix_gradient"  # in transformer_options: gradients are wanted; the value: checkpointed


@dataclass(frozen=True)
class RunInfo:
    """What is known when a sampling run starts. `sigmas`: noise level of each step; `samples`: latents in the batch;
    `prompts`: positive conditionings; `given`: the words and tracks that each of them carries."""

    spec: BackboneSpec
    sites: tuple[AttentionSite, ...]
    grid: Grid
    sigmas: tuple[float, ...]
    samples: int
    prompts: int
    given: tuple[tuple[PromptBinding | None, MaskTracks | None], ...] = ()

    @property
    def shared_tracks(self) -> MaskTracks | None:
        """The tracks that all positives agree on, which are the unconditional prediction's, too; else None."""
        tracks = [tracks for _, tracks in self.given]
        return tracks[0] if tracks and all(each == tracks[0] for each in tracks) else None


@dataclass
class _Run:
    """State of one sampling run."""

    info: RunInfo
    session: Session
    modules: list[tuple[nn.Module, AttentionSite]]
    rows: dict[Any, tuple[int, Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shared_tracks = self.info.shared_tracks


def backbone_of(model: Any) -> BackboneSpec:
    """The family of a MODEL. Raises ValueError where it is not a video DiT that we know."""
    module = _diffusion_model(model.model)
    return match((cls.__name__ for cls in type(module).__mro__), "native")


def sites_of(model: Any) -> list[AttentionSite]:
    """Every attention site of a MODEL, in layer order."""
    module = _diffusion_model(model.model)
    return [site for _, site in find_sites(module, backbone_of(model).native)]


def grid_of(model: Any, latent: tuple[int, int, int], lead: int = 0) -> Grid:
    """The token grid of a latent (T, H, W) in this MODEL; `lead`: latent frames that are put in front of it."""
    spec = backbone_of(model)
    stride = getattr(getattr(model.model, "latent_format", None), "spacial_downscale_ratio", spec.spatial_stride)
    return Grid.from_latent(latent, patch_of(model), spec.temporal_stride, int(stride), lead)


def patch_of(model: Any) -> tuple[int, int, int]:
    """Latent frames, rows and columns that make one token of a MODEL."""
    module = _diffusion_model(model.model)
    size = module.patch_size
    if isinstance(size, int):
        return getattr(module, "patch_size_t", None) or 1, size, size
    t, h, w = size
    return int(t), int(h), int(w)


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
    return holder.runs[0].info, {**options, "transformer_options": {**inner, PERTURBED_KEY: token}}


def unwatched(options: dict[str, Any]) -> dict[str, Any]:
    """Model options of predictions that nobody captures, though they are steered as all others."""
    inner = options.get("transformer_options", {})
    return {**options, "transformer_options": {**inner, PERTURBED_KEY: inner.get(PERTURBED_KEY, "unwatched")}}


def step_of(info: RunInfo, sigma: float) -> int:
    """The step whose noise level is nearest to `sigma`."""
    return min(range(len(info.sigmas)), key=lambda i: abs(info.sigmas[i] - sigma))


# -- the wrappers -----------------------------------------------------------------------------------------------------


class _Runs:
    """The runs of one sampling, as an object: the host copies plain containers at each merge of options."""

    def __init__(self, runs: list[_Run]) -> None:
        self.runs = runs
        self.composer = Composer() if any(run.session.editors for run in runs) else None


def _outer_sample(
    executor: Any, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
):
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    factories = options.get(KEY, ())
    if not factories or isinstance(factories, _Runs):
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    runs = [_start(guider, noise, sigmas, factory) for factory in factories]
    # denoise_mask, callback, disable_pbar, seed: the host passes the callback by position
    given = list(args)
    if len(given) > 1:
        given[1] = _with_callback(given[1], runs)
    else:
        kwargs["callback"] = _with_callback(kwargs.get("callback"), runs)
    guider.model_options = {**guider.model_options, "transformer_options": {**options, KEY: _Runs(runs)}}
    try:
        return executor(noise, latent_image, sampler, sigmas, *given, **kwargs)
    finally:
        for run in runs:
            run.session.finished()


def _start(guider: Any, noise: Tensor, sigmas: Tensor, factory: Callable[[RunInfo], Session]) -> _Run:
    patcher = guider.model_patcher
    spec = backbone_of(patcher)
    modules = find_sites(_diffusion_model(patcher.model), spec.native)
    if noise.ndim != 5:
        raise ValueError(f"a video latent is [batch, channels, frames, height, width]; got {list(noise.shape)}")
    lead = int(guider.model_options["transformer_options"].get(LEAD, 0))
    t, h, w = noise.shape[-3:]
    positive = guider.conds.get("positive") or ()
    info = RunInfo(
        spec=spec,
        sites=tuple(site for _, site in modules),
        grid=grid_of(patcher, (t - lead, h, w), lead),
        sigmas=tuple(float(s) for s in sigmas[:-1]),
        samples=int(noise.shape[0]),
        prompts=max(1, len(positive)),
        given=tuple((cond.get(BINDING), cond.get(TRACKS)) for cond in positive),
    )
    return _Run(info, factory(info), modules)


def _with_callback(callback: Any, runs: list[_Run]) -> Callable[..., None]:
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
                run.rows[cond["uuid"]] = (ordinal, cond.get(BINDING), cond.get(TRACKS))
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
    module = _diffusion_model(executor.class_obj)
    wanted = [
        (found, site) for found, site in holder.runs[0].modules if any(run.session.wants(site) for run in holder.runs)
    ]
    layout = _layout(module, holder.runs[0].info, x, c_crossattn, options, kwargs)
    override = options.get("optimized_attention_override")
    with marked(wanted) as running:
        options["optimized_attention_override"] = _override(running, layout, holder, override)
        if GRADIENT_KEY not in options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        with running_blocks(module, holder.runs[0].modules, running, again=options[GRADIENT_KEY]):
            c_concat, c_crossattn, t = (plain_tensors(each) for each in (c_concat, c_crossattn, t))
            given = {name: plain_tensors(value) for name, value in kwargs.items()}
            fed = x.detach().requires_grad_()  # a graph of its own: context windows share what is before it
            try:
                out = executor(fed, t, c_concat, c_crossattn, control, options, **given)
            except Enough:
                out = torch.zeros_like(x)
            for run in holder.runs:
                if run.session.forward_done is not None and run.session.prediction == options[PERTURBED_KEY]:
                    run.session.forward_done(fed, x)
            return out


def _override(running: Running, layout: _Layout, holder: _Runs, earlier: Any) -> Callable[..., Tensor]:
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
        if holder.composer is not None:
            edits = [given for run in holder.runs for given in run.session.edits(layout.with_rows(call, run))]
        if edits:
            assert holder.composer is not None
            edited = holder.composer.run(call, edits, host_rows)
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


@dataclass(frozen=True)
class _Layout:
    """Where text and video lie in the calls of one forward."""

    grid: Grid
    text: tuple[int, int]
    video_joint: int
    video_self: int
    step: int
    sigma: float
    chunks: tuple[tuple[Any, int], ...]
    samples: int
    frames: tuple[int, ...] | None
    extra: dict[str, object] = field(default_factory=dict)

    def call(self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Any) -> AttentionCall:
        size = self.grid.size
        if site.kind == "cross":
            spans = {"video_q": (self.video_self, size), "text_k": (0, k.shape[2])}
        else:
            first = self.video_joint if site.kind == "joint" else self.video_self
            spans = {"video_q": (first, size), "video_k": (first, size)}
            if site.kind == "joint":
                spans["text_k"] = self.text
        last = spans["video_q"][0] + size
        if q.shape[2] < last:
            raise ValueError(
                f"{site.name} has {q.shape[2]} query tokens, but the clip's {self.grid.shape} token grid ends at "
                f"{last}: something else changed this model's sequence; switch that off, or capture without it"
            )
        return AttentionCall(
            site, q, k, v, float(scale), self.grid, (), mask,
            spans["video_q"], spans.get("video_k"), spans.get("text_k"), self.step, self.sigma, self.frames,
            self.extra,
        )  # fmt: skip

    def with_rows(self, call: AttentionCall, run: _Run) -> AttentionCall:
        rows = []
        for uuid, side in self.chunks:
            ordinal, binding, tracks = run.rows.get(uuid, (0, None, None))
            for sample in range(self.samples):
                if side == 0:
                    rows.append(BatchRow("cond", (ordinal, sample), binding, tracks))
                else:
                    rows.append(BatchRow("uncond", (uuid, sample), None, run.shared_tracks))
        return replace(call, rows=tuple(rows))


def _layout(
    module: nn.Module, info: RunInfo, x: Tensor, text: Tensor, options: dict[str, Any], extra: dict[str, Any]
) -> _Layout:
    """Reads the layout of one forward off its inputs; the same for all calls in it."""
    spec, full, patch = info.spec, info.grid, info.grid.patch
    t, h, w = x.shape[-3:]
    grid = Grid.from_latent((t, h, w), patch, full.temporal_stride, full.spatial_stride)
    if grid.shape == full.shape:
        grid = full
    before_text, after_text, before_video = _other_tokens(module, spec, grid, extra)
    length = text.shape[1]
    uuids, sides = options.get("uuids") or [None], options.get("cond_or_uncond") or [0]
    sigma = float(options["sigmas"].flatten()[0])
    return _Layout(
        grid=grid,
        text=(before_text, length),
        video_joint=before_text + length + after_text + before_video,
        video_self=before_video,
        step=step_of(info, sigma),
        sigma=sigma,
        chunks=tuple(zip(uuids, sides)),
        samples=max(1, x.shape[0] // max(1, len(sides))),
        frames=_window_frames(options, grid, full),
        extra={PERTURBED: options[PERTURBED_KEY]} if PERTURBED_KEY in options else {},
    )


def _other_tokens(module: nn.Module, spec: BackboneSpec, grid: Grid, extra: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens that are neither the prompt nor the clip: (before the prompt, after it, before the clip)."""
    before_text, after_text, before_video = 0, 0, 0
    if spec.name == "wan":
        if getattr(module, "ref_conv", None) is not None and extra.get("reference_latent") is not None:
            before_video = grid.frame_size
        return before_text, after_text, before_video
    byt5, image, reference = extra.get("txt_byt5"), extra.get("clip_fea"), extra.get("ref_latent")
    if byt5 is not None and getattr(module, "byt5_in", None) is not None:
        if getattr(module, "cond_type_embedding", None) is not None:
            before_text += byt5.shape[1]
        else:
            after_text += byt5.shape[1]
    if image is not None:
        before_text += image.shape[1]
    if reference is not None:
        before_video = math.prod(-(-a // b) for a, b in zip(reference.shape[-3:], grid.patch))
    return before_text, after_text, before_video


def _window_frames(options: dict[str, Any], grid: Grid, full: Grid) -> tuple[int, ...] | None:
    """For each token frame of a context window the token frame of the whole clip; None outside windows."""
    window = options.get("context_window")
    if window is None:
        return None
    index = list(window.index_list)
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None and anchor >= 0:
        index = [anchor, *index]
    step = full.patch[0]
    frames = tuple((i + full.lead) // step for i in index[::step])
    if len(frames) < grid.frames:
        raise ValueError(f"a context window of {len(index)} latent frames makes {grid.frames} token frames: not known")
    return frames[: grid.frames]


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    """(B, N, H*D) -> (B, H, N, D), a view."""
    b, n, width = tensor.shape
    return tensor.view(b, n, heads, width // heads).transpose(1, 2)


def _image_comes_first(running: Running) -> bool:
    """Wan I2V's cross-attention attends to the image before it attends to the text; lengths do not tell them apart."""
    return hasattr(running.module, "k_img")


def _diffusion_model(model: Any) -> nn.Module:
    module = model.diffusion_model
    return getattr(module, "_orig_mod", module)
