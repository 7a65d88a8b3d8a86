"""The host's own values, as mask tracks want them: SAM3 track data, bounding boxes, IMAGE and MASK batches.

N frames, K objects, H rows, W columns. Knows how the host lays these values out, and imports nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.grid import Framing
from ...core.names import find_name
from ...core.tracks.box_matching import match_boxes
from ...core.tracks.boxes import Box
from ...core.tracks.tracks import MaskTracks
from .shapes import is_points, path_boxes

__all__ = [
    "boxes_from_host",
    "check_images",
    "frame_reader",
    "image_batch",
    "mask_batch",
    "paths",
    "point_paths",
    "sam3_frames",
    "sam3_size",
]


def sam3_size(track_data: Mapping[str, Any]) -> tuple[int, int]:
    """(frames, objects) of a SAM3_TRACK_DATA. Raises ValueError for one that is none, or that found nothing."""
    packed, size = track_data.get("packed_masks"), track_data.get("orig_size")
    if "packed_masks" not in track_data or size is None or len(size) != 2:
        raise ValueError(
            f"this SAM3 track data has {', '.join(map(str, track_data)) or 'nothing'}; the tracker of ComfyUI 0.30 "
            "and later gives packed_masks and orig_size"
        )
    if packed is None or packed.shape[1] == 0:
        raise ValueError("SAM3 tracked no object. Change its text prompt, its threshold or its first mask")
    if packed.ndim != 4 or packed.dtype != torch.uint8:
        raise ValueError(f"SAM3 masks are packed (frames, objects, height, width / 8) uint8; got {tuple(packed.shape)}")
    return int(packed.shape[0]), int(packed.shape[1])


def sam3_frames(track_data: Mapping[str, Any], index: int) -> Iterator[Tensor]:
    """The masks (H, W) bool of one object, frame by frame: never more than one is unpacked.

    The host stores one bit a pixel, the lowest bit leftmost, at the tracker's resolution; like its own nodes this
    enlarges bilinearly to the video's size, and then cuts at one half."""
    packed, size = track_data["packed_masks"], tuple(int(n) for n in track_data["orig_size"])
    bits = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8)
    for frame in packed[:, index]:
        mask = (frame.cpu()[..., None] & bits).ne(0).flatten(-2)
        if tuple(mask.shape) != size:
            soft = torch.nn.functional.interpolate(mask[None, None].float(), size, mode="bilinear", align_corners=False)
            mask = soft[0, 0] > 0.5
        yield mask


class HostBoxes(NamedTuple):
    """Key-framed boxes {name: {frame: (x0, y0, x1, y1)}}, and sentences for people about who is who."""

    keys: dict[str, dict[int, Box | None]]
    notes: tuple[str, ...] = ()


def boxes_from_host(bboxes: Any, names: Sequence[str], size: tuple[int, int] = (0, 0), count: int = 1) -> HostBoxes:
    """Key-framed boxes of a BOUNDING_BOX value, or of the elements that the host's Create Bounding Boxes gives, which
    bring their names (`desc`) and lie on frames of `size` (height, width). TRACKS and KJNodes' points become boxes that
    follow them through a clip of `count` frames (`shapes.path_boxes`); a text is any of these as JSON.

    One box or a flat list: each box is an instance of its own, with a key in frame 0. A list of lists, one per frame:
    instances are numbered as they come, followed over time by where they are (`box_matching`), and off in frames where
    the detector did not see them. `names` name the instances; blank for "box 1", "box 2" and so on. Raises ValueError
    for values of another form and a wrong number of names.
    """
    if isinstance(bboxes, str):
        bboxes = _json(bboxes)
    if is_points(bboxes) or (isinstance(bboxes, Mapping) and "track_path" in bboxes):
        followed = path_boxes(bboxes, size, count)
        names = _as_many(names, len(followed), "path")
        return HostBoxes(dict(zip(names, followed)))
    if isinstance(bboxes, list) and bboxes and all(isinstance(one, dict) and "bbox" in one for one in bboxes):
        names = list(names) or _described(bboxes)
        bboxes = [_element(one, *size) for one in bboxes]
    frames = bboxes if isinstance(bboxes, list) and bboxes and isinstance(bboxes[0], list) else [bboxes]
    frames = [frame if isinstance(frame, list) else [frame] for frame in frames]
    count = max(len(frame) for frame in frames)
    if not count:
        raise ValueError("no bounding box is connected: the detector found none, or the list is empty")
    names = _as_many(names, count, "box")
    found = match_boxes([[_corners(box) for box in frame] for frame in frames])
    return HostBoxes({name: dict(enumerate(boxes)) for name, boxes in zip(names, found.boxes)}, found.notes)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a text of boxes or points is JSON, as spline editors give it: {error}") from None


def _as_many(names: Sequence[str], count: int, what: str) -> list[str]:
    """The names, or numbered ones. Raises ValueError where there are not as many."""
    told = list(names) or [f"{what} {i + 1}" for i in range(count)]
    if len(told) != count:
        kind = "bounding boxes" if what == "box" else "paths"
        raise ValueError(f"there are {count} {kind} and {len(told)} names ({', '.join(told)}); give one for each")
    return told


def _described(elements: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each element: its description, or its text, in one line; numbered where two have the same."""
    names: list[str] = []
    for number, element in enumerate(elements, 1):
        said = " ".join(str(element.get("desc") or element.get("text") or f"box {number}").split())
        name, copy = said, 2
        while find_name(name, names) is not None:
            name, copy = f"{said} {copy}", copy + 1
        names.append(name)
    return names


def _element(element: dict[str, Any], height: int, width: int) -> dict[str, float]:
    """The box of an element, in thousandths of the frame, top and left first, as the host's bounding boxes are."""
    try:
        top, left, bottom, right = (float(value) / 1000 for value in element["bbox"])
    except (TypeError, ValueError):
        raise ValueError(f"the bbox of an element is four numbers of 0 to 1000; got {str(element)[:80]}") from None
    return {"x": left * width, "y": top * height, "width": (right - left) * width, "height": (bottom - top) * height}


def _corners(box: Any) -> Box:
    try:
        x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"a bounding box has x, y, width and height in pixels; got {str(box)[:80]}") from None
    return x, y, x + width, y + height


def check_images(images: Tensor, height: int, width: int, frames: int | None = None) -> None:
    """Raises ValueError unless an IMAGE batch (N, H, W, C) has this size, and as many frames as the tracks, or one."""
    count, *size = images.shape[:3]
    if size != [height, width]:
        raise ValueError(
            f"the images are {size[0]}x{size[1]} pixels (height x width), but the masks {height}x{width}. Masks belong "
            "to the frames they were drawn on: give both before any resize, and let MATRIX crop them alike."
        )
    if frames is not None and frames > 1 and count not in (1, frames):
        batch = f" ({count // frames} clips of a batch: take one, with Image From Batch)" if not count % frames else ""
        raise ValueError(
            f"there are {count} images{batch}, but the masks have {frames} frames; give as many, or one image"
        )


def frame_reader(images: Tensor, framing: Framing | None = None) -> Callable[[int], NDArray[np.uint8]]:
    """Frames of an IMAGE batch (N, H, W, C) in 0..1 as (h, w, 3) uint8, one at a time, as the model sees them. A single
    image stands still for every frame."""

    def read(index: int) -> NDArray[np.uint8]:
        frame = images[index if len(images) > 1 else 0, ..., :3].detach().cpu().float().movedim(-1, 0)
        frame = frame if framing is None else framing.apply(frame, "bilinear")
        return (frame.movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy()

    return read


def image_batch(pictures: Sequence[Any]) -> Tensor:
    """Pictures of one size, each (H, W, 3) of 0..255, as the host's IMAGE (N, H, W, 3) float32 in 0..1."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).float().div_(255)


def paths(tracks: MaskTracks) -> dict[str, Tensor]:
    """The host's TRACKS: `track_path` (frames, instances, 2) float32, x and y of the middle of each instance's box in
    pixels, -1 where it is absent; `track_visibility` (frames, instances) bool."""
    boxes = torch.stack([tracks.boxes(name) for name in tracks.names], 1)
    middle = boxes.unflatten(-1, (2, 2)).mean(-2)
    there = middle.isfinite().all(-1)
    return {"track_path": middle.masked_fill(~there[..., None], -1.0), "track_visibility": there}


def point_paths(xy: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """The host's TRACKS of points: `xy` (P, n, 2) in pixels, `seen` (P, n) bool. A point that was not found keeps its
    guessed place, and its visibility says so."""
    return {"track_path": xy.transpose(0, 1).float().contiguous(), "track_visibility": seen.T.contiguous()}


def mask_batch(tracks: MaskTracks, each: bool, progress: Callable[[], None] | None = None) -> Tensor:
    """The host's MASK (N, H, W) float32: the union of all instances, or with `each` one clip behind the other. One
    frame is unpacked at a time; the result itself is dense, as the host wants it."""
    count = len(tracks.names) if each else 1
    batch = torch.zeros(count * tracks.frames, tracks.height, tracks.width)
    for e, name in enumerate(tracks.names):
        for i in range(tracks.frames):
            batch[(e * tracks.frames if each else 0) + i][tracks.mask(name, i)] = 1.0
            if progress is not None:
                progress()
    return batch
