"""What each forward of a diffusers run is: which step, which prompts in which rows of the batch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from ...core.grid import Fit, Grid
from ...core.sites import BatchRow
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from .framing import frame_tracks, tell_unknown
from .laid_out import Segment

__all__ = ["Batches", "Branch", "Forward", "Timesteps", "batches_of", "part_of", "replayed", "replaying"]

Branch = Literal["cond", "uncond"]


class _Replay(threading.local):
    place: int | None = None


_replay = _Replay()


@contextlib.contextmanager
def replaying(place: int) -> Iterator[None]:
    """While open, a forward of this thread repeats the `place`-th of its step, with other latents."""
    before, _replay.place = _replay.place, place
    try:
        yield
    finally:
        _replay.place = before


def replayed() -> int | None:
    """Which forward of the step is being repeated; None: none is."""
    return _replay.place


class Forward:
    """One forward pass of the transformer: its grid, its text, whose rows are in the batch, and its step.

    skipped: layers whose attention to the video it leaves out. text_starts: for each row of the batch how many tokens
    of a joint sequence stand between the clip and the prompt behind it; () for none. front: tokens of references in
    front of the clip, which `grid` does not count. lead: tokens in front of the prompt. sound: of the sound in front
    of the clip, where a pipeline has packed the sequence: further tokens may then stand in front of the prompt, and a
    bound one is the end of `text`; None elsewhere. rounded: the timestep may be
    that of several steps, so a scheduler knows better. segment: of a long clip; None where a clip is made in one.
    """

    def __init__(
        self,
        grid: Grid,
        text: int,
        batch: int,
        timestep: float,
        skipped: frozenset[int] = frozenset(),
        text_starts: tuple[int, ...] = (),
        front: int = 0,
        rounded: bool = False,
        lead: int = 0,
        segment: Segment | None = None,
        sound: int | None = None,
    ) -> None:
        self.grid, self.text, self.batch, self.timestep, self.skipped = grid, text, batch, timestep, skipped
        self.text_starts, self.front, self.rounded, self.lead = text_starts, front, rounded, lead
        self.segment, self.sound = segment or Segment(), sound
        self.rows: tuple[BatchRow, ...] = ()
        self.step = 0

    def words(self) -> tuple[int, int]:
        """(start, length) of the prompt in a text that begins the sequence. Raises ValueError for prompts of several
        lengths in one text."""
        bound = (
            {row.binding.length for row in self.rows if row.binding is not None} if self.sound is not None else set()
        )
        if len(bound) > 1:
            raise ValueError(f"prompts of {', '.join(map(str, sorted(bound)))} tokens are bound to one text: bind one")
        own = min(self.text, *bound) if bound else self.text
        return self.lead + self.text - own, own


class Timesteps:
    """The timesteps of a run, as its scheduler has them; of a bare transformer, which has none, so many zeros."""

    def __init__(self, scheduler: Any, steps: int | None) -> None:
        self._scheduler, self._steps = scheduler, steps

    def __call__(self) -> list[float]:
        if getattr(self._scheduler, "timesteps", None) is not None:
            # all at once: of timesteps on a GPU each would be waited for alone, in every forward
            return [float(t) for t in torch.as_tensor(self._scheduler.timesteps).tolist()]
        return [0.0] * (self._steps or 1)

    def now(self) -> float | None:
        """That of the step that is being made; None where there is no scheduler that counts them."""
        if getattr(self._scheduler, "timesteps", None) is None or not hasattr(self._scheduler, "step_index"):
            return None
        return self()[self._scheduler.step_index or 0]


class Batches:
    """Tells which prompt and step each forward of a run belongs to.

    seen: timesteps of the run so far. runs: how many have begun; a run never comes back to a timestep that it has left.
    timesteps: those of the run, known from its first forward on. branches: guidance branches in batch order, None
    follows the pipelines' habit. asked: whose way of fitting pictures the tracks follow; None: it was said. start: the
    pixel frame that the segment of a long clip begins with; `tracks` are of the whole clip, and rows get their part.
    """

    def __init__(
        self,
        bindings: Sequence[PromptBinding | None],
        tracks: Sequence[MaskTracks | None],
        timesteps: Timesteps,
        branches: Sequence[Branch] | None,
        asked: Any = None,
    ) -> None:
        self.bindings, self.tracks, self.timesteps = tuple(bindings), tuple(tracks), timesteps
        self._branches = branches
        self.seen: list[float] = []
        self.runs = 0
        self.start = 0
        self._parts, self._segment = self.tracks, Segment()
        self._calls_at = 0
        self._asked = asked

    def begin(self, forward: Forward) -> None:
        """Fills in the forward's step and rows."""
        again = replayed()
        if forward.segment != self._segment:
            frames = forward.grid.pixel_frames
            self._parts = tuple(part_of(tracks, forward.segment, frames) for tracks in self.tracks)
        self._segment = forward.segment
        if forward.segment.start != self.start:
            self.seen, self.start = [], forward.segment.start
        elif again is None and self._begins(forward.timestep):
            self.seen, self.runs = [], self.runs + 1
        if not self.seen and self._asked is not None:
            for tracks in filter(None, self.tracks):
                tell_unknown(self._asked, tracks, forward.grid.frame_pixels)
        if forward.rounded and (exact := self.timesteps.now()) is not None:
            forward.timestep = exact
        if not self.seen or self.seen[-1] != forward.timestep:
            self.seen.append(forward.timestep)
            self._calls_at = 0
        self._calls_at = self._calls_at if again is None else again
        forward.step = len(self.seen) - 1
        forward.rows = self._rows(forward)
        self._calls_at += 1

    @property
    def untracked(self) -> str:
        """A sentence where the tracks of a prompt end before this segment; "" where none does."""
        ended = [whole for whole, part in zip(self.tracks, self._parts) if whole is not None and part is None]
        if not ended:
            return ""
        return (
            f"the tracks end before frame {self.start} of the clip, with which a further segment begins: they have "
            f"{ended[0].frames} frames. From there on nothing is followed, and nothing is steered by them"
        )

    def _begins(self, timestep: float) -> bool:
        """Whether a run begins with a forward at this timestep."""
        if not self.seen or timestep == self.seen[-1]:
            return not self.seen
        return timestep in self.seen or timestep in list(self.timesteps())[:1]

    def _rows(self, forward: Forward) -> tuple[BatchRow, ...]:
        """Which prompt each batch row belongs to. Pipelines put the unconditional half first, or call twice a step with
        the conditional call first."""
        count, prompts = forward.batch, len(self.bindings)
        if self._branches is not None:
            branches = list(self._branches)
            if count % len(branches):
                raise ValueError(f"branches names {len(branches)} parts, but the batch has {count} rows")
        elif count % (2 * prompts) == 0 and self._calls_at == 0:
            branches = ["uncond", "cond"]
        else:
            branches = ["cond" if self._calls_at == 0 else "uncond"]
        each = count // len(branches)
        if each % prompts:
            raise ValueError(f"{count} batch rows do not divide into {len(branches)} branches of {prompts} prompts")
        samples = each // prompts
        rows = []
        for branch in branches:
            for place in range(each):
                at = place // samples
                key = (at, place % samples)
                if branch == "cond":
                    rows.append(BatchRow("cond", key, self.bindings[at], self._parts[at]))
                else:
                    said = self.bindings[at]
                    filled = said.captions[0].start if said is not None and said.captions else 0
                    rows.append(BatchRow("uncond", key, None, self._parts[at], filled))
        return tuple(rows)


def part_of(tracks: MaskTracks | None, segment: Segment, frames: int = 1) -> MaskTracks | None:
    """What a segment of a clip that makes so many pixel frames sees of tracks of the whole clip; None: nothing. Behind
    the clip's end it runs backwards there and forwards again, as Wan Animate's pipeline fills its videos."""
    start, length = segment.start, segment.length
    if tracks is None or start >= tracks.frames:
        return None
    if not 1 < length < start + frames or tracks.frames < length:
        return tracks.starting(start)
    places = [i % (2 * length - 2) for i in range(start, start + frames)]
    return tracks.take([min(i, 2 * length - 2 - i) for i in places])


def batches_of(
    model: Any,
    binding: PromptBinding | Sequence[PromptBinding] | None,
    tracks: MaskTracks | Sequence[MaskTracks | None] | None,
    steps: int | None,
    branches: Sequence[Branch] | None,
    fit: Fit | None = None,
) -> Batches:
    """The run of a pipeline (whose scheduler knows the steps) or of a bare transformer. Tracks are brought to the clip
    as the pipeline brings its first frame there, or as `fit` says.

    Raises ValueError where the numbers of bindings and tracks differ.
    """
    scheduler = getattr(model, "scheduler", None)
    every = [tracks] if tracks is None or isinstance(tracks, MaskTracks) else list(tracks)
    bindings = [binding] if binding is None or isinstance(binding, PromptBinding) else list(binding)
    if bindings == [None]:
        bindings *= len(every)
    if every == [None] or isinstance(tracks, MaskTracks):
        every *= len(bindings)
    if not bindings or len(every) != len(bindings):
        raise ValueError(f"one binding and one tracks per prompt; got {len(bindings)} bindings, {len(every)} tracks")
    every = [t if t is None or b is None else t.spelled(p.name for p in b.instances) for b, t in zip(bindings, every)]

    every = [None if t is None else frame_tracks(model, t, fit) for t in every]
    return Batches(bindings, every, Timesteps(scheduler, steps), branches, None if fit else model)
