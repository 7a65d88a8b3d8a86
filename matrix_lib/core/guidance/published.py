"""Guidance as papers have it, by name: what is published, and what is not and is ours.

with steer(pipe, "ivg_da", binding, tracks):
    video = pipe(prompt=prompt).frames
"""

from __future__ import annotations

from dataclasses import dataclass

from ..layers import Layers
from .base import Guidance
from .dual_clock import DualClockDenoising
from .intrinsic import IntrinsicDenoising
from .partition import Partition

__all__ = ["PEEKABOO_SITES", "PUBLISHED", "Published", "published"]

PEEKABOO_SITES = Layers(
    sites=r"(mid_block|up_blocks\.\d+)\.(attentions\.\d+\..*attn[12]|temp_attentions\.\d+\..*attn1)$"
)
"""Of a U-Net: the middle and the way up, in space, to words, and of both attentions in time the first: 30 of
ZeroScope's 66 (Peekaboo, arXiv 2312.07509, released code)."""


@dataclass(frozen=True)
class Published:
    """Args: source: paper. guidance: in the order in which it acts. open: what nobody has published, or differs."""

    source: str
    guidance: tuple[Guidance, ...]
    open: str


_MASKS = Partition(frozen_steps=4, match="channel", layers=PEEKABOO_SITES, begin=False)
_OPEN = (
    "the axis of mask normalisation (per channel here) and which attentions IVG-DA acts on (Peekaboo's here; its "
    "number of steps is IVG-DA's). Peekaboo adds -10000 where keys are left out here, takes each stride-th pixel of a "
    "mask where half of a token counts here, and masks words of the prediction without the prompt, too"
)
PUBLISHED: dict[str, Published] = {
    "peekaboo_masks": Published(
        "Peekaboo, arXiv 2312.07509", (Partition(4, None, layers=PEEKABOO_SITES, begin=False),), _OPEN
    ),
    "ivg_da_masks": Published("IVG-DA, arXiv 2505.24253, without intrinsic denoising", (_MASKS,), _OPEN),
    "ivg_da": Published(
        "IVG-DA, arXiv 2505.24253",
        (_MASKS, IntrinsicDenoising()),
        f"{_OPEN}; how the lengths of the Langevin steps follow from gamma",
    ),
    "time_to_move": Published(
        "Time-to-Move, arXiv 2511.08633, clocks of CogVideoX", (DualClockDenoising(),), "nothing"
    ),
}


def published(name: str) -> tuple[Guidance, ...]:
    """The guidance of this name. Raises ValueError that lists what there is."""
    if name not in PUBLISHED:
        raise ValueError(f"there is no guidance called {name!r}; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name].guidance
