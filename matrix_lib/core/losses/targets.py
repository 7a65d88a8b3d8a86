"""What the attention of one sample should look like: words, query tokens and masks of its instances and verbs.

E entities, F, h, w token frames, rows, columns, T, H, W pixel frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attention.pooled_maps import Pool
from ..grid import Framing, Grid
from ..tracks.token_masks import GridTracks, default_framing
from ..tracks.tracks import MaskTracks
from ..words.binding import PromptBinding

__all__ = ["Targets"]


@dataclass(frozen=True)
class Targets:
    """Targets of the alignment losses. Build them with `of`.

    Args:
        words: rows of the conditioning of each grounded entity (instances, then verbs).
        queries: query tokens Q_e of each propagated instance.
        members: per entity the instances whose masks, united, are its mask (MATRIX: m_verb = m_sub or m_obj).
        tokens: the tracks on the token grid.
        tracks, framing: the tracks in pixels, and how the model sees them.
        notes: what is left out and why.
    """

    words: Pool
    queries: Pool
    members: dict[str, tuple[str, ...]]
    tokens: GridTracks
    tracks: MaskTracks
    framing: Framing
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, binding: PromptBinding, tracks: MaskTracks, grid: Grid, framing: Framing | None = None) -> Targets:
        """Joins a prompt's phrases and a clip's tracks by name.

        An entity that nothing can be asked of (no words left, no query tokens, a verb without a pair) is left out with
        a note. Raises ValueError where an instance has no track, the tracks do not fit the grid, or nothing is left.
        """
        tracks = tracks.spelled(phrase.name for phrase in binding.instances)
        binding.check_tracks(tracks.names)
        tokens = tracks.to_grid(grid, "nearest", framing)
        framing = default_framing(tracks, grid, framing)
        words: dict[str, tuple[int, ...]] = {}
        queries: dict[str, Tensor] = {}
        members: dict[str, tuple[str, ...]] = {}
        notes = list(tokens.notes)
        for phrase in (*binding.instances, *binding.verbs):
            pair = (phrase.name,) if phrase.role != "verb" else tuple(n for n in (phrase.subject, phrase.object) if n)
            rows = tuple(row for row in phrase.rows if row >= 0)
            if not pair:
                notes.append(f"the verb {phrase.name!r} has neither subject nor object, so it has no mask")
                continue
            if rows:
                words[phrase.name], members[phrase.name] = rows, pair
            else:
                notes.append(f"{phrase.name!r} has no words within the token limit: it is not grounded")
            if phrase.role == "verb":
                continue
            if tokens.query_frame[phrase.name] is None:
                notes.append(f"{phrase.name!r} has no query tokens: it is not propagated")
            else:
                queries[phrase.name], members[phrase.name] = tokens.query(phrase.name), pair
        if not words and not queries:
            raise ValueError(f"nothing of this clip can be aligned: {'; '.join(notes) or 'its prompt binds no words'}")
        return cls(Pool.mean_of(words), Pool.mean_of(queries), members, tokens, tracks, framing, tuple(notes))

    @property
    def known(self) -> Tensor:
        """(F,) bool: token frames that the tracks say something about."""
        return torch.tensor(self.tokens.known)

    def token_masks(self, names: Sequence[str]) -> Tensor:
        """(E, F, h, w) float32 masks of entities on the token grid."""
        if not names:
            return torch.zeros(0, *self.tokens.grid.shape)
        return torch.stack([self.tokens.map(*self.members[name]) for name in names])

    @property
    def pixel_known(self) -> Tensor:
        """(T,) bool: pixel frames that the tracks say something about."""
        return torch.arange(self.tokens.grid.pixel_frames) < self.tracks.frames

    def pixel_masks(self, names: Sequence[str]) -> Tensor:
        """(E, T, H, W) bool masks of entities in the pixels that the model sees; empty in frames that are not known."""
        frames = self.tokens.grid.pixel_frames
        out = torch.zeros(len(names), frames, *self.framing.target, dtype=torch.bool)
        last = min(frames, self.tracks.frames)
        for e, name in enumerate(names):
            for member in self.members[name]:
                out[e, :last] |= self.framing.apply(self.tracks.masks(member, 0, last), "nearest").bool()
        return out
