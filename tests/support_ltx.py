"""Guide frames and sound of tiny native LTX models, made by the host's own nodes. Needs the `comfy` fixture."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from support_native import clip_size, conditioning, latent, with_sound
from torch import Tensor

__all__ = ["Given", "given"]

SCALES = (8, 32, 32)


class Given(NamedTuple):
    """What a sampler is given: conditionings, the latent, its mask (None: all is made)."""

    positive: list
    negative: list
    latent: Any
    mask: Any

    @property
    def options(self) -> dict[str, Any]:
        return {"noise_mask": self.mask}

    def __iter__(self) -> Any:
        return iter((self.positive, self.negative, self.latent))


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(
    family: str,
    positive: list,
    guides: int = 0,
    strength: float = 1.0,
    region: bool = False,
    spread: bool = False,
    image: bool = False,
    sound: bool | None = None,
) -> Given:
    """A run with so many guide frames behind the clip, as LTXVAddGuide puts them there.

    strength: of the guides; others than 1 and `region` split the attention. spread: the first guide is half as large,
    and its tokens are spread out. image: the first frame is given. sound: None for what is usual of the family.
    """
    from comfy_extras.nodes_lt import LTXVAddGuide, _append_guide_attention_entry

    negative = conditioning(family, 2)
    _, height, width = clip_size(family)
    clip = torch.zeros(1, 128, *clip_size(family))
    mask = torch.ones(1, 1, clip.shape[2], 1, 1)
    if image:
        clip[:, :, :1] = _noise(30, 1, 128, 1, height, width)
        mask[:, :, :1] = 0.0
    for place in range(guides):
        small = spread and place == 0
        made = _noise(20 + place, 1, 128, 1, height // (2 if small else 1), width // (2 if small else 1))
        shape, gaps = list(made.shape[2:]), None
        if small:
            made, gaps = LTXVAddGuide.dilate_latent(made, 2)
        positive, negative, clip, mask = LTXVAddGuide.append_keyframe(
            positive, negative, 8 * place, clip, mask, made, strength, SCALES, guide_mask=gaps,
            latent_downscale_factor=2 if small else 1,
        )  # fmt: skip
        pixels = torch.rand(1, height * 32, width * 32, generator=torch.Generator().manual_seed(4)) if region else None
        positive, negative = _append_guide_attention_entry(
            positive, negative, made[0, 0].numel(), shape, strength=strength, attention_mask=pixels
        )
    whole: Any = mask if guides or image else None
    if (family != "ltx") if sound is None else sound:
        samples, beside = with_sound(clip), latent(family)
        if whole is not None:
            whole = type(samples)([whole, torch.ones_like(beside.unbind()[1])])
        return Given(positive, negative, samples, whole)
    return Given(positive, negative, clip, whole)
