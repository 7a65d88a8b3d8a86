"""What the families' first frames have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def _no_image(title: str) -> ValueError:
    return ValueError(
        f"this {title} is a text-to-video model: it has no input channels for a first frame. Load its image-to-video "
        "(I2V) checkpoint, or give the sampler an empty latent."
    )


def _mask(empty: Tensor) -> Tensor:
    """(1, 1, T, H, W): 0 where the clip is given, that is in the first frame, and 1 where it is made."""
    mask = torch.ones(1, 1, *empty.shape[2:], device=empty.device)
    mask[:, :, :1] = 0.0
    return mask
