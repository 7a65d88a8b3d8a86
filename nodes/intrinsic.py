"""The node of temporal intrinsic denoising."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..matrix_lib.backbones import families
from ..matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from ..matrix_lib.core.guidance.schedule import Schedule
from ..matrix_lib.hosts.comfy.steer import steer
from .sockets import ScheduleSocket, TracksSocket, start_frame, warn_if_broken

_ON = {"noisy latent": "noisy", "predicted clean latent": "clean"}
_REGION = {"boxes": "box", "masks": "mask"}
_CHANNELS = {"all channels together": "joint", "each channel": "each"}


def _fixed() -> list[Any]:
    return [
        io.Float.Input(
            "strength",
            default=10000.0,
            min=0.0,
            max=1e7,
            step=100.0,
            tooltip="c_g: weight of the motion's gradient beside the model's own. 10000 in the paper; 0 leaves the "
            "model's own.",
        ),
        io.Boolean.Input(
            "normalise",
            default=False,
            tooltip="The gradient of a correlation shrinks with the number of values in it, so small boxes are pushed "
            "harder. On: every size is pushed as a box of a quarter of the paper's frame.",
        ),
    ]


def _share() -> list[Any]:
    return [
        io.Float.Input(
            "share",
            default=0.2,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="The motion's gradient is scaled in each step to this share of the model's own, over the places "
            "where it acts.",
        )
    ]


def _combo(name: str, options: dict[str, str], tooltip: str) -> Any:
    return io.Combo.Input(name, options=list(options), advanced=True, tooltip=tooltip)


class MatrixIntrinsicDenoising(io.ComfyNode):
    """A MODEL whose latent is made to move along the tracks before each step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixIntrinsicDenoising",
            display_name="MATRIX Intrinsic Denoising",
            category="MATRIX/guidance",
            description="Before each step, some small denoising steps that also make what is inside each track's boxes "
            "correlate from frame to frame (temporal intrinsic denoising of IVG-DA). Works with most samplers; each "
            "iteration makes a step one model call longer.",
            search_aliases=["IVG-DA", "trajectory", "temporal prior", "langevin", "motion control", "box trajectory"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"{families()} from any loader; steered or with LoRAs if you like.",
                ),
                io.Int.Input(
                    "iterations",
                    default=2,
                    min=0,
                    max=100,
                    tooltip="M: small steps before each step. 2 in the paper; 0 changes nothing.",
                ),
                io.DynamicCombo.Input(
                    "scale",
                    options=[
                        io.DynamicCombo.Option("fixed (c_g)", _fixed()),
                        io.DynamicCombo.Option("share of the score", _share()),
                    ],
                    tooltip="How strong the motion's gradient is: a fixed weight, as in the paper, or a share of the "
                    "model's own gradient.",
                ),
                io.Float.Input(
                    "rate",
                    default=0.05,
                    min=0.0001,
                    max=1.0,
                    step=0.005,
                    tooltip="gamma: size of the small steps, as a share of the noise variance. 0.05 in the paper.",
                ),
                io.Float.Input(
                    "noise",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Factor on the fresh noise that each small step adds. 1 keeps the noise level.",
                ),
                _combo("on", _ON, "What is correlated: the noisy latent (the paper), or what the model expects of it."),
                _combo(
                    "region", _REGION, "Whether everything in a track's boxes moves along (the paper), or its mask."
                ),
                _combo("channels", _CHANNELS, "One correlation over all latent channels, or the mean of one for each."),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="What the latent follows. Without it: the tracks that the positive conditioning carries.",
                ),
                ScheduleSocket.Input(
                    "schedule",
                    optional=True,
                    tooltip="Strength over the steps, from MATRIX Schedule Curve; steps where it is 0 cost nothing.",
                ),
                start_frame(),
            ],
            outputs=[io.Model.Output(tooltip="The same MODEL. Connect it to any sampler or guider.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        iterations,
        scale,
        rate,
        noise,
        on,
        region,
        channels,
        tracks=None,
        schedule=None,
        start_frame=0,
    ) -> io.NodeOutput:
        config = IntrinsicDenoising(
            iterations,
            scale.get("strength", 10000.0),
            rate,
            noise,
            scale.get("share"),
            scale.get("normalise", False),
            _ON[on],
            _REGION[region],
            _CHANNELS[channels],
            schedule or Schedule(),
        )
        warn_if_broken(model)
        return io.NodeOutput(steer(model, config, tracks=None if tracks is None else tracks.starting(start_frame)))


NODES = [MatrixIntrinsicDenoising]
