"""MagicBench (MagicMotion, arXiv 2503.16421): videos with a mask and a box of every object in every frame; mask IoU and
box IoU, in percent, by the number of objects.

    FOLDER/videos/ID.mp4
    FOLDER/masks/ID/annotated_frame_00000.png    one colour an object, black elsewhere
    FOLDER/boxs/ID/annotated_frame_00000.png     the same, outlines of boxes
    FOLDER/ANY.csv                               `path` of the video, `text`: its caption
    VIDEOS/ID.tracks.safetensors                 tracks of the same objects in the generated video (ours)

The layout is the one that the authors' card of MagicData documents (MagicBench's own was not at hand), the columns are
those that their trainer of Wan2.2-TI2V-5B-Turbo reads, and colours are told apart as in `magicmotion/utils.py` of
quanhaol/MagicMotion. Their evaluation code is not released: which SAM 2 finds the objects, and whether frames, objects
or videos are averaged first, is not known here. Ours: frames that a given track has, then objects, then videos.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...core.tracks.tracks import MaskTracks
from ...io.clips.order import in_order
from ...io.files import whole_file
from ...io.tracks import load_tracks
from ..statistics import Estimate, estimate
from ..trajectories.score import score_tracks

__all__ = ["MagicClip", "MagicScore", "magic_table", "read_magicbench", "score_magicbench", "write_magicbench"]

Colours = Mapping[int, str]  # red * 65536 + green * 256 + blue, and whose it is
_MOST_OBJECTS, _MOST_PIXELS, _MOST_CSV = 64, 1 << 26, 1 << 28
_MANY = 5  # objects, above which videos are one group


@dataclass(frozen=True)
class MagicClip:
    """One clip. Masks are read when they are asked for; none where the folder has only its boxes or its video. boxes:
    None where the folder has none."""

    id: str
    caption: str
    video: Path | None
    masks: tuple[Path, ...]
    boxes: tuple[Path, ...] | None

    def tracks(self, fps: float = 8.0) -> MaskTracks:
        """The masks, as "object 1", "object 2", ... in the order in which their colours appear, row by row. Raises
        ValueError for a clip without masks, pictures that are none, that differ in size, and colours that are no
        objects'."""
        return _tracks(self.id, self.masks, fps, {})

    def box_tracks(self, fps: float = 8.0) -> MaskTracks:
        """The boxes as filled masks, under the names of the masks. Raises ValueError as `tracks` does, and for boxes of
        a colour that no mask has."""
        if self.boxes is None:
            raise ValueError(f"clip {self.id!r} has no folder boxs/{self.id}")
        known = _colours(self.id, self.masks)
        return _tracks(self.id, self.boxes, fps, known).boxed()


@dataclass(frozen=True)
class MagicScore:
    """mask_iou, box_iou: shares, nan where they are not known. objects: how many. why: what is missing."""

    id: str
    objects: int
    mask_iou: float
    box_iou: float
    why: str = ""


def read_magicbench(folder: str | os.PathLike[str]) -> list[MagicClip]:
    """The clips that `folder` has masks, boxes or a video of, by name; hidden files are passed over. Raises ValueError
    for a folder without masks, frames that are missing in between, boxes of another number of frames, and a list of
    captions that is none."""
    root = Path(folder)
    places = {path.name for path in _shown(root / "masks") if path.is_dir()}
    if not places:
        raise ValueError(
            f"there is no folder {root / 'masks' / 'ID'}: MagicBench has masks/ID/annotated_frame_00000.png"
        )
    captions = _captions(root)
    others = {path.name for path in _shown(root / "boxs") if path.is_dir()}
    others |= {path.stem for path in _shown(root / "videos") if path.suffix.lower() == ".mp4"}
    clips = []
    for place in (root / "masks" / name for name in sorted(places | others)):
        masks = _frames(place) if place.name in places else ()
        boxes = root / "boxs" / place.name
        drawn = _frames(boxes) if boxes.is_dir() else None
        if drawn is not None and masks and len(drawn) != len(masks):
            raise ValueError(f"clip {place.name!r} has {len(masks)} pictures of masks and {len(drawn)} of boxes")
        video = root / "videos" / f"{place.name}.mp4"
        caption = captions.get(place.name, "")
        clips.append(MagicClip(place.name, caption, video if video.is_file() else None, masks, drawn))
    return clips


def write_magicbench(
    folder: str | os.PathLike[str], name: str, tracks: MaskTracks, caption: str = "", thickness: int = 0
) -> None:
    """Adds a clip to a folder: masks, boxes, and a line in `clips.csv`. Its video is yours to put at videos/`name`.mp4.

    Args:
        thickness: of the boxes' outlines in pixels; 0 is a hundredth of the short side, as in the release.

    Raises ValueError for a name that is no file's, and for a clip that is there.
    """
    root = Path(folder)
    if not name or name in (".", "..") or Path(name).name != name:
        raise ValueError(f"the name of a clip is a file name without folders; got {name!r}")
    if (root / "masks" / name).exists():
        raise ValueError(f"{root} has a clip {name!r} already: remove it first")
    line = thickness or max(1, min(tracks.height, tracks.width) // 100)
    for frame in range(tracks.frames):
        file = f"annotated_frame_{frame:05d}.png"
        for kind, picture in (("boxs", _outlined(tracks, frame, line)), ("masks", tracks.id_map(frame).numpy())):
            with whole_file(root / kind / name / file) as temporary:
                Image.fromarray(picture).save(temporary)
    lines = _lines(root / "clips.csv") if (root / "clips.csv").is_file() else []
    row = {"path": f"videos/{name}.mp4", "text": caption, "num_frames": str(tracks.frames)}
    with whole_file(root / "clips.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as file_out:
        writer = csv.DictWriter(file_out, ("path", "text", "num_frames"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*lines, row])


def score_magicbench(clips: Sequence[MagicClip], videos: str | os.PathLike[str]) -> list[MagicScore]:
    """Scores of one model's folder, a line a clip; what is missing is said and is no number. Boxes are those around the
    masks."""
    return [_score(clip, Path(videos)) for clip in clips]


def magic_table(scores: Sequence[MagicScore]) -> dict[str, dict[str, Estimate]]:
    """Means with intervals, in percent, by group: "1" to "5" objects, "more than 5", "all"; groups without a score are
    left out."""
    found: dict[str, dict[str, Estimate]] = {}
    names = [str(count) for count in range(1, _MANY + 1)] + [f"more than {_MANY}"]
    for group in [*names, "all"]:
        own = [s for s in scores if not s.why and group in ("all", names[min(s.objects, _MANY + 1) - 1])]
        if own:
            values = {name: np.array([getattr(s, name) for s in own]) for name in ("mask_iou", "box_iou")}
            found[group] = {name: estimate(100 * value) for name, value in values.items()}
    return found


def _score(clip: MagicClip, videos: Path) -> MagicScore:
    objects = 0
    try:
        given = clip.tracks()
        objects = len(given.names)
        path = videos / f"{clip.id}.tracks.safetensors"
        if not path.is_file():
            raise ValueError(f"there is no {path}")
        values = score_tracks(given, load_tracks(path), pairs=[]).values
    except ValueError as error:
        return MagicScore(clip.id, objects, math.nan, math.nan, str(error))
    return MagicScore(clip.id, objects, values["trajectory_iou"], values["box_iou"])


def _tracks(name: str, paths: Sequence[Path], fps: float, colours: Colours) -> MaskTracks:
    if not paths:
        raise ValueError(f"clip {name!r} has no folder masks/{name}")
    known = colours or _colours(name, paths)
    codes = [_codes(path) for path in paths]
    size = codes[0].shape
    for path, code in zip(paths, codes):
        strange = sorted(set(np.unique(code).tolist()) - {0, *known})
        if strange:
            shown = ", ".join(f"#{value:06x}" for value in strange[:3])
            raise ValueError(f"{path} has colours that no mask of clip {name!r} has: {shown}")
        if code.shape != size:
            raise ValueError(f"{path} is {code.shape[1]}x{code.shape[0]} pixels, the first one {size[1]}x{size[0]}")

    def masks(value: int) -> Iterator[Tensor]:
        return (torch.from_numpy(code == value) for code in codes)

    given = [(whose, masks(value)) for value, whose in known.items()]
    palette = [(value >> 16, value >> 8 & 255, value & 255) for value in known]
    return MaskTracks.from_masks(given, fps=fps, palette=palette, allow_empty=bool(colours))


def _colours(name: str, paths: Sequence[Path]) -> Colours:
    """Every colour but black, in the order of its first pixel."""
    order: dict[int, None] = {}
    for path in paths:
        values, first = np.unique(_codes(path), return_index=True)
        order |= dict.fromkeys(int(values[i]) for i in np.argsort(first) if values[i])
        if len(order) > _MOST_OBJECTS:
            raise ValueError(
                f"the masks of clip {name!r} have more than {_MOST_OBJECTS} colours, by {path.name}: colours are "
                "blended. Give pictures of plain colours, never resized or compressed with loss"
            )
    if not order:
        raise ValueError(f"the masks of clip {name!r} are black in every frame")
    return {value: f"object {number}" for number, value in enumerate(order, 1)}


def _codes(path: Path) -> NDArray[np.int32]:
    """(H, W), a number for each colour."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"it has {picture.width}x{picture.height} pixels")
            if picture.mode[0] in "IF":
                raise ValueError("its values have more than 8 bits, which say no colours")
            pixels = np.asarray(picture.convert("RGB")).astype(np.int32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error!s:.200}") from None
    return pixels @ np.array([65536, 256, 1], np.int32)


def _outlined(tracks: MaskTracks, frame: int, thickness: int) -> NDArray[np.uint8]:
    """The boxes around the masks of one frame, as outlines inside of them."""
    picture = np.zeros((tracks.height, tracks.width, 3), np.uint8)
    for name, colour in zip(tracks.names, tracks.palette):
        box = tracks.boxes(name)[frame].numpy()
        if np.isnan(box).any():
            continue
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        inner = np.s_[
            y0 + thickness : max(y0 + thickness, y1 - thickness), x0 + thickness : max(x0 + thickness, x1 - thickness)
        ]
        before = picture[inner].copy()
        picture[y0:y1, x0:x1] = colour
        picture[inner] = before
    return picture


def _shown(place: Path) -> list[Path]:
    """What is in a folder, without what systems hide there; nothing where there is none."""
    return sorted(path for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else []


def _frames(place: Path) -> tuple[Path, ...]:
    pictures = sorted(path for path in _shown(place) if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not pictures:
        raise ValueError(f"there are no pictures in {place}")
    if lossy := [path.name for path in pictures if path.suffix.lower() != ".png"]:
        raise ValueError(f"{place} has {lossy[0]}: JPEG blends colours, so objects cannot be told apart. Give PNG")
    numbered = in_order(pictures)
    if [*numbered.numbers] != [*range(numbered.numbers[0], numbered.numbers[0] + len(pictures))]:
        raise ValueError(f"pictures are missing in {place}: they are numbered {list(numbered.numbers)[:8]} ...")
    return tuple(numbered.paths)


def _captions(root: Path) -> dict[str, str]:
    files = sorted(root.glob("*.csv"))
    if len(files) > 1:
        raise ValueError(f"{root} has {len(files)} lists of captions, {files[0].name} and {files[1].name}: keep one")
    return {Path(row["path"]).stem: row["text"] for row in _lines(files[0])} if files else {}


def _lines(path: Path) -> list[dict[str, str]]:
    if path.stat().st_size > _MOST_CSV:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; {_MOST_CSV:,} are the most")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"path", "text"} <= set(reader.fieldnames or ()):
                raise ValueError(
                    f"its columns are {', '.join(reader.fieldnames or ()) or 'none'}; path and text are needed"
                )
            return [{key: value or "" for key, value in row.items() if isinstance(key, str)} for row in reader]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is no list of captions: {error!s:.200}") from None
