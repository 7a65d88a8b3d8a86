"""A node with the small clips that come with the pack: workflows run before anybody has a clip of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import InputImpl, io, ui

from ..matrix_lib.hosts.bundle import example_clips


class MatrixExampleClip(io.ComfyNode):
    """One of the pack's own clips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixExampleClip",
            display_name="MATRIX Example Clip",
            category="MATRIX/models",
            description="A clip or a picture that comes with this pack, of the world that mini knows: coloured shapes, "
            "17 frames of 128x128. Put Load Video or Load Image in its place for your own.",
            search_aliases=["example video", "sample clip", "test clip", "demo", "mini"],
            inputs=[
                io.Combo.Input(
                    "clip",
                    options=list(example_clips()),
                    default="push",
                    tooltip="hit, lift, pull and push show one shape that does so to another. two-squares and the "
                    "look-alikes stand still, as first frames.",
                )
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The clip: 17 frames at 8 frames per second."),
                io.Image.Output(display_name="first_frame", tooltip="Its first frame."),
            ],
        )

    @classmethod
    def execute(cls, clip: str) -> io.NodeOutput:
        path = example_clips()[clip]
        video: Any = InputImpl.VideoFromFile(str(path))
        return io.NodeOutput(video, video.get_components().images[:1], ui=_preview(path))


def _preview(path: Path) -> dict[str, Any]:
    """The clip on the node: the page shows files of the host's own folders only."""
    shown = Path(folder_paths.get_temp_directory()) / f"matrix_example_{path.name}"
    shown.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, shown)
    return ui.PreviewVideo([ui.SavedResult(shown.name, "", io.FolderType.temp)]).as_dict()


NODES: list[type[io.ComfyNode]] = [MatrixExampleClip]
