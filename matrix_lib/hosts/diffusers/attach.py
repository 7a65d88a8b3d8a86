"""Reaches the attention of a diffusers transformer, under one context manager.

    with watch(pipe, binding, tracks) as seen:
        video = pipe(image=image, prompt=prompt, num_inference_steps=50).frames
    capture = seen.capture()

While a block's attention module runs, PyTorch's `scaled_dot_product_attention` is intercepted: the same kernel runs,
its q and k are looked at, and nothing of the model is replaced. Outside the context nothing is left of it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from ...backbones import BackboneSpec, match
from ...core.attention.masks import batch_part
from ...core.attention.sdpa_lse import sdpa_with_lse
from ...core.grid import Fit, Grid
from ...core.no_compile import hidden
from ...core.points import parse_points
from ...core.sites import AttentionCall, AttentionSite
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...instrument.capture import Capture
from ...instrument.editing import EditRunner
from ...instrument.joining import in_time
from ...instrument.recorder import Recorder, RecorderConfig
from ...instrument.session import PERTURBED, BaseObserver, Session
from ..compiled import Compiled
from ..modules import Running, find_sites, marked
from .batches import Batches, Branch, Forward, Timesteps, batches_of, replayed
from .families import family
from .laid_out import LaidOut, Segments, arguments, clip_begins, told_segments
from .model_shape import patch_of

__all__ = [
    "Forward",
    "Watch",
    "attach",
    "backbone_of",
    "no_other",
    "perturbed",
    "prediction",
    "sdpa_arguments",
    "sites_of",
    "transformers_of",
    "watch",
]


def backbone_of(transformer: nn.Module) -> BackboneSpec:
    """The family of a diffusers transformer. Raises ValueError where it is not a video DiT that we know."""
    plain = _plain(transformer)
    spec = match((cls.__name__ for cls in type(plain).__mro__), "diffusers")
    spec.check_settings(getattr(plain, "config", {}))
    return spec


def transformers_of(model: Any) -> dict[str, Any]:
    """By name the networks of a pipeline that are reached: transformers that take turns at its steps (Wan 2.2 A14B has
    two), or the one network that it has; another model is that itself.

    Raises ValueError where those that take turns differ in their attention.
    """
    named = _networks(model)
    turns = {name: net for name, net in named.items() if name in ("transformer", "transformer_2")}
    found = turns or dict([*named.items()][:1]) or {"": model}
    first, *others = found.values()
    if any(sites_of(other) != sites_of(first) for other in others):
        raise ValueError(f"the transformers of this {type(model).__name__} differ in their layers, and take turns")
    return found


def _networks(model: Any) -> dict[str, Any]:
    names = ("transformer", "transformer_2", "transformer_ref", "unet")
    return {name: net for name in names if (net := getattr(model, name, None)) is not None}


@contextlib.contextmanager
def no_other(model: Any, instead: str = "pass pipe.{} instead of pipe") -> Iterator[None]:
    """While open, a pipeline that runs a network which is not reached raises ValueError: MiniMax H3 has a second for
    references, which nobody would see."""
    reached = transformers_of(model)
    with contextlib.ExitStack() as stack:
        for name, net in _networks(model).items():
            if name in reached:
                continue

            def refuse(*_: Any, name: str = name) -> None:
                used = " and ".join(reached)
                raise ValueError(f"this pipeline runs {name}, and {used} is reached: {instead.format(name)}")

            stack.callback(net.register_forward_pre_hook(refuse).remove)
        yield


def sites_of(transformer: nn.Module) -> list[AttentionSite]:
    """Every attention site of a transformer, in layer order."""
    return [site for _, site in find_sites(_plain(transformer), backbone_of(transformer).diffusers)]


@contextlib.contextmanager
def attach(
    transformer: nn.Module, session: Session, on_forward: Callable[[Forward], None], prefix_frames: int = 0
) -> Iterator[None]:
    """Shows the attention of `transformer` to `session` while open.

    `on_forward` is called before each forward and sets its `rows` (one `BatchRow` per batch row) and `step`. Outputs
    are bit-identical to an unwatched transformer; attachments nest; everything is undone on the way out.
    `prefix_frames`: see `watch`.

    Raises ValueError for an unknown model, and, at its first forward, when its attention does not go through PyTorch's
    `scaled_dot_product_attention` (diffusers' other attention backends).

    Editors of the session change what runs; observers of this and of every nested attachment see it as it ran.
    """
    model = _plain(transformer)
    spec = backbone_of(model)
    found = find_sites(model, spec.diffusers)
    sites = [(module, site) for module, site in found if session.wants(site)]
    state = _State(spec, session)

    segments = Segments(spec, model)

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        state.within = _waiting.perturbed
        state.forward = _read_forward(module, spec, args, kwargs, segments, prefix_frames)
        on_forward(state.forward)

    handle = model.register_forward_pre_hook(hidden(before), with_kwargs=True)
    compiled = Compiled(lambda text: logging.getLogger(__name__).warning("MATRIX: %s", text))
    try:
        attention, watched = [module for module, _ in found], [module for module, _ in sites]
        with compiled.opened(transformer, watched, attention):
            with marked(sites, enter=state.enter, leave=state.leave) as running:
                state.running = running
                yield
    finally:
        handle.remove()
        state.close()


class _State:
    """What the hooks of one attachment share; owns the interception while an attention module runs."""

    def __init__(self, spec: BackboneSpec, session: Session) -> None:
        self.spec, self.session = spec, session
        self.runner = EditRunner()
        self.forward: Forward | None = None
        self.running: Running | None = None
        self.within: object = None  # the prediction of the forward, also where a backward pass runs blocks again
        self._mode: _Intercept | None = None

    @property
    def prediction(self) -> object:
        """Whose extra prediction is running; None: the sampler's own."""
        return self.within if _waiting.perturbed is None else _waiting.perturbed

    @property
    def shown(self) -> bool:
        """Whether the session watches it."""
        return self.session.prediction == self.prediction

    def enter(self, running: Running) -> None:
        self.close()  # a forward that was torn off by an interrupt left its interception behind
        self._mode = _Intercept(self, running)
        self._mode.__enter__()

    def leave(self, running: Running) -> None:
        seen, site = running.calls, running.site
        self.close()
        left_out = self.forward is not None and site is not None and site.layer in self.forward.skipped
        if not seen and not (left_out and site is not None and site.has_v2v):
            raise ValueError(
                f"{running.site.name if running.site else 'an attention'} ran without PyTorch's "
                "scaled_dot_product_attention, so it cannot be watched: call "
                "transformer.set_attention_backend('native') first"
            )

    def close(self) -> None:
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None


def sdpa_arguments(args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """q, k, v and the other arguments of a call of `scaled_dot_product_attention`, by name."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args)), **kwargs}
    return given.pop("query"), given.pop("key"), given.pop("value"), given


class _Intercept(TorchFunctionMode):
    def __init__(self, state: _State, running: Running) -> None:
        super().__init__()
        self.state, self.now = state, running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v, given = sdpa_arguments(args, kwargs)
        self.now.calls += 1
        image = self.now.calls == 1 and getattr(self.now.module, "add_k_proj", None) is not None
        if self.now.site is None or (image and self.now.site.kind == "cross"):
            return func(q, k, v, **given)
        if not _waiting.boxes:  # the innermost attachment speaks for all of them
            around = [mode for mode in _get_current_function_mode_stack() if isinstance(mode, _Intercept)]
            nth = self.now.calls - 1  # those around have not counted it yet
            calls = {mode: mode._call(q, k, v, given, nth) for mode in (*around, self)}
            edits = [edit for mode, call in calls.items() for edit in mode.state.session.edits(call)]
            if edits:
                for mode in around:
                    mode.now.calls += 1
                return self._edited(calls, edits, given)
        out, lse = self._run(func, q, k, v, given)
        if self.state.shown:
            self.state.session.observe(self._call(q, k, v, given, self.now.calls - 1), lse)
            self.state.session.settle(self.now.site)
        return out

    def _edited(self, calls: dict[_Intercept, AttentionCall], edits: list[Any], given: dict[str, Any]) -> Tensor:
        """One run of an edited call for every attachment; the others' interceptions are passed by."""
        call = calls[self]

        def plain(part: slice) -> tuple[Tensor, Tensor | None]:
            options = {**given, "attn_mask": batch_part(call.mask, part)}
            return sdpa_with_lse(call.q[part], call.k[part], call.v[part], **options)

        with torch._C.DisableTorchFunction():
            edited = self.state.runner.run(call, edits, plain)
            watching = [mode for mode in calls if mode.state.shown and mode.state.session.watches(call.site)]
            for mode in watching:
                for seen, lse in edited.seen(calls[mode]):
                    mode.state.session.observe(seen, lse)
                mode.state.session.settle(call.site)
        return edited.out

    def _call(self, q: Tensor, k: Tensor, v: Tensor, given: dict[str, Any], nth: int) -> AttentionCall:
        """nth: which of its module's calls it is."""
        assert self.now.site is not None
        return _call(self.state, self.now.site, q, k, v, given.get("scale"), given.get("attn_mask"), nth)

    def _run(self, func: Any, q: Tensor, k: Tensor, v: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Output and log-sum-exp. The outermost attachment runs the kernel; the ones inside are told its result."""
        boxes = _waiting.boxes
        if any(isinstance(mode, _Intercept) for mode in _get_current_function_mode_stack()):
            box: list[Tensor | None] = []
            boxes.append(box)
            try:
                out = func(q, k, v, **given)
            finally:
                boxes.pop()
            lse = box[0] if box else None
        else:
            out, lse = sdpa_with_lse(q, k, v, **given)
        if boxes:
            boxes[-1].append(lse)
        return out, lse


class _Waiting(threading.local):
    """What this thread is in the middle of. boxes: attachments that wait for the log-sum-exp of the one around them;
    perturbed: whose second prediction is running, which nobody watches."""

    def __init__(self) -> None:
        self.boxes: list[list[Tensor | None]] = []
        self.perturbed: object = None


_waiting = _Waiting()


def prediction() -> object:
    """Whose extra prediction this thread is in the middle of; None: the sampler's own."""
    return _waiting.perturbed


@contextlib.contextmanager
def perturbed(token: object) -> Iterator[None]:
    """While open, forwards of this thread are a second prediction, in which the editors called `token` act."""
    before, _waiting.perturbed = _waiting.perturbed, token
    try:
        yield
    finally:
        _waiting.perturbed = before


def _call(
    state: _State,
    site: AttentionSite,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    mask: Tensor | None,
    nth: int,
) -> AttentionCall:
    forward, blocks = state.forward, state.spec.diffusers
    assert forward is not None
    size, text, front, rows = forward.grid.size, forward.text, forward.front, forward.rows
    if blocks.row_by_row:
        if q.shape[0] != 1 or nth >= forward.batch:
            raise ValueError(
                f"{site.name} has made call {nth + 1} on {q.shape[0]} rows, where each of {forward.batch} rows of the "
                "batch is due a call of its own: this version of diffusers runs it in a way that is not known here"
            )
        rows = rows[nth : nth + 1]
    if blocks.text_cropped:
        text = k.shape[2] - size
    spans: dict[str, tuple[int, int]] = {}
    starts: tuple[int, ...] = ()
    if site.has_sound:
        key = ("text_k", (0, k.shape[2])) if site.kind == "sound_text" else ("video_k", (0, size))
        spans = dict([key, ("sound_q", (0, q.shape[2]))])
    elif site.kind == "cross":
        spans = {"video_q": (front, size), "text_k": (0, k.shape[2])}
    elif site.kind == "self":
        spans = {"video_q": (front, size), "video_k": (front, size)}
    else:
        first = blocks.text_first
        video = (forward.lead + text + front, size) if first else (0, size)
        spans = {"video_q": video, "video_k": video, "text_k": forward.words() if first else (size, text)}
        if site.sound_sides and forward.sound:
            spans["sound_q"] = (video[0] - forward.sound, forward.sound)
        mask = family(state.spec.name).mask(mask)
        if forward.text_starts:
            starts = tuple(size + start for start in forward.text_starts)
            spans["text_k"] = (starts[0], text)
    if "video_q" in spans and q.shape[2] < spans["video_q"][0] + size:
        raise ValueError(f"{site.name} has {q.shape[2]} queries; the {forward.grid.shape} token grid needs {size}")
    return AttentionCall(
        site, q, k, v, scale or q.shape[-1] ** -0.5, forward.grid, rows, mask,
        spans.get("video_q"), spans.get("video_k"), spans.get("text_k"), forward.step, forward.timestep,
        extra={} if state.prediction is None else {PERTURBED: state.prediction}, sound_q=spans.get("sound_q"),
        text_starts=starts, text_cropped=blocks.text_cropped, place=nth if blocks.row_by_row else None,
    )  # fmt: skip


def _read_forward(
    module: nn.Module, spec: BackboneSpec, args: tuple, kwargs: dict, segments: Segments, prefix_frames: int = 0
) -> Forward:
    given = arguments(module, args, kwargs)
    x, text = given["hidden_states"], given["encoder_hidden_states"]
    config: Any = module.config
    patch, stride = patch_of(config), spec.stride(config.get("out_channels"))
    found = family(spec.name)
    packed = found.packed(given)
    t, h, w = LaidOut.of(spec, module, args, kwargs).latents(x).shape[2:] if packed is None else packed.latent
    rate, front = found.rate(given) or spec.rate(patch, stride, module), clip_begins(spec, given, t)
    clip = (t - prefix_frames - front, h, w)
    grid = Grid.from_latent(clip, patch, spec.temporal_stride, stride, prefix_frames, rate, spec.cycle)
    if (segment := segments.of(given, clip[0])) is not None:
        grid = replace(grid, start=segment.start)
    found.check(given)
    time, skipped, starts = found.time(given), found.skipped(given), found.text_starts(given)
    before = front // patch[0] * grid.frame_size
    lead, rows, sound = (0, text.shape[1], None) if packed is None else (packed.first, packed.text, packed.sound)
    before = before if packed is None else packed.between
    return Forward(grid, rows, x.shape[0], time, skipped, starts, before, spec.adds_noise, lead, segment, sound)


class Watch(BaseObserver):
    """What `watch` yields: the recording of everything that ran inside the context."""

    def __init__(
        self,
        bindings: Sequence[PromptBinding],
        tracks: Sequence[MaskTracks | None],
        config: RecorderConfig,
        backbone: str,
        sites: Sequence[AttentionSite],
        timesteps: Timesteps,
        branches: Sequence[Branch] | None,
        recorder: type[Recorder] = Recorder,
        asked: Any = None,
    ) -> None:
        self._batches, self._make = Batches(bindings, tracks, timesteps, branches, asked), recorder
        self._config, self._backbone, self._sites = config, backbone, sites
        self._recorder: Recorder | None = None
        self._took: dict[int, str] = {}  # which transformer took each step, where a pipeline has two
        self._segments: list[tuple[Recorder, int]] = []  # of a long clip, and token frames that the one before has, too
        self.forwards = 0

    # Session observer: delegates to the recorder, which exists from the first forward on.
    def wants(self, site: AttentionSite) -> bool:
        return self._config.layers is None or site.layer in self._config.layers

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        assert self._recorder is not None
        if self._recorder.wants(call.site):
            self._recorder.observe(call, lse)

    def settle(self, site: AttentionSite, whole: bool) -> None:
        if self._recorder is not None and self._recorder.wants(site):
            self._recorder.settle(site, whole)

    def begin(self, forward: Forward, of: str = "") -> None:
        """of: the name of the transformer that runs, where there are two."""
        before = self._batches.start
        self._batches.begin(forward)
        if self._recorder is None or self._batches.start != before:
            self._open(forward)
        if self._batches.runs > 1:
            raise ValueError(
                "another run has begun inside one `watch`, and a capture is of one: open a `watch` for each"
            )
        self._took.setdefault(forward.step, of)
        self.forwards += replayed() is None

    def _open(self, forward: Forward) -> None:
        """A recorder of a run, or of a segment of a long clip, whose pinned points are followed in the first one."""
        config, sigmas = self._config, list(self._batches.timesteps()) or [forward.timestep]
        if self._segments and config.points:
            config = replace(config, points=(), v2t=config.v2t or not config.v2v)
        streams = len(self._batches.bindings)
        self._recorder = self._make(config, self._backbone, self._sites, forward.grid, sigmas, streams)
        if self._batches.untracked:
            self._recorder.note(self._batches.untracked)
        end, length = forward.segment.start + forward.grid.pixel_frames, forward.segment.length
        if 0 < length < end:
            last = f"the clip has {length} frames: what is made behind them, up to frame {end - 1}, is cut off"
            self._recorder.note(last)
        taken = sum(stop <= forward.segment.taken for _, stop in forward.grid.pixel_spans())
        self._segments.append((self._recorder, taken))

    @property
    def recorder(self) -> Recorder:
        """The recorder itself, of a clip in several segments that of the last one. Raises ValueError when the
        transformer did not run inside the context."""
        if self._recorder is None:
            raise ValueError("nothing was recorded: the transformer did not run inside the `with` block")
        return self._recorder

    @property
    def tracks(self) -> tuple[MaskTracks | None, ...]:
        """The tracks of each prompt as the pipeline's picture was brought to the clip: those to draw and score with."""
        return self._batches.tracks

    def capture(self) -> Capture:
        """What was recorded. Raises ValueError when the transformer did not run inside the context."""
        parts, taken = [], []
        for recorder, overlap in self._segments or [(self.recorder, 0)]:
            parts.append(recorder.result())
            taken.append(overlap)
        capture = parts[0] if len(parts) == 1 else in_time(parts, taken, self._config.kinds)
        capture.meta["timesteps"] = self._batches.seen
        return self._by_expert(capture)

    def _by_expert(self, capture: Capture) -> Capture:
        """With the name of the transformer that took each step, where a pipeline has two."""
        if not any(self._took.values()):
            return capture
        named = []
        for step, took in zip(capture.steps, self.took([step.index for step in capture.steps])):
            name = " and ".join(took)
            named.append(replace(step, model=name))
            if len(took) > 1:
                capture.meta["notes"].append(f"step bin {step.index} is the mean over {name}: bins=0 keeps them apart")
        return replace(capture, steps=tuple(named))

    def took(self, begins: Sequence[int]) -> list[tuple[str, ...]]:
        """By name which transformers took the steps of each bin, given the first step of each; () for each of a
        pipeline with one."""
        if not any(self._took.values()):
            return [()] * len(begins)
        ends = [*begins[1:], 1 + max(self._took)]
        found: list[tuple[str, ...]] = []
        for begin, end in zip(begins, ends):
            names = tuple(dict.fromkeys(self._took[at] for at in range(begin, end) if at in self._took))
            found.append(names or (found[-1] if found else ()))  # a step that was skipped belongs to the one before
        return found


@contextlib.contextmanager
def watch(
    model: Any,
    binding: PromptBinding | Sequence[PromptBinding],
    tracks: MaskTracks | Sequence[MaskTracks | None] | None = None,
    *,
    layers: Sequence[int] | None = None,
    bins: int = 0,
    budget_mb: float = 1024.0,
    steps: int | None = None,
    branches: Sequence[Branch] | None = None,
    v2t: bool = True,
    v2v: bool = True,
    t2v: bool = False,
    t2t: bool = False,
    sound: bool = False,
    recorder: type[Recorder] = Recorder,
    prefix_frames: int = 0,
    fit: Fit | None = None,
    heads: Sequence[int] | Literal["all"] = (),
    points: str = "",
) -> Iterator[Watch]:
    """Records what each layer attends to while a pipeline or a bare transformer runs.

    Args:
        model: a diffusers pipeline (its transformer, or both of Wan 2.2 A14B, and its scheduler are read) or a
            transformer.
        binding: the prompt's binding, or one per prompt of the batch.
        tracks: mask tracks, or one per prompt; None records words only.
        layers, bins, budget_mb, v2t, v2v, t2v, t2t, sound: see `RecorderConfig`.
        steps: sampling steps of a bare transformer (default 1); a pipeline's scheduler knows.
        branches: guidance branches in batch order; None follows the pipelines' habit.
        recorder: what records, for example `AlignmentRecorder`; the one that was made is `Watch.recorder`.
        prefix_frames: latent frames that the pipeline puts in front of the clip to fill its first temporal patch: 1 for
            CogVideoX 1.5 with an odd number of them (81 frames are 21), else 0. The tensors do not tell.
        fit: how the picture that the tracks are of becomes the clip's first frame: "center" (cropped), "stretch" or
            "pad". None asks the pipeline, and takes the tracks' own where it takes no picture. See `frame_tracks`.
        heads: those that are kept apart, or "all"; see `RecorderConfig`.
        points: places to follow, "60,90@8; 50%,25%": see `core.points`.

    Raises ValueError for an unknown model, layers it does not have, points that cannot be read, or numbers of prompts
    and tracks that differ.
    """
    nets = transformers_of(model)
    transformer = next(iter(nets.values()))
    batches = batches_of(model, binding, tracks, steps, branches, fit)
    spec, sites = backbone_of(transformer), sites_of(transformer)
    chosen = None if layers is None else tuple(layers)
    if unknown := sorted(set(chosen or ()) - {site.layer for site in sites}):
        raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{sites[-1].layer}")
    apart: tuple[int, ...] | Literal["all"] = "all" if isinstance(heads, str) else tuple(sorted(set(heads)))
    pinned = parse_points(points)
    config = RecorderConfig(
        chosen, bins, budget_mb, "cond", v2t, v2v, t2v=t2v, t2t=t2t, sound=sound, heads=apart, points=pinned
    )
    bindings = [each for each in batches.bindings if each is not None]
    asked = None if fit else model
    seen = Watch(bindings, batches.tracks, config, spec.name, sites, batches.timesteps, branches, recorder, asked)
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_other(model))
        stack.enter_context(told_segments(model))
        for name, net in nets.items():
            begin = functools.partial(seen.begin, of=name if len(nets) > 1 else "")
            stack.enter_context(attach(net, Session([seen]), begin, prefix_frames))
        yield seen


def _plain(transformer: nn.Module) -> nn.Module:
    """The module behind torch.compile."""
    return getattr(transformer, "_orig_mod", transformer)
