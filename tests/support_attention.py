"""Words, tracks and an explicit float64 observer for tests that watch real models."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def make_binding(
    binding: ModuleType, length: int, rows: dict[str, tuple[int, ...]] | None = None, verb_time: Any = None
) -> Any:
    """Two instances and a verb at given conditioning rows, in the `core.binding` module that is passed. verb_time: of
    the verb."""
    rows = rows or {"cyclist": (1, 2, 4), "van": (4, 6), "passes": (9,)}
    roles = {"cyclist": "subject", "van": "object"}
    phrases = []
    for name, at in rows.items():
        role = roles.get(name, "verb")
        pair = {"subject": "cyclist", "object": "van"} if role == "verb" else {}
        pair |= {"time": verb_time} if role == "verb" else {}
        phrases.append(binding.Phrase(name, name, role, 0, 1, at, **pair))
    return binding.PromptBinding("a cyclist passes a van", length, (), tuple(phrases))


def make_tracks(tracks: ModuleType, frames: int, height: int, width: int) -> Any:
    """Two boxes that move, in the `core.tracks` module that is passed."""
    w, h, last = width, height, frames - 1
    boxes = {
        "cyclist": {0: (0, 0, w // 2, h // 2), last: (w // 3, 0, w // 3 + w // 2, h // 2)},
        "van": {0: (w // 2, h // 2, w, h), last: (w // 2, h // 2, w, h)},
    }
    return tracks.MaskTracks.from_boxes(boxes, frames, height, width)


class Watcher:
    """The rest of an observer that takes each call as it comes."""

    def wants(self, site: Any) -> bool:
        return True

    def step_done(self, step: int, denoised: Tensor | None) -> None:
        pass

    def settle(self, site: Any, whole: bool) -> None:
        assert whole, site

    def note(self, text: str) -> None:
        raise AssertionError(text)


class Explicit(Watcher):
    """An observer that computes every map by an explicit float64 softmax over the whole matrix, per call.

    looks: where words look as well. inside: tokens of each instance; what sound looks at as well."""

    def __init__(
        self, words: dict[str, tuple[int, ...]], query: dict[str, Tensor], looks: bool = False, inside: Any = None
    ) -> None:
        self.words, self.query, self.looks, self.inside = words, query, looks, inside
        self.seen: dict[tuple[str, int], list[tuple[Any, Tensor]]] = {}

    def wants(self, site: Any) -> bool:
        return site.has_v2t or site.has_v2v or (self.inside is not None and site.has_sound)

    def observe(self, call: Any, lse: Tensor | None) -> None:
        call = call.widened()
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            mask = call.mask
            while mask.ndim < 4:
                mask = mask[None] if mask.ndim == 2 else mask[:, None]
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
        p = logits.softmax(-1)
        if self.inside is not None and call.sound_q is not None:
            self._sound(call, p)
        if call.site.has_sound:
            return
        f, n = call.video_q
        for kind, has in (("v2t", call.site.has_v2t), ("v2v", call.site.has_v2v)):
            if not has:
                continue
            maps = []
            if kind == "v2t":
                first = [call.at(row).text_k[0] for row in range(len(p))]  # rows of a batch may differ in it
                for rows in self.words.values():
                    each = [p[row, :, f : f + n][..., [t + r for r in rows]] for row, t in enumerate(first)]
                    maps.append(torch.stack(each).mean((1, -1)))
            else:
                for rows in self.query.values():
                    maps.append(p[:, :, f + rows][..., f : f + n].mean((1, 2)))
            out = torch.stack(maps, 1).reshape(p.shape[0], len(maps), *call.grid.shape)
            self.seen.setdefault((kind, call.site.layer), []).append((call, out))
        if self.looks and call.site.has_t2v:
            self._words_look(call, p.mean(1))

    def _sound(self, call: Any, p: Tensor) -> None:
        """(B, E, moments, 1, 1): the mean over heads and sides."""
        p, sides, found = p[:, :, slice(call.sound_q[0], sum(call.sound_q))], call.site.sound_sides, {}
        if call.site.has_a2t:
            t = call.text_k[0]
            found["a2t"] = [p[..., [t + r for r in rows]].mean(-1) for rows in self.words.values()]
        if call.site.has_a2v:
            clip = p[..., slice(call.video_k[0], sum(call.video_k))]
            clip = clip / clip.sum(-1, keepdim=True) if sides else clip  # of its attention to the clip alone
            found["a2v"] = [clip[..., rows].sum(-1) for rows in self.inside.values()]
        for kind, maps in found.items():
            out = torch.stack(maps, 1).mean(2).unflatten(-1, (sides or 1, -1)).mean(-2)
            self.seen.setdefault((kind, call.site.layer), []).append((call, out[..., None, None]))

    def _words_look(self, call: Any, p: Tensor) -> None:
        """p: (B, Nq, Nk), mean over heads; text stands at one place among queries and keys."""
        rows = [self._words_of(call.at(row), p[row]) for row in range(len(p))]
        for kind, found in zip(("t2v", "t2t"), zip(*rows)):
            self.seen.setdefault((kind, call.site.layer), []).append((call, torch.stack(found)))

    def _words_of(self, call: Any, p: Tensor) -> tuple[Tensor, Tensor]:
        """(E, F, h, w) and (E, 1, 1, E + 2) of one row of the batch."""
        (t, length), (f, n) = call.text_k, call.video_k
        looks = [p[[t + r for r in rows]].mean(0) for rows in self.words.values()]
        maps = torch.stack([each[f : f + n] for each in looks])
        rest = [t + r for r in range(length) if not any(r in rows for rows in self.words.values())]
        table = []
        for each in looks:
            on = [each[[t + r for r in rows]].sum() for rows in self.words.values()]
            table.append(torch.stack([*on, each[rest].sum(), each[f : f + n].sum()]))
        return maps.unflatten(-1, call.grid.shape), torch.stack(table)[:, None, None]
