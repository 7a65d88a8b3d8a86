"""Where attention happens and what one call of it looks like. Hosts fill these in; everything above only reads them.

B batch, H heads, Nq / Nk query / key tokens of the call, D head size, S video tokens, T text tokens.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from .grid import Grid

if TYPE_CHECKING:
    from .binding import PromptBinding
    from .tracks import MaskTracks

__all__ = ["AttentionCall", "AttentionSite", "BatchRow", "SiteKind", "parse_layers", "spread_layers"]

# joint: text and video in one sequence. self: video only. cross: video queries, text keys. image: video queries,
# image-embedding keys (Wan I2V). spatial, temporal: the two halves of a factorised U-Net.
SiteKind = Literal["joint", "self", "cross", "image", "spatial", "temporal"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention of a model. `layer` counts blocks over the whole network (HunyuanVideo's single blocks go on
    after the double ones); `name` is the module path that the host's own model gives it."""

    layer: int
    kind: SiteKind
    name: str

    @property
    def has_v2t(self) -> bool:
        """Whether video queries meet text keys here."""
        return self.kind in ("joint", "cross")

    @property
    def has_v2v(self) -> bool:
        """Whether video queries meet video keys of all frames here."""
        return self.kind in ("joint", "self")


@dataclass(frozen=True)
class BatchRow:
    """What one row of the batch is: its guidance branch and whose words and tracks belong to it.

    `key` names the prompt and sample that the row comes from; rows of two prompts never share one.
    """

    branch: Literal["cond", "uncond"] = "cond"
    key: Hashable = 0
    binding: PromptBinding | None = None
    tracks: MaskTracks | None = None


@dataclass(frozen=True)
class AttentionCall:
    """One attention call as the host is about to run it.

    q (B, H, Nq, D), k and v (B, H, Nk, D) as the kernel gets them (after norms and rotary embedding). `scale`
    multiplies q.k^T. `mask` is additive (float) or keep (bool), broadcastable to (B, H, Nq, Nk), or None.
    `video_q`, `video_k`, `text_k`: (start, length) of the video rows, video keys and text keys; None where the call has
    none. Text keys count the rows of the conditioning, padding included, in conditioning order.
    `frame_index`: for each token frame of `grid` the token frame of the whole clip (context windows), or None.
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


def parse_layers(text: str, layers: Iterable[int], dominant: Iterable[int] | None = None) -> tuple[int, ...] | None:
    """Layer numbers from what a person wrote: "all" (None), "dominant", or numbers and ranges such as "7, 11-13".

    Args:
        layers: the layers that exist.
        dominant: what "dominant" stands for; None where nothing is known about this model.

    Raises ValueError saying what was written, what is accepted, and which layers exist.
    """
    existing = sorted(set(layers))
    have = f"this model has layers {existing[0]}..{existing[-1]}" if existing else "this model has no layers"
    wanted: set[int] = set()
    for part in [piece.strip().lower() for piece in text.split(",") if piece.strip()] or ["all"]:
        span = re.fullmatch(r"(\d{1,6})\s*-\s*(\d{1,6})", part)
        if part == "all":
            return None
        if part == "dominant":
            if dominant is None:
                raise ValueError(f"no dominant layers are known for this model; write numbers: {have}")
            wanted.update(dominant)
        elif span:
            wanted.update(range(int(span[1]), int(span[2]) + 1))
        elif part.isdecimal() and len(part) <= 6:
            wanted.add(int(part))
        else:
            raise ValueError(f"layers are written as 'all', 'dominant', '7' or '7, 11-13', got {text[:60]!r}; {have}")
    if unknown := sorted(wanted - set(existing)):
        shown = str(unknown) if len(unknown) < 9 else f"{unknown[0]} to {unknown[-1]}"
        raise ValueError(f"layers {shown} do not exist: {have}")
    if not wanted:
        raise ValueError(f"{text[:60]!r} names no layer; {have}")
    return tuple(sorted(wanted))


def spread_layers(layers: Iterable[int], count: int = 3) -> tuple[int, ...]:
    """`count` layers spread evenly over those that exist, for a quick look where none are known to matter."""
    existing = sorted(set(layers))
    if len(existing) <= count:
        return tuple(existing)
    return tuple(existing[round((i + 0.5) * len(existing) / count - 0.5)] for i in range(count))
