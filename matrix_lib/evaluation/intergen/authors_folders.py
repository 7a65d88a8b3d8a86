"""The folders of MATRIX's released evaluation, taken over into a suite and written back.

    DATA/EVAL_DATA/{type}/meta.json, images/NNN.png, masks/NNN/idK.png, questions/NNN.json
    DATA/OUTPUTS/{model}/{type}/NNN.mp4
    DATA/EVAL_RESULTS/{model}/{type}/tracks/NNN/idK/FFF.png

NNN is the sample's place in its type's meta.json, idK the K-th of its objects. What that layout has no word for (names,
roles, interactions) stands beside it under keys of our own, which its code does not read: a suite that is written and
taken over again is the same. Source: the released evaluation, as its scripts use these folders.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.tracks.tracks import MaskTracks
from ...io.files import whole_file
from ...io.tracks import load_tracks, save_tracks
from ...io.video import check_video
from .authors import read_list
from .questions import Asked, Sheet, check_texts, read_sheet, write_sheet
from .suite import FILE, Instance, Interaction, Sample, Suite, as_json, read_suite

__all__ = ["Taken", "export_suite", "export_videos", "take_suite", "take_videos"]

_MOST = 6  # objects that the released code has colours for
_PLAIN = "all"  # the type of samples that have none


@dataclass(frozen=True)
class Taken:
    """What was taken over, and what could not be, by name."""

    samples: int
    questions: int
    notes: tuple[str, ...] = ()


# ---- in


def take_suite(data: Path, folder: Path, stride: int = 5) -> Taken:
    """Writes `folder`/suite.json, masks, images and questions from `data`/EVAL_DATA (or that folder itself).

    Raises ValueError, naming file and sample, for files of another form, and where `folder` holds a suite already.
    """
    if (folder / FILE).exists():
        raise ValueError(f"{folder / FILE} is there already: take the released files over into a new folder")
    home = data / "EVAL_DATA" if (data / "EVAL_DATA").is_dir() else data
    metas = sorted(home.glob("*/meta.json"))
    if not metas:
        raise ValueError(f"{home} holds no TYPE/meta.json: give the folder that holds EVAL_DATA")
    samples, sheets, notes, copies = [], [], list[str](), list[tuple[Path, Path]]()
    for meta in metas:
        for number, entry in enumerate(read_list(meta)):
            bare = _sample(entry, meta, number)
            path = meta.parent / "questions" / f"{number:03d}.json"
            asked = _asked(path, bare) if path.is_file() else ()
            done = bare.interactions or tuple(each.interaction for each in asked)
            sample = Sample(bare.id, bare.prompt, bare.instances, done, bare.type, bare.direction)
            samples.append(sample)
            sheets += [(sample.id, asked)] if asked else []
            if not asked and not done:
                notes.append(f"{sample.id} has no questions and no interactions: write them, or let a model find them")
            copies += list(_pictures(meta.parent, number, sample, folder, notes))
    content = {"format": "intergen", "version": 1, "stride": stride, "samples": [as_json(each) for each in samples]}
    with whole_file(folder / FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    suite = read_suite(folder)
    for name, asked in sheets:
        write_sheet(Sheet(name, suite.hash, "the released files", asked), folder / "questions" / f"{name}.json")
    for source, target in copies:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return Taken(len(samples), len(sheets), tuple(notes))


def take_videos(data: Path, model: str, suite: Suite, folder: Path) -> Taken:
    """Copies a model's videos into `folder`, under the ids of the suite, with their tracks.

    Raises ValueError for tracks that cannot be read, or that lack frames.
    """
    notes, videos, tracked = list[str](), 0, 0
    for kind, number, sample in _places(suite):
        source = data / "OUTPUTS" / model / kind / f"{number:03d}.mp4"
        if not source.is_file():
            notes.append(f"{sample.id}: there is no video {source}")
            continue
        target = folder / f"{sample.id}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        videos += 1
        masks = data / "EVAL_RESULTS" / model / kind / "tracks" / f"{number:03d}"
        if not masks.is_dir():
            notes.append(f"{sample.id}: there are no tracks in {masks}")
            continue
        save_tracks(_tracks(masks, sample, check_video(target).fps), folder / f"{sample.id}.tracks.safetensors")
        tracked += 1
    return Taken(videos, tracked, tuple(notes))


def _sample(entry: Mapping[str, Any], meta: Path, number: int) -> Sample:
    where, objects = f"{meta}: sample {number}", entry.get("objects")
    if not isinstance(objects, list) or not objects or not all(isinstance(each, Mapping) for each in objects):
        raise ValueError(f"{where} has no list of objects")
    instances = tuple(
        Instance(
            str(each.get("name") or f"id{place}"),
            str(each.get("class", "")),
            str(each.get("appearance", "")),
            str(each.get("role") or "instance"),
        )
        for place, each in enumerate(objects, 1)
    )
    given = entry.get("interactions", [])
    if not isinstance(given, list) or not all(isinstance(each, Mapping) for each in given):
        raise ValueError(f"{where}: interactions is a list of objects; got {str(given)[:60]}")
    done = tuple(
        Interaction(*(str(each.get(key, "")) for key in ("name", "subject", "object", "phrase"))) for each in given
    )
    kind = meta.parent.name
    name = str(entry.get("id") or f"{kind}-{number:03d}")
    direction = str(entry.get("interaction_direction") or "unidirectional")
    try:
        return Sample(name, str(entry.get("video_text_prompt", "")), instances, done, kind, direction)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _asked(path: Path, sample: Sample) -> tuple[Asked, ...]:
    """Questions of the released form, with names in braces for looks and colours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        items = content["items"]
        if not isinstance(items, list) or not items:
            raise ValueError("it has no items")
        return tuple(_item(item, place, sample) for place, item in enumerate(items, 1))
    except KeyError as error:
        said = f"{error} is missing"
    except (TypeError, AttributeError):
        said = 'it is not of the form {"items": [{"key_interaction", "questions": [10 texts]}]}'
    except (ValueError, OSError, RecursionError) as error:
        said = str(error)
    raise ValueError(f"{path} cannot be read as questions of the released form: {said}") from None


def _item(item: Mapping[str, Any], place: int, sample: Sample) -> Asked:
    texts = tuple(_with_names(str(text), sample) for text in item["questions"])
    if len(texts) != 10:
        raise ValueError(f"item {place} has {len(texts)} questions, not 10")
    named = [re.findall(r"\{([^{}]*)\}", texts[at]) for at in (6, 9)]  # the subject alone, the object alone
    if len(set(named[0])) != 1 or len(set(named[1])) != 1:
        raise ValueError(f"item {place}: question 7 names the subject alone and question 10 the object alone")
    subject, recipient = named[0][0], named[1][0]
    known = [one for one in sample.interactions if (one.subject, one.recipient or subject) == (subject, recipient)]
    verb = str(item["key_interaction"]).strip() or "acts"
    done = known[0] if known else Interaction(verb, subject, "" if recipient == subject else recipient)
    check_texts(sample, done, texts)
    return Asked(done, texts)


def _with_names(text: str, sample: Sample) -> str:
    """`old man (red bbox)` becomes `{id1}`; an article in front of it goes."""
    for one in sample.instances:
        colour = sample.colour(one.name)
        for looks in dict.fromkeys(each for each in (one.appearance, one.kind, one.name) if each):
            pattern = rf"(?:\bthe\s+)?{re.escape(looks)}\s*\({colour} (?:b?box|bounding box)\)"
            text = re.sub(pattern, lambda _, name=one.name: f"{{{name}}}", text, flags=re.IGNORECASE)  # type: ignore[misc]
    if left := re.search(r"\((\w+) (?:b?box|bounding box)\)", text):
        raise ValueError(f"{text[:80]!r} names somebody in a {left[1]} box by looks that no object of that colour has")
    return text


def _pictures(home: Path, number: int, sample: Sample, folder: Path, notes: list[str]) -> Iterator[tuple[Path, Path]]:
    """(source, target) of the first frame and of the masks."""
    first = home / "images" / f"{number:03d}.png"
    if first.is_file():
        yield first, folder / "images" / f"{sample.id}.png"
    for place, name in enumerate(sample.names, 1):
        mask = home / "masks" / f"{number:03d}" / f"id{place}.png"
        if mask.is_file():
            yield mask, folder / "masks" / sample.id / f"{name}.png"
        else:
            notes.append(f"{sample.id}: {name!r} has no mask {mask}")


def _tracks(folder: Path, sample: Sample, fps: float) -> MaskTracks:
    counts = {}
    for place, name in enumerate(sample.names, 1):
        files = sorted((folder / f"id{place}").glob("*.png"), key=_number)
        if [_number(path) for path in files] != list(range(len(files))) or not files:
            raise ValueError(
                f"{folder / f'id{place}'} holds masks 000.png, 001.png, ... of every frame; some are missing"
            )
        counts[name] = files
    if len({len(files) for files in counts.values()}) > 1:
        raise ValueError(f"{folder}: the objects have masks of {sorted({len(f) for f in counts.values()})} frames")
    masks = {name: (_mask(path) for path in files) for name, files in counts.items()}
    roles = {each.name: each.role for each in sample.instances}
    return MaskTracks.from_masks(masks, roles=roles, fps=fps, allow_empty=True)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else -1


def _mask(path: Path) -> Tensor:
    """(H, W) bool."""
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.asarray(picture.convert("L")) >= 128)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a mask: {error}") from None


# ---- out


def export_suite(suite: Suite, data: Path) -> list[str]:
    """Writes `data`/EVAL_DATA in the released layout; returns what it cannot hold, by name."""
    notes, metas = list[str](), dict[str, list[dict[str, Any]]]()
    for kind, number, sample in _places(suite):
        home = data / "EVAL_DATA" / kind
        if len(sample.instances) > _MOST:
            notes.append(f"{sample.id} has {len(sample.instances)} instances: the released code has {_MOST} colours")
        metas.setdefault(kind, []).append(_entry(sample))
        path = suite.folder / "questions" / f"{sample.id}.json"
        if path.is_file():
            _write(home / "questions" / f"{number:03d}.json", _questions(sample, read_sheet(path, sample), number))
        else:
            notes.append(f"{sample.id} has no questions")
        first = suite.folder / "images" / f"{sample.id}.png"
        if first.is_file():
            _copy(first, home / "images" / f"{number:03d}.png")
        for place, name in enumerate(sample.names, 1):
            mask = suite.folder / "masks" / sample.id / f"{name}.png"
            if mask.is_file():
                _copy(mask, home / "masks" / f"{number:03d}" / f"id{place}.png")
    for kind, entries in metas.items():
        _write(data / "EVAL_DATA" / kind / "meta.json", entries)
    return notes


def export_videos(suite: Suite, videos: Path, data: Path, model: str) -> list[str]:
    """Writes a model's videos and their tracks in the released layout; returns what is missing, by name."""
    notes = []
    for kind, number, sample in _places(suite):
        source = videos / f"{sample.id}.mp4"
        if not source.is_file():
            notes.append(f"{sample.id}: there is no {source} (seeds have no place in that layout)")
            continue
        _copy(source, data / "OUTPUTS" / model / kind / f"{number:03d}.mp4")
        path = videos / f"{sample.id}.tracks.safetensors"
        if not path.is_file():
            notes.append(f"{sample.id}: there is no {path}")
            continue
        tracks = load_tracks(path)
        if absent := [name for name in sample.names if name not in tracks.names]:
            raise ValueError(f"{path} has no track of {', '.join(map(repr, absent))}")
        for place, name in enumerate(sample.names, 1):
            home = data / "EVAL_RESULTS" / model / kind / "tracks" / f"{number:03d}" / f"id{place}"
            home.mkdir(parents=True, exist_ok=True)
            for frame in range(tracks.frames):
                mask = tracks.mask(name, frame).numpy().astype(np.uint8) * 255
                Image.fromarray(mask, "L").save(home / f"{frame:03d}.png")
    return notes


def _places(suite: Suite) -> Iterable[tuple[str, int, Sample]]:
    """(type, number, sample): a sample's place among those of its type."""
    counts: dict[str, int] = {}
    for sample in suite.samples:
        kind = sample.type or _PLAIN
        counts[kind] = counts.get(kind, -1) + 1
        yield kind, counts[kind], sample


def _entry(sample: Sample) -> dict[str, Any]:
    whole = as_json(sample)
    return {
        "id": sample.id,
        "video_text_prompt": sample.prompt,
        "image_text_prompt": "",
        "interaction_direction": sample.direction,
        "num_objects": len(sample.instances),
        "interaction_type": sample.type,
        "objects": whole["instances"],
        "interactions": whole["interactions"],
    }


def _questions(sample: Sample, sheet: Sheet, number: int) -> dict[str, Any]:
    looks = {
        one.name: f"{one.appearance or one.kind or one.name} ({sample.colour(one.name)} bbox)"
        for one in sample.instances
    }
    items = []
    for asked in sheet.asked:
        told = [re.sub(r"\{([^{}]*)\}", lambda found: looks[found[1]], text) for text in asked.texts]
        items.append({"key_interaction": asked.interaction.name, "questions": told})
    return {
        "video_id": f"{number:03d}",
        "prompt": sample.prompt,
        "entity": [one.kind or one.name for one in sample.instances],
        "appearance": [one.appearance for one in sample.instances],
        "colors": [sample.colour(one.name) for one in sample.instances],
        "items": items,
    }


def _write(path: Path, content: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
