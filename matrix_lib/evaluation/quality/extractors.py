"""Models that features come from. Each is opened from a path; nothing is downloaded, and a file that could run programs
is refused.

| measure | package | weights |
|---|---|---|
| FID, KID | torch-fidelity | its Inception weights, `weights-inception-2015-12-05-6726825d.pth` |
| FVD | cd-fvd | its I3D weights, `i3d_pretrained_400.pt` |
| CLIP-SIM | transformers | the folder of a CLIP model, such as `clip-vit-base-patch32` |
| LPIPS | torchmetrics | torchvision's AlexNet, `alexnet-owt-7be5be79.pth`, in torch's own folder |
| JEDi | - | features of V-JEPA from a file: its package pins an old torch |

F frames, N videos; frames (F, H, W, 3) uint8.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ...io.torch_files import read_torch_file

__all__ = ["ClipScorer", "clip", "i3d", "inception", "lpips"]

Array = NDArray[Any]
Extractor = Callable[[Tensor], Array]
_ALEXNET = "alexnet-owt-7be5be79.pth"
_I3D_LEAST = 9  # frames below which the network has nothing left in time


def inception(weights: str | os.PathLike[str], device: str = "cpu") -> Extractor:
    """frames (F, H, W, 3) uint8 -> (F, 2048), for FID and KID.

    Raises ValueError where package or weights are absent.
    """
    path = _weights(weights, "Inception", "weights-inception-2015-12-05-6726825d.pth of torch-fidelity")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise _absent("FID and KID", "torch-fidelity", error) from error
    try:
        model = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path)).to(device)
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} holds no Inception weights of torch-fidelity: {error!s:.200}") from None

    @torch.no_grad()
    def extract(frames: Tensor) -> Array:
        return model(_checked(frames).permute(0, 3, 1, 2).contiguous().to(device))[0].double().cpu().numpy()

    return extract


def i3d(weights: str | os.PathLike[str], device: str = "cpu") -> Extractor:
    """frames (F, H, W, 3) uint8 of one video -> (1, 400), for FVD.

    Raises ValueError where package or weights are absent, and for videos that are too short for the network.
    """
    path = _weights(weights, "I3D", "i3d_pretrained_400.pt of cd-fvd")
    try:
        from cdfvd.third_party.i3d.utils import load_i3d_model, preprocess_i3d
    except ImportError as error:
        raise _absent("FVD", "cd-fvd", error) from error
    try:
        model = load_i3d_model(torch.device(device), str(path)).eval()
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} holds no I3D weights of cd-fvd: {error!s:.200}") from None

    @torch.no_grad()
    def extract(frames: Tensor) -> Array:
        if len(_checked(frames)) < _I3D_LEAST:
            raise ValueError(f"I3D needs videos of at least {_I3D_LEAST} frames; this one has {len(frames)}")
        found = model(preprocess_i3d(frames[None].numpy()).to(device))
        return found.reshape(1, -1).double().cpu().numpy()

    return extract


class ClipScorer:
    """CLIP's similarities, from the folder of a model."""

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self._model, self._processor, self._device = model, processor, device

    @torch.no_grad()
    def __call__(self, frames: Tensor, prompt: str) -> dict[str, float]:
        """clip_sim: cosine of prompt and picture, mean over frames (CLIP-SIM). clip_frames: of neighbouring frames,
        nan for a single one."""
        pictures = list(_checked(frames).numpy())
        inputs = self._processor(text=[prompt], images=pictures, return_tensors="pt", padding=True, truncation=True)
        out = self._model(**inputs.to(self._device))
        text, images = (torch.nn.functional.normalize(e.double(), dim=-1) for e in (out.text_embeds, out.image_embeds))
        steps = (images[1:] * images[:-1]).sum(-1)
        return {
            "clip_sim": float((images @ text.T).mean()),
            "clip_frames": float(steps.mean()) if len(steps) else float("nan"),
        }


def clip(folder: str | os.PathLike[str], device: str = "cpu") -> ClipScorer:
    """Opens the folder of a CLIP model. Raises ValueError where transformers or the folder is absent, or it is none."""
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise ValueError(f"CLIP-SIM needs the folder of a CLIP model (config.json, weights, tokenizer), not {place}")
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError as error:
        raise _absent("CLIP-SIM", "transformers", error) from error
    try:
        model = CLIPModel.from_pretrained(place, local_files_only=True, use_safetensors=True).to(device).eval()
        return ClipScorer(model, CLIPProcessor.from_pretrained(place, local_files_only=True), device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place} cannot be opened as a CLIP model: {error!s:.200}") from None


def lpips(device: str = "cpu") -> Callable[[Tensor, Tensor], float]:
    """(frames, frames) (F, H, W, 3) uint8 -> mean LPIPS (AlexNet) of frames in their order. Raises ValueError where the
    package or AlexNet's weights are absent."""
    try:
        from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity as measure
    except ImportError as error:
        raise _absent("LPIPS", "torchmetrics", error) from error
    place = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
    if not place.is_file():
        raise ValueError(f"LPIPS needs torchvision's AlexNet weights: put {_ALEXNET} into {place.parent}")

    def compare(real: Tensor, made: Tensor) -> float:
        if _checked(real).shape != _checked(made).shape:
            raise ValueError(f"LPIPS compares videos of one size; got {tuple(real.shape)} and {tuple(made.shape)}")
        one, other = (each.permute(0, 3, 1, 2).to(device).float() / 255 for each in (real, made))
        return float(measure(one, other, net_type="alex", reduction="mean", normalize=True))

    return compare


def _absent(measure: str, package: str, error: ImportError) -> ValueError:
    return ValueError(f"{measure}: {package} is not installed ({error}): run `pip install {package}`")


def _weights(path: str | os.PathLike[str], kind: str, name: str) -> Path:
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"there are no {kind} weights at {str(place)!r}: {name} goes there; nothing is downloaded")
    _plain_weights(place)  # the packages themselves may run what a file says
    return place


def _plain_weights(path: Path) -> None:
    """Raises ValueError for a file that holds more than tensors."""
    try:
        read_torch_file(path)
    except ValueError as error:
        raise ValueError(f"{path.name} is no file of plain tensors, and is not opened: {error}") from None


def _checked(frames: Tensor) -> Tensor:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8 or not len(frames):
        raise ValueError(f"frames are (F, H, W, 3) uint8; got {tuple(frames.shape)} {frames.dtype}")
    return frames
