"""Which kinds of map there are, and how those besides "v2t" and "v2v" are read from a call.

E entities, F, h, w token frames, rows, columns, C columns, A audio tokens (moments of the sound, in order). All values
are means over heads.

"t2v": (E, F, h, w), where the words of an entity look in the clip: the probability of each video token, mean over the
    words' rows. "t2t": (E, C), the share of their attention on each phrase, on the rest of the prompt and on the clip.
    Both only where words and clip share one attention (joint).
"a2t": (E, A), for each moment the probability of an entity's words, mean over its words. "a2v": (E, A), for each moment
    the share of its attention to the clip that lies on an instance's mask, in all frames; chance is the mask's share of
    the clip's tokens. Both only for models that make sound with the clip, and means over its sides.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.attention.pooled_maps import Pool, pooled_columns, pooled_rows
from ..core.sites import AttentionCall, AttentionSite
from ..core.tracks.tracks import GridTracks
from .capture import MapKind
from .maps import Over
from .streams import MapStream, TokenSets

__all__ = ["KINDS", "REST", "KindOfMap", "OtherKinds", "layers_of", "text_rows"]

REST = ("rest of the prompt", "the clip")  # the last columns of "t2t"


@dataclass(frozen=True)
class KindOfMap:
    """A kind of map. title: for people. at: whether a site has it. none: what to say of a model that has it nowhere."""

    title: str
    at: Callable[[AttentionSite], bool]
    none: str = ""


_NO_TEXT = "words look nowhere in this model: they are keys of cross-attention alone. Record where places look (v2t)"
_NO_SOUND = "this model makes no sound beside its clip, so there is nothing to listen to: use LTX-2 or MiniMax H3"
KINDS: Mapping[str, KindOfMap] = {
    "v2t": KindOfMap("words (video to text)", lambda site: site.has_v2t),
    "v2v": KindOfMap("instances over time (video to video)", lambda site: site.has_v2v),
    "t2v": KindOfMap("where words look (text to video)", lambda site: site.has_t2v, _NO_TEXT),
    "t2t": KindOfMap("words among each other (text to text)", lambda site: site.has_t2v, _NO_TEXT),
    "a2t": KindOfMap("words of the sound (audio to text)", lambda site: site.has_a2t, _NO_SOUND),
    "a2v": KindOfMap("whose sound it is (audio to video)", lambda site: site.has_a2v, _NO_SOUND),
}


def layers_of(kind: str, sites: Sequence[AttentionSite], chosen: Sequence[int] | None) -> tuple[int, ...]:
    """The layers that have a kind of map, ascending, of those that are chosen (None: all). Raises ValueError where the
    model has it in no layer, and must not be asked for it."""
    have = {site.layer for site in sites if KINDS[kind].at(site)}
    if not have and KINDS[kind].none:
        raise ValueError(KINDS[kind].none)
    return tuple(sorted(layer for layer in have if chosen is None or layer in chosen))


def text_rows(stream: MapStream, call: AttentionCall) -> tuple[int, tuple[int, ...]]:
    """(where the text begins among the keys, where each copy of the prompt's own rows begins behind that).

    Hosts repeat a shorter prompt to batch it with a longer one: a word is then all of its copies. Raises ValueError
    where the binding is of a longer conditioning than the call's.
    """
    assert call.text_k is not None
    text, length = call.text_k
    own = stream.binding.length
    stream.binding.check_rows(length, call.site.name, call.text_cropped)
    copies = length // own if length % own == 0 and length else 1
    return text, tuple(range(0, own * copies, own))


class OtherKinds:
    """Reads the kinds besides "v2t" and "v2v" of one stream.

    Args:
        words: the rows of the bound phrases. tracks: on the token grid, or None. wanted: the kinds that are recorded.
    """

    def __init__(self, stream: MapStream, words: TokenSets, tracks: GridTracks | None, wanted: Sequence[str]) -> None:
        self.stream, self.words, self.wanted = stream, words, frozenset(wanted)
        self.instances = _instances(tracks)
        self._made: dict[tuple[Hashable, torch.device], Tensor] = {}
        self.area = (
            () if tracks is None else tuple(len(rows) / tracks.grid.size for rows in self.instances.sets.values())
        )
        if words.names and "t2v" in self.wanted:
            stream.hold("t2v", words.names)
        if words.names and "t2t" in self.wanted:
            stream.hold("t2t", words.names, Over((1, 1, len(words.names) + len(REST)), (*words.names, *REST)))

    def read(self, call: AttentionCall, lse: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
        """The maps of a call of one row, by kind, (E, F, h, w) as the kind has them."""
        site, found = call.site, dict[str, Tensor]()
        if site.has_v2t and self.words.names and self.wanted & {"t2v", "t2t"}:
            found |= self._of_words(call, lse, mask)
        heard = call.sound_q is not None
        if heard and site.has_a2t and self.words.names and "a2t" in self.wanted:
            text, copies = text_rows(self.stream, call)
            found["a2t"] = self._of_sound("a2t", call, lse, mask, self.words.pool(text, call.q.device, copies))
        if heard and site.has_a2v and self.instances.names and "a2v" in self.wanted:
            first = call.video_k[0] if call.video_k and not site.sound_sides else 0
            pool = self.instances.pool(first, call.q.device)
            counts = [float(len(rows)) for rows in self.instances.sets.values()]
            sizes = self._there("sizes", call.q.device, lambda: torch.tensor(counts))
            look = None if site.sound_sides else lse  # of its attention to the clip alone
            found["a2v"] = self._of_sound("a2v", call, look, mask, pool) * sizes[:, None, None, None]
        return {kind: maps for kind, maps in found.items() if kind in self.wanted}

    def _of_words(self, call: AttentionCall, lse: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
        """What the rows of words look at. In joint attention queries and keys stand in one order."""
        assert call.text_k is not None
        assert call.video_k is not None
        text, copies = text_rows(self.stream, call)
        pool = self.words.pool(text, call.q.device, copies)
        pool = replace(pool, weights=pool.weights / len(copies))  # as queries, copies are a mean and no sum
        looks = pooled_rows(call.q, call.k, pool, call.scale, lse=lse, mask=mask, labels=call.labels)[0]
        clip = looks[:, slice(call.video_k[0], sum(call.video_k))]
        rows = looks[:, slice(text, text + call.text_k[1])]
        members = self._there(("rows", call.text_k[1], copies), looks.device, lambda: self._members(rows, copies))
        table = torch.cat([rows @ members.to(rows), clip.sum(1, keepdim=True)], 1)
        return {"t2v": clip.unflatten(-1, call.grid.shape), "t2t": table[:, None, None]}

    def _members(self, rows: Tensor, copies: tuple[int, ...]) -> Tensor:
        """(T, E + 1) float32: 1 where a row of the text belongs to a phrase, in the last column where it is in none."""
        members = torch.zeros(rows.shape[1], len(self.words.names) + 1)
        for place, own in enumerate(self.words.sets.values()):
            members[torch.cat([own + copy for copy in copies]), place] = 1
        members[:, -1] = members.sum(1) == 0
        return members

    def _there(self, key: Hashable, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        """A tensor on a device, made and brought there once: what is brought in each call waits for the device."""
        if (key, device) not in self._made:
            self._made[key, device] = make().to(device)
        return self._made[key, device]

    def _of_sound(
        self, kind: MapKind, call: AttentionCall, lse: Tensor | None, mask: Tensor | None, pool: Pool
    ) -> Tensor:
        """(E, A, 1, 1): the mean probability of a pool's keys, among all of them or, of "a2v" in a joint sequence,
        among the clip's."""
        assert call.sound_q is not None
        rows, keys, sides = slice(call.sound_q[0], sum(call.sound_q)), slice(None), max(call.site.sound_sides, 1)
        if kind == "a2v" and call.site.sound_sides:
            assert call.video_k is not None
            keys = slice(call.video_k[0], sum(call.video_k))
        if kind not in self.stream.names:  # how many moments there are is known from now on
            over = Over((call.sound_q[1] // sides, 1, 1), (), self.area if kind == "a2v" else ())
            self.stream.hold(kind, self.words.names if kind == "a2t" else self.instances.names, over)
        if mask is not None:
            mask = mask[..., keys] if mask.shape[-2] == 1 else mask[..., rows, keys]
        maps = pooled_columns(
            call.q[:, :, rows], call.k[:, :, keys], pool, call.scale, lse=None if lse is None else lse[:, :, rows],
            mask=mask, labels=None if call.labels is None else (call.labels[0][rows], call.labels[1][keys]),
        )[0]  # fmt: skip
        return maps.float().unflatten(-1, (sides, -1)).mean(-2)[..., None, None]


def _instances(tracks: GridTracks | None) -> TokenSets:
    """The tokens of each instance's mask, in all frames."""
    if tracks is None:
        return TokenSets((), {})
    inside = {name: tracks.maps[place].flatten() > 0 for place, name in enumerate(tracks.names)}
    tokens = {name: where.nonzero().flatten() for name, where in inside.items() if where.any()}
    return TokenSets(tuple(tokens), tokens)
