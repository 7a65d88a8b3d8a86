"""Nodes that look at mask tracks, turn them back into masks, and keep them in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..matrix_lib.backbones import REGISTRY
from ..matrix_lib.backbones.spec import TokenSize
from ..matrix_lib.core.grid import Framing, Grid
from ..matrix_lib.core.tracks.text import parse_names
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.draw.tracks import TrackLook, draw_tracks, track_report
from ..matrix_lib.hosts.comfy.shapes import elements_of, points_text
from ..matrix_lib.hosts.comfy.tracks import check_images, frame_reader, image_batch, mask_batch, paths
from ..matrix_lib.io.files import inside
from ..matrix_lib.io.tracks import load_tracks, save_tracks
from .checks import Files
from .places import new_place, saved_files, state_of
from .shown import saved_file, shown_grid
from .sockets import TracksSocket, check_room, ticker, track_outputs, with_report

_USUAL = TokenSize()
# Saved workflows hold these names: the first one stays as it is, whoever else comes to have tokens of the usual size.
_TOKENS = {
    "CogVideoX 1.0, Wan, HunyuanVideo": _USUAL,
    **{spec.title: spec.token_size for spec in REGISTRY.values() if spec.token_size != _USUAL},
    **{name: size for spec in REGISTRY.values() for name, size in spec.variants.items()},
    "mini": TokenSize((1, 1, 1)),
}
# Frames per second, where the name says which model it is.
_RATES = {name: spec.fps.get(name) for spec in REGISTRY.values() for name in spec.variants}
_SHOW = ("first frame of each token frame", "every frame", "first frame of the clip")


def _seen_inputs() -> list[io.Input]:
    """How the model sees the frames."""
    return [
        io.Int.Input(
            "width", default=0, min=0, max=16384, tooltip="Width of the generated clip; 0: as the tracks are."
        ),
        io.Int.Input("height", default=0, min=0, max=16384, tooltip="Height of the generated clip; 0: as the tracks."),
        io.Combo.Input(
            "crop",
            options=["center", "stretch", "pad"],
            default="center",
            tooltip="What happens where shapes differ. center: as steering does it, cropped around the centre as "
            "ComfyUI crops start images, unless the tracks say otherwise (MATRIX Edit Tracks). Others try another way.",
        ),
    ]


def _framing(tracks: MaskTracks, width: int, height: int, crop: Any) -> Framing:
    fit = tracks.fit if crop == "center" else crop  # the default, in every saved workflow: what steering does
    return Framing((tracks.height, tracks.width), (height or tracks.height, width or tracks.width), fit)


class MatrixTracksToMask(io.ComfyNode):
    """Tracks back to MASK batches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixTracksToMask",
            display_name="MATRIX Tracks to Mask",
            category="MATRIX/tracks",
            description="Instances of the tracks as ComfyUI masks, one per frame, the first frame as a palette picture "
            "with one colour per instance, and the paths of their middles.",
            search_aliases=["mask", "id map", "palette", "extract instance", "unpack", "wan move", "TRACKS"],
            inputs=[
                TracksSocket.Input("tracks", tooltip="Named instances."),
                io.String.Input(
                    "names", default="", tooltip="Which instances, separated by commas; empty takes all of them."
                ),
                io.Combo.Input(
                    "several",
                    options=["joined", "one after the other"],
                    default="joined",
                    tooltip="Several instances in one mask per frame, or the whole clip of each behind the one before.",
                ),
                *_seen_inputs(),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One mask per frame, 0 or 1."),
                io.Image.Output(
                    display_name="id_map", tooltip="The first frame: each instance in its colour on black."
                ),
                io.Tracks.Output(
                    display_name="paths",
                    tooltip="The middle of each instance in every frame, as ComfyUI's TRACKS: for Wan Move.",
                ),
                io.Array.Output(
                    display_name="elements",
                    tooltip="Each instance in the first frame that shows it, with its name, as Create Bounding Boxes "
                    "gives elements.",
                ),
                io.String.Output(
                    display_name="points",
                    tooltip="The middle of each instance in every frame as JSON, as KJNodes' spline editors give "
                    "coordinates.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        tracks: Any,
        names: str = "",
        several: str = "joined",
        width: int = 0,
        height: int = 0,
        crop: str = "center",
    ) -> io.NodeOutput:
        chosen = tracks.select(parse_names(names)[0] or tracks.names)
        framing = _framing(tracks, width, height, crop)
        resized = framing.target != framing.source
        check_room(chosen.frames * (len(chosen.names) if several != "joined" else 1), *framing.target, 1)
        step = ticker((1 + resized) * chosen.frames * len(chosen.names))
        chosen = chosen.framed(framing, step) if resized else chosen
        mask, id_map = mask_batch(chosen, several != "joined", step), image_batch([chosen.id_map()])
        return io.NodeOutput(mask, id_map, paths(chosen), elements_of(chosen), points_text(chosen))


class MatrixPreviewTracks(io.ComfyNode):
    """Tracks on the frames, as the model will see them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixPreviewTracks",
            display_name="MATRIX Preview Tracks",
            category="MATRIX/tracks",
            description="Draws each instance on the frames in the geometry of the generation: crop, size, token grid. "
            "Shows which tokens an instance keeps, and where the grid loses it.",
            search_aliases=["overlay", "visualize masks", "show boxes", "token grid", "check alignment"],
            is_output_node=True,
            inputs=[
                TracksSocket.Input("tracks", tooltip="Named instances."),
                io.Image.Input(
                    "images", optional=True, tooltip="The frames that the masks belong to: all of them, or the first."
                ),
                *_seen_inputs(),
                io.Int.Input(
                    "length",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="Frames of the generated clip; 0: as the tracks are.",
                ),
                io.Combo.Input(
                    "model", options=list(_TOKENS), tooltip="The model family, which decides the size of a token."
                ),
                io.Combo.Input("show", options=list(_SHOW), tooltip="Which frames to draw."),
                io.Combo.Input(
                    "resize",
                    options=["nearest", "area"],
                    default="nearest",
                    advanced=True,
                    tooltip="How masks become tokens: nearest for analysis and training, area for guidance.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How strongly the tokens of an instance are tinted.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The drawn frames."),
                io.String.Output(display_name="report", tooltip="What the tracks hold on the token grid."),
            ],
        )

    @classmethod
    def execute(
        cls,
        tracks: Any,
        images: torch.Tensor | None = None,
        width: int = 0,
        height: int = 0,
        crop: str = "center",
        length: int = 0,
        model: str = "CogVideoX 1.0, Wan, HunyuanVideo",
        show: str = _SHOW[0],
        resize: Any = "nearest",
        strength: float = 0.4,
    ) -> io.NodeOutput:
        if images is not None:
            check_images(images, tracks.height, tracks.width, tracks.frames)
        framing = _framing(tracks, width, height, crop)
        patch, temporal, spatial, cycle = _TOKENS[model]
        grid = Grid.from_pixels(length or tracks.frames, *framing.target, patch, temporal, spatial, cycle=cycle)
        grid = replace(grid, fps=_RATES.get(model))
        which = _frames(grid, tracks.frames, show)
        check_room(len(which), *framing.target)
        on_grid = tracks.to_grid(grid, resize, framing)
        step, pictures = ticker(len(which)), []
        reader = None if images is None else frame_reader(images, framing)
        for picture in draw_tracks(tracks, on_grid, which, reader, TrackLook(strength), framing):
            pictures.append(picture)
            step()
        batch, report = image_batch(pictures), track_report(tracks, on_grid)
        steered = Framing(framing.source, framing.target, tracks.fit)
        if (steered.box(), steered.window()) != (framing.box(), framing.window()):
            report += f"\n! drawn with {framing.crop!r}; steering goes by the tracks, which say {tracks.fit!r}"
        told = ui.PreviewImage(batch, cls=cls).as_dict()
        return io.NodeOutput(batch, report, ui=told | {"text": (report,)} | shown_grid(grid, framing))


def _frames(grid: Grid, frames: int, show: str) -> list[int]:
    """Pixel frames to draw: those that the tracks and the grid both have."""
    if show == _SHOW[0]:
        return [start for start, _ in grid.pixel_spans() if start < frames]
    return list(range(min(frames, grid.pixel_span(grid.frames - 1)[1]))) if show == _SHOW[1] else [0]


class MatrixSaveTracks(io.ComfyNode):
    """Tracks to a file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixSaveTracks",
            display_name="MATRIX Save Tracks",
            category="MATRIX/tracks",
            description="Saves named instances as a small .safetensors file in ComfyUI's output folder.",
            search_aliases=["export masks", "write tracks", "safetensors"],
            is_output_node=True,
            inputs=[
                TracksSocket.Input("tracks", tooltip="Named instances."),
                io.String.Input(
                    "filename_prefix",
                    default="tracks/tracks",
                    tooltip="Folder and beginning of the name, inside the output folder; a number is added.",
                ),
            ],
            outputs=[
                TracksSocket.Output(display_name="tracks", tooltip="The same tracks."),
                io.String.Output(display_name="file", tooltip="The file, as MATRIX Load Tracks takes it."),
            ],
        )

    @classmethod
    def execute(cls, tracks: Any, filename_prefix: str = "tracks/tracks") -> io.NodeOutput:
        place, subfolder = new_place(filename_prefix)
        saved = save_tracks(tracks, place)
        file = f"{Path(subfolder, saved.name).as_posix()} [output]"
        size = f"{file}, {saved.stat().st_size / 1024:,.0f} KiB"
        return io.NodeOutput(tracks, file, ui={"text": (size,)} | saved_file(saved))


def _files() -> list[str]:
    """Files that may be tracks, in the input and output folders, with the host's own mark of the folder."""
    folders = (("", folder_paths.get_input_directory()), (" [output]", folder_paths.get_output_directory()))
    return [f"{name}{mark}" for mark, folder in folders for name, _ in sorted(saved_files(folder))]


def _path(file: str) -> Path:
    """The path of a file in the input or output folder; ValueError for one outside."""
    name, folder = folder_paths.annotated_filepath(file.strip())
    return inside(name.strip(), [folder or folder_paths.get_input_directory()])


class MatrixLoadTracks(io.ComfyNode):
    """Tracks from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixLoadTracks",
            display_name="MATRIX Load Tracks",
            category="MATRIX/tracks",
            description="Opens tracks that MATRIX Save Tracks wrote, from ComfyUI's input or output folder.",
            search_aliases=["import masks", "read tracks", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=Files(_files()),
                    tooltip="A .safetensors file in the input folder, or in the output folder with [output] behind it.",
                )
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        if not file:
            return "choose a track file; there is none yet where the menu is empty: MATRIX Save Tracks makes them"
        try:
            return _path(file).is_file() or f"there is no track file {file!r} in the input or output folder"
        except ValueError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None) -> str:
        try:
            return state_of(_path(file or ""))
        except ValueError:  # told by validate_inputs
            return ""

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return with_report(load_tracks(_path(file)))


NODES = [MatrixTracksToMask, MatrixPreviewTracks, MatrixSaveTracks, MatrixLoadTracks]
