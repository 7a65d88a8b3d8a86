"""Watch, bind and steer who does what to whom in video diffusion transformers.

The names that a person needs. Each is imported when it is first asked for, so that `import matrix_lib` costs nothing
and works without ComfyUI:

    pipe = CogVideoXImageToVideoPipeline.from_pretrained(...)
    binding = matrix_lib.bind_prompt(pipe, prompt, "cyclist: a cyclist\\nvan: a dark grey van")
    tracks = matrix_lib.MaskTracks.from_boxes({"cyclist": {0: (389, 19, 587, 480)}}, frames=1, height=480, width=720)
    with matrix_lib.watch(pipe, binding, tracks) as seen:
        video = pipe(image=image, prompt=prompt).frames[0]
    matrix_lib.save_capture(seen.capture(), "capture.safetensors")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.guidance.cut_and_drag import cut_and_drag
    from .core.guidance.dual_clock import DualClockDenoising
    from .core.guidance.gradient import GradientGuidance
    from .core.guidance.instance_captions import InstanceCaptions
    from .core.guidance.intrinsic import IntrinsicDenoising
    from .core.guidance.partition import Partition
    from .core.guidance.perturbation import Perturbation
    from .core.guidance.region_bias import RegionBias
    from .core.guidance.schedule import Schedule
    from .core.guidance.timed_words import TimedWords
    from .core.layers import Layers
    from .core.tracks.tracks import MaskTracks
    from .draw.capture import Choice, attention_chart, attention_pictures
    from .hosts.diffusers.attach import watch
    from .hosts.diffusers.captions import encode_captions
    from .hosts.diffusers.framing import frame_tracks
    from .hosts.diffusers.latents import encode_clip
    from .hosts.diffusers.lora import merge_lora
    from .hosts.diffusers.prompts import bind_prompt
    from .hosts.diffusers.steer import steer
    from .hosts.diffusers.tag_tokens import tag_tokens
    from .hosts.diffusers.two_passes import two_passes
    from .instrument.capture import Capture
    from .instrument.readings.contacts import ContactLine, find_meetings, meeting
    from .instrument.readings.mix_ups import find_mix_ups
    from .instrument.readings.motion_heads import find_motion
    from .instrument.readings.point_tracks import follow_points
    from .instrument.readings.reading import read_capture
    from .instrument.readings.sinks import find_sinks
    from .instrument.readings.word_masks import word_masks
    from .io.captures import load_capture, save_capture
    from .io.lora.apply import apply_lora
    from .io.lora.read import load_lora
    from .io.tracks import load_tracks, save_tracks
    from .viewer.notebook import attention_viewer
    from .viewer.page import attention_page

__all__ = [
    "Capture",
    "Choice",
    "ContactLine",
    "DualClockDenoising",
    "GradientGuidance",
    "InstanceCaptions",
    "IntrinsicDenoising",
    "Layers",
    "MaskTracks",
    "Partition",
    "Perturbation",
    "RegionBias",
    "Schedule",
    "TimedWords",
    "apply_lora",
    "attention_chart",
    "attention_page",
    "attention_pictures",
    "attention_viewer",
    "bind_prompt",
    "cut_and_drag",
    "encode_captions",
    "encode_clip",
    "find_meetings",
    "find_mix_ups",
    "find_motion",
    "find_sinks",
    "follow_points",
    "frame_tracks",
    "load_capture",
    "load_lora",
    "load_tracks",
    "meeting",
    "merge_lora",
    "read_capture",
    "save_capture",
    "save_tracks",
    "steer",
    "tag_tokens",
    "two_passes",
    "watch",
    "word_masks",
]

_HOMES = {
    "core.guidance.cut_and_drag": ("cut_and_drag",),
    "core.guidance.dual_clock": ("DualClockDenoising",),
    "core.guidance.gradient": ("GradientGuidance",),
    "core.guidance.instance_captions": ("InstanceCaptions",),
    "core.guidance.intrinsic": ("IntrinsicDenoising",),
    "core.guidance.partition": ("Partition",),
    "core.guidance.perturbation": ("Perturbation",),
    "core.guidance.region_bias": ("RegionBias",),
    "core.guidance.schedule": ("Schedule",),
    "core.guidance.timed_words": ("TimedWords",),
    "core.layers": ("Layers",),
    "core.tracks.tracks": ("MaskTracks",),
    "draw.capture": ("Choice", "attention_chart", "attention_pictures"),
    "hosts.diffusers.attach": ("watch",),
    "hosts.diffusers.captions": ("encode_captions",),
    "hosts.diffusers.framing": ("frame_tracks",),
    "hosts.diffusers.latents": ("encode_clip",),
    "hosts.diffusers.lora": ("merge_lora",),
    "hosts.diffusers.prompts": ("bind_prompt",),
    "hosts.diffusers.steer": ("steer",),
    "hosts.diffusers.tag_tokens": ("tag_tokens",),
    "hosts.diffusers.two_passes": ("two_passes",),
    "instrument.capture": ("Capture",),
    "instrument.readings.contacts": ("ContactLine", "find_meetings", "meeting"),
    "instrument.readings.mix_ups": ("find_mix_ups",),
    "instrument.readings.motion_heads": ("find_motion",),
    "instrument.readings.point_tracks": ("follow_points",),
    "instrument.readings.reading": ("read_capture",),
    "instrument.readings.sinks": ("find_sinks",),
    "instrument.readings.word_masks": ("word_masks",),
    "io.captures": ("load_capture", "save_capture"),
    "io.lora.apply": ("apply_lora",),
    "io.lora.read": ("load_lora",),
    "io.tracks": ("load_tracks", "save_tracks"),
    "viewer.notebook": ("attention_viewer",),
    "viewer.page": ("attention_page",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    try:
        found = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == __name__.split(".")[0]:
            raise
        raise ImportError(
            f"{__name__}.{name} needs the package {error.name!r}, which is not installed: "
            "pip install 'matrix-video[train]' brings everything that the library needs"
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *(name for name in __all__ if name not in globals())]
