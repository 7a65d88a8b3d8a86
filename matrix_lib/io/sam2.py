"""Mask tracks from points, boxes and masks, through Meta's `sam2` package and a checkpoint that the person chose.

H, W: rows and columns of the video in pixels. Needs `pip install sam2`; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..core.tracks import runs
from ..core.tracks.text import Prompt
from ..core.tracks.tracks import MaskTracks
from .files import check_safetensors
from .torch_files import read_torch_file

__all__ = ["CHECKPOINTS", "load_sam2", "need_sam2", "track_prompts"]

CHECKPOINTS = (".pt", ".pth", ".safetensors")
# (width of the first stage, blocks) of the image encoder -> the released size.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}


def need_sam2() -> None:
    """Raises ValueError with the install line where the `sam2` package is absent."""
    if importlib.util.find_spec("sam2") is None:
        raise ValueError(
            "this needs the sam2 package. Install it into ComfyUI's Python and start ComfyUI again:  pip install sam2"
        )


def load_sam2(checkpoint: Path, device: torch.device | str = "cpu") -> Any:
    """The video predictor of a SAM 2 or 2.1 checkpoint. Its size is read off the weights.

    A fine-tuned model of another size brings its config as a YAML file of the same name beside it. Raises ValueError
    for a missing package, a file that is no SAM 2 checkpoint, and a config that builds more than SAM 2's own modules.
    """
    need_sam2()
    from hydra.utils import instantiate

    weights = _weights(checkpoint)
    config = _config(checkpoint, weights)
    config["_target_"] = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    # As the package's own builder: of several candidate masks take the stable one, and remember clicks as they look.
    config["sam_mask_decoder_extra_args"] = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    config["binarize_mask_from_pts_for_mem_enc"] = True
    model = instantiate(config, _recursive_=True)
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint.name!r} does not fit its SAM 2 config: {str(error)[:300]}") from None
    if missing or unexpected:
        raise ValueError(
            f"{checkpoint.name!r} does not fit its SAM 2 config: it lacks {missing[:3]} and also has {unexpected[:3]}"
        )
    # The package keeps its memory in bfloat16 and counts on autocast. Without it (CPU, MPS) the two types meet where an
    # instance is prompted later than another one.
    model.memory_attention.register_forward_pre_hook(_memory_as_weights, with_kwargs=True)
    return model.to(device).eval()


def _memory_as_weights(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    memory = kwargs.get("memory")
    if memory is None or torch.is_autocast_enabled(memory.device.type):
        return args, kwargs
    return args, kwargs | {"memory": memory.to(next(module.parameters()).dtype)}


def track_prompts(
    predictor: Any,
    frames: Iterable[Any],
    prompts: Mapping[str, Mapping[int, Prompt | NDArray[np.bool_]]],
    roles: Mapping[str, str] | None = None,
    fps: float = 8.0,
    folder: str | None = None,
    progress: Callable[[], None] | None = None,
) -> MaskTracks:
    """Follows every prompted instance through the video, forwards from the first prompt and backwards before it.

    Args:
        predictor: from `load_sam2`.
        frames: (H, W, 3) uint8 RGB arrays, one at a time.
        prompts: {name: {frame: Prompt, or a mask (H, W) bool}}.
        folder: where the frames lie while this runs (the package reads them from files); the system's own by default.
        progress: called for each frame written and each frame tracked; may raise to interrupt.

    Raises ValueError for frames that differ in size, prompts outside the clip, and an instance that is found nowhere.
    """
    found: dict[str, dict[int, Any]] = {name: {} for name in prompts}
    with tempfile.TemporaryDirectory(prefix="matrix_sam2_", dir=folder) as place:
        count, height, width = _write(frames, Path(place), progress)
        _check(prompts, count, height, width)
        device = torch.device(getattr(predictor, "device", "cpu"))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            state = predictor.init_state(place, offload_video_to_cpu=True)
            for index, keys in enumerate(prompts.values()):
                for frame, prompt in keys.items():
                    _tell(predictor, state, index, frame, prompt)
            for backwards in (False, True):
                for frame, ids, logits in predictor.propagate_in_video(state, reverse=backwards):
                    for index, logit in zip(ids, logits):
                        mask = (logit[0] > 0).cpu().numpy()
                        found[list(found)[index]].setdefault(frame, runs.pack(mask))
                    if progress is not None:
                        progress()
    nothing = np.zeros(0, dtype=np.uint32)
    lost = [name for name, masks in found.items() if not any(len(edges) for edges in masks.values())]
    if lost:
        raise ValueError(
            f"SAM 2 found nothing for {lost[0]!r}. Move its points onto it, add some, draw a box "
            "around it, or mend its mask"
        )
    packed = {name: [masks.get(i, nothing) for i in range(count)] for name, masks in found.items()}
    return MaskTracks.from_edges(packed, count, height, width, roles, fps)


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors. No code in a file is ever run."""
    try:
        if checkpoint.suffix == ".safetensors":
            check_safetensors(checkpoint)
            weights: Any = load_file(checkpoint)
        else:
            weights = read_torch_file(checkpoint)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{checkpoint.name!r} cannot be read as a checkpoint: {str(error)[:300]}") from None
    weights = weights.get("model", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or "image_encoder.trunk.patch_embed.proj.weight" not in weights:
        raise ValueError(f"{checkpoint.name!r} is no SAM 2 checkpoint: it has no image_encoder.trunk weights")
    return weights


def _config(checkpoint: Path, weights: Mapping[str, torch.Tensor]) -> Any:
    from omegaconf import OmegaConf

    own = checkpoint.with_suffix(".yaml")
    if own.is_file():
        return _only_sam2(OmegaConf.to_container(OmegaConf.load(own), resolve=True), own.name)
    root = importlib.util.find_spec("sam2")
    folders = list(root.submodule_search_locations or ()) if root is not None else []
    blocks = {key.split(".")[3] for key in weights if key.startswith("image_encoder.trunk.blocks.")}
    width = weights["image_encoder.trunk.patch_embed.proj.weight"].shape[0]
    if (width, len(blocks)) not in _SIZES:
        raise ValueError(
            f"{checkpoint.name!r} has an image encoder of width {width} with {len(blocks)} blocks, none of SAM 2's "
            f"released sizes. Put its config beside it as {own.name!r}."
        )
    family = "sam2.1" if "no_obj_embed_spatial" in weights else "sam2"
    name = f"{family}_hiera_{_SIZES[width, len(blocks)]}.yaml"
    path = Path(folders[0]) / "configs" / family / name
    return _only_sam2(OmegaConf.to_container(OmegaConf.load(path), resolve=True), name)


def _only_sam2(config: Any, name: str) -> dict[str, Any]:
    """The `model` part of a config, after a look at everything that it would build."""
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{name!r} is no SAM 2 config: it has no model section")
    waiting: list[Any] = [model]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            target = str(part.get("_target_", "sam2.modeling."))
            if not target.startswith(("sam2.modeling.", "sam2.sam2_video_predictor.")):
                raise ValueError(f"{name!r} would build {target!r}; only SAM 2's own modules are allowed")
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return model


def _write(frames: Iterable[Any], place: Path, progress: Callable[[], None] | None) -> tuple[int, int, int]:
    """Frames as numbered JPEG files, which is what every release of the package reads. (count, height, width)."""
    size, count = None, 0
    for count, frame in enumerate(frames, 1):
        size = size or frame.shape
        if frame.shape != size or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frames of a video have one size (height, width, 3); got {frame.shape} after {size}")
        Image.fromarray(np.ascontiguousarray(frame)).save(place / f"{count - 1:06d}.jpg", quality=97, subsampling=0)
        if progress is not None:
            progress()
    if size is None:
        raise ValueError("the video has no frames")
    return count, size[0], size[1]


def _check(
    prompts: Mapping[str, Mapping[int, Prompt | NDArray[np.bool_]]], count: int, height: int, width: int
) -> None:
    for name, keys in prompts.items():
        for frame, prompt in keys.items():
            if not 0 <= frame < count:
                raise ValueError(f"{name!r} has a prompt in frame {frame}, but the video has frames 0 to {count - 1}")
            if isinstance(prompt, np.ndarray):
                if prompt.shape != (height, width) or not prompt.any():
                    raise ValueError(
                        f"the mask of {name!r} in frame {frame} has {prompt.shape} and {int(prompt.sum())} pixels "
                        f"inside; it needs {(height, width)}, and some"
                    )
                continue
            corners = [prompt.box[:2], prompt.box[2:]] if prompt.box else []
            if prompt.box and (prompt.box[2] <= prompt.box[0] or prompt.box[3] <= prompt.box[1]):
                raise ValueError(f"the box of {name!r} in frame {frame} needs x1 > x0 and y1 > y0; got {prompt.box}")
            for x, y, *_ in [*prompt.points, *corners]:
                if not (0 <= x <= width and 0 <= y <= height):
                    raise ValueError(f"{name!r} is prompted at {x:g},{y:g}, outside the {width}x{height} frame (x, y)")


def _tell(predictor: Any, state: Any, index: int, frame: int, prompt: Prompt | NDArray[np.bool_]) -> None:
    if isinstance(prompt, np.ndarray):
        predictor.add_new_mask(state, frame_idx=frame, obj_id=index, mask=torch.from_numpy(prompt.copy()))
        return
    points = [[x, y] for x, y, _ in prompt.points] or None
    labels = [int(inside) for _, _, inside in prompt.points] or None
    box = None if prompt.box is None else list(prompt.box)
    predictor.add_new_points_or_box(state, frame_idx=frame, obj_id=index, points=points, labels=labels, box=box)
