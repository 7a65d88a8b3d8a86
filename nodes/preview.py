"""Nodes that show a capture and keep it in a file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import folder_paths
from comfy_api.latest import InputImpl, Types, io, ui

from ..matrix_lib.backbones import REGISTRY
from ..matrix_lib.draw.capture import Choice, attention_chart, attention_pictures, shares_chart, to_image
from ..matrix_lib.draw.heatmaps import Look
from ..matrix_lib.draw.style import COLORMAPS
from ..matrix_lib.instrument.kinds import KINDS
from ..matrix_lib.instrument.readings.ranking import describe
from ..matrix_lib.io.captures import PARTS, load_capture, save_capture
from ..matrix_lib.io.files import inside
from ..matrix_lib.io.video import write_video
from .checks import Files
from .places import new_place, saved_files, state_of
from .shown import saved_file
from .sockets import CaptureSocket, TracksSocket, ticker
from .viewer import shown_in_viewer

_KINDS = {KINDS[kind].title: kind for kind in ("v2t", "v2v", "t2v")}
_SHARES = {KINDS[kind].title: kind for kind in ("t2t", "a2t", "a2v")}
_DRAWN = {"smooth": True, "token cells": False}
_SCALES = {"one for the clip": "clip", "one for each frame": "frame"}


def _choice_inputs() -> list[io.Input]:
    """What of a kind to look at; see `Choice`."""
    return [
        io.String.Input(
            "names", default="all", tooltip="Words or instances to show, with commas between; 'all' shows each."
        ),
        io.String.Input(
            "layers", default="all", tooltip="Layers to average: 'all', 'first', 'last', or like '7, 11-13'."
        ),
        io.String.Input(
            "steps", default="all", tooltip="Sampling steps to average: 'all', 'first', 'last', or like '0-9'."
        ),
        io.Int.Input("stream", default=0, min=0, max=4095, tooltip="Which prompt and sample of a batch, from 0."),
    ]


class MatrixAttentionPreview(io.ComfyNode):
    """Capture and frames to overlays, a video and a layers-by-steps chart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixAttentionPreview",
            display_name="MATRIX Preview Attention",
            category="MATRIX/capture",
            description="Paints where a video model looked over the frames, word by word and instance by instance, and "
            "charts which layers looked there at which steps. In the viewer of the node, hover a word, click a layer "
            "or step, click a place: it shows at once, and the fields follow.",
            search_aliases=[
                "attention map",
                "heatmap",
                "DAAM",
                "cross attention",
                "AAS",
                "visualize attention",
                "who does what",
            ],
            is_output_node=True,
            inputs=[
                CaptureSocket.Input("capture", tooltip="What a sampler recorded, or a capture from a file."),
                io.Image.Input(
                    "frames",
                    optional=True,
                    tooltip="The decoded clip. Any size and length; a single image stands still. Without it the "
                    "heat is drawn on black, one picture for each token frame.",
                ),
                TracksSocket.Input(
                    "tracks",
                    optional=True,
                    tooltip="Mask tracks: outlined on the frames, and the chart then scores how much attention "
                    "lies on them.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(_KINDS),
                    tooltip="Words: how much every place of the video looks at the words. Instances: where the "
                    "first-frame tokens of an instance look over the whole clip. Where words look: the other way "
                    "round, where it was recorded.",
                ),
                *_choice_inputs(),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.5, tooltip="Frames per second of the clip."
                ),
                io.Combo.Input(
                    "heat",
                    options=list(_DRAWN),
                    advanced=True,
                    tooltip="Smooth heat reads well; token cells show what was measured, one cell for each token.",
                ),
                io.Combo.Input(
                    "colour_scale",
                    options=list(_SCALES),
                    advanced=True,
                    tooltip="One scale for the clip makes frames comparable; one for each frame shows faint ones.",
                ),
                io.Combo.Input(
                    "colours", options=list(COLORMAPS), advanced=True, tooltip="The colour map of the heat."
                ),
                io.Float.Input(
                    "strength",
                    default=0.85,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="How far the heat covers the frames, from 0 (not at all) to 1.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="Width of one panel in pixels, 64 to 4096; 0 chooses from the frames.",
                ),
                io.Int.Input(
                    "head",
                    default=-1,
                    min=-1,
                    max=4095,
                    optional=True,
                    advanced=True,
                    tooltip="Which attention head, where the capture keeps heads apart, from 0; -1 is their mean.",
                ),
            ],
            outputs=[
                io.Image.Output("overlay", tooltip="The pictures of the attention video, with legends."),
                io.Video.Output("video", tooltip="The same as a video."),
                io.Image.Output("chart", tooltip="Layers down, steps across, one panel for each word or instance."),
            ],
        )

    @classmethod
    def execute(
        cls, capture, kind, names, layers, steps, stream, fps, heat, colour_scale, colours, strength, width,
        frames=None, tracks=None, head=-1,
    ) -> io.NodeOutput:  # fmt: skip
        choice = Choice(_KINDS[kind], names, layers, steps, stream, None if head < 0 else head)
        look = Look(colours, strength, _DRAWN[heat], _SCALES[colour_scale], width or None)
        count, share, pictures = attention_pictures(capture, choice, frames, tracks, look)
        overlay = to_image(_watched(pictures, count), count)
        chart = to_image([attention_chart(capture, choice, tracks, colours)], 1)
        rate = Fraction(fps * share).limit_denominator(1000)
        video = InputImpl.VideoFromComponents(Types.VideoComponents(images=overlay, frame_rate=rate))
        shown = _shown(cls, overlay, float(rate), chart) | shown_in_viewer(capture, frames, tracks, fps)
        return io.NodeOutput(overlay, video, chart, ui=shown)


class MatrixChartShares(io.ComfyNode):
    """What words look at, and what the sound looks at over time, as a chart and a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixChartShares",
            display_name="MATRIX Chart Words And Sound",
            category="MATRIX/capture",
            description="Charts what has no place in the clip: which words look at which words, and whose sound it is "
            "over time (LTX-2, MiniMax H3). Record it with words_look or sound on MATRIX Sample and Capture Attention.",
            search_aliases=["text to text", "T2T", "audio attention", "LTX-2 sound", "who makes the sound"],
            is_output_node=True,
            inputs=[
                CaptureSocket.Input("capture", tooltip="What a sampler recorded, or a capture from a file."),
                io.Combo.Input(
                    "kind",
                    options=list(_SHARES),
                    tooltip="Words among each other: the share of a word's attention on each word, on the rest of the "
                    "prompt and on the clip. Sound: each moment's attention to the words, or to the instances' masks.",
                ),
                *_choice_inputs(),
            ],
            outputs=[
                io.Image.Output("chart", tooltip="The chart."),
                io.String.Output("table", tooltip="Its values as a Markdown table."),
            ],
        )

    @classmethod
    def execute(cls, capture, kind, names, layers, steps, stream) -> io.NodeOutput:
        rate = REGISTRY[capture.backbone].sound_rate if capture.backbone in REGISTRY else 0.0
        picture, table = shares_chart(capture, Choice(_SHARES[kind], names, layers, steps, stream), rate)
        chart = to_image([picture], 1)
        return io.NodeOutput(chart, table, ui=ui.PreviewImage(chart, cls=cls).as_dict() | {"text": (table,)})


class MatrixSaveCapture(io.ComfyNode):
    """Capture to a file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixSaveCapture",
            display_name="MATRIX Save Capture",
            category="MATRIX/capture",
            description="Keeps a capture as a safetensors file in the output folder, to look at it later or from "
            "Python.",
            search_aliases=["save attention", "export attention maps", "safetensors"],
            is_output_node=True,
            inputs=[
                CaptureSocket.Input("capture", tooltip="The capture to keep."),
                io.String.Input(
                    "filename_prefix",
                    default="matrix/capture",
                    tooltip="Folder and name below the output folder; a number is added, nothing is overwritten.",
                ),
            ],
            outputs=[io.String.Output("path", tooltip="Where the file is.")],
        )

    @classmethod
    def execute(cls, capture, filename_prefix) -> io.NodeOutput:
        path = save_capture(capture, new_place(filename_prefix)[0])
        return io.NodeOutput(str(path), ui={"text": (f"{path}\n{describe(capture)}",)} | saved_file(path))


class MatrixLoadCapture(io.ComfyNode):
    """Capture file of the output or input folder to a capture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixLoadCapture",
            display_name="MATRIX Load Capture",
            category="MATRIX/capture",
            description="Opens a capture file from the output or input folder. Nothing is read before it is looked "
            "at, so a file of a gigabyte opens at once.",
            search_aliases=["load attention", "open capture", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=Files(_capture_files()),
                    tooltip="A capture file of the output or input folder, newest first. Press R to look for new ones.",
                )
            ],
            outputs=[
                CaptureSocket.Output("capture", tooltip="The capture, as it was saved."),
                io.String.Output("summary", tooltip="What it holds: prompts, layers, steps, words and instances."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file=None) -> bool | str:
        if not file:
            return "choose a capture file of the output or input folder"
        try:
            path = _find(file)
            there = path.is_file() or (path.is_dir() and path.name.endswith(PARTS))
            return there or f"there is no capture file {file!r} in the output or input folder"
        except ValueError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, file=None) -> str:
        try:
            return f"{file}:{state_of(_find(file or ''))}"
        except ValueError:  # told by validate_inputs
            return ""

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        capture = load_capture(_find(file))
        text = describe(capture)
        return io.NodeOutput(capture, text, ui=ui.PreviewText(text))


def _watched(pictures, count: int):
    """The pictures, with a progress bar and a stop at every one."""
    step = ticker(count)
    for picture in pictures:
        step()
        yield picture


def _shown(cls: type[io.ComfyNode], overlay, fps: float, chart) -> dict:
    """The attention video on the node, and the chart under a key of its own."""
    temp = folder_paths.get_temp_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path("matrix_attention", temp)
    path = write_video(Path(folder) / f"{name}_{counter:05}_.mp4", _watched(overlay, len(overlay)), fps)
    pictures = ui.PreviewImage(chart, cls=cls).values
    return {
        **ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.temp)]).as_dict(),
        "matrix_chart": pictures,
    }


def _folders() -> dict[str, str]:
    return {"output": folder_paths.get_output_directory(), "input": folder_paths.get_input_directory()}


def _capture_files() -> list[str]:
    """Files to choose from, newest first: "matrix/capture_00001_.safetensors [output]". The parts of a run that broke
    off are one folder: "matrix/run_00001_.parts [output]"."""
    found: dict[str, float] = {}
    for kind, folder in _folders().items():
        for name, changed in saved_files(folder):
            whole = f"{_without_part(name)} [{kind}]"
            found[whole] = max(changed, found.get(whole, changed))
    return sorted(found, key=lambda name: (-found[name], name)) or ["(no capture files yet)"]


def _without_part(name: str) -> str:
    """The folder of parts that a file belongs to, or the file itself."""
    folder = name.rpartition("/")[0]
    return folder if folder.endswith(PARTS) else name


def _find(file: str) -> Path:
    """The path that a choice stands for; ValueError outside of the two folders."""
    folders = _folders()
    for kind, folder in folders.items():
        if file.endswith(f" [{kind}]"):
            return inside(file.removesuffix(f" [{kind}]"), [folder])
    return inside(file, folders.values())


NODES = [MatrixAttentionPreview, MatrixChartShares, MatrixSaveCapture, MatrixLoadCapture]
