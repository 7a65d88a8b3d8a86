"""What may come through each kind of socket: one entry a type, with what it accepts and what is wrong with a value.

Values are looked at, never changed, and looking costs no memory: a clip is summed, not copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..matrix_lib.core.guidance.schedule import Schedule
from ..matrix_lib.core.layers import LayerSet
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.core.words.binding import PromptBinding
from ..matrix_lib.instrument.capture import Capture

__all__ = ["SOCKETS", "Socket", "shown"]

_LONGEST_SIDE = 16384


@dataclass(frozen=True)
class Socket:
    """A type of socket. `wrong` says what is wrong with a value, None where nothing is."""

    takes: str
    advice: str
    wrong: Callable[[Any], str | None]


def shown(value: Any) -> str:
    """A value in a few words, whatever it is and however large."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):  # Python refuses to write out thousands of digits
        return str(value) if value.bit_length() < 200 else f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}... ({len(value)} characters)"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _has(*names: str) -> Callable[[Any], str | None]:
    """Whatever can do this: other packs have classes of their own for the host's types."""

    def wrong(value: Any) -> str | None:
        return None if all(hasattr(value, name) for name in names) else shown(value)

    return wrong


def _is(kind: type) -> Callable[[Any], str | None]:
    return lambda value: None if isinstance(value, kind) else shown(value)


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are. A sum holds NaN and infinity where any of its parts does, and needs no second clip."""
    return math.isfinite(float(tensor.detach().sum(dtype=torch.float64)))


def _tensor(ranks: tuple[int, ...], form: str, empty: bool = False) -> Callable[[Any], str | None]:
    def wrong(value: Any) -> str | None:
        if not isinstance(value, torch.Tensor):
            return shown(value)
        if value.ndim not in ranks:
            return f"{shown(value)}, where {form} is due"
        if 0 in value.shape and not empty:
            return f"{shown(value)}, which is empty"
        if value.is_complex() or value.is_quantized or value.is_sparse or value.is_meta:
            return f"{shown(value)}, which are no plain numbers"
        return None if _finite(value) else f"{shown(value)} with values that are no numbers (NaN or infinite)"

    return wrong


def _image(value: Any) -> str | None:
    wrong = _tensor((4,), "(frames, height, width, colours)")(value)
    if wrong is None and value.shape[-1] not in (1, 3, 4):
        wrong = f"{shown(value)}, where 1, 3 or 4 colours are due"
    return wrong


def _latent(value: Any) -> str | None:
    if not isinstance(value, Mapping) or "samples" not in value:
        return f"{shown(value)} without samples" if isinstance(value, Mapping) else shown(value)
    samples = value["samples"]
    check = _tensor((3, 4, 5), "(batch, channels, frames, height, width)")
    if getattr(samples, "is_nested", False) is not True:
        return check(samples)
    for place, part in enumerate(samples.unbind()):  # a clip, and its sound
        if wrong := check(part):
            return f"latents of clip and sound whose part {place + 1} is {wrong}"
    return None


def _conditioning(value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return shown(value)
    if not value:
        return "an empty one, without any prompt"
    for item in value:
        if not isinstance(item, list | tuple) or len(item) != 2 or not isinstance(item[1], Mapping):
            return f"{shown(value)} whose parts are no pairs of text rows and settings"
        if not isinstance(item[0], torch.Tensor):
            return f"text rows that are {shown(item[0])}"
    return None


def _sam3(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return shown(value)
    packed, size = value.get("packed_masks"), value.get("orig_size")
    if packed is not None and not isinstance(packed, torch.Tensor):
        return f"packed masks that are {shown(packed)}"
    if packed is not None and packed.ndim != 4:
        return f"packed masks that are {shown(packed)}, where (frames, objects, height, width / 8) is due"
    if size is not None and (not isinstance(size, list | tuple) or not all(_is_side(side) for side in size)):
        return f"an orig_size that is {shown(size)}, where height and width in pixels are due"
    return None


def _is_side(value: Any) -> bool:
    return isinstance(value, int | float) and 1 <= value <= _LONGEST_SIDE


_SAMPLES = "Connect an empty or encoded video latent, and look at the node that made it"
_PICTURES = "Connect pictures, and look at the node that made them"
SOCKETS: dict[str, Socket] = {
    "MODEL": Socket(
        "a MODEL", "Connect the MODEL of a loader", _has("model", "model_options", "clone", "get_model_object")
    ),
    "CLIP": Socket(
        "a CLIP",
        "Connect the CLIP of a loader; one that opened no text encoder gives none",
        _has("tokenize", "encode_from_tokens"),
    ),
    "VAE": Socket("a VAE", "Connect the VAE of a loader; one that opened none gives none", _has("encode", "decode")),
    "CLIP_VISION_OUTPUT": Socket(
        "a CLIP_VISION_OUTPUT", "Connect CLIP Vision Encode", _has("last_hidden_state", "penultimate_hidden_states")
    ),
    "CONDITIONING": Socket("a CONDITIONING", "Connect an encoded prompt", _conditioning),
    "GUIDER": Socket(
        "a GUIDER", "Connect CFG Guider or another guider", _has("model_patcher", "original_conds", "sample")
    ),
    "NOISE": Socket("a NOISE", "Connect Random Noise", _has("generate_noise")),
    "SAMPLER": Socket("a SAMPLER", "Connect KSampler Select", _has("sample")),
    "SIGMAS": Socket("SIGMAS", "Connect a scheduler", _tensor((1,), "one row of noise levels", empty=True)),
    "LATENT": Socket("a LATENT", _SAMPLES, _latent),
    "IMAGE": Socket("an IMAGE", _PICTURES, _image),
    "MASK": Socket("a MASK", "Connect masks", _tensor((2, 3, 4), "(frames, height, width)")),
    "VIDEO": Socket("a VIDEO", "Connect a video", _has("get_components")),
    "BOUNDING_BOX": Socket("a BOUNDING_BOX", "Connect bounding boxes", _is((list, dict))),  # type: ignore[arg-type]
    "ARRAY": Socket("elements of Create Bounding Boxes", "Connect its elements", _is(list)),
    "STRING": Socket("the coordinates of a spline editor", "Connect a text of points", _is(str)),
    "TRACKS": Socket("TRACKS", "Connect a maker of TRACKS", _is(dict)),
    "SAM3_TRACK_DATA": Socket("a SAM3_TRACK_DATA", "Connect SAM3 Video Track", _sam3),
    "MATRIX_TRACKS": Socket(
        "MATRIX_TRACKS", "Connect MATRIX Mask Tracks, MATRIX Box Tracks or another maker of tracks", _is(MaskTracks)
    ),
    "MATRIX_BINDING": Socket("a MATRIX_BINDING", "Connect MATRIX Bind Prompt", _is(PromptBinding)),
    "MATRIX_CAPTURE": Socket(
        "a MATRIX_CAPTURE", "Connect MATRIX Sample and Capture Attention or MATRIX Load Capture", _is(Capture)
    ),
    "MATRIX_WATCH": Socket("a MATRIX_WATCH", "Connect the watch of MATRIX Watch Attention", _has("key")),
    "MATRIX_LAYERS": Socket("MATRIX_LAYERS", "Connect MATRIX Analyse Layers", _is(LayerSet)),
    "MATRIX_SCHEDULE": Socket("a MATRIX_SCHEDULE", "Connect MATRIX Schedule Curve", _is(Schedule)),
}
"""Every type that comes through the pack's inputs, by the host's name of it. `tests/test_nodes/test_checks.py` asks for
all of them."""
