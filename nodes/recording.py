"""What the nodes that record share: their inputs, and what these become."""

from __future__ import annotations

from typing import Literal

from comfy_api.latest import io

from ..matrix_lib.core.points import parse_points
from ..matrix_lib.core.ranges import parse_numbers
from ..matrix_lib.hosts.comfy.model import sites_of
from ..matrix_lib.instrument.kinds import layers_of
from ..matrix_lib.instrument.recorder import RecorderConfig
from .sockets import read_layers

LAYERS_TIP = (
    "Which layers: 'all', 'dominant' (the layers that the MATRIX paper found for this model size), or numbers and "
    "ranges such as '7, 11-13'. HunyuanVideo's single blocks go on counting after the double ones."
)


def recording_inputs() -> list[io.Input]:
    """What to record."""
    return [
        io.String.Input("layers", default="all", tooltip=LAYERS_TIP),
        io.Int.Input(
            "step_bins",
            default=0,
            min=0,
            max=1000,
            tooltip="Keep this many averages over the steps; 0 keeps every step, or as many as the budget allows.",
        ),
        io.Float.Input(
            "budget_mb",
            default=1024.0,
            min=0.001,
            max=65536.0,
            step=1.0,
            tooltip="Main memory that the capture may take, in MB. All layers and 50 steps of a 5B model with ten "
            "words take about 1 GB.",
        ),
        io.Boolean.Input(
            "words", default=True, tooltip="Record video-to-text: how much each place looks at the words."
        ),
        io.Boolean.Input(
            "instances",
            default=True,
            tooltip="Record video-to-video: where each instance's first-frame tokens look. Needs mask tracks.",
        ),
    ]


def storage_inputs() -> list[io.Input]:
    """How the maps are kept, and what is recorded besides."""
    return [
        io.Combo.Input(
            "storage",
            options=["float16", "uint8"],
            default="float16",
            optional=True,
            advanced=True,
            tooltip="float16 keeps maps as they are. uint8 takes half the memory and disk: each value is off by at "
            "most 0.4 % of its map's largest; the report says by how much.",
        ),
        io.String.Input(
            "keep_as",
            default="",
            optional=True,
            advanced=True,
            tooltip="Folder and name below the output folder, such as matrix/run: steps are written there while they "
            "are sampled, so that a run that breaks off leaves what it had. Empty: nothing is written.",
        ),
        io.Boolean.Input(
            "words_look",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Record text-to-video and text-to-text as well: where the words look, in the clip and among each "
            "other. Only where both share one attention (CogVideoX, HunyuanVideo, Mochi 1, MiniMax H3).",
        ),
        io.Boolean.Input(
            "sound",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Record what the sound of LTX-2 or MiniMax H3 looks at, words and instances, moment by moment.",
        ),
        io.String.Input(
            "heads",
            default="",
            optional=True,
            advanced=True,
            tooltip="Attention heads to keep apart, such as '0, 3-5', or 'all'. Each takes the memory of a capture of "
            "its own, within budget_mb (fewer step bins fit), and twice a step bin of it on the GPU. Empty: the mean "
            "over all heads.",
        ),
        io.String.Input(
            "points",
            default="",
            optional=True,
            advanced=True,
            tooltip="Places to follow: 'x,y@frame' in pixels of the clip or percent, such as '60,90@8; 50%,50%'. It is "
            "recorded where each of them looks in the whole clip. A click in the viewer or the track editor puts "
            "them here.",
        ),
    ]


def points_problem(points: str | None) -> bool | str:
    """For `validate_inputs`: True, or what is wrong with a text of points."""
    try:
        parse_points(points or "")
    except ValueError as error:
        return str(error)
    return True


def _heads(text: str) -> tuple[int, ...] | Literal["all"]:
    """The heads of a text: () for an empty one. Raises ValueError for what is neither."""
    pieces = list(parse_numbers(text, "heads", {"all": ()})) if text.strip() else []
    if any(piece == "all" for piece, _ in pieces):
        return "all"
    return tuple(sorted({number for _, numbers in pieces for number in numbers}))


def recorder_config(
    model: object,
    layers: str,
    step_bins: int,
    budget_mb: float,
    words: bool,
    instances: bool,
    storage: str = "float16",
    words_look: bool = False,
    sound: bool = False,
    heads: str = "",
    points: str = "",
) -> RecorderConfig:
    """What a recorder is to do. Raises ValueError for layers that the MODEL does not have, heads and points that cannot
    be read, or nothing to record."""
    chosen = read_layers(layers, model)
    kept = "uint8" if storage == "uint8" else "float16"
    config = RecorderConfig(
        chosen,
        step_bins,
        budget_mb,
        "cond",
        words,
        instances,
        storage=kept,
        t2v=words_look,
        t2t=words_look,
        sound=sound,
        heads=_heads(heads),
        points=parse_points(points),
    )
    for kind in config.kinds:
        layers_of(kind, sites_of(model), chosen)  # says at once what this MODEL has nowhere
    return config
