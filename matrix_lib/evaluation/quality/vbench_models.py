"""The networks that VBench's measures use, each opened from a path; nothing is downloaded.

| measure | network | what goes there |
|---|---|---|
| dynamic degree (DD) | RAFT | torchvision's `raft_large_C_T_V1-22a6c225.pth`: VBench's `raft-things.pth` |
| subject consistency (SS) | DINO ViT-B/16 | the folder of `dino-vitb16`, through transformers |
| background consistency (BC) | CLIP ViT-B/32 | the folder of `clip-vit-base-patch32`, through transformers |
| motion smoothness (MS) | AMT-S | no package carries it: its frames come from files (`vbench.read_between`) |

Frames are resized as VBench resizes them (no antialiasing). F frames; frames (F, H, W, 3) uint8.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from ...io.torch_files import read_torch_file
from .vbench import Flow

__all__ = ["background", "raft", "subject"]

Extract = Callable[[Tensor], NDArray[Any]]
_SIDE, _UPDATES, _SMALLEST = 224, 20, 128
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def raft(weights: str | os.PathLike[str], device: str = "cpu", updates: int = _UPDATES) -> Flow:
    """RAFT of torchvision, with 20 updates of its flow as in VBench.

    Raises ValueError where torchvision or the weights are absent or of another network, and later for frames below 128
    pixels.
    """
    path = Path(weights)
    if not path.is_file():
        raise ValueError(
            f"there are no RAFT weights at {str(path)!r}: torchvision's raft_large_C_T_V1-22a6c225.pth goes there; "
            "nothing is downloaded"
        )
    try:
        from torchvision.models.optical_flow import raft_large
    except ImportError as error:
        raise ValueError(
            f"dynamic degree: torchvision is not installed ({error}): run `pip install torchvision`"
        ) from error
    model = raft_large(weights=None)
    try:
        model.load_state_dict(read_torch_file(path))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{path.name} holds no weights of torchvision's raft_large: {said}") from None
    model = model.to(device).eval()

    @torch.no_grad()
    def flow(one: Tensor, other: Tensor) -> Tensor:
        if min(one.shape[1:]) < _SMALLEST:
            raise ValueError(f"RAFT needs frames of {_SMALLEST} pixels or more; got {tuple(one.shape[1:])}")
        pair = (each[None].to(device) / 127.5 - 1 for each in (one, other))
        return model(*pair, num_flow_updates=updates)[-1][0].cpu()

    return flow


def subject(folder: str | os.PathLike[str], device: str = "cpu", side: int = _SIDE) -> Extract:
    """frames -> (F, D) of DINO's class token, for `consistency.frame_consistency`: VBench's SS.

    Raises ValueError where transformers or the folder is absent, or holds no ViT.
    """
    place = _folder(folder, "subject consistency", "DINO's ViT-B/16, dino-vitb16")
    model = _opened("ViTModel", place, device)

    @torch.no_grad()
    def extract(frames: Tensor) -> NDArray[Any]:
        rows = []
        for frame in frames:
            seen = _normalised(_resized(frame, side, "bilinear"), _IMAGENET, device)
            rows.append(model(pixel_values=seen, interpolate_pos_encoding=True).last_hidden_state[0, 0])
        return torch.stack(rows).double().cpu().numpy()

    return extract


def background(folder: str | os.PathLike[str], device: str = "cpu", side: int = _SIDE) -> Extract:
    """frames -> (F, D) of CLIP's picture features, for `consistency.frame_consistency`: VBench's BC.

    Raises ValueError where transformers or the folder is absent, or holds no CLIP.
    """
    place = _folder(folder, "background consistency", "CLIP's ViT-B/32, clip-vit-base-patch32")
    model = _opened("CLIPVisionModelWithProjection", place, device)

    @torch.no_grad()
    def extract(frames: Tensor) -> NDArray[Any]:
        rows = []
        for frame in frames:
            whole = _resized(frame, side, "bicubic")
            top, left = (round((size - side) / 2) for size in whole.shape[1:])
            seen = _normalised(whole[:, top : top + side, left : left + side], _OPENAI, device)
            rows.append(model(pixel_values=seen).image_embeds[0])
        return torch.stack(rows).double().cpu().numpy()

    return extract


def _folder(folder: str | os.PathLike[str], measure: str, what: str) -> Path:
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise ValueError(f"{measure} needs the folder of {what} (config.json, weights), not {place}")
    return place


def _opened(kind: str, place: Path, device: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"transformers is not installed ({error}): run `pip install transformers`") from error
    try:
        found = getattr(transformers, kind).from_pretrained(place, local_files_only=True, use_safetensors=True)
        return found.to(device).eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{place} cannot be opened as a {kind}: {' '.join(str(error).split())[:200]}") from None


def _resized(frame: Tensor, side: int, mode: str) -> Tensor:
    """(3, h, w) float of 0 to 255, whole numbers: the shorter side is `side`."""
    height, width = frame.shape[:2]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    found = interpolate(frame.permute(2, 0, 1)[None].float(), size, mode=mode, align_corners=False, antialias=False)
    return found[0].round().clamp(0, 255)


def _normalised(frame: Tensor, about: tuple[tuple[float, ...], tuple[float, ...]], device: str) -> Tensor:
    mean, spread = (torch.tensor(values)[:, None, None] for values in about)
    return ((frame / 255 - mean) / spread)[None].to(device)
