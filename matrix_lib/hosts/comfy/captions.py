"""A caption for each instance, in native ComfyUI: encoded apart, and put behind the rows of a bound prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...backbones import reader
from ...core.guidance.base import Guidance
from ...core.guidance.instance_captions import InstanceCaptions
from ...core.guidance.timed_words import TimedWords
from ...core.words.binding import PromptBinding, bind
from ...core.words.captions import caption_phrase, check_captioned, with_captions
from .bound_clip import unbound
from .bound_rows import bound_rows, remember
from .prompts import encode, find_encoder, read_prompt
from .run import BINDING, ENCODED, TRACKS

__all__ = ["add_captions", "unread_notes"]

_MASK = "attention_mask"  # of text rows, where the text encoder gives one: (1, rows)
Conditioning = list[list[Any]]


def add_captions(
    clip: Any, conditioning: Conditioning, captions: Sequence[tuple[str, str]], **options: Any
) -> tuple[Conditioning, PromptBinding]:
    """A bound CONDITIONING with the rows of captions, (instance, caption), behind its own, and its binding.

    `options` are those of `read_prompt`. Raises ValueError for a CONDITIONING without a binding or tracks, for a text
    encoder whose models mix their texts, and as `with_captions` does.
    """
    clip = unbound(clip)
    encoder = find_encoder(clip)
    spec = reader(encoder.family, getattr(encoder.tokenizer, "min_length", None))
    assert spec is not None
    if spec.text_mixed:
        raise ValueError(
            f"captions of instances cannot be kept apart in {spec.title}: {spec.text_mixed} mixes the rows of all "
            "texts. They work with CogVideoX, Wan, LTX-Video and Cosmos Predict 2"
        )
    encoded: list[Conditioning] = []
    own: list[tuple[str, PromptBinding]] = []
    for name, said in captions:
        read = read_prompt(clip, said, **options)
        phrases = [caption_phrase(name, said)]
        own.append((name, bind(said, read.tokens, phrases, read.length, read.family, weights=True, notes=read.notes)))
        encoded.append(encode(clip, read))
    made = [_behind(rows, more, encoded, own) for rows, more in conditioning]
    if not made:
        raise ValueError("the conditioning is empty: connect that of 'MATRIX Bind Prompt'")
    return made, made[0][1][BINDING]


def unread_notes(bindings: Iterable[PromptBinding | None], steered: Iterable[Guidance]) -> list[str]:
    """A sentence for people for each thing that prompts say and no steering of the MODEL reads."""
    known, acts = [binding for binding in bindings if binding is not None], [type(each) for each in steered]
    notes = []
    if any(binding.captions for binding in known) and InstanceCaptions not in acts:
        notes.append(
            "instances have captions of their own, and nothing keeps them apart, so that everybody sees every caption: "
            "put 'MATRIX Steer Attention', mode 'instance captions', on this MODEL"
        )
    timed = dict.fromkeys(phrase.name for binding in known for phrase in binding.timed)
    if timed and TimedWords not in acts:
        notes.append(
            f"{', '.join(map(repr, timed))}: nothing reads the times of these words, so they act in the whole clip: "
            "put 'MATRIX Steer Attention', mode 'timed words', on this MODEL"
        )
    return notes


def _behind(
    rows: Tensor, more: Mapping[str, Any], encoded: Sequence[Conditioning], own: Sequence[tuple[str, PromptBinding]]
) -> list[Any]:
    """One entry of a CONDITIONING with all captions behind it."""
    shared, tracks = bound_rows({**more, "cross_attn": rows}), more.get(TRACKS)
    if shared is None or tracks is None:
        raise ValueError(
            "captions belong to instances, and this conditioning carries no "
            f"{'binding' if shared is None else 'mask tracks'}: connect that of 'MATRIX Bind Prompt', with tracks that "
            "are named as the captions are"
        )
    binding = with_captions(shared, own)
    tracks = tracks.spelled(binding.placed)
    check_captioned(binding, tracks.names)
    parts = [(rows, more), *(each[0] for each in encoded)]
    joined = torch.cat([part.to(rows) for part, _ in parts], 1)
    values = {**more, BINDING: binding, TRACKS: tracks, ENCODED: remember(joined, binding)}
    masks = [dict(given).get(_MASK) for _, given in parts]
    if any(mask is not None for mask in masks):
        values[_MASK] = torch.cat([_mask(mask, part) for mask, (part, _) in zip(masks, parts, strict=True)], -1)
    return [joined, values]


def _mask(mask: Tensor | None, rows: Tensor) -> Tensor:
    """(1, n): the mask of these rows; all ones where there is none."""
    return torch.ones(rows.shape[:2]) if mask is None else mask.reshape(1, -1).cpu()
