"""Peekaboo's evaluation (arXiv 2312.07509), which IVG-DA (arXiv 2505.24253) reports too: prompts with a box a frame.

Its input files (`imc_inputs.json`, `lasot_inputs.json`, `ssv2_inputs.json`, `davis_inputs.json`) are lists of
`{id, caption, subject, bboxes: [[x0, y0, x1, y1], ...], metadata}`, in shares of width and height. What is found in the
generated videos is a list of the same form, null where nothing is; the release keeps masks in a pickle, which is never
opened. F frames.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.tracks.tracks import MaskTracks
from ...io.files import whole_file
from ..trajectories.masks import box_overlap

__all__ = ["BoxClip", "PeekabooTable", "from_tracks", "read_boxes", "score_boxes", "write_boxes"]

Array = NDArray[Any]
Order = Literal["xyxy", "xxyy"]
Box = tuple[float, float, float, float]
_SIZE = (320, 576)  # height and width of the release's videos; its centre distance is in shares of their diagonal
_LEAST = 8  # frames with a box, of which a video needs more (released code)
_SMALLEST = 5  # pixels of all given boxes together, below which the release leaves a clip out
_MOST, _SLACK = 1 << 28, 0.01


@dataclass(frozen=True)
class BoxClip:
    """A prompt and its boxes, in shares of width and height; None in frames without one, as a box without an area.

    subject: what the boxes are around.
    """

    id: str
    caption: str
    subject: str
    boxes: tuple[Box | None, ...]

    def tracks(self, height: int, width: int, fps: float = 8.0) -> MaskTracks:
        """The boxes as a track named after the subject. Raises ValueError where there is none at all."""
        scale = np.array([width, height, width, height], dtype=float)
        keys = {
            k: tuple(float(v) for v in np.clip(box, 0, 1) * scale)
            if box and box[0] < box[2] and box[1] < box[3]
            else None
            for k, box in enumerate(self.boxes)
        }
        if not any(keys.values()):
            raise ValueError(f"clip {self.id!r} has no box in any frame")
        return MaskTracks.from_boxes({self.subject.strip(): keys}, len(keys), height, width, fps=fps)  # type: ignore[dict-item]


@dataclass(frozen=True)
class PeekabooTable:
    """The four numbers of its table, as shares, in two forms.

    released: as the released code computes them. `miou`: of clips with more than 8 frames with a box; intersections and
    unions over the whole clip. `coverage`: the share of such clips. `centre_distance`: a frame without a box counts as
    one in the upper left corner. `ap50`: over all frames with a box. `miou_all`, `ap50_all`: means over all clips.

    ours: `miou` and `coverage` for boxes in more than half of the frames, IoU as a mean over frames, `centre_distance`
    over frames with both boxes.

    clips: how many count. missing: clips that nothing was found for, by id; they are in no mean. empty: clips without a
    given box, which the release leaves out, too.
    """

    released: dict[str, float]
    ours: dict[str, float]
    clips: int
    missing: tuple[str, ...]
    empty: tuple[str, ...]


def read_boxes(path: str | os.PathLike[str], order: Order = "xyxy") -> list[BoxClip]:
    """Reads an input file, or a file of found boxes.

    Args:
        order: of the four numbers. The release documents x0, y0, x1, y1; its LaSOT file has x0, x1, y0, y1 ("xxyy").

    Raises ValueError for a pickle, for anything that is no such list, doubled ids, and boxes that are none in this
    order; where they all are in the other one, the message says so.
    """
    source = Path(path)
    records = _records(source)
    clips = [_clip(record, place) for place, record in enumerate(records)]
    ids = [clip.id for clip in clips]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"{source.name}: there are several clips with the id {twice!r}")
    wrong = _wrong(clips, order)
    if wrong:
        other: Order = "xxyy" if order == "xyxy" else "xyxy"
        hint = "" if _wrong(clips, other) else f". As {other} all of them are boxes: read it with the order {other!r}"
        raise ValueError(
            f"{source.name}: {len(wrong)} of {len(clips)} clips have boxes whose first corner lies behind the second, "
            f"{wrong[0]!r} for one, when read as {order}{hint}"
        )
    return [clip if order == "xyxy" else _turned(clip) for clip in clips]


def write_boxes(clips: Sequence[BoxClip], path: str | os.PathLike[str]) -> Path:
    """Writes clips in the form of the release, x0, y0, x1, y1; null in frames without a box."""
    target = Path(path)
    lines = [
        {
            "id": clip.id,
            "caption": clip.caption,
            "subject": clip.subject,
            "bboxes": [None if box is None else list(box) for box in clip.boxes],
            "metadata": {},
        }
        for clip in clips
    ]
    with whole_file(target) as temporary:
        temporary.write_text(json.dumps(lines), encoding="utf-8")
    return target


def from_tracks(clip: BoxClip, tracks: MaskTracks) -> BoxClip:
    """What a tracker found for a clip. The tracks have one instance, or one that is called as the clip's subject."""
    subject = clip.subject.strip()
    name = tracks.names[0] if len(tracks.names) == 1 else subject
    boxes = tracks.boxes(name).numpy().astype(float) / [tracks.width, tracks.height, tracks.width, tracks.height]
    found: list[Box | None] = [None if np.isnan(box).any() else tuple(box.tolist()) for box in boxes]
    return BoxClip(clip.id, clip.caption, clip.subject, tuple(found))


def score_boxes(clips: Sequence[BoxClip], found: Sequence[BoxClip], size: tuple[int, int] = _SIZE) -> PeekabooTable:
    """The table of one model.

    Args:
        clips: what was asked for. found: what was found in the generated videos, joined by id.
        size: height and width of the videos, by which boxes are rounded to whole pixels.

    Raises ValueError for found clips of no given id, and where nothing is left.
    """
    by_id = {clip.id: clip for clip in found}
    asked = {clip.id for clip in clips}
    if strangers := [name for name in by_id if name not in asked]:
        raise ValueError(f"boxes were found for clips that nobody asked for: {', '.join(strangers[:5])}")
    missing = tuple(clip.id for clip in clips if clip.id not in by_id)
    rows, empty = [], []
    for clip in clips:
        if clip.id in by_id:
            row = _row(clip, by_id[clip.id], size)
            if row["area"] < _SMALLEST:
                empty.append(clip.id)
            else:
                rows.append(row)
    if not rows:
        raise ValueError(f"none of the {len(clips)} clips has both given and found boxes")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return PeekabooTable(_released(columns), _ours(columns), len(rows), missing, tuple(empty))


def _row(clip: BoxClip, found: BoxClip, size: tuple[int, int]) -> dict[str, float]:
    """Numbers of one clip, in both forms."""
    frames = min(len(clip.boxes), len(found.boxes))
    given = np.array([_cells(box, size, math.floor) for box in clip.boxes[:frames]])
    seen = np.array([_cells(box, size, round) for box in found.boxes[:frames]])
    shares = np.array([box_overlap(one, other) for one, other in zip(given, seen)])
    iou = shares[:, 0] / (shares[:, 1] + 1e-5)
    has, there = ~np.isnan(seen[:, 0]), ~np.isnan(given[:, 0])
    both = has & there
    exact = shares[:, 0] / np.maximum(shares[:, 1], 1)
    far = np.linalg.norm(_middles(given) - _middles(seen), axis=1)
    diagonal = math.hypot(*size)
    nan = math.nan
    return {
        "area": float(np.nansum((given[:, 2] - given[:, 0]) * (given[:, 3] - given[:, 1]))),
        "boxes": float(sum(box is not None for box in found.boxes)),
        "pooled": float(shares[:, 0].sum() / (shares[:, 1].sum() + 1e-5)),
        "ap50": float((iou[has] >= 0.5).mean()) if has.any() else nan,
        "far": float(far.mean() / math.hypot(*_SIZE)),
        "iou": float(exact[there].mean()) if there.any() else nan,
        "covered": float(has[there].mean() > 0.5) if there.any() else nan,
        "off": float(far[both].mean() / diagonal) if both.any() else nan,
        "hits": float((exact[both] >= 0.5).sum()),
        "both": float(both.sum()),
    }


def _released(columns: Mapping[str, Array]) -> dict[str, float]:
    counted = columns["boxes"] > _LEAST
    return {
        "miou": _share((columns["pooled"] * counted).sum(), counted.sum()),
        "coverage": float(counted.mean()),
        "centre_distance": float(columns["far"].mean()),
        "ap50": _share(np.nansum(columns["ap50"] * columns["boxes"]), columns["boxes"].sum()),
        "miou_all": float(columns["pooled"].mean()),
        "ap50_all": float(np.nanmean(columns["ap50"])) if not np.isnan(columns["ap50"]).all() else math.nan,
    }


def _ours(columns: Mapping[str, Array]) -> dict[str, float]:
    covered = columns["covered"] == 1
    return {
        "miou": float(columns["iou"][covered].mean()) if covered.any() else math.nan,
        "coverage": float(covered.mean()),
        "centre_distance": float(np.nanmean(columns["off"])) if not np.isnan(columns["off"]).all() else math.nan,
        "ap50": _share(columns["hits"].sum(), columns["both"].sum()),
    }


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else math.nan


def _cells(box: Box | None, size: tuple[int, int], whole: Any) -> Array:
    """A box in whole pixels (4,), nan where there is none or nothing is left of it."""
    if box is None:
        return np.full(4, np.nan)
    height, width = size
    x0, y0, x1, y1 = (whole(v * side) for v, side in zip(box, (width, height, width, height)))
    cut = min(max(x0, 0), width), min(max(y0, 0), height), min(x1, width), min(y1, height)
    return np.array(cut, dtype=float) if cut[2] > cut[0] and cut[3] > cut[1] else np.full(4, np.nan)


def _middles(boxes: Array) -> Array:
    """(F, 2) centres, from the first to the last pixel; (0, 0) where there is no box, as the release has it."""
    x, y = (boxes[:, 0] + boxes[:, 2] - 1) / 2, (boxes[:, 1] + boxes[:, 3] - 1) / 2
    return np.nan_to_num(np.stack([x, y], 1), nan=0.0)


def _records(source: Path) -> list[Any]:
    if source.suffix.lower() in (".pkl", ".pickle"):
        raise ValueError(
            f"{source.name} is a pickle, and those are never opened: they can run programs. Write a JSON list of "
            '{"id", "caption", "subject", "bboxes": [[x0, y0, x1, y1] or null for each frame]} from it, in shares of '
            "width and height"
        )
    if not source.is_file():
        raise ValueError(f"there is no file {str(source)!r}")
    if source.stat().st_size > _MOST:
        raise ValueError(f"{source.name} has {source.stat().st_size:,} bytes; {_MOST:,} are the most")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{source.name} cannot be read as JSON: {error!s:.200}") from None
    if not isinstance(content, list) or not content:
        raise ValueError(f"{source.name} is no list of clips")
    return content


def _clip(record: Any, place: int) -> BoxClip:
    if not isinstance(record, dict) or not {"id", "subject", "bboxes"} <= set(record):
        raise ValueError(f"clip {place} is no object with id, caption, subject and bboxes")
    name, boxes = str(record["id"]), record["bboxes"]
    if not isinstance(boxes, list) or not boxes:
        raise ValueError(f"clip {name!r} has no list of bboxes, one for each frame")
    found: list[Box | None] = []
    for k, box in enumerate(boxes):
        if box is None:
            found.append(None)
            continue
        good = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
        if not good or not all(-_SLACK <= v <= 1 + _SLACK for v in box):  # false for nan, too
            raise ValueError(
                f"box {k} of clip {name!r} is not four numbers from 0 to 1, in shares of width and height: {box!r:.80}"
            )
        found.append(tuple(float(v) for v in box))  # type: ignore[arg-type]
    return BoxClip(name, str(record.get("caption", "")), str(record["subject"]), tuple(found))


def _wrong(clips: Sequence[BoxClip], order: Order) -> list[str]:
    """Ids of clips with a box whose first corner lies behind its second. Equal corners are a frame without a box."""
    a, b = ((0, 2), (1, 3)) if order == "xyxy" else ((0, 1), (2, 3))
    return [
        clip.id
        for clip in clips
        if any(box is not None and (box[a[0]] > box[a[1]] or box[b[0]] > box[b[1]]) for box in clip.boxes)
    ]


def _turned(clip: BoxClip) -> BoxClip:
    boxes = tuple(None if box is None else (box[0], box[2], box[1], box[3]) for box in clip.boxes)
    return BoxClip(clip.id, clip.caption, clip.subject, boxes)
