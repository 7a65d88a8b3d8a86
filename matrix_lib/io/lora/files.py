"""Raw LoRA files: finding them, their tensors and their headers, with nothing believed before it is checked.

Safetensors, and PyTorch files that hold tensors alone (`io.torch_files`): nothing in a file is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...backbones.lora import Info
from ...backbones.weight_names import FAMILIES
from ..files import check_safetensors, parse_object, said, what_it_is
from ..torch_files import read_torch_file

__all__ = [
    "ADAPTER",
    "BESIDE",
    "EXTRA",
    "HEADER",
    "LONGEST_HEADER",
    "PICKLED",
    "SAFE",
    "TAVID_LORA",
    "TAVID_PROJECTION",
    "VERSION",
    "find_file",
    "number",
    "read_file",
    "read_header",
]

HEADER, VERSION = "matrix_lora", 1
ADAPTER = "lora_adapter_metadata"
"""diffusers' own header."""
EXTRA = re.compile(r"^(?:extra|seg_head|decoder)\.")
"""Names of tensors that are trained along and serve no inference."""
TAVID_LORA, TAVID_PROJECTION = "pytorch_lora_weights.safetensors", "patch_embed_conv2d.pth"
_NAMED = (TAVID_LORA, "adapter_model.safetensors", "lora.safetensors")
"""What LoRAs are called in folders that hold other files, too: diffusers', peft's, and that of our checkpoints."""
BESIDE = ".projection.safetensors"
SAFE, PICKLED = (".safetensors", ".sft"), (".pth", ".pt", ".ckpt", ".bin")
LONGEST_HEADER = 1 << 22
_MOST_TENSORS, _LARGEST_PICKLE = 20_000, 1 << 30
_FLOATS = {"F64", "F32", "F16", "BF16"}


def find_file(path: Path) -> Path:
    """The LoRA that a path means: the file, or the one LoRA of a folder."""
    if path.name == TAVID_PROJECTION and path.with_name(TAVID_LORA).is_file():
        return path.with_name(TAVID_LORA)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no LoRA file {str(path)!r}")
    named = [path / name for name in _NAMED if (path / name).is_file()]
    every = [p for p in sorted(path.glob("*.safetensors")) if not p.name.endswith(BESIDE)]
    if not named and len(every) != 1:
        raise ValueError(f"{str(path)!r} holds {len(every)} safetensors files: name the LoRA among them")
    return (named or every)[0]


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file, or the tensors of a pickle."""
    if path.suffix.lower() in PICKLED:
        return _read_pickle(path), {}
    if path.suffix.lower() not in SAFE:
        raise ValueError(f"LoRA files end in {', '.join((*SAFE, *PICKLED))}")
    try:
        check_safetensors(path, LONGEST_HEADER)
        with safe_open(str(path), framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            if len(names) > _MOST_TENSORS:
                raise ValueError(f"it has {len(names)} tensors, and {_MOST_TENSORS} are the most")
            for name in names:
                if (kind := file.get_slice(name).get_dtype()) not in _FLOATS:
                    raise ValueError(f"{name!r} is {kind}; weights are {', '.join(sorted(_FLOATS))}")
            return {name: file.get_tensor(name) for name in names}, metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(f"it is no whole safetensors file: {what_it_is(path)} ({said(error)})") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """A flat dict of tensors from a PyTorch file; nothing in it is ever run."""
    if path.stat().st_size > _LARGEST_PICKLE:
        raise ValueError(f"it is a pickle of {path.stat().st_size >> 20} MiB; {_LARGEST_PICKLE >> 20} are the most")
    found = read_torch_file(path)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) and v.is_floating_point() for k, v in found.items()
    ):
        raise ValueError("it is a PyTorch file, but not a flat dict of weights")
    if len(found) > _MOST_TENSORS:
        raise ValueError(f"it has {len(found)} tensors, and {_MOST_TENSORS} are the most")
    return dict(found)


def read_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Our JSON header, checked; {} where there is none."""
    if HEADER not in metadata:
        return {}
    found = parse_object(metadata[HEADER], "its header", LONGEST_HEADER)
    if found.get("version") != VERSION:
        raise ValueError(f"its header is of version {str(found.get('version'))[:20]}; this release reads {VERSION}")
    try:
        info = found["info"]
        layers = {str(k): tuple(_whole(n) for n in v) for k, v in info["layers"].items()}
        palette = tuple(tuple(_whole(c) for c in colour) for colour in info["palette"])
        texts = [str(info[key]) for key in ("condition", "trigger", "prompt_form")]
        picture = info.get("image_attention", "")
        channels, notes = _whole(info["base_channels"]), tuple(str(note) for note in info["notes"])
        stacked = found.get("stacked") or {}
        alphas = {str(k): number(v, k) for k, v in (found.get("alphas") or {}).items()}
        family = found["family"]
        good = all(len(c) == 3 and all(0 <= v <= 255 for v in c) for c in palette) and family in FAMILIES
        good &= picture in ("", "off")
        for parts in stacked.values():
            good &= all(len(part) == 2 and isinstance(part[0], int) for part in parts)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise ValueError("its header lacks entries or holds values of the wrong type") from None
    if not good:
        raise ValueError("its header lacks entries or holds values of the wrong type")
    made = Info(texts[0], channels, layers, palette, texts[1], texts[2], notes, picture)  # type: ignore[arg-type]
    return {"family": family, "info": made, "stacked": stacked, "alphas": alphas}


def number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"{what} is a number; got {str(value)[:40]!r}")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value
