"""SAM 2 models from checkpoints that the person chose, known by their tensors whatever the file is called.

Needs Meta's `sam2` package; nothing is downloaded, and nothing in a file is run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .files import check_safetensors
from .torch_files import read_torch_file

__all__ = ["CHECKPOINTS", "INSTALL", "SOURCE", "load_sam2", "need_sam2"]

CHECKPOINTS = (".pt", ".pth", ".safetensors")
INSTALL = "pip install --no-build-isolation sam2"
SOURCE = "sam2.1_hiera_tiny.pt and its larger ones are on huggingface.co/facebook (sam2.1-hiera-tiny and so on)"
"""Where checkpoints come from, for people."""
# (width of the first stage, blocks) of the image encoder -> the released size.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
_MARK = "image_encoder.trunk.patch_embed.proj.weight"  # the tensor by which a SAM 2 is known
_DEEPEST = 3  # dicts in dicts that trainers save: {"state_dict": {"model": ...}}


def need_sam2() -> None:
    """Raises ValueError with the install line where the `sam2` package is absent."""
    if importlib.util.find_spec("sam2") is None:
        raise ValueError(
            f"this needs the sam2 package. Install it into ComfyUI's Python and start ComfyUI again:  {INSTALL}  (that "
            "builds it with the torch that is there; without the option pip fetches a second one)"
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


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors by the package's own names. No code in a file is ever run."""
    try:
        if checkpoint.suffix == ".safetensors":
            check_safetensors(checkpoint)
            found: Any = load_file(checkpoint)
        else:
            found = read_torch_file(checkpoint)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{checkpoint.name!r} cannot be read as a checkpoint: {str(error)[:300]}") from None
    models = list(_models(found))
    if not models:
        raise ValueError(
            f"{checkpoint.name!r} is no SAM 2 checkpoint of Meta's form: it has no image_encoder.trunk weights"
            f"{_hint(found)}. {SOURCE}"
        )
    if len(models) > 1:
        raise ValueError(f"{checkpoint.name!r} holds {len(models)} SAM 2 models; save the one that you mean by itself")
    return models[0]


def _models(found: Any, depth: int = 0) -> Iterator[dict[str, torch.Tensor]]:
    """Every SAM 2 among what was saved: under any key, and with any prefix before its names (`module.`, `model.`)."""
    if not isinstance(found, Mapping) or depth > _DEEPEST:
        return
    names = [name for name in found if isinstance(name, str) and isinstance(found[name], torch.Tensor)]
    for name in names:
        if name.endswith(_MARK):
            front = name[: -len(_MARK)]
            yield {other[len(front) :]: found[other] for other in names if other.startswith(front)}
    for value in found.values():
        yield from _models(value, depth + 1)


def _hint(found: Any) -> str:
    """What a file is that people often take for one."""
    names = [name for name in found if isinstance(name, str)] if isinstance(found, Mapping) else []
    if any(name.endswith("vision_encoder.backbone.patch_embed.projection.weight") for name in names):
        return " (it is the form of the transformers library: take the .pt of the same page)"
    return ""


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
