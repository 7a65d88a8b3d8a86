"""What mask tracks and bound words say of an attention call: which tokens are whose, and which words.

Only video queries are steered. Token frames that the tracks say nothing about, words that no visible instance owns, and
tokens that are neither the prompt nor the clip stay as they are.

E instances, n video tokens of a call, R signature regions of its video tokens, G groups of words with the same owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..attention.regions import signatures
from ..grid import Grid
from ..sites import AttentionCall
from ..tracks.timing import time_notes
from ..tracks.tracks import MaskTracks
from ..words.binding import PromptBinding
from ..words.captions import check_captioned
from ..words.phrases import Time

__all__ = ["CallRegions", "CallScene", "GridScene", "Spans"]

T = TypeVar("T")


@dataclass(frozen=True)
class Spans:
    """Where things lie in a call; see `AttentionCall`."""

    queries: int
    keys: int
    video_q: tuple[int, int] | None
    video_k: tuple[int, int] | None
    text_k: tuple[int, int] | None

    @property
    def text_q(self) -> tuple[int, int] | None:
        """The text rows among the queries of a joint sequence, whose keys are its own rows; None elsewhere."""
        joint = self.video_k is not None and self.video_k == self.video_q and self.queries == self.keys
        return self.text_k if joint else None

    @classmethod
    def of(cls, call: AttentionCall) -> Spans:
        return cls(call.q.shape[2], call.k.shape[2], call.video_q, call.video_k, call.text_k)


@dataclass(frozen=True)
class CallScene:
    """The video tokens of one batch row of a call.

    cover: (E, n) float32, covered share of each token. inside: (E, n) bool, the tokens that count as the instance's.
    known: (n,) bool. words: pairs of (E,) bool owners and the conditioning rows that they own.
    clip, frames: the grid of the whole clip, and which of its token frames the call shows.
    timed: the times of words, and the conditioning rows that hold in one of these alone.
    captions: pairs of (E,) bool owners and the conditioning rows that are the caption of these alone.
    """

    names: tuple[str, ...]
    cover: Tensor
    inside: Tensor
    known: Tensor
    words: tuple[tuple[Tensor, tuple[int, ...]], ...]
    clip: Grid | None = None
    frames: tuple[int, ...] = ()
    timed: tuple[tuple[tuple[Time, ...], tuple[int, ...]], ...] = ()
    captions: tuple[tuple[Tensor, tuple[int, ...]], ...] = ()


class GridScene:
    """Tracks and words of one prompt on a clip's token grid; tracks None: words alone, of which nobody asks where.

    An instance's tokens are those covered by half and more; in a frame where none is, the best covered ones, so that a
    single pixel is an instance, too. `notes` say what cannot be steered.

    Raises ValueError for an instance that is bound, or has a caption, but no track, and for tracks that do not fit the
    clip.
    """

    def __init__(self, grid: Grid, tracks: MaskTracks | None, binding: PromptBinding | None) -> None:
        self.rows, self.binding = binding.length if binding is not None else 0, binding
        self.words: list[tuple[Tensor, tuple[int, ...]]] = []
        self.timed = _timed(binding) if binding is not None else []
        self.captions: list[tuple[Tensor, tuple[int, ...]]] = []
        self.grid = grid
        self.names: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.cover = torch.zeros(0, *grid.shape)
        self.inside, self.known = self.cover.bool(), torch.ones(grid.frames, dtype=torch.bool)
        if tracks is not None:
            self._lay(tracks, binding)

    def _lay(self, tracks: MaskTracks, binding: PromptBinding | None) -> None:
        """Where tracks and whose words are."""
        grid = self.grid
        if binding is not None:
            tracks = tracks.spelled(binding.placed)
        on_grid = tracks.to_grid(grid, "area")
        self.names = on_grid.names
        self.cover = on_grid.maps
        most = on_grid.maps.amax((2, 3), keepdim=True) if self.names else on_grid.maps
        self.inside = (on_grid.maps >= most.clamp(max=0.5)) & (on_grid.maps > 0)
        self.known = torch.tensor(on_grid.known)
        visible = self.inside.flatten(1).any(1)
        self.notes = [
            *time_notes(tracks, grid),
            *(f"{name!r} shows in no token frame: it is not steered" for name in self._where(~visible)),
        ]
        if binding is not None:
            binding.check_tracks(self.names)
            self.words = self._owned(binding, visible)
            check_captioned(binding, self.names)
            self.captions = [
                (torch.tensor([name == each.name for name in self.names]), tuple(range(each.start, each.end)))
                for each in binding.captions
            ]

    def _where(self, chosen: Tensor) -> list[str]:
        return [name for name, yes in zip(self.names, chosen.tolist()) if yes]

    def _owned(self, binding: PromptBinding, visible: Tensor) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Conditioning rows by who owns them: an instance its own, a verb its subject and its object."""
        shown = set(self._where(visible))
        owners: dict[int, set[str]] = {}
        for phrase in binding.phrases:
            mine = {phrase.name} if phrase.role in ("subject", "object", "instance") else set()
            if phrase.role == "verb":
                mine = {name for name in (phrase.subject, phrase.object) if name is not None}
            for row in phrase.rows:
                owners.setdefault(row, set()).update(mine & shown)
        groups: dict[frozenset[str], list[int]] = {}
        for row, who in owners.items():
            if who and row >= 0:
                groups.setdefault(frozenset(who), []).append(row)
        return [
            (torch.tensor([name in who for name in self.names]), tuple(sorted(rows)))
            for who, rows in sorted(groups.items(), key=lambda item: min(item[1]))
        ]

    def scene(self, call: AttentionCall) -> CallScene:
        """What a call shows, cut to the frames of its context window.

        Raises ValueError where the binding was made for a longer conditioning than the call sees.
        """
        if (self.words or self.timed or self.captions) and call.text_k is not None:
            assert self.binding is not None
            self.binding.check_rows(call.text_k[1], call.site.name, call.text_cropped)
        frames = list(call.frame_index) if call.frame_index is not None else list(range(call.grid.frames))
        if call.grid.shape[1:] != self.grid.shape[1:] or max(frames) >= self.grid.frames:
            raise ValueError(
                f"{call.site.name} runs on a {call.grid.shape} token grid, but the clip's is {self.grid.shape}: "
                "something else changed this model's sequence, and tracks cannot be laid over it"
            )
        length = call.text_k[1] if call.text_k is not None else self.rows
        known = self.known[frames].repeat_interleave(self.grid.frame_size)
        cover, inside = self.cover[:, frames].flatten(1), self.inside[:, frames].flatten(1)
        words, timed = self._copied(self.words, length), self._copied(self.timed, length)
        captions = self._copied(self.captions, length)
        return CallScene(self.names, cover, inside, known, words, self.grid, tuple(frames), timed, captions)

    def _copied(self, words: Sequence[tuple[T, tuple[int, ...]]], length: int) -> tuple[tuple[T, tuple[int, ...]], ...]:
        """Words in a conditioning of `length` rows: a shorter prompt is repeated to batch it with a longer one, and a
        word is then all of its copies."""
        if not self.rows or length <= self.rows or length % self.rows:
            return tuple(words)
        starts = range(0, length, self.rows)
        return tuple((what, tuple(start + row for start in starts for row in rows)) for what, rows in words)


def _timed(binding: PromptBinding) -> list[tuple[tuple[Time, ...], tuple[int, ...]]]:
    """Conditioning rows by the times that phrases give them. A phrase without a time says nothing of it."""
    times: dict[int, set[Time]] = {}
    for phrase in binding.timed:
        for row in phrase.rows:
            times.setdefault(row, set()).add(phrase.time or (0.0, None))
    groups: dict[frozenset[Time], list[int]] = {}
    for row in sorted(times):
        groups.setdefault(frozenset(times[row]), []).append(row)
    return [(tuple(sorted(when, key=str)), tuple(rows)) for when, rows in groups.items()]


class CallRegions:
    """Region numbers of a call. Queries: 0 whatever is not steered, 1..R the video's signatures. Keys: 0 the rest,
    1..R the video, R+1 unbound text, then the G groups of bound words."""

    def __init__(self, scene: CallScene, spans: Spans) -> None:
        assert spans.video_q is not None
        labels, table = signatures(scene.inside)
        self.members = table.float()
        count = len(table)
        self.video, self.unbound = slice(1, 1 + count), 1 + count
        self.has_video = spans.video_k is not None
        steered = torch.where(scene.known, labels + 1, 0)
        self.query, self.key = torch.zeros(spans.queries).long(), torch.zeros(spans.keys).long()
        self.query[spans.video_q[0] : sum(spans.video_q)] = steered
        if spans.video_k is not None:
            self.key[spans.video_k[0] : sum(spans.video_k)] = steered
        self._words = scene.words if spans.text_k is not None else ()
        if spans.text_k is not None:
            self.key[spans.text_k[0] : sum(spans.text_k)] = self.unbound
        for column, (_, rows) in self.texts():
            assert spans.text_k is not None
            self.key[[spans.text_k[0] + row for row in rows]] = column

    def table(self) -> Tensor:
        return torch.zeros(1 + len(self.members), 2 + len(self.members) + len(self._words))

    def texts(self) -> list[tuple[int, tuple[Tensor, tuple[int, ...]]]]:
        return [(self.unbound + 1 + at, group) for at, group in enumerate(self._words)]
