"""Nodes of cut and drag: a rough animation made of one picture and mask tracks, and sampling that is held to it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..matrix_lib.backbones import families
from ..matrix_lib.core.grid import Framing
from ..matrix_lib.core.guidance.cut_and_drag import cut_and_drag
from ..matrix_lib.core.guidance.dual_clock import DualClockDenoising
from ..matrix_lib.core.tracks.boxes import in_pixels
from ..matrix_lib.core.tracks.text import parse_boxes
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.hosts.comfy.mini import check_clip
from ..matrix_lib.hosts.comfy.steer import steer
from .sockets import TracksSocket, check_room, start_frame, ticker, warn_if_broken

_FRAMES, _RATE = 49, 8.0  # of a clip of boxes that are drawn in the node: what MATRIX Box Tracks begins with


class MatrixCutAndDrag(io.ComfyNode):
    """A first frame whose instances are moved along their masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixCutAndDrag",
            display_name="MATRIX Cut And Drag",
            category="MATRIX/guidance",
            description="A rough animation: every instance is cut out of the first frame and put where its mask is in "
            "each other frame; what it leaves behind is filled from around. Encode it with the model's VAE and hold "
            "sampling to it with MATRIX Dual-Clock Denoising.",
            search_aliases=[
                "time-to-move",
                "TTM",
                "rough animation",
                "motion",
                "trajectory",
                "drag",
                "reference video",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The first frame, in the size of the video. Of several, the first."),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="Where each instance is in every frame: from masks or boxes. Without it: the boxes that "
                    "are drawn in this node.",
                ),
                start_frame(),
                io.Int.Input(
                    "length",
                    default=0,
                    min=0,
                    max=100000,
                    optional=True,
                    advanced=True,
                    tooltip="Frames of the animation, where the tracks go on longer. 0: to their end; 49 for boxes "
                    "that are drawn in this node.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="The model's VAE: the animation then comes out encoded, too."
                ),
                io.String.Input(
                    "boxes",
                    multiline=True,
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Boxes that are drawn in the node's editor, as in MATRIX Box Tracks; not used where tracks "
                    "are connected.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="frames", tooltip="As many frames as the tracks have, the picture first."),
                io.Latent.Output(
                    display_name="latent", tooltip="The frames as the VAE encodes them; nothing without a VAE."
                ),
                TracksSocket.Output(
                    display_name="tracks", tooltip="What moved, for MATRIX Dual-Clock Denoising and MATRIX Bind Prompt."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, boxes: str | None = None) -> bool | str:
        try:
            return not boxes or not boxes.strip() or bool(parse_boxes(boxes, 1, 1))
        except ValueError as error:
            return str(error)

    @classmethod
    def execute(
        cls,
        image: Any,
        tracks: Any = None,
        start_frame: int = 0,
        length: int = 0,
        vae: Any = None,
        boxes: str = "",
    ) -> io.NodeOutput:
        if tracks is None:
            tracks = _drawn(boxes, length, image)
        tracks = tracks.starting(start_frame)
        if length:
            tracks = tracks.take(range(min(length, tracks.frames)))
        if tracks.frames == 1:
            raise ValueError(
                "these tracks are masks of the first frame alone, so nothing moves. Connect tracks of all frames: from "
                "MATRIX Box Tracks, from masks of a clip, or from a tracker."
            )
        first = image[0]
        size = (int(first.shape[0]), int(first.shape[1]))
        check_room(tracks.frames, *size)
        if vae is not None:
            check_clip(vae, tracks.frames, *size)
        if (tracks.height, tracks.width) != size:
            tracks = tracks.framed(Framing((tracks.height, tracks.width), size, tracks.fit))
        frames = cut_and_drag(first[..., :3], tracks, ticker(max(tracks.frames - 1, 1)))
        return io.NodeOutput(frames, None if vae is None else {"samples": vae.encode(frames)}, tracks)


def _drawn(boxes: str, length: int, image: Any) -> MaskTracks:
    """Tracks of the boxes that were drawn in the node. Raises ValueError where there are none."""
    if not boxes.strip():
        raise ValueError("nothing says where things move: connect tracks, or draw boxes in this node")
    height, width = int(image.shape[1]), int(image.shape[2])
    keys, roles = parse_boxes(boxes, width, height)
    return MaskTracks.from_boxes(
        in_pixels(keys, height, width)[0], length or _FRAMES, height, width, roles, _RATE, hold=True
    )


class MatrixDualClockDenoising(io.ComfyNode):
    """A MODEL whose latent is held to a reference clip in the first steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixDualClockDenoising",
            display_name="MATRIX Dual-Clock Denoising",
            category="MATRIX/guidance",
            description="Holds sampling to a rough animation: up to one step inside the tracks, up to an earlier one "
            "everywhere else; from then on the model is free (Time-to-Move). Costs no model calls, needs no training, "
            "and works best with image-to-video models.",
            search_aliases=[
                "time-to-move",
                "TTM",
                "SDEdit",
                "motion control",
                "trajectory",
                "cut and drag",
                "video2video",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"{families()} from any loader; steered or with LoRAs if you like.",
                ),
                io.Latent.Input(
                    "reference",
                    tooltip="The rough animation, encoded with this model's VAE (VAE Encode): as many frames and "
                    "pixels as are sampled.",
                ),
                io.Float.Input(
                    "inside",
                    default=0.18,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the steps after which the inside of the tracks is the model's own. 0.18 in the "
                    "paper for CogVideoX, 0.14 for Wan; mini follows from 0.5 on. More keeps to the path and looks "
                    "pasted. 0 changes nothing.",
                ),
                io.Float.Input(
                    "outside",
                    default=0.08,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The same for everything else; at most inside. 0.08 in the paper. Less lets the model draw "
                    "things twice, more freezes the background.",
                ),
                io.Float.Input(
                    "cover",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    advanced=True,
                    tooltip="A place of the latent is inside where the tracks cover more than this share of it.",
                ),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="What is held longer. Without it: the tracks that the positive conditioning carries.",
                ),
                start_frame(),
            ],
            outputs=[io.Model.Output(tooltip="The same MODEL. Connect it to any sampler or guider.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        reference: Any,
        inside: float,
        outside: float,
        cover: float = 0.0,
        tracks: Any = None,
        start_frame: int = 0,
    ):
        config = DualClockDenoising(inside, outside, cover)
        tracks = None if tracks is None else tracks.starting(start_frame)
        warn_if_broken(model)
        return io.NodeOutput(steer(model, config, tracks=tracks, reference=reference))


NODES = [MatrixCutAndDrag, MatrixDualClockDenoising]
