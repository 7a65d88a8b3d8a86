"""From mask tracks and bound words to the regions of an attention call, one rule for each kind of guidance.

Only video queries are steered. Token frames that the tracks say nothing about, words that no visible instance owns, and
tokens that are neither the prompt nor the clip stay as they are.

E instances, n video tokens of a call, R signature regions of its video tokens, G groups of words with the same owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .binding import PromptBinding
from .grid import Grid
from .guidance import Partition, Perturbation, RegionBias
from .regions import LabelColumns, RegionLayout, signatures
from .sites import AttentionCall
from .tracks import MaskTracks

__all__ = ["Scene", "Spans", "Stage", "bias_columns", "bias_layout", "partition_layout", "perturbed_layout"]

_NEVER = float("-inf")


@dataclass(frozen=True)
class Spans:
    """Where things lie in a call; see `AttentionCall`."""

    queries: int
    keys: int
    video_q: tuple[int, int] | None
    video_k: tuple[int, int] | None
    text_k: tuple[int, int] | None

    @classmethod
    def of(cls, call: AttentionCall) -> Spans:
        return cls(call.q.shape[2], call.k.shape[2], call.video_q, call.video_k, call.text_k)


@dataclass(frozen=True)
class Scene:
    """The video tokens of one batch row of a call.

    cover: (E, n) float32, covered share of each token. inside: (E, n) bool, the tokens that count as the instance's.
    known: (n,) bool. words: pairs of (E,) bool owners and the conditioning rows that they own.
    """

    names: tuple[str, ...]
    cover: Tensor
    inside: Tensor
    known: Tensor
    words: tuple[tuple[Tensor, tuple[int, ...]], ...]


class Stage:
    """Tracks and words of one prompt on a clip's token grid.

    An instance's tokens are those covered by half and more; in a frame where none is, the best covered ones, so that a
    single pixel is an instance, too. `notes` say what cannot be steered.

    Raises ValueError for an instance that is bound but has no track, and for tracks that do not fit the clip.
    """

    def __init__(self, grid: Grid, tracks: MaskTracks, binding: PromptBinding | None) -> None:
        on_grid = tracks.to_grid(grid, "area")
        self.grid, self.names = grid, on_grid.names
        self.cover = on_grid.maps
        most = on_grid.maps.amax((2, 3), keepdim=True) if self.names else on_grid.maps
        self.inside = (on_grid.maps >= most.clamp(max=0.5)) & (on_grid.maps > 0)
        self.known = torch.tensor(on_grid.known)
        visible = self.inside.flatten(1).any(1)
        self.rows = binding.length if binding is not None else 0
        self.notes = [f"{name!r} shows in no token frame: it is not steered" for name in self._where(~visible)]
        self.words: list[tuple[Tensor, tuple[int, ...]]] = []
        if binding is not None:
            binding.check_tracks(self.names)
            self.words = self._owned(binding, visible)

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

    def scene(self, call: AttentionCall) -> Scene:
        """What a call shows, cut to the frames of its context window.

        Raises ValueError where the binding was made for a longer conditioning than the call sees.
        """
        if self.words and call.text_k is not None and self.rows > call.text_k[1]:
            raise ValueError(
                f"the binding was made for a conditioning of {self.rows} rows, but {call.site.name} sees "
                f"{call.text_k[1]}: bind the prompt with the CLIP that encoded it"
            )
        frames = list(call.frame_index) if call.frame_index is not None else list(range(call.grid.frames))
        if call.grid.shape[1:] != self.grid.shape[1:] or max(frames) >= self.grid.frames:
            raise ValueError(
                f"{call.site.name} runs on a {call.grid.shape} token grid, but the clip's is {self.grid.shape}: "
                "something else changed this model's sequence, and tracks cannot be laid over it"
            )
        known = self.known[frames].repeat_interleave(self.grid.frame_size)
        cover, inside = self.cover[:, frames].flatten(1), self.inside[:, frames].flatten(1)
        return Scene(self.names, cover, inside, known, tuple(self.words))


def bias_layout(
    scene: Scene, spans: Spans, guidance: RegionBias, strength: float, words: bool, tracks: bool
) -> RegionLayout:
    """Region bias with borders: see `RegionBias`. `words`, `tracks`: which halves this site takes part in."""
    plan = _Plan(scene, spans)
    weight = torch.tensor([guidance.weight(name) for name in scene.names])
    bias = plan.table()
    held = plan.members * weight  # (R, E)
    if tracks and plan.has_video:
        both = (held[:, None] * plan.members[None]).amax(-1)
        bias[1:, plan.video] = torch.where(
            both > 0, guidance.track_up * both, -guidance.track_down * held.amax(-1, keepdim=True)
        )
    if words:
        for column, (owners, _) in plan.texts():
            inside = (held * owners).amax(-1)
            here = (plan.members * owners).amax(-1) > 0
            outside = guidance.words_down * (weight * owners).amax()
            bias[1:, column] = torch.where(here, guidance.words_up * inside, -outside)
    return RegionLayout(plan.query, plan.key, bias * strength)


def bias_columns(
    scene: Scene, spans: Spans, guidance: RegionBias, strength: float, words: bool, tracks: bool
) -> LabelColumns | None:
    """Region bias with soft edges: borders become the covered share. Over binary masks that do not overlap it is the
    bias of `bias_layout`; where instances overlap, their shares of the track bias add. None where nothing is biased."""
    assert spans.video_q is not None
    query, key = [], []
    known = scene.known.float()
    weight = torch.tensor([guidance.weight(name) for name in scene.names])[:, None]

    def add(of_video: Tensor, start: int, at: Sequence[int] | slice, value: Tensor | float) -> None:
        left, right = torch.zeros(spans.queries), torch.zeros(spans.keys)
        assert spans.video_q is not None
        left[spans.video_q[0] : sum(spans.video_q)] = of_video * known * strength
        right[start:][at] = value
        query.append(left)
        key.append(right)

    if words and spans.text_k is not None:
        for owners, rows in scene.words:
            cover, factor = scene.cover[owners].amax(0), float(weight[owners].amax())
            height = guidance.words_up + guidance.words_down
            add(factor * (cover * height - guidance.words_down), spans.text_k[0], list(rows), 1.0)
    if tracks and spans.video_k is not None:
        whole = slice(0, spans.video_k[1])
        for cover, factor in zip(scene.cover, weight[:, 0].tolist()):
            height = factor * (guidance.track_up + guidance.track_down)
            add(cover * height, spans.video_k[0], whole, cover * known)
        most = (scene.cover * weight).amax(0)
        add(-guidance.track_down * most, spans.video_k[0], whole, known)
    return LabelColumns(torch.stack(query, 1), torch.stack(key, 1)) if query else None


def partition_layout(scene: Scene, spans: Spans, guidance: Partition, words: bool, tracks: bool) -> RegionLayout:
    """Foreground to its own, background to background: see `Partition`.

    An instance without words of its own keeps the unbound ones. A token that would be left with nothing to look at
    (an all-bound prompt) keeps everything.
    """
    plan = _Plan(scene, spans)
    bias = plan.table()
    empty = plan.members.amax(-1) == 0  # background
    if tracks and plan.has_video:
        shared = (plan.members @ plan.members.T) > 0
        allowed = shared | (empty[:, None] & empty[None])
        bias[1:, plan.video] = torch.where(allowed, 0.0, _NEVER)
    if words and guidance.words and scene.words:
        own = torch.zeros(len(empty), dtype=torch.bool)
        for column, (owners, _) in plan.texts():
            mine = (plan.members * owners).amax(-1) > 0
            bias[1:, column] = torch.where(mine, 0.0, _NEVER)
            own |= mine
        bias[1:, plan.unbound] = torch.where(own, _NEVER, 0.0)
    used = torch.bincount(plan.key, minlength=bias.shape[1]) > 0
    blind = (bias[:, used] == _NEVER).all(1)
    bias[blind] = 0.0
    return RegionLayout(plan.query, plan.key, bias)


def perturbed_layout(
    scene: Scene | None, spans: Spans, guidance: Perturbation, words: bool, tracks: bool
) -> RegionLayout:
    """Probabilities of all text, all video, or what is bound and tracked, set to 0 for every video query."""
    assert spans.video_q is not None
    query, key = torch.zeros(spans.queries).long(), torch.zeros(spans.keys).long()
    query[spans.video_q[0] : sum(spans.video_q)] = 1
    if words and guidance.target != "tracks" and spans.text_k is not None:
        text = key[spans.text_k[0] : sum(spans.text_k)]
        if scene is None or not guidance.bound:
            text[:] = 1
        else:
            text[[row for _, rows in scene.words for row in rows]] = 1
    if tracks and guidance.target != "words" and spans.video_k is not None:
        video = key[spans.video_k[0] : sum(spans.video_k)]
        if scene is None or not guidance.bound:
            video[:] = 1
        else:
            video[scene.inside.any(0) & scene.known] = 1
    zeroed = torch.tensor([[False, False], [False, True]])
    return RegionLayout(query, key, torch.zeros(2, 2), zeroed)


class _Plan:
    """Region numbers of a call. Queries: 0 whatever is not steered, 1..R the video's signatures. Keys: 0 the rest,
    1..R the video, R+1 unbound text, then the G groups of bound words."""

    def __init__(self, scene: Scene, spans: Spans) -> None:
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
