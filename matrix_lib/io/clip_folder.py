"""Folders of clips to analyse: a prompt, its entities, masks, and a first frame or a video.

Two layouts. One folder a clip:

    FOLDER/NAME/prompt.txt                             the prompt
    FOLDER/NAME/entities.txt                           phrases, in the text form of `core.phrases`
    FOLDER/NAME/image.png (.jpg, .webp) or video.mp4   the first frame, or the clip
    FOLDER/NAME/masks/ENTITY.png                       mask of the first frame, or of every frame:
    FOLDER/NAME/masks/ENTITY/000.png ...               (or a file tracks.safetensors instead of the folder)

or the layout of MATRIX-11K: metadata.jsonl, .json or .csv with `video,prompt` (and, better, `phrases`),
videos/NAME.mp4, mask_annotation/NAME/<idK>/NNN.png. There the K-th instance of the phrases is `<idK>`, unless a name
such as `id3` says another; without phrases the word behind each tag is the instance.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.binding import locate
from ..core.phrases import PhraseSpec, Words, parse_phrases
from ..core.prompt import find_words
from ..core.tracks import MaskTracks
from .tracks import load_tracks
from .video import read_video

__all__ = ["ClipFolder", "ClipSource", "bad_clips", "read_clips"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
_INSTANCES = ("subject", "object", "instance")
_TAG = re.compile(r"<id(\d+)>\s*")
_TAG_NAME = re.compile(r"<?id(\d+)>?$", re.IGNORECASE)
_LARGEST_TEXT = 20_000_000


@dataclass(frozen=True)
class ClipSource:
    """One clip of a folder: where its parts are. Nothing is decoded before it is asked for.

    Args:
        prompt: without `<idK>` tags. phrases: what its words mean.
        picture: first frame or video. masks: per name the pictures of its mask, one a frame; or `tracks`, a file.
    """

    name: str
    prompt: str
    phrases: tuple[PhraseSpec, ...]
    picture: Path
    masks: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    tracks_file: Path | None = None

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.phrases if spec.role in _INSTANCES)

    @property
    def is_video(self) -> bool:
        return self.picture.suffix.lower() in VIDEOS

    def frames(self, count: int) -> Tensor:
        """(n, H, W, 3) uint8: the first `count` frames, fewer where the clip ends; a picture has one."""
        if not self.is_video:
            with Image.open(self.picture) as picture:
                return torch.from_numpy(np.array(picture.convert("RGB")))[None]
        try:
            return read_video(self.picture, 0, count).frames
        except ValueError:
            return read_video(self.picture).frames[:count]

    def tracks(self) -> MaskTracks:
        """Tracks of the named instances, with the roles that the phrases give them.

        Raises ValueError for masks that are missing, empty or of different sizes.
        """
        roles = {spec.name: spec.role for spec in self.phrases if spec.role in _INSTANCES}
        if self.tracks_file is not None:
            return load_tracks(self.tracks_file).select(roles).with_roles(roles)
        found = {name: (_mask(path) for path in self.masks[name]) for name in roles}
        return MaskTracks.from_masks(found, roles=roles)


@dataclass(frozen=True)
class ClipFolder:
    """Clips in the order of their names, and sentences for people about what was left aside."""

    clips: tuple[ClipSource, ...]
    notes: tuple[str, ...] = ()


def bad_clips(problems: Mapping[str, str], count: int) -> ValueError:
    """The error that lists every bad clip by name."""
    listed = "\n".join(f"  {name}: {why}" for name, why in problems.items())
    return ValueError(f"{len(problems)} of {count} clips cannot be analysed; mend or remove them:\n{listed}")


def read_clips(folder: Path) -> ClipFolder:
    """Finds the clips of a folder in either layout and checks that every one is whole.

    Checked here: prompt and phrases agree, every instance has a mask and every mask an instance, the picture is there.
    Raises ValueError for a folder that is missing or holds no clip, and one that lists all bad clips and why.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    rows = _metadata(folder)
    makers: dict[str, Any] = {}
    notes: list[str] = []
    if rows is not None:
        for row in rows:
            makers[Path(str(row.get("video", ""))).stem or f"row {len(makers)}"] = (_from_row, (folder, row, notes))
    else:
        for place in sorted(p for p in folder.iterdir() if p.is_dir() and (p / "prompt.txt").is_file()):
            makers[place.name] = (_from_place, (place,))
    if not makers:
        raise ValueError(
            f"no clips in {str(folder)!r}: expected folders with prompt.txt, entities.txt, masks and image or video, "
            "or metadata.jsonl with videos/ and mask_annotation/"
        )
    clips, problems = [], {}
    for name in sorted(makers):
        make, given = makers[name]
        try:
            clips.append(make(*given))
        except (ValueError, OSError) as error:
            problems[name] = str(error)
    if problems:
        raise bad_clips(problems, len(makers))
    return ClipFolder(tuple(clips), tuple(dict.fromkeys(notes)))


# --- one folder a clip


def _from_place(place: Path) -> ClipSource:
    prompt = _text(place / "prompt.txt")
    if not (place / "entities.txt").is_file():
        raise ValueError("entities.txt is missing: say which words name which instance, one a line")
    phrases = parse_phrases(_text(place / "entities.txt"))
    files = sorted(place.iterdir())
    pictures = [p for p in files if p.suffix.lower() in VIDEOS] or [p for p in files if p.suffix.lower() in PICTURES]
    if not pictures:
        raise ValueError(f"there is neither an image ({', '.join(PICTURES)}) nor a video ({', '.join(VIDEOS)})")
    tracks = next(iter(sorted(place.glob("*.safetensors"))), None)
    masks: dict[str, tuple[Path, ...]] = {}
    if tracks is None:
        masks = _masks_in(place / "masks")
        named: Sequence[str] = tuple(masks)
    else:
        named = load_tracks(tracks).names
    clip = ClipSource(place.name, prompt, phrases, pictures[0], masks, tracks)
    _agree(clip, named)
    if extra := [name for name in named if name not in clip.instances]:
        raise ValueError(
            f"there is a mask of {_listed(extra)}, but entities.txt names {_listed(clip.instances)}: add a line "
            "NAME: its words in the prompt, rename the mask, or remove it"
        )
    return clip


def _masks_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    if not folder.is_dir():
        return {}
    found: dict[str, tuple[Path, ...]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            found[entry.name] = _pictures(entry)
        elif entry.suffix.lower() in PICTURES:
            found[entry.stem] = (entry,)
    return {name: paths for name, paths in found.items() if paths}


# --- the layout of MATRIX-11K


def _metadata(folder: Path) -> list[dict[str, Any]] | None:
    """Rows of the first metadata file that is there, None where there is none."""
    for name in ("metadata.jsonl", "metadata.json", "metadata.csv"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            text = _text(path)
            if name.endswith(".csv"):
                rows: Any = list(csv.DictReader(text.splitlines(keepends=True)))
            elif name.endswith(".jsonl"):
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            else:
                rows = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if not isinstance(rows, list) or not all(isinstance(r, dict) and {"video", "prompt"} <= r.keys() for r in rows):
            raise ValueError(f"{path} has to have one row a clip with `video` and `prompt`")
        return rows
    return None


def _from_row(folder: Path, row: Mapping[str, Any], notes: list[str]) -> ClipSource:
    video = folder / "videos" / str(row["video"])
    if not video.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"its video {row['video']!r} lies outside of the folder")
    if not video.is_file():
        raise ValueError(f"its video {str(row['video'])!r} is not in {str(folder / 'videos')!r}")
    tagged = str(row["prompt"])
    given = str(row.get("phrases") or "")
    phrases = parse_phrases(given) if given.strip() else _tagged_words(tagged)
    if not given.strip():
        notes.append("prompts without a `phrases` column: the word behind each <idK> tag is the instance, no verbs")
    slots = _slots(phrases)
    root = folder / "mask_annotation" / video.stem
    masks = {name: found for name, k in slots.items() if (found := _pictures(root / f"<id{k}>"))}
    others = [p.name for p in sorted(root.glob("<id*>")) if p.name not in {f"<id{k}>" for k in slots.values()}]
    if any(_pictures(root / name) for name in others):
        notes.append("masks that no phrase names (bystanders) are left aside")
    clip = ClipSource(video.stem, _TAG.sub("", tagged), phrases, video, masks)
    _agree(clip, tuple(masks))
    return clip


def _slots(phrases: Sequence[PhraseSpec]) -> dict[str, int]:
    """K of `<idK>` for each instance."""
    slots: dict[str, int] = {}
    for place, spec in enumerate((s for s in phrases if s.role in _INSTANCES), 1):
        match = _TAG_NAME.match(spec.name)
        slots[spec.name] = int(match[1]) if match else place
    return slots


def _tagged_words(tagged: str) -> tuple[PhraseSpec, ...]:
    """The word behind each tag as an instance `idK`: the first is the subject, the second the object."""
    plain = _TAG.sub("", tagged)
    specs: list[PhraseSpec] = []
    for number, tag in enumerate(_TAG.finditer(tagged)):
        word = re.match(r"\w+", tagged[tag.end() :])
        name = f"id{tag[1]}"
        if word is None or any(spec.name == name for spec in specs):
            continue
        at = len(_TAG.sub("", tagged[: tag.end()]))
        nth = sum(start <= at for start, _ in find_words(plain, word[0]))
        role = _INSTANCES[min(number, 2)]
        specs.append(PhraseSpec(name, (Words((word[0],), nth or None),), role))  # type: ignore[arg-type]
    if not specs:
        raise ValueError(f"the prompt {tagged!r} has no <idK> tags, and there is no `phrases` column")
    return tuple(specs)


# --- both


def _agree(clip: ClipSource, named: Sequence[str]) -> None:
    """ValueError unless the phrases are in the prompt and every instance has a mask."""
    if not clip.prompt.strip():
        raise ValueError("the prompt is empty")
    locate(clip.prompt, clip.phrases)
    if not clip.instances:
        raise ValueError(
            f"its entities name no instance, but there are masks of {_listed(named) or 'nothing'}: write NAME: words"
        )
    if missing := [name for name in clip.instances if name not in named]:
        raise ValueError(f"no mask of {_listed(missing)}; there are masks of {_listed(named) or 'nothing'}")


def _pictures(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES))


def _mask(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("L")) > 127)
    except OSError as error:
        raise ValueError(f"{path.name!r} cannot be read as a mask: {error}") from None


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT:
        raise ValueError(f"{path.name} is {path.stat().st_size} bytes, far more than text of this kind has")
    return path.read_text(encoding="utf-8")


def _listed(names: Sequence[str] | Iterator[str]) -> str:
    return ", ".join(map(repr, names))
