"""Writes clips in the layout of MATRIX-11K, each whole or not at all; see `metadata` for the layout.

FOLDER/videos/NAME.mp4
FOLDER/mask_annotation/NAME/<idK>/NNN.png     0 and 255, one picture a frame
FOLDER/mask_annotation/NAME/merged/000.png    the ID map of the first frame
FOLDER/metadata.jsonl                         a clip is in the set once it has a row here
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...core.tracks.tracks import MaskTracks
from ..files import whole_file

__all__ = ["METADATA", "clear_drafts", "remove_clip", "tag_folders", "write_clip", "write_rows"]

METADATA = "metadata.jsonl"
_PARTS = ".parts"


def tag_folders(folder: Path) -> str:
    """How a disk lets the folders of tags be called: "<id{}>", or "id{}" where it refuses angle brackets, as Windows
    does. Either is read."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"<id1>{uuid.uuid4().hex[:8]}"
    try:
        probe.mkdir()
    except OSError:
        return "id{}"
    probe.rmdir()
    return "<id{}>"


def write_clip(
    folder: Path, name: str, video: Callable[[Path], object], tracks: MaskTracks, numbers: Mapping[str, int], tags: str
) -> None:
    """Writes video and masks of one clip; there is no row yet, so that a reader does not see it.

    Args:
        video: writes the video at the path that it is given, which ends in .mp4.
        tracks: of the video; numbers: per name the K of its tag. tags: from `tag_folders`.

    Files of a clip of that name are replaced. Raises OSError where the disk is full.
    """
    part = folder / _PARTS / uuid.uuid4().hex
    masks = part / "masks"
    try:
        masks.mkdir(parents=True)
        for track, k in numbers.items():
            _write_masks(tracks, track, masks / tags.format(k))
        (masks / "merged").mkdir()
        Image.fromarray(tracks.id_map(0).numpy()).save(masks / "merged" / "000.png")
        video(part / f"{name}.mp4")
        for made, place in ((part / f"{name}.mp4", folder / "videos" / f"{name}.mp4"),
                            (masks, folder / "mask_annotation" / name)):  # fmt: skip
            place.parent.mkdir(exist_ok=True)
            if place.is_dir():
                shutil.rmtree(place)
            made.replace(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.parent.rmdir()


def clear_drafts(folder: Path) -> None:
    """Takes away what killed processes left half written in a set. Nobody else may be writing there."""
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    for path in folder.glob(".*.part*"):
        path.unlink(missing_ok=True)


def _write_masks(tracks: MaskTracks, name: str, folder: Path) -> None:
    folder.mkdir()
    digits = max(3, len(str(tracks.frames - 1)))
    for frame in range(tracks.frames):
        mask = tracks.mask(name, frame).numpy().astype(np.uint8) * 255
        Image.fromarray(mask).save(folder / f"{frame:0{digits}d}.png", compress_level=4)


def remove_clip(folder: Path, name: str) -> None:
    """Takes the files of a clip away."""
    shutil.rmtree(folder / "mask_annotation" / name, ignore_errors=True)
    (folder / "videos" / f"{name}.mp4").unlink(missing_ok=True)


def write_rows(folder: Path, rows: Iterable[Mapping[str, Any]], name: str = METADATA) -> int:
    """Writes a table of JSON lines, whole or not at all; returns how many there are."""
    count = 0
    with whole_file(folder / name) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count
