"""Nodes that say where the instances are: from masks, from boxes."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..matrix_lib.core.tracks.boxes import in_pixels
from ..matrix_lib.core.tracks.doubts import doubts_of
from ..matrix_lib.core.tracks.painting import with_painted
from ..matrix_lib.core.tracks.text import parse_boxes, parse_masks, parse_names
from ..matrix_lib.core.tracks.tracks import MaskTracks
from ..matrix_lib.hosts.comfy.masks import BATCHES, mask_parts
from ..matrix_lib.hosts.comfy.tracks import boxes_from_host, check_images, sam3_frames, sam3_size
from ..matrix_lib.hosts.comfy.video import image_frames
from .sockets import Sam3TracksSocket, ticker, track_outputs, with_report


class MatrixMaskTracks(io.ComfyNode):
    """MASK batches and SAM3 tracks to named instances."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixMaskTracks",
            display_name="MATRIX Mask Tracks",
            category="MATRIX/tracks",
            description="Names instances and keeps their masks, packed small. One MASK batch per instance, with a mask "
            "per frame, or a single mask of the first frame; objects that SAM3 tracked come out one by one.",
            search_aliases=["mask", "instance", "segmentation", "sam3", "track", "name masks", "who is where"],
            inputs=[
                io.String.Input(
                    "names",
                    multiline=True,
                    default="",
                    placeholder="person (subject)\ncup (object)",
                    tooltip="A name per line, for each mask in its order and then for each SAM3 object, with a role in "
                    "brackets where you like: subject, object. The prompt's phrases find the instance by this name. "
                    "Leave it empty for instance 1, instance 2, ...",
                ),
                io.Autogrow.Input(
                    "masks",
                    template=io.Autogrow.TemplatePrefix(
                        io.Mask.Input(
                            "mask", tooltip="One instance: a mask for every frame, or one for the first frame."
                        ),
                        prefix="mask",
                        min=0,
                        max=32,
                    ),
                    tooltip="One MASK batch per instance; a new socket appears as you connect them.",
                ),
                Sam3TracksSocket.Input(
                    "sam3_tracks", optional=True, tooltip="From Run SAM3 Video Track: each object becomes an instance."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The frames that the masks were drawn on, to check that sizes and counts agree.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A pixel is inside above this value of the mask.",
                ),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames per second of the masks."
                ),
                io.String.Input(
                    "sam3_objects",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Which SAM3 objects to take, by number: 0, 2, 3. Empty takes all.",
                ),
                io.Combo.Input(
                    "batch_is",
                    options=list(BATCHES),
                    default="frames",
                    optional=True,
                    tooltip="What the masks of one batch are: frames of one instance, or objects of one picture, each "
                    "an instance of its own (SAM3 Detect with individual masks).",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    optional=True,
                    tooltip="Takes everything outside of the connected masks. Load Image's mask is 1 where the picture "
                    "is transparent.",
                ),
                io.String.Input(
                    "painted",
                    multiline=True,
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Masks that are painted in the node's editor, a line for each instance. A painted mask "
                    "stands in its own frame, in place of a connected one of that name.",
                ),
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def execute(
        cls,
        names: str,
        masks: dict[str, Any] | None = None,
        sam3_tracks: dict[str, Any] | None = None,
        images: torch.Tensor | None = None,
        threshold: float = 0.5,
        fps: float = 8.0,
        sam3_objects: str = "",
        batch_is: Any = "frames",
        invert: bool = False,
        painted: str = "",
    ) -> io.NodeOutput:
        given = [mask for mask in (masks or {}).values() if mask is not None]
        found, total = mask_parts(given, batch_is, invert)
        if sam3_tracks is not None:
            frames, count = sam3_size(sam3_tracks)
            chosen = _objects(sam3_objects, count)
            found += [sam3_frames(sam3_tracks, index) for index in chosen]
            total += frames * len(chosen)
        labels, roles = parse_names(names)
        paint, painted_roles = parse_masks(painted)
        if not found and not paint:
            raise ValueError(
                "no mask is connected. Connect one MASK batch for each instance, or SAM3 tracks; or paint masks in "
                "this node."
            )
        labels = labels or [f"instance {i + 1}" for i in range(len(found))]
        if len(labels) != len(found):
            shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            raise ValueError(
                f"{len(found)} masks are connected (SAM3 objects included), but there are {len(labels)} names: "
                f"{shown}. Give one name per line for each mask, or none at all."
            )
        pairs = list(zip(labels, found))
        step = ticker(total)
        tracks = None
        if pairs:
            tracks = MaskTracks.from_masks(pairs, threshold, roles, fps, allow_empty=bool(paint), progress=step)
        if tracks is None or paint:
            frames, size = (1, None) if images is None else (len(images), tuple(images.shape[1:3]))
            tracks = with_painted(tracks, paint, painted_roles, frames, size, fps)
        if images is not None:
            check_images(images, tracks.height, tracks.width, tracks.frames)
        objects = batch_is == "objects" and len(given) == 1
        clip = None if images is None else image_frames(images, fps)
        return with_report(tracks, tuple(f"! {note}" for note in doubts_of(tracks, objects)), clip)


def _objects(text: str, count: int) -> list[int]:
    """Object numbers out of "0, 2, 3"; all of them for an empty text."""
    parts = text.replace(",", " ").split()
    wrong = [part for part in parts if not part.isdecimal() or int(part) >= count]
    if wrong:
        raise ValueError(f"SAM3 tracked {count} objects, numbered 0 to {count - 1}; {wrong[0]!r} is none of them")
    return list(dict.fromkeys(int(part) for part in parts)) or list(range(count))


class MatrixBoxTracks(io.ComfyNode):
    """Key-framed boxes to named instances."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MatrixBoxTracks",
            display_name="MATRIX Box Tracks",
            category="MATRIX/tracks",
            description="Instances as boxes that move between key frames: no masks needed. Draw them on the picture, "
            "type them, or connect ComfyUI's own bounding boxes.",
            search_aliases=["bounding box", "bbox", "trajectory", "keyframe", "layout", "points", "who is where"],
            inputs=[
                io.String.Input(
                    "boxes",
                    multiline=True,
                    default="person (subject): 0: 10% 20% 40% 90%; 48: 30% 20% 60% 90%\ncup (object): 60% 50% 75% 75%",
                    tooltip="One instance per line:  name (role): frame: left top right bottom; frame: ...  in pixels "
                    "or percent. Between two keys the box moves; 'off' lets it leave. JSON works too: see the help.",
                ),
                io.Int.Input("width", default=720, min=1, max=16384, tooltip="Width of the clip in pixels."),
                io.Int.Input("height", default=480, min=1, max=16384, tooltip="Height of the clip in pixels."),
                io.Int.Input("frames", default=49, min=1, max=100000, tooltip="Frames of the clip."),
                io.Float.Input(
                    "fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames per second of the clip."
                ),
                io.Boolean.Input(
                    "hold",
                    default=True,
                    tooltip="On: the first and last box of an instance stay to the ends of the clip. Off: it is absent "
                    "outside of its keys.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Frames to take width, height and, from two on, the number of frames from.",
                ),
                io.MultiType.Input(
                    "bboxes",
                    types=[io.BoundingBox, io.Array, io.Tracks, io.String],
                    optional=True,
                    tooltip="ComfyUI's own bounding boxes, from a detector or Create Bounding Boxes, instead of typed "
                    "ones: one instance per box; lists per frame are followed over time by where the boxes are. Its "
                    "elements bring their names. ComfyUI's TRACKS and the points of KJNodes' spline editors become "
                    "boxes that follow them.",
                ),
                io.String.Input(
                    "bbox_names",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Names of the connected boxes, in their order, roles in brackets: person (subject), cup.",
                ),
            ],
            outputs=track_outputs(),
        )

    @classmethod
    def validate_inputs(cls, boxes: str | None = None) -> bool | str:
        if not boxes:  # comes over a link, or boxes are connected instead
            return True
        try:
            parse_boxes(boxes, 1, 1)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        boxes: str,
        width: int,
        height: int,
        frames: int,
        fps: float = 8.0,
        hold: bool = True,
        images: torch.Tensor | None = None,
        bboxes: Any = None,
        bbox_names: str = "",
    ) -> io.NodeOutput:
        if images is not None:
            if images.ndim != 4 or 0 in images.shape:
                raise ValueError(f"images are an IMAGE batch (frames, height, width, 3); got {tuple(images.shape)}")
            height, width = images.shape[1:3]
            frames = len(images) if len(images) > 1 else frames
        if bboxes is None:
            keys, roles = parse_boxes(boxes, width, height)
            notes: tuple[str, ...] = ()
        else:
            names, roles = parse_names(bbox_names)
            keys, notes = boxes_from_host(bboxes, names, (height, width), frames)
        keys, shares = in_pixels(keys, height, width)
        step = ticker(frames * len(keys))
        tracks = MaskTracks.from_boxes(keys, frames, height, width, roles, fps, hold=hold, progress=step)
        clip = None if images is None else image_frames(images, fps)
        return with_report(tracks, tuple(f"! {note}" for note in (*notes, shares) if note), clip)


NODES = [MatrixMaskTracks, MatrixBoxTracks]
