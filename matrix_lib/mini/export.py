"""Mini clips in the shapes that the rest of the project reads: mask tracks, and folders like MATRIX-11K's.

FOLDER/videos/NAME.mp4
FOLDER/metadata.csv, .json, .jsonl              one row a clip: video, prompt (with <idK> tags), and more
FOLDER/mask_annotation/NAME/<idK>/NNN.png       the mask of slot K - 1 in frame NNN, black and white
FOLDER/mask_annotation/NAME/merged/000.png      palette picture of frame 0, the ID map
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..core.tracks.palette import Colour
from ..core.tracks.tracks import MaskTracks
from ..io.video import write_video
from .world import Clips

__all__ = ["export_clips", "mask_tracks"]

_IDS = 5  # the format has folders <id1> to <id5>, used or not
_COLUMNS = ("video", "prompt", "caption", "verb", "phrases", "split", "ambiguous", "fps")


def mask_tracks(clips: Clips, index: int) -> MaskTracks:
    """Tracks of one clip: its instances by name, with roles, in slot order."""
    if not 0 <= index < len(clips):
        raise ValueError(f"there is no clip {index}; these are clips 0 to {len(clips) - 1}")
    there = clips.present[index].nonzero().squeeze(1).tolist()
    masks = {name: clips.masks[index, slot].cpu() for name, slot in zip(clips.names[index], there)}
    return MaskTracks.from_masks(masks, roles=clips.roles[index], fps=clips.config.fps)


def export_clips(
    clips: Clips, folder: str | Path, prefix: str = "mini", start: int = 0, palette: Sequence[Colour] | None = None
) -> list[str]:
    """Writes clips in the MATRIX-11K folder format and returns their names, ``PREFIX_00000`` and so on.

    Args:
        start: number of the first clip. Clips of other numbers that the folder holds stay, in the metadata too.
        palette: colours of ``<id1>``... in the ID map; the project's own by default.

    Raises ValueError where a clip of that name is already there, or the prefix is no plain file name.
    """
    if not prefix or Path(prefix).name != prefix or not prefix.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"prefix is {prefix!r}; use letters, digits, - and _ only")
    root = Path(folder)
    names = [f"{prefix}_{start + index:05d}" for index in range(len(clips))]
    taken = [name for name in names if (root / "videos" / f"{name}.mp4").exists()]
    if int(clips.present.sum(1).max()) > _IDS:
        raise ValueError(f"the format has masks of {_IDS} instances, and some clips have more: max_instances={_IDS}")
    if taken:
        raise ValueError(f"{root} already has a clip {taken[0]}; choose another prefix, start or folder")
    rows = _read_rows(root)
    for index, name in enumerate(names):
        write_video(root / "videos" / f"{name}.mp4", clips.video[index].permute(0, 2, 3, 1).cpu(), clips.config.fps)
        _write_masks(clips, index, root / "mask_annotation" / name, palette)
        rows.append(_row(clips, index, name))
    _write_rows(root, rows)
    return names


def _row(clips: Clips, index: int, name: str) -> dict[str, Any]:
    values = (
        f"{name}.mp4",
        clips.tagged[index],
        clips.prompts[index],
        clips.verb[index],
        clips.phrases[index],
        clips.split,
        bool(clips.ambiguous[index]),
        clips.config.fps,
    )
    return dict(zip(_COLUMNS, values))


def _write_masks(clips: Clips, index: int, folder: Path, palette: Sequence[Colour] | None) -> None:
    there = clips.present[index].nonzero().squeeze(1).tolist()
    for slot in range(_IDS):
        target = folder / f"<id{slot + 1}>"
        target.mkdir(parents=True, exist_ok=True)
        if slot not in there:
            continue
        for frame, mask in enumerate(clips.masks[index, slot].cpu().numpy()):
            Image.fromarray(mask.astype(np.uint8) * 255).save(target / f"{frame:03d}.png")
    tracks = mask_tracks(clips, index)
    if palette is not None:
        tracks = tracks.with_palette(palette[: len(there)])
    (folder / "merged").mkdir(parents=True, exist_ok=True)
    for frame in range(tracks.frames):
        Image.fromarray(tracks.id_map(frame).numpy()).save(folder / "merged" / f"{frame:03d}.png")


def _read_rows(root: Path) -> list[dict[str, Any]]:
    source = root / "metadata.jsonl"
    if not source.exists():
        return []
    return [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]


def _write_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row) for row in rows]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "metadata.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with open(root / "metadata.csv", "w", newline="", encoding="utf-8") as sheet:
        writer = csv.DictWriter(sheet, fieldnames=list(_COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
