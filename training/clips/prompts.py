"""How the prompt of a clip is written for training, and which words then mean whom."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from matrix_lib.core.words.binding import Phrase, PromptBinding, locate
from matrix_lib.core.words.forms import write_tags, write_target
from matrix_lib.io.clips.metadata import TARGET_SENTENCE
from matrix_lib.io.clips.source import INSTANCES, ClipSource

from .store import Entry, Store, key_of

if TYPE_CHECKING:
    from .encoders import Model

__all__ = ["PromptForm", "Written", "bind_written", "target_of", "write_prompt"]

PromptForm = Literal["plain", "tags", "tag_ids", "target_word", "target_sentence"]

_TAG = re.compile(r"<id(\d+)>\s*")
_TGT = "[TGT]"


@dataclass(frozen=True)
class Written:
    """A prompt, where its phrases stand in it, and the phrase of TAViD's target word, or ""."""

    prompt: str
    phrases: tuple[Phrase, ...]
    target: str = ""


def write_prompt(clip: ClipSource, form: PromptForm, verbs: bool = True) -> Written:
    """The prompt in one of the forms that models are trained on; without `verbs` its verbs are phrases of nobody.

    plain: as it is, without tags. tags: with MATRIX' `<idK>` where its author put them, else behind the determiner.
    tag_ids: as tags, and an instance's phrase is its tag alone, a token of its own (the code of MATRIX's authors).
    target_word: `target` before the target's noun (TAViD, as released); that word is the target's phrase.
    target_sentence: TAViD's sentence behind the prompt (as published); `[TGT]` is the target's phrase.

    Raises ValueError where words are not in the prompt, a tag has no number, or nothing tells which one the target is.
    """
    written = _written(clip, form)
    return written if verbs else replace(written, phrases=tuple(p for p in written.phrases if p.role != "verb"))


def _written(clip: ClipSource, form: PromptForm) -> Written:
    if form == "tags":
        return _tags(clip)
    if form == "tag_ids":
        tagged = _tags(clip)
        return replace(tagged, phrases=tuple(_tag_alone(tagged.prompt, phrase) for phrase in tagged.phrases))
    if form == "plain":
        return Written(clip.prompt, locate(clip.prompt, clip.phrases)[0], target_of(clip))
    target = target_of(clip)
    if not target:
        names = ", ".join(map(repr, clip.instances)) or "none"
        raise ValueError(f"which of its instances ({names}) is the target? Call it target, or give one alone [object]")
    if form == "target_sentence" or _TGT in clip.prompt:
        return _sentence(clip, target)
    prompt, (phrases, _) = write_target(clip.prompt, clip.phrases, name=target)
    return Written(prompt, _only(prompt, phrases, target, "target"), target)


def bind_written(model: Model, written: Written, store: Store | None = None) -> PromptBinding:
    """The rows of a model's text that each phrase has. ValueError where the model's text is too short for them."""
    if store is None:
        return model.bind(written.prompt, written.phrases)
    shape = model.shape
    key = key_of(
        "words", model.text_id, shape.text_rows, shape.image, written.prompt, [asdict(p) for p in written.phrases]
    )
    made = store.get(
        "words", key, lambda: Entry({}, {"binding": model.bind(written.prompt, written.phrases).to_json()})
    )
    return PromptBinding.from_json(made.facts["binding"])


def target_of(clip: ClipSource) -> str:
    """The instance that is TAViD's target: the one so called, else the only object, else the only one, else ""."""
    if clip.target:
        return clip.target
    objects = [spec.name for spec in clip.phrases if spec.role == "object"]
    for found in (objects, list(clip.instances)):
        if len(found) == 1:
            return found[0]
    return ""


def _tags(clip: ClipSource) -> Written:
    said = {int(number) for number in _TAG.findall(clip.tagged)}
    if not clip.slots or not set(clip.slots.values()) <= said:
        prompt, (phrases, _) = write_tags(clip.prompt, clip.phrases, numbers=clip.slots)
        return Written(prompt, phrases, target_of(clip))
    found, _ = locate(clip.tagged, clip.phrases)
    return Written(clip.tagged, tuple(_with_tag(clip.tagged, phrase) for phrase in found), target_of(clip))


def _with_tag(prompt: str, phrase: Phrase) -> Phrase:
    """An instance's phrase with the tag that stands right before it."""
    before = re.search(r"<id\d+>\s*$", prompt[: phrase.start])
    if before is None or phrase.role not in INSTANCES:
        return phrase
    (_, end), *rest = phrase.spans
    return replace(phrase, start=before.start(), spans=((before.start(), end), *rest))


def _tag_alone(prompt: str, phrase: Phrase) -> Phrase:
    """An instance's phrase as every place of the tag that is in it."""
    found = _TAG.search(prompt[phrase.start : phrase.end])
    if found is None or phrase.role not in INSTANCES:
        return phrase
    tag = f"<id{found[1]}>"
    spans = tuple((at.start(), at.end()) for at in re.finditer(re.escape(tag), prompt))
    return replace(phrase, text=tag, start=spans[0][0], end=spans[-1][1], spans=spans)


def _sentence(clip: ClipSource, target: str) -> Written:
    prompt = clip.prompt if _TGT in clip.prompt else f"{clip.prompt.rstrip('. ')}. {TARGET_SENTENCE}"
    return Written(prompt, _only(prompt, locate(prompt, clip.phrases)[0], target, _TGT), target)


def _only(prompt: str, phrases: tuple[Phrase, ...], name: str, word: str) -> tuple[Phrase, ...]:
    """Phrases in which the target's own is this one word: TAViD aligns the attention of it alone."""
    index = next(i for i, phrase in enumerate(phrases) if phrase.name == name)
    at = prompt.rfind(word) if word == _TGT else prompt.rfind(word, 0, phrases[index].end)
    narrow = replace(phrases[index], text=word, start=at, end=at + len(word), spans=((at, at + len(word)),))
    return (*phrases[:index], narrow, *phrases[index + 1 :])
