"""What several nodes share: the sockets that the pack adds to the host's, and helpers around a MODEL and tracks."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..matrix_lib.core.layers import parse_layers, spread_layers
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.draw.tracks import track_report
from ..matrix_lib.hosts.comfy.model import backbone_of, sites_of
from ..matrix_lib.hosts.comfy.repair import needs_repair
from ..matrix_lib.hosts.comfy.video import Frames
from ..matrix_lib.hosts.comfy.warn import warn
from .shown import shown_frames

TracksSocket = io.Custom("MATRIX_TRACKS")
BindingSocket = io.Custom("MATRIX_BINDING")
CaptureSocket = io.Custom("MATRIX_CAPTURE")
WatchSocket = io.Custom("MATRIX_WATCH")
LayersSocket = io.Custom("MATRIX_LAYERS")
ScheduleSocket = io.Custom("MATRIX_SCHEDULE")
Sam3TracksSocket = io.Custom("SAM3_TRACK_DATA")


def start_frame() -> io.Int.Input:
    """Which frame of its tracks a clip starts with."""
    return io.Int.Input(
        "start_frame",
        default=0,
        min=0,
        max=100000,
        optional=True,
        advanced=True,
        tooltip="For a later clip of a chain: the frame of the tracks that it starts with. 80 for a second clip whose "
        "first frame is the last of 81.",
    )


def ticker(total: int) -> Callable[[], None]:
    """A step of the progress bar, at which the person may interrupt."""
    bar = comfy.utils.ProgressBar(total)

    def step() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return step


def check_room(frames: int, height: int, width: int, channels: int = 3) -> None:
    """Raises ValueError where a float32 batch (frames, height, width, channels) is larger than the memory that is free:
    asked for, it would end ComfyUI and not the node."""
    wanted, free = 4 * frames * height * width * channels, comfy.model_management.get_free_memory(torch.device("cpu"))
    if wanted > free:
        raise ValueError(
            f"{frames} frames of {width}x{height} pixels take {wanted / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are "
            "free: ask for fewer frames, or smaller ones"
        )


def warn_if_broken(model: object) -> list[str]:
    """What the host gets wrong about this MODEL, told as one warning."""
    wrong = needs_repair(model)
    if wrong:
        warn(f"this MODEL needs 'MATRIX Repair CogVideoX' first: {'; '.join(wrong)}")
    return wrong


def read_layers(text: str, model: object) -> tuple[int, ...] | None:
    """The layers that a person wrote, for this MODEL; None for all. "some" is a few worth a quick look."""
    layers = [site.layer for site in sites_of(model)]
    try:
        choice = backbone_of(model).dominant(len(set(layers)))
        dominant = (*choice.v2t, *choice.v2v)
    except ValueError:
        dominant = None
    if text == "some":
        return dominant or spread_layers(layers)
    return parse_layers(text, layers, dominant)


def track_outputs() -> list[io.Output]:
    return [
        TracksSocket.Output(display_name="tracks", tooltip="Named instances over the frames of the clip."),
        io.String.Output(display_name="report", tooltip="What the tracks hold, and what needs a look."),
    ]


def with_report(tracks: MaskTracks, notes: tuple[str, ...] = (), clip: Frames | None = None) -> io.NodeOutput:
    """The outputs of `track_outputs`, and for the page the report and the frames that the tracks were made on."""
    report = "\n".join([track_report(tracks), *notes])
    return io.NodeOutput(tracks, report, ui={"text": (report,)} | ({} if clip is None else shown_frames(clip)))
