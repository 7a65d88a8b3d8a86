"""Nodes that make tracks of tracks: other names and roles, several as one, another length or rate."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..matrix_lib.core.grid import FITS
from ..matrix_lib.core.tracks.edits import edited
from ..matrix_lib.core.tracks.joining import CLASHES, follow, side_by_side
from ..matrix_lib.core.tracks.retime import RETIMES, retime
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.hosts.comfy.model import backbone_of, rate_doubt, rate_of
from .sockets import TracksSocket, track_outputs, with_report

_OTHERS = ("keep", "leave out")
_SAME = "as they are"
_HOW = ("side by side", "one after the other")


class MatrixEditTracks(io.ComfyNode):
    """Which instances, under which names, in which roles, and how frames are fitted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixEditTracks",
            display_name="MATRIX Edit Tracks",
            category="MATRIX/tracks",
            description="Renames instances, gives them roles, chooses some, and says how frames of another shape "
            "become the model's. Masks stay packed.",
            search_aliases=["rename", "select instance", "role", "crop", "stretch", "letterbox", "pad", "fit"],
            inputs=[
                TracksSocket.Input("tracks", tooltip="Named instances."),
                io.String.Input(
                    "instances",
                    multiline=True,
                    default="",
                    placeholder="instance 1 -> person (subject)\ncup (object)",
                    tooltip="One instance a line: its name, a new name behind an arrow ->, a role in brackets. Empty: "
                    "all stay as they are.",
                ),
                io.Combo.Input(
                    "others",
                    options=list(_OTHERS),
                    default="keep",
                    tooltip="Instances that are not named: kept where they are, or left out (the named ones then come "
                    "in the order of the lines).",
                ),
                io.Combo.Input(
                    "fit",
                    options=[_SAME, *FITS],
                    default=_SAME,
                    tooltip="How frames of another shape become the model's: cropped around the centre, stretched, or "
                    "padded with bars. Guidance, capture, mask conditions and previews go by it; connect the tracks to "
                    "MATRIX First Frame, and bring other frames to the model in the same way.",
                ),
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def execute(cls, tracks: Any, instances: str = "", others: str = "keep", fit: Any = _SAME) -> io.NodeOutput:
        made = edited(tracks, instances, others == "keep")
        return with_report(made if fit == _SAME else made.fitted(fit))


class MatrixJoinTracks(io.ComfyNode):
    """Several tracks as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixJoinTracks",
            display_name="MATRIX Join Tracks",
            category="MATRIX/tracks",
            description="Puts tracks together: instances of one clip side by side, one instance replaced by a better "
            "mask, or clips one after the other. Masks stay packed.",
            search_aliases=["merge tracks", "combine masks", "concatenate", "append", "replace instance", "union"],
            inputs=[
                io.Autogrow.Input(
                    "parts",
                    template=io.Autogrow.TemplatePrefix(
                        TracksSocket.Input("tracks", tooltip="Tracks of the same frame size."),
                        prefix="tracks",
                        min=2,
                        max=32,
                    ),
                    tooltip="The tracks, in their order; a new socket appears as you connect them.",
                ),
                io.Combo.Input(
                    "how",
                    options=list(_HOW),
                    default=_HOW[0],
                    tooltip="Side by side: instances of the same frames. One after the other: clips in time; instances "
                    "join by name, and one that a clip does not have is absent there.",
                ),
                io.Combo.Input(
                    "same_name",
                    options=list(CLASHES),
                    default=CLASHES[0],
                    tooltip="Side by side, for a name that several have: refuse; replace its masks by the later ones; "
                    "unite the masks; number the later one.",
                ),
                io.Int.Input(
                    "overlap",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="One after the other: first frames of each later clip that repeat the one before, and are "
                    "left out. 1 for chained clips.",
                ),
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def execute(
        cls, parts: dict[str, Any], how: str = _HOW[0], same_name: Any = CLASHES[0], overlap: int = 0
    ) -> io.NodeOutput:
        given = [tracks for tracks in parts.values() if tracks is not None]
        return with_report(side_by_side(given, same_name) if how == _HOW[0] else follow(given, overlap))


class MatrixRetimeTracks(io.ComfyNode):
    """Tracks of another length or rate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixRetimeTracks",
            display_name="MATRIX Retime Tracks",
            category="MATRIX/tracks",
            description="Brings tracks to the length and frame rate of the clip that is generated: resampled by time, "
            "cut, or with the last frame held.",
            search_aliases=["fps", "frame rate", "resample", "trim", "hold", "loop", "speed", "length"],
            inputs=[
                TracksSocket.Input("tracks", tooltip="Named instances."),
                io.Combo.Input(
                    "how",
                    options=list(RETIMES),
                    default="resample",
                    tooltip="Resample: what is there at the time of each new frame, by both rates; with 'frames' "
                    "alone, the whole clip in so many frames. Cut: the first frames, one for one. Hold: all frames, "
                    "then the last one again and again.",
                ),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Frames of the generated clip. 0: as the time takes (resample), or as many as there are.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=240.0,
                    step=0.1,
                    tooltip="Frames per second of the generated clip. 0: the connected model's, else as the tracks "
                    "are.",
                ),
                io.Int.Input(
                    "start",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="The frame of the tracks that the result begins with.",
                ),
                io.Model.Input("model", optional=True, tooltip="The model that will sample, for its frame rate."),
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def execute(
        cls, tracks: Any, how: Any = "resample", frames: int = 0, fps: float = 0.0, start: int = 0, model: Any = None
    ) -> io.NodeOutput:
        doubt = ""
        if model is not None and not fps:
            rate = rate_of(model)
            if rate is None:
                raise ValueError(f"nobody says how many frames per second {backbone_of(model).title} makes; give fps")
            fps, doubt = rate, rate_doubt(model)
        made = retime(tracks, how, frames, fps, start)
        return with_report(made, (f"{_length(tracks)} became {_length(made)}", *filter(None, [doubt])))


def _length(tracks: MaskTracks) -> str:
    return f"{tracks.frames} frames at {tracks.fps:g} fps ({(tracks.frames - 1) / tracks.fps:.2f} s)"


NODES = [MatrixEditTracks, MatrixJoinTracks, MatrixRetimeTracks]
