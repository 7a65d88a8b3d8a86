"""Nodes that say how good a generated clip is."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..matrix_lib.core.tracks.checks import shorten
from ..matrix_lib.core.tracks.text import parse_names
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.draw.followed import draw_followed
from ..matrix_lib.evaluation.trajectories.measures import MEASURES
from ..matrix_lib.evaluation.trajectories.score import score_tracks
from ..matrix_lib.hosts.comfy.tracks import check_images, frame_reader, image_batch
from .sockets import TracksSocket, ticker


class MatrixScoreTracks(io.ComfyNode):
    """Tracks of a generated clip against the given ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixScoreTracks",
            display_name="MATRIX Score Tracks",
            category="MATRIX/evaluation",
            description="Scores a generated clip by its tracks: who is still there, who follows which path, who looks "
            "like whom, who touches whom. Needs no model; track the clip with SAM 2 or SAM 3 first.",
            search_aliases=["evaluate", "metrics", "HOTA", "mIoU", "SPI", "contact", "quality", "benchmark"],
            is_output_node=True,
            inputs=[
                TracksSocket.Input("given", tooltip="Where everybody should be. One frame: who is there at first."),
                TracksSocket.Input(
                    "seen",
                    tooltip="Tracks of the generated clip, under the same names. Further names are things that nobody "
                    "asked for.",
                ),
                io.Image.Input(
                    "frames",
                    optional=True,
                    tooltip="The generated clip. Without it looks, doubles and drift are not known.",
                ),
                io.String.Input(
                    "pair",
                    default="",
                    tooltip="Whose contact is scored: who acts, then who is acted on, with a comma between. Empty "
                    "takes the first subject and the first object, or both of two.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default="trajectory_iou",
                    tooltip="Which score comes out as a number, for nodes that compare or sort.",
                ),
                io.Int.Input(
                    "stride",
                    default=1,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="Presence is judged on every so many frames; InterGenEval takes 5.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="overlay",
                    tooltip="The frames with tracks as lines, given boxes as dashes, and what happens below.",
                ),
                io.String.Output(display_name="table", tooltip="All scores, what happened in which frames, and notes."),
                io.String.Output(display_name="scores", tooltip="The same as JSON; null is what is not known."),
                io.Float.Output(display_name="value", tooltip="The chosen measure; nan where it is not known."),
            ],
        )

    @classmethod
    def execute(
        cls,
        given: MaskTracks,
        seen: MaskTracks,
        frames: torch.Tensor | None = None,
        pair: str = "",
        measure: str = "trajectory_iou",
        stride: int = 1,
    ) -> io.NodeOutput:
        read = None
        if frames is not None:
            check_images(frames, seen.height, seen.width)
            if len(frames) != seen.frames:
                raise ValueError(
                    f"the clip has {len(frames)} frames and its tracks {seen.frames}: connect the same clip"
                )
            read = frame_reader(frames)
        step = ticker(2 * seen.frames)
        pictures = None if read is None else map(read, range(seen.frames))
        scores = score_tracks(given, seen, pictures, pairs=_pairs(pair), stride=stride, progress=step)
        drawn = []
        for picture in draw_followed(given, seen, read, scores.by_frame()):
            drawn.append(picture)
            step()
        overlay, table = image_batch(drawn), scores.table()
        shown = ui.PreviewImage(overlay, cls=cls).as_dict() | {"text": (table,)}
        return io.NodeOutput(overlay, table, json.dumps(scores.as_json()), scores.values[measure], ui=shown)


def _pairs(text: str) -> list[tuple[str, str]] | None:
    """The pair that a person wrote; None for an empty text."""
    names: list[Any] = list(parse_names(text)[0]) if text.strip() else []
    if not names:
        return None
    if len(names) != 2:
        said = shorten(text, 80)
        raise ValueError(f"a pair is two names with a comma between, who acts and who is acted on; got {said!r}")
    return [(names[0], names[1])]


NODES = [MatrixScoreTracks]
