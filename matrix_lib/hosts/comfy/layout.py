"""Where text and video lie in the attention calls of one forward."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ...core.grid import Grid
from ...core.sites import AttentionCall, AttentionSite, BatchRow
from ...instrument.attention_guidance import PERTURBED
from .families import family
from .run import PERTURBED_KEY, Run, RunInfo, step_of


@dataclass(frozen=True)
class Layout:
    """Where text and video lie in the calls of one forward.

    chunks: for each part of the batch its conditioning's id, and whether it is the guider's own prediction of it;
    samples: latents in each part.
    """

    grid: Grid
    text: tuple[int, int]
    video_joint: int
    video_self: int
    step: int
    sigma: float
    chunks: tuple[tuple[Any, bool], ...]
    samples: int
    frames: tuple[int, ...] | None
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Rows of the batch."""
        return len(self.chunks) * self.samples

    @property
    def own(self) -> bool:
        """Whether any of it is the guider's own prediction, or one of ours."""
        return any(own for _, own in self.chunks)

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

    def with_rows(self, call: AttentionCall, run: Run, shown: bool = False) -> AttentionCall:
        """The call with the words and tracks of each row. shown: what is asked for besides, by other packs, is left out
        (it is steered, and not shown)."""
        rows = []
        for name, own in self.chunks:
            prompt = run.prompts.get(name)
            for sample in range(self.samples):
                if prompt is None or (shown and not own):
                    rows.append(BatchRow("uncond", (name, sample), None, run.shared_tracks))
                else:
                    rows.append(BatchRow("cond", (prompt.ordinal, sample), prompt.binding, prompt.tracks))
        return replace(call, rows=tuple(rows))


def layout_of(
    module: nn.Module,
    info: RunInfo,
    x: Tensor,
    text: Tensor,
    options: dict[str, Any],
    extra: dict[str, Any],
    chunks: tuple[tuple[Any, bool], ...],
) -> Layout:
    """Reads the layout of one forward off its inputs; the same for all calls in it. chunks: see `Layout`."""
    spec, full, patch = info.spec, info.grid, info.grid.patch
    t, h, w = x.shape[-3:]
    grid = Grid.from_latent((t, h, w), patch, full.temporal_stride, full.spatial_stride)
    if grid.shape == full.shape:
        grid = full
    before_text, after_text, before_video = family(spec.name).other_tokens(module, grid, extra)
    length = text.shape[1]
    sigma = float(options["sigmas"].flatten()[0])
    return Layout(
        grid=grid,
        text=(before_text, length),
        video_joint=before_text + length + after_text + before_video,
        video_self=before_video,
        step=step_of(info, sigma),
        sigma=sigma,
        chunks=chunks,
        samples=max(1, x.shape[0] // max(1, len(chunks))),
        frames=_window_frames(options, grid, full),
        extra={PERTURBED: options[PERTURBED_KEY]} if PERTURBED_KEY in options else {},
    )


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
    frames = tuple((i + full.prefix_frames) // step for i in index[::step])
    if len(frames) < grid.frames:
        raise ValueError(f"a context window of {len(index)} latent frames makes {grid.frames} token frames: not known")
    return frames[: grid.frames]
