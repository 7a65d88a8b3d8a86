"""The node that follows instances through a video, by SAM 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..matrix_lib.core.tracks.text import parse_prompts
from ..matrix_lib.hosts.comfy.video import image_frames, video_frames
from ..matrix_lib.io.sam2 import track_prompts, with_masks
from ..matrix_lib.io.sam2_checkpoints import CHECKPOINTS, INSTALL, SOURCE, load_sam2, need_sam2
from .checks import Files
from .sockets import TracksSocket, ticker, track_outputs, with_report


def sam2_folder() -> str:
    """The name of the host's model folder for SAM 2; models/sam2 unless a person maps it elsewhere."""
    folder_paths.add_model_folder_path("sam2", str(Path(folder_paths.models_dir) / "sam2"))
    return "sam2"


class MatrixSAM2Tracks(io.ComfyNode):
    """Points and boxes to mask tracks, by SAM 2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = [name for name in folder_paths.get_filename_list(sam2_folder()) if name.endswith(CHECKPOINTS)]
        return io.Schema(
            node_id="MatrixSAM2Tracks",
            display_name="MATRIX SAM 2 Tracks",
            category="MATRIX/tracks",
            description="Follows instances through a video from a few clicks on it, boxes or masks, each as if "
            f"there were no other. Needs the sam2 package ({INSTALL}) and a SAM 2 or 2.1 checkpoint in models/sam2.",
            search_aliases=["segment anything", "sam2", "video segmentation", "points", "track object"],
            inputs=[
                io.MultiType.Input(
                    "frames", types=[io.Image, io.Video], tooltip="The clip: an image batch or a video."
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=Files(files),
                    tooltip=f"A file in models/sam2. {SOURCE}. Whatever the file is called, its size shows in its "
                    "weights.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="person (subject): 200,150 -20,20\ncup (object): 0: [400,260,470,330]",
                    tooltip="One instance per line:  name (role): frame: x,y for a point on it, -x,y for one off it, "
                    "[x0,y0,x1,y1] for a box. Frame 0 where none is given; more frames after a semicolon, and 'off' "
                    "where it leaves until its next prompt.",
                ),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=0.1,
                    max=240.0,
                    step=0.1,
                    tooltip="Frames per second of an image batch; a video brings its own.",
                ),
                TracksSocket.Input(
                    "masks",
                    optional=True,
                    tooltip="Instances to follow from a mask, by name: from MATRIX Mask Tracks. Of each the first "
                    "frame that shows it counts.",
                ),
                io.Int.Input(
                    "mask_frame",
                    default=0,
                    min=0,
                    max=100000,
                    optional=True,
                    advanced=True,
                    tooltip="The frame of the video that masks of a single frame belong to.",
                ),
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        if checkpoint is None or folder_paths.get_full_path(sam2_folder(), checkpoint):
            return True
        return f"there is no checkpoint {checkpoint!r} in models/sam2. {SOURCE}"

    @classmethod
    def execute(
        cls, frames: Any, checkpoint: str, prompts: str, fps: float = 8.0, masks: Any = None, mask_frame: int = 0
    ) -> io.NodeOutput:
        need_sam2()
        clip = image_frames(frames, fps) if isinstance(frames, torch.Tensor) else video_frames(frames)
        empty = masks is not None and not prompts.strip()
        keys, roles = ({}, {}) if empty else parse_prompts(prompts, clip.width, clip.height)
        if masks is not None:
            keys, roles = with_masks(keys, roles, masks, mask_frame)
        path = Path(folder_paths.get_full_path_or_raise(sam2_folder(), checkpoint))
        device = comfy.model_management.get_torch_device()
        comfy.model_management.free_memory(6 * path.stat().st_size, device)
        predictor = load_sam2(path, device)
        step, place = ticker(clip.count * (1 + len(keys))), folder_paths.get_temp_directory()
        try:
            tracks, notes = track_prompts(predictor, clip.read(), keys, roles, clip.fps, place, step)
        finally:
            del predictor
            comfy.model_management.soft_empty_cache()
        return with_report(tracks, tuple(f"! {note}" for note in notes), clip)


NODES = [MatrixSAM2Tracks]
