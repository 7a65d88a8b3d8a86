"""Clips of a metadata file: metadata.jsonl, .json or .csv with one row a clip, `video` and `prompt` at least.

The layout of MATRIX-11K, with any set of IDs:

    FOLDER/videos/NAME.mp4
    FOLDER/mask_annotation/NAME/<idK>/NNN.png     mask of one instance in frame NNN
    FOLDER/mask_annotation/NAME/merged/000.png    palette picture of the frame, the ID map

Prompts carry `<idK>` tags. A column `phrases` says which words name whom (the text form of `core.phrases`): an
instance has the mask of the tag that stands in its words, of its own name where that is such as `id3`, else of its
place. Without that column the word behind each tag is the instance, and a column `verb` may give the words of the verb.

Or one mask a clip, of the thing that is interacted with, as TAViD has it:

    FOLDER/masks/NAME.png                         the target in the first frame (or NAME/NNN.png in every frame,
                                                  or what a column `mask` says)

A column `target` gives the target's words in the prompt. Without it they are the words `target NOUN` or `[TGT]` of the
prompt; a prompt without those gets TAViD's sentence.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.words.binding import locate
from ...core.words.phrases import PhraseSpec, Words, parse_phrases, verb
from ...core.words.prompt import find_words
from .source import INSTANCES, PICTURES, ClipSource, pictures_in

__all__ = ["TARGET_SENTENCE", "Row", "clip_of", "read_rows", "read_text"]

TARGET_SENTENCE = "The person interacts with [TGT] object."
"""What TAViD's training appends to a prompt (arXiv 2503.18950)."""
_TAG = re.compile(r"<id(\d+)>\s*")
_TAG_NAME = re.compile(r"<?id(\d+)>?$", re.IGNORECASE)
_TARGET = re.compile(r"\btarget\s+\w+|\[TGT\]")
_GUESSED = "prompts without a `phrases` column: the word behind each <idK> tag is the instance"
_LARGEST_TEXT = 200_000_000


@dataclass(frozen=True)
class Row:
    """One row: its number in the file from 1, its values, and what is wrong with it, or ""."""

    number: int
    values: Mapping[str, Any]
    wrong: str = ""

    @property
    def name(self) -> str:
        """The clip's name; a row without one is called by its number."""
        return Path(str(self.values.get("video") or "")).stem or f"row {self.number}"

    def text(self, column: str) -> str:
        value = self.values.get(column)
        return "" if value is None else str(value).strip()


def read_text(path: Path) -> str:
    """A text file; ValueError for one that is far too large or no text."""
    if path.stat().st_size > _LARGEST_TEXT:
        raise ValueError(f"{path.name} is {path.stat().st_size} bytes, far more than text of this kind has")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no text in UTF-8 ({error.reason} at byte {error.start})") from None


def read_rows(folder: Path) -> list[Row] | None:
    """Rows of the first metadata file that is there, None where there is none. ValueError where it is no such file."""
    for name in ("metadata.jsonl", "metadata.json", "metadata.csv"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            rows = _parse(read_text(path), path.suffix)
        except (ValueError, csv.Error, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if not rows or not any({"video", "prompt"} <= row.values.keys() for row in rows):
            raise ValueError(f"{path} has to have one row a clip with `video` and `prompt`")
        return rows
    return None


def _parse(text: str, suffix: str) -> list[Row]:
    if suffix == ".csv":
        return [Row(n, row) for n, row in enumerate(csv.DictReader(text.splitlines(keepends=True)), 1)]
    if suffix == ".jsonl":
        return [_json_row(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("it has to be a list of objects, one a clip")
    return [Row(n, row) if isinstance(row, dict) else Row(n, {}, "it is no object") for n, row in enumerate(rows, 1)]


def _json_row(number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        return Row(number, {}, f"it is no JSON: {error}")
    return Row(number, row) if isinstance(row, dict) else Row(number, {}, "it is no JSON object")


def clip_of(folder: Path, row: Row) -> ClipSource:
    """The clip that a row stands for. ValueError where something is missing or cannot be what it says."""
    if row.wrong:
        raise ValueError(row.wrong)
    if missing := [name for name in ("video", "prompt") if not row.text(name)]:
        raise ValueError(f"its row has no {' and no '.join(missing)}")
    video = _video(folder, row.text("video"))
    root = folder / "mask_annotation" / video.stem
    if row.text("mask") or not (root.is_dir() or _TAG.search(row.text("prompt"))):
        return _single(folder, video, row)
    return _tagged(root, video, row)


def _video(folder: Path, said: str) -> Path:
    found = [folder / "videos" / said, folder / said, folder / "videos" / f"{said}.mp4"]
    if not all(path.resolve().is_relative_to(folder.resolve()) for path in found):
        raise ValueError(f"its video {said!r} lies outside of the folder")
    for path in found:
        if path.is_file():
            return path
    raise ValueError(f"its video {said!r} is not in {str(folder / 'videos')!r}")


# --- MATRIX-11K
def _tagged(root: Path, video: Path, row: Row) -> ClipSource:
    tagged = row.text("prompt")
    notes: tuple[str, ...] = ()
    if given := row.text("phrases"):
        phrases = parse_phrases(given)
    else:
        phrases, notes = _tagged_words(tagged, row.text("verb"))
    slots = _slots(tagged, phrases)
    masks = {name: found for name, k in slots.items() if (found := pictures_in(root / f"<id{k}>"))}
    own = {f"<id{k}>" for k in slots.values()}
    others = tuple(p.name for p in sorted(root.glob("<id*>")) if p.name not in own and pictures_in(p))
    return ClipSource(
        video.stem,
        _TAG.sub("", tagged),
        phrases,
        video,
        masks,
        tagged=tagged,
        slots=slots,
        bystanders=others,
        merged=pictures_in(root / "merged"),
        notes=notes,
    )


def _slots(tagged: str, phrases: Sequence[PhraseSpec]) -> dict[str, int]:
    """K of `<idK>` for each instance: of its name, of the tag in its words or right before them, else its place."""
    instances = [spec for spec in phrases if spec.role in INSTANCES]
    slots = {spec.name: int(match[1]) for spec in instances if (match := _TAG_NAME.match(spec.name))}
    if len(slots) < len(instances):
        for phrase in locate(tagged, phrases)[0]:
            before = re.search(r"<id(\d+)>\s*$", tagged[: phrase.start])
            inside = before or _TAG.search(tagged, phrase.start, phrase.end)
            if inside and phrase.role in INSTANCES and int(inside[1]) not in slots.values():
                slots.setdefault(phrase.name, int(inside[1]))
    for place, spec in enumerate(instances, 1):
        if spec.name not in slots:
            free = (k for k in (place, *range(1, len(instances) + 1)) if k not in slots.values())
            slots[spec.name] = next(free)
    if len(set(slots.values())) < len(slots):
        said = ", ".join(f"{name!r} <id{k}>" for name, k in slots.items())
        raise ValueError(f"two of its instances have one tag: {said}")
    return {spec.name: slots[spec.name] for spec in instances}


def _tagged_words(tagged: str, words: str) -> tuple[tuple[PhraseSpec, ...], tuple[str, ...]]:
    """The word behind each tag as an instance `idK`: the first is the subject, the second the object; and the verb
    that joins them, where its words are given and stand in the prompt."""
    plain = _TAG.sub("", tagged)
    specs: list[PhraseSpec] = []
    for number, tag in enumerate(_TAG.finditer(tagged)):
        word = re.match(r"\w+", tagged[tag.end() :])
        name = f"id{tag[1]}"
        if word is None or any(spec.name == name for spec in specs):
            continue
        at = len(_TAG.sub("", tagged[: tag.end()]))
        nth = sum(start <= at for start, _ in find_words(plain, word[0]))
        role = INSTANCES[min(number, 2)]
        specs.append(PhraseSpec(name, (Words((word[0],), nth or None),), role))  # type: ignore[arg-type]
    if not specs:
        raise ValueError(f"the prompt {tagged!r} has no <idK> tags, and there is no `phrases` column")
    if words:
        try:
            spec = verb(words, specs[0].name, specs[1].name if len(specs) > 1 else None)
            locate(plain, [*specs, spec])
            return (*specs, spec), (_GUESSED,)
        except ValueError:
            return tuple(specs), (f"no verb: the words {words!r} of the column `verb` are not in the prompt",)
    return tuple(specs), (f"{_GUESSED}, no verbs",)


# --- one mask a clip
def _single(folder: Path, video: Path, row: Row) -> ClipSource:
    prompt = row.text("prompt")
    notes: tuple[str, ...] = ()
    if given := row.text("phrases"):
        phrases = parse_phrases(given)
    else:
        if not row.text("target") and not _TARGET.search(prompt):
            prompt = f"{prompt.rstrip('. ')}. {TARGET_SENTENCE}"
            notes = ("prompts that do not say what the target is got TAViD's sentence",)
        found = _TARGET.search(prompt)
        words = row.text("target") or (found[0] if found else "")
        phrases = (PhraseSpec("target", (Words.parse(words),), "object"),)
    names = [spec.name for spec in phrases if spec.role in INSTANCES]
    objects = [spec.name for spec in phrases if spec.role == "object"]
    target = "target" if "target" in names else (objects or names or [""])[0]
    mask = _mask(folder, video.stem, row.text("mask"))
    masks = {target: mask} if mask and target else {}
    return ClipSource(video.stem, prompt, phrases, video, masks, tagged=prompt, target=target, notes=notes)


def _mask(folder: Path, name: str, said: str) -> tuple[Path, ...]:
    """The pictures of a clip's one mask."""
    places = [folder / said, folder / "masks" / said] if said else [folder / "masks" / name]
    for place in places:
        if not place.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"its mask {said!r} lies outside of the folder")
        if place.is_dir() and (found := pictures_in(place)):
            return found
        files = [place] if said else [place.with_name(f"{name}{suffix}") for suffix in PICTURES]
        for path in files:
            if path.is_file():
                return (path,)
    if said:
        raise ValueError(f"its mask {said!r} is not in the folder")
    return ()
