"""Words in time: a phrase of the prompt is looked at in its seconds of the clip, and hardly outside of them.

F token frames of the clip, n video tokens of a call, G groups of words with the same times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..attention.regions import RegionLayout
from ..grid import Grid
from ..layers import Layers
from ..tracks.timing import alike
from ..words.phrases import Time, time_text
from .base import Edit, EditsAttention, Where
from .scene import CallScene, Spans
from .schedule import Schedule

if TYPE_CHECKING:
    from ..tracks.tracks import MaskTracks
    from ..words.binding import PromptBinding

__all__ = ["TimedWords", "absence", "timed_layout"]

_CLOSE = 1e-6  # seconds; a frame that begins with a time is in it, whatever rounding says


@dataclass(frozen=True)
class TimedWords(EditsAttention):
    """Words in time: video tokens look less at a phrase of the prompt outside of its time (`Phrase.time`).

    The bias of a token frame depends on how far its middle lies outside, so that it is constant for each pair of token
    frame and phrase, and no mask is made. With down = 100 and fade = sqrt(200) * sigma, in seconds, it is the penalty
    of Prompt Relay (arXiv 2604.10030), d^2 / (2 sigma^2): both leave nothing of what lies farther away. Words of the
    video's own queries alone: text that attends to text, or a text encoder, mixes words whatever this says.

    Args:
        down: logits taken from the attention to a phrase outside of its time; 10 leaves 1/22,000 of it.
        up: logits added to it inside.
        fade: seconds beyond a time over which its words fade, as the square of the distance; 0: at once.
        fps: frames per second that the clip is shown at; 0: those that the model makes.
        schedule: factor on everything, over the steps.

    A row that several phrases with a time share holds while any of them does; phrases without one say nothing of it.
    """

    where: ClassVar[Where] = "attention"
    needs_words: ClassVar[bool] = True
    edits_video: ClassVar[bool] = False

    down: float = 10.0
    up: float = 0.0
    fade: float = 0.25
    fps: float = 0.0
    layers: Layers = Layers()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        for name in ("down", "up"):
            if not (math.isfinite(getattr(self, name)) and 0 <= getattr(self, name) <= 100):
                raise ValueError(f"{name} is 0 to 100 logits; got {getattr(self, name)}")
        if not (math.isfinite(self.fade) and 0 <= self.fade <= 1000):
            raise ValueError(f"fade is 0 to 1000 seconds; got {self.fade}")
        if not (math.isfinite(self.fps) and 0 <= self.fps <= 1000):
            raise ValueError(f"fps is at most 1000 frames per second, or 0 for what the model makes; got {self.fps}")

    @property
    def idle(self) -> bool:
        return not (self.down or self.up)

    @property
    def needs_tracks(self) -> bool:
        return False

    def at(self, step: float, steps: int) -> float:
        return 0.0 if self.idle else self.schedule.at(step, steps)

    def check_words(self, bindings: Sequence[PromptBinding]) -> None:
        super().check_words(bindings)
        if not any(binding.timed for binding in bindings):
            names = ", ".join(repr(name) for binding in bindings for name in binding.names)
            raise ValueError(
                f"no phrase of the prompt has a time, so there is nothing to steer by; the phrases are {names}: write "
                "a time behind the words, such as waves @0-1.5s or @2s-"
            )

    def rate(self, grid: Grid) -> float:
        """Frames per second of a clip. Raises ValueError where nobody says."""
        if self.fps or grid.fps:
            return self.fps or grid.fps or 0.0
        raise ValueError(
            "words in time count seconds, and nobody says how many frames per second this clip has, or its prompts say "
            "different rates: give the frame rate that the clip is shown at (fps)"
        )

    def told(self, grid: Grid, binding: PromptBinding | None, tracks: MaskTracks | None) -> list[str]:
        """Raises ValueError for a time behind the clip's end, and where nobody says how fast the clip is."""
        rate, notes = self.rate(grid), []
        middles = _middles(grid) / rate
        for phrase in binding.timed if binding is not None else ():
            assert phrase.time is not None
            if not _reaches(grid, rate, phrase.time):
                if grid.start is not None:
                    if not grid.start:
                        notes.append(
                            f"{phrase.name!r} holds {time_text(phrase.time)}, behind the clip's first segment of "
                            f"{grid.pixel_frames / rate:.4g} s: it acts in further ones, where the pipeline makes any"
                        )
                    continue
                raise ValueError(
                    f"{phrase.name!r} holds {time_text(phrase.time)}, but the clip ends after "
                    f"{grid.pixel_frames / rate:.4g} s ({grid.pixel_frames} frames at {rate:g} per second): give it a "
                    "time within the clip, or make a longer clip"
                )
            if not _within(middles, phrase.time).any():
                start = grid.start or 0
                own = grid.pixel_span(_nearest(middles, phrase.time, (start + grid.pixel_frames) / rate))
                first, stop = (start + frame for frame in own)
                notes.append(
                    f"{phrase.name!r} holds {time_text(phrase.time)}, which is less than the model tells apart: it "
                    f"acts at {first / rate:.4g} to {stop / rate:.4g} s, one token frame"
                )
        if tracks is not None and tracks.frames > 1 and not alike(tracks.fps, rate):
            notes.append(
                f"the tracks run at {tracks.fps:g} frames per second, and seconds of words are counted at {rate:g}: "
                "where one of the two is wrong, set the rate of the tracks, or that of the words (fps)"
            )
        return notes

    def edit(self, scene: CallScene | None, spans: Spans, strength: float, text: bool, video: bool) -> Edit | None:
        assert scene is not None
        if not text or not scene.timed:
            return None
        layout = timed_layout(scene, spans, self, strength)
        return None if layout.neutral else Edit(layout)


def absence(grid: Grid, fps: float, times: Iterable[Time], fade: float) -> Tensor:
    """(F,) float64 in [0, 1]: how far each token frame is out of all of `times`, 0 in one of them, 1 from `fade`
    seconds on. A token frame is where the middle of its pixel frames is, of which frame i is shown at i / fps seconds.
    A time between two middles is that of the nearest."""
    middles = _middles(grid) / fps
    gone = torch.ones_like(middles)
    for time in times:
        start, end = time[0], math.inf if time[1] is None else time[1]
        inside = _within(middles, time)
        if not inside.any() and _reaches(grid, fps, time):
            inside[_nearest(middles, time, ((grid.start or 0) + grid.pixel_frames) / fps)] = True
        away = (start - middles).clamp(min=0) + (middles - end).clamp(min=0)
        part = (away / fade).square().clamp(max=1) if fade else torch.ones_like(away)
        gone = torch.minimum(gone, part.masked_fill(inside, 0.0))
    return gone


def timed_layout(scene: CallScene, spans: Spans, guidance: TimedWords, strength: float) -> RegionLayout:
    """Regions of a call: token frames of one bias each, and words of one time each; see `TimedWords`."""
    assert scene.clip is not None
    assert spans.video_q is not None
    assert spans.text_k is not None
    rate = guidance.rate(scene.clip)
    gone = torch.stack([absence(scene.clip, rate, times, guidance.fade) for times, _ in scene.timed], 1)  # (F, G)
    bias = ((guidance.up - (guidance.up + guidance.down) * gone) * strength).float()[list(scene.frames)]
    regions, label = torch.unique(bias, dim=0, return_inverse=True)
    query, key = torch.zeros(spans.queries).long(), torch.zeros(spans.keys).long()
    query[spans.video_q[0] : sum(spans.video_q)] = 1 + label.repeat_interleave(spans.video_q[1] // len(scene.frames))
    for group, (_, rows) in enumerate(scene.timed, 1):
        key[[spans.text_k[0] + row for row in rows]] = group
    table = torch.zeros(1 + len(regions), 1 + len(scene.timed))
    table[1:, 1:] = regions
    return RegionLayout(query, key, table)


def _middles(grid: Grid) -> Tensor:
    """(F,) float64: the middle of each token frame, in pixel frames of the whole clip."""
    start = grid.start or 0
    return torch.tensor([start + (first + stop - 1) / 2 for first, stop in grid.pixel_spans()], dtype=torch.float64)


def _reaches(grid: Grid, rate: float, time: Time) -> bool:
    """Whether a time holds anywhere in the clip, or in this segment of it."""
    start = (grid.start or 0) / rate
    ended = time[1] is not None and time[1] <= start + _CLOSE
    return not ended and time[0] <= start + grid.pixel_frames / rate - _CLOSE


def _within(middles: Tensor, time: Time) -> Tensor:
    """(F,) bool: which middles, in seconds, lie in a time; its end is out of it."""
    start, end = time[0], math.inf if time[1] is None else time[1]
    return (middles >= start - _CLOSE) & (middles < end - _CLOSE)


def _nearest(middles: Tensor, time: Time, length: float) -> int:
    """The token frame that is nearest to the middle of a time in a clip of so many seconds."""
    end = length if time[1] is None else min(time[1], length)
    return int((middles - (time[0] + end) / 2).abs().argmin())
