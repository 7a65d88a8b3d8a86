"""What is particular to native Wan."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .first_frame import _mask, _no_image


def _wan(
    model: Any, inner: Any, vae: Any, first: Tensor, empty: Tensor, length: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """I2V: the encoded clip of the first frame and grey, with its mask. The 5B model (48 channels) instead starts from
    a latent whose first frame is given."""
    extra = inner.patch_embedding.weight.shape[1] - empty.shape[1]
    if extra == 0 and empty.shape[1] == 48:
        mask = _mask(empty).expand(empty.shape[0], -1, -1, -1, -1)
        frames = model.get_model_object("latent_format").process_out(empty)
        frames[:, :, :1] = vae.encode(first).to(frames)
        return {}, {"samples": frames, "noise_mask": mask}
    if extra < empty.shape[1] + 4:
        raise _no_image("Wan")
    clip = torch.full((length, *first.shape[1:]), 0.5, dtype=first.dtype, device=first.device)
    clip[:1] = first
    return {"concat_latent_image": vae.encode(clip), "concat_mask": _mask(empty)}, {"samples": empty}
