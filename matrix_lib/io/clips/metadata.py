"""Clips of a metadata file: metadata.jsonl, .json, .csv or .tsv, one row a clip, `video` and `prompt` at least.

The layout of MATRIX-11K, with any set of IDs:

    FOLDER/videos/NAME.mp4
    FOLDER/mask_annotation/NAME/<idK>/NNN.png     mask of one instance in frame NNN
    FOLDER/mask_annotation/NAME/merged/000.png    palette picture of the frame, the ID map

or masks in other kinds of files; see `mask_places`.

Prompts carry `<idK>` tags. A column `phrases` says which words name whom (the text form of `core.phrases`): an
instance has the mask of the tag that stands in its words, of its own name where that is such as `id3`, else of its
place. Without that column the word behind each tag is the instance, and a column `verb` may give the words of the verb.

Or one mask a clip, of the thing that is interacted with, as TAViD has it:

    FOLDER/masks/NAME.png                         the target in the first frame (or NAME/NNN.png in every frame,
                                                  or what a column `mask` says)

A column `target` gives the target's words in the prompt. Without it they are the words `target NOUN` or `[TGT]` of the
prompt; a prompt without those gets TAViD's sentence. A column `masks_are` says `white` or `black`: where the thing is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from ...core.words.binding import locate
from ...core.words.phrases import PhraseSpec, Words, parse_phrases, verb
from ...core.words.prompt import find_words
from ..files import expanded
from .choice import VIDEOS, found_at, seen, within
from .mask_places import Masks, masks_of_one, masks_of_tags, numbered_pictures
from .mask_values import MasksAre
from .rows import Row, read_rows
from .source import INSTANCES, ClipSource, answer, located

__all__ = ["TARGET_SENTENCE", "Row", "clip_of", "read_rows"]

TARGET_SENTENCE = "The person interacts with [TGT] object."
"""What TAViD's training appends to a prompt (arXiv 2503.18950)."""
_TAG = re.compile(r"<id(\d+)>\s*")
_TAG_NAME = re.compile(r"<?id(\d+)>?$", re.IGNORECASE)
_TARGET = re.compile(r"\btarget\s+\w+|\[TGT\]")
_GUESSED = "prompts without a `phrases` column: the word behind each <idK> tag is the instance"


def clip_of(folder: Path, row: Row, roots: Sequence[Path], masks_are: MasksAre = "ask") -> ClipSource:
    """The clip that a row stands for.

    Args:
        roots: folders that its files may lie in, links followed.
        masks_are: where the row does not say it itself.

    Raises ValueError where something is missing or cannot be what it says.
    """
    if row.wrong:
        raise ValueError(row.wrong)
    if missing := [name for name in ("video", "prompt") if not row.text(name)]:
        raise ValueError(f"its row has no {' and no '.join(missing)}")
    video = _video(folder, row.text("video"), roots)
    masks_are = answer(row.text("masks_are"), masks_are)
    root = folder / "mask_annotation" / video.stem
    tagged = root.is_dir() or _TAG.search(row.text("prompt"))
    make = _single if row.text("mask") or not tagged else _tagged
    return make(folder, video, row, roots, masks_are)


def _video(folder: Path, said: str, roots: Sequence[Path]) -> Path:
    """The video of a row: in videos/ or the folder, with or without its suffix, or where a whole path says."""
    for text in dict.fromkeys((said, said.replace("\\", "/"))):
        place = expanded(text)
        for stem in (folder / "videos" / place, folder / place):
            if not any(stem.resolve().is_relative_to(root.resolve()) for root in roots):
                within(stem, roots, f"its video {said!r}")
            found = found_at(stem)
            if found is not None and found.is_dir():
                raise ValueError(f"its video {said!r} is a folder: make one video of its frames")
            if found is not None:
                return within(found, roots, f"its video {said!r}")
            named = [p for s in VIDEOS if (p := found_at(stem.with_name(stem.name + s))) is not None]
            if len(named) > 1:
                raise ValueError(f"its video {said!r} could be {' or '.join(p.name for p in named)}: write the suffix")
            if named:
                return within(named[0], roots, f"its video {said!r}")
    raise ValueError(f"its video {said!r} is not in {str(folder / 'videos')!r}: {_instead(folder, said)}")


def _instead(folder: Path, said: str) -> str:
    """What to do about a video that is not there."""
    homes = [home for home in (folder / "videos", folder) if home.is_dir()]
    there = {p.stem: p.name for home in homes for p in seen(home) if p.suffix.lower() in VIDEOS}
    near = get_close_matches(Path(said.replace("\\", "/")).stem, there, 1, 0.8)
    mean = f"did you mean {there[near[0]]!r}? Or " if near else ""
    return f"{mean}put it there, or correct or remove its row in the table"


# --- MATRIX-11K
def _tagged(folder: Path, video: Path, row: Row, roots: Sequence[Path], masks_are: MasksAre) -> ClipSource:
    root = folder / "mask_annotation" / video.stem
    tagged = row.text("prompt")
    notes: tuple[str, ...] = ()
    if given := row.text("phrases"):
        phrases = parse_phrases(given)
    else:
        phrases, notes = _tagged_words(tagged, row.text("verb"))
    slots = _slots(tagged, phrases)
    found = masks_of_tags(root, slots, roots)
    return ClipSource(
        video.stem,
        _TAG.sub("", tagged),
        phrases,
        video,
        found.paths,
        tracks_file=found.tracks,
        tagged=tagged,
        slots=slots,
        bystanders=found.others,
        merged=numbered_pictures(root / "merged", roots),
        notes=(*notes, *found.notes),
        keys=found.keys,
        masks_are=masks_are,
    )


def _slots(tagged: str, phrases: Sequence[PhraseSpec]) -> dict[str, int]:
    """K of `<idK>` for each instance: of its name, of the tag in its words or right before them, else its place."""
    instances = [spec for spec in phrases if spec.role in INSTANCES]
    slots = {spec.name: int(match[1]) for spec in instances if (match := _TAG_NAME.match(spec.name))}
    if len(slots) < len(instances):
        for phrase in located(tagged, phrases):
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
def _single(folder: Path, video: Path, row: Row, roots: Sequence[Path], masks_are: MasksAre) -> ClipSource:
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
    masks = masks_of_one(folder, video.stem, row.text("mask"), target, roots) if target else Masks({})
    return ClipSource(
        video.stem,
        prompt,
        phrases,
        video,
        masks.paths,
        tracks_file=masks.tracks,
        tagged=prompt,
        target=target,
        notes=(*notes, *masks.notes),
        keys=masks.keys,
        masks_are=masks_are,
    )
