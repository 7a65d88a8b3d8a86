"""Where attention happens and what one call of it looks like. Hosts fill these in; everything above only reads them.

B batch, H heads, Nq / Nk query / key tokens of the call, D head size, S video tokens, T text tokens.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from .attention.masks import batch_part
from .attention.regions import Labels, beside
from .grid import Grid

if TYPE_CHECKING:
    from .tracks.tracks import MaskTracks
    from .words.binding import PromptBinding

__all__ = ["AttentionCall", "AttentionSite", "BatchRow", "SiteKind"]

# joint: text and video in one sequence. self: video only. cross: video queries, text keys. image: video queries,
# image-embedding keys (Wan I2V). spatial, temporal: the two halves of a factorised U-Net. sound_text, sound_video:
# audio queries, text keys or video keys (LTX-2).
SiteKind = Literal["joint", "self", "cross", "image", "spatial", "temporal", "sound_text", "sound_video"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention of a model. `layer` counts blocks over the whole network (HunyuanVideo's single blocks go on
    after the double ones); `name` is the module path that the host's own model gives it. `sound_sides`: how many sides
    of sound, one behind the other, stand in a joint sequence in front of the clip (stereo: 2)."""

    layer: int
    kind: SiteKind
    name: str
    sound_sides: int = 0

    @property
    def has_v2t(self) -> bool:
        """Whether video queries meet text keys here."""
        return self.kind in ("joint", "cross")

    @property
    def has_v2v(self) -> bool:
        """Whether video queries meet video keys of all frames here."""
        return self.kind in ("joint", "self")

    @property
    def has_t2v(self) -> bool:
        """Whether text queries meet video keys and each other here."""
        return self.kind == "joint"

    @property
    def has_sound(self) -> bool:
        """Whether the queries are sound. Nobody steers it."""
        return self.kind in ("sound_text", "sound_video")

    @property
    def has_a2t(self) -> bool:
        """Whether sound meets text keys here."""
        return self.kind == "sound_text" or self.sound_sides > 0

    @property
    def has_a2v(self) -> bool:
        """Whether sound meets video keys here."""
        return self.kind == "sound_video" or self.sound_sides > 0


@dataclass(frozen=True)
class BatchRow:
    """What one row of the batch is: its guidance branch and whose words and tracks belong to it.

    `key` names the prompt and sample that the row comes from; rows of two prompts never share one. `text_rows`:
    how many text rows are its own, where the host repeated them to the length of another prompt's; 0: all there are.
    """

    branch: Literal["cond", "uncond"] = "cond"
    key: Hashable = 0
    binding: PromptBinding | None = None
    tracks: MaskTracks | None = None
    text_rows: int = 0


@dataclass(frozen=True)
class AttentionCall:
    """One attention call as the host is about to run it.

    q (B, H, Nq, D), k and v (B, H, Nk, D) as the kernel gets them (after norms and rotary embedding). `scale`
    multiplies q.k^T. `mask` is additive (float) or keep (bool), broadcastable to (B, H, Nq, Nk), or None.
    `video_q`, `video_k`, `text_k`: (start, length) of the video rows, video keys and text keys; None where the call has
    none. Text keys count the rows of the conditioning, padding included, in conditioning order. `sound_q`: the audio
    rows of the sound that is made, of all its sides. `text_starts`: (B,) where each row's own text keys begin, where
    rows of the batch differ in that; else (). Read them with `at`. `text_cropped`: rows of the conditioning behind the
    last word, which are padding, may be missing among the text keys. `place`: which row of the batch this is, where
    each has a call of its own.
    `frame_index`: for each token frame of `grid` the token frame of the whole clip (context windows), or None.
    `labels`: where attention ran under a bias, (Nq, R) and (Nk, R): columns that q and k would have besides, in every
    head and row, so that scale * q.k is the biased logit; None where it ran as it is.
    """

    site: AttentionSite
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    grid: Grid
    rows: tuple[BatchRow, ...]
    mask: Tensor | None = None
    video_q: tuple[int, int] | None = None
    video_k: tuple[int, int] | None = None
    text_k: tuple[int, int] | None = None
    step: int = 0
    sigma: float = 0.0
    frame_index: tuple[int, ...] | None = None
    extra: dict[str, object] = field(default_factory=dict)
    labels: Labels | None = None
    sound_q: tuple[int, int] | None = None
    text_starts: tuple[int, ...] = ()
    text_cropped: bool = False
    place: int | None = None

    def at(self, place: int) -> AttentionCall:
        """The whole call, with `text_k` of one row of the batch."""
        if not self.text_starts or self.text_k is None:
            return self
        return replace(self, text_k=(self.text_starts[place], self.text_k[1]), text_starts=())

    def widened(self) -> AttentionCall:
        """The call with its labels as columns of q and k: its plain logits are those that attention ran with."""
        q, k = beside(self.q, self.k, self.labels)
        return replace(self, q=q, k=k, labels=None)

    def row(self, place: int) -> AttentionCall:
        """One row of the batch as a call of its own."""
        return self.part(slice(place, place + 1))

    def part(self, part: slice) -> AttentionCall:
        """Some rows of the batch, side by side, as a call of their own."""
        q, k, v = self.q[part], self.k[part], self.v[part]
        starts = self.text_starts[part]
        text = self.text_k if self.text_k is None or not starts else (starts[0], self.text_k[1])
        return replace(
            self, q=q, k=k, v=v, rows=self.rows[part], mask=batch_part(self.mask, part), text_k=text, text_starts=starts
        )
