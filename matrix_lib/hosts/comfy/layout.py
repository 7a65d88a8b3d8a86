"""Where text and video lie in the attention calls of one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ...core.grid import Grid
from ...core.sites import AttentionCall, AttentionSite, BatchRow
from ...instrument.attention_guidance import PERTURBED
from .clip_latent import clip_shape
from .families import Around, family
from .run import PERTURBED_KEY, Run, RunInfo, step_of


@dataclass(frozen=True)
class Layout:
    """Where text and clip lie in the calls of one forward.

    grid: of the clip's own tokens. text: rows of the prompt. around: what else stands in a call, reference and guide
    frames that are part of the latent included. split: self-attention may come in several calls, of which the first has
    the clip's queries. text_first, text_cropped: see `Blocks`. sound_before: audio tokens of references in front of the
    sound. sound: of it in front of the clip, in a joint sequence. frames: as `AttentionCall.frame_index`.
    chunks: for each part of the batch its conditioning's id, and whether it is the guider's own prediction of it;
    samples: latents in each part.
    """

    grid: Grid
    text: int
    around: Around
    step: int
    sigma: float
    chunks: tuple[tuple[Any, bool], ...]
    samples: int
    frames: tuple[int, ...] | None
    split: bool = False
    text_first: bool = True
    text_cropped: bool = False
    sound_before: int = 0
    sound: int = 0
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
        """The call with its spans. Raises ValueError where it has not the tokens that the layout counts."""
        if site.has_sound:
            return self._sound_call(site, q, k, v, scale, mask)
        around, joint = self.around, site.kind == "joint"
        text = around.before_text + self.text + around.after_text if joint else 0
        clip = (around.before_clip + (text if self.text_first else 0), self.grid.size)
        whole = text + around.before_clip + self.grid.size + around.after_clip
        words = 0 if self.text_first else sum(clip) + around.after_clip
        first = self.split and site.kind == "self" and sum(clip) <= q.shape[2] <= whole
        if (q.shape[2] != whole and not first) or (site.kind != "cross" and k.shape[2] != whole):
            raise ValueError(
                f"{site.name} attends with {q.shape[2]} tokens to {k.shape[2]}, where {self._counted(text, whole)} are "
                "due: something else changes this model's sequence, so it is open which tokens are the clip; switch "
                "that off, or sample without MATRIX"
            )
        keys = (0, k.shape[2]) if site.kind == "cross" else (words + around.before_text, self.text) if joint else None
        return AttentionCall(
            site, q, k, v, float(scale), self.grid, (), mask,
            clip, None if site.kind == "cross" else clip, keys, self.step, self.sigma, self.frames, self.extra,
            text_cropped=self.text_cropped,
            sound_q=(clip[0] - self.sound, self.sound) if site.sound_sides and self.sound else None,
        )  # fmt: skip

    def _sound_call(
        self, site: AttentionSite, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Any
    ) -> AttentionCall:
        """Of sound to the words or to the clip. Raises ValueError where the clip has not the tokens that are due."""
        around, before = self.around, self.sound_before
        whole = around.before_clip + self.grid.size + around.after_clip
        words = site.kind == "sound_text"
        if not words and k.shape[2] != whole:
            raise ValueError(
                f"{site.name} attends to {k.shape[2]} tokens, where {self._counted(0, whole)} are due: something else "
                "changes this model's sequence; switch that off, or sample without MATRIX"
            )
        return AttentionCall(
            site, q, k, v, float(scale), self.grid, (), mask, None,
            None if words else (around.before_clip, self.grid.size), (0, k.shape[2]) if words else None,
            self.step, self.sigma, self.frames, self.extra, sound_q=(before, q.shape[2] - before),
        )  # fmt: skip

    def _counted(self, text: int, whole: int) -> str:
        parts = {
            "text": text,
            "before the clip": self.around.before_clip,
            f"of the clip's {self.grid.shape} grid": self.grid.size,
            "behind the clip": self.around.after_clip,
        }
        return f"{whole} ({', '.join(f'{count} {what}' for what, count in parts.items() if count)})"

    def with_rows(self, call: AttentionCall, run: Run, shown: bool = False) -> AttentionCall:
        """The call with the words and tracks of each row. shown: what is asked for besides, by other packs, is left out
        (it is steered, and not shown)."""
        rows = []
        for name, own in self.chunks:
            prompt = run.prompts.get(name)
            own_rows = run.text_rows.get(name, 0)
            for sample in range(self.samples):
                if prompt is None or (shown and not own):
                    rows.append(BatchRow("uncond", (name, sample), None, run.shared_tracks, own_rows))
                else:
                    key = (prompt.ordinal, sample)
                    rows.append(BatchRow("cond", key, prompt.binding, prompt.tracks, own_rows))
        return replace(call, rows=tuple(rows))


def layout_of(
    module: nn.Module,
    info: RunInfo,
    x: Tensor,
    text: Tensor,
    options: dict[str, Any],
    extra: dict[str, Any],
    chunks: tuple[tuple[Any, bool], ...],
    sigma: float,
) -> Layout:
    """Reads the layout of one forward off its inputs; the same for all calls in it. chunks, sigma: see `Layout`."""
    spec, full, patch = info.spec, info.grid, info.grid.patch
    _, t, h, w = clip_shape(x, extra.get("latent_shapes"))
    found, shown = family(spec.name), _shown_frames(options)
    front = _front(shown, info.front_frames)
    behind = info.latent.behind if shown is None else found.frames_behind([extra], (t, h, w))
    clip = (t - front - behind, h, w)
    grid = Grid.from_latent(clip, patch, full.temporal_stride, full.spatial_stride, cycle=full.cycle)
    if grid.shape == full.shape:
        grid = full
    around = found.around(module, grid, extra)
    trailing = behind // patch[0] * grid.frame_size - (found.left_out(extra) if behind else 0)
    around = replace(
        around,
        before_clip=around.before_clip + front // patch[0] * grid.frame_size,
        after_clip=around.after_clip + trailing,
    )
    return Layout(
        grid=grid,
        text=found.text_tokens(text.shape[1], extra),
        around=around,
        step=step_of(info, sigma),
        sigma=sigma,
        chunks=chunks,
        samples=max(1, x.shape[0] // max(1, len(chunks))),
        frames=None if shown is None else _clip_frames(shown[front:], grid, full, info.front_frames),
        split=spec.native.split_queries,
        text_first=spec.native.text_first,
        text_cropped=spec.native.text_cropped,
        sound_before=found.sound_in_front(extra),
        sound=found.sound(extra),
        extra={PERTURBED: options[PERTURBED_KEY]} if PERTURBED_KEY in options else {},
    )


def part_of_run(info: RunInfo, x: Tensor, options: dict[str, Any], extra: dict[str, Any], chunks: Sequence[Any]) -> str:
    """Why a forward shows something else than the run's latents, or frames of them, as a sentence; "" where it does
    not. chunks: the parts of its batch."""
    _, t, h, w = clip_shape(x, extra.get("latent_shapes"))
    window, (_, *whole) = options.get("context_window"), info.latent.shape
    if len(x) != len(chunks) * info.samples:
        due = len(chunks) * info.samples
        return (
            f"the model was called with {len(x)} latents where {due} are due: another pack calls it in parts, "
            "or with more than the guider asked for; take it off this model, or sample without MATRIX"
        )
    if [h, w] != whole[1:] or (window is None and t != whole[0]) or getattr(window, "dim", 2) not in (0, 2):
        by = "a context window in space" if window is not None else "Conditioning (Set Area)"
        return (
            f"a prompt is predicted on {t} x {h} x {w} of the latent's {' x '.join(map(str, whole))} (frames, height, "
            f"width) ({by}), and parts of the picture are not followed; use masks, or mask tracks, instead"
        )
    return ""


def _shown_frames(options: dict[str, Any]) -> list[int] | None:
    """Latent frames that a context window shows; None outside windows."""
    window = options.get("context_window")
    if window is None:
        return None
    index = list(window.index_list)
    anchor = getattr(window, "causal_anchor_index", None)
    if anchor is not None and anchor >= 0:
        index = [anchor, *index]
    return index


def _front(shown: list[int] | None, front_frames: int) -> int:
    """How many frames of this forward stand in front of the clip. Raises ValueError where they stand among it."""
    if shown is None or not front_frames:
        return front_frames
    front = next((place for place, frame in enumerate(shown) if frame >= front_frames), len(shown))
    if front == len(shown) or any(frame < front_frames for frame in shown[front:]):
        raise ValueError(
            f"a context window shows latent frames {shown}, of which the first {front_frames} of the whole latent are "
            "references: they have to stand in front of frames of the clip. Use windows that do not loop"
        )
    return front


def _clip_frames(shown: list[int], grid: Grid, full: Grid, front_frames: int) -> tuple[int, ...]:
    """For each token frame of a context window the token frame of the whole clip."""
    step = full.patch[0]
    frames = tuple((i - front_frames + full.prefix_frames) // step for i in shown[::step])
    if len(frames) < grid.frames:
        raise ValueError(f"a context window of {len(shown)} latent frames makes {grid.frames} token frames: not known")
    return frames[: grid.frames]
