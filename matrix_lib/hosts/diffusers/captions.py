"""A caption for each instance, as a diffusers pipeline takes it: encoded apart, and put behind the shared prompt.

    captions = encode_captions(pipe, "two people in a park", {"left": "a man waves", "right": "a woman sits down"})
    with steer(pipe, InstanceCaptions(), captions.binding, tracks):
        video = pipe(**captions.inputs, num_inference_steps=50).frames[0]

D rows of a text; a prompt with n captions has (n + 1) D.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.words.binding import Phrase, PromptBinding, bind
from ...core.words.captions import caption_phrase, parse_captions, with_captions
from ...core.words.phrases import PhraseSpec
from .attach import backbone_of, sites_of
from .families import family
from .prompts import bind_prompt, prompt_tokens

__all__ = ["CaptionedPrompt", "bind_captions", "encode_captions"]


@dataclass(frozen=True, eq=False)
class CaptionedPrompt:
    """A shared prompt and the captions of its instances.

    Args:
        binding: whose rows are whose, for `steer` and `watch`.
        inputs: what the pipeline is called with in place of `prompt` and `negative_prompt`.
    """

    binding: PromptBinding
    inputs: dict[str, Any]


def bind_captions(
    pipeline: Any,
    prompt: str,
    captions: str | Mapping[str, str],
    phrases: str | Iterable[PhraseSpec] | Iterable[Phrase] = (),
    max_sequence_length: int | None = None,
) -> PromptBinding:
    """The binding of a prompt and of captions that are encoded behind it; see `encode_captions`."""
    given = tuple(captions.items()) if isinstance(captions, Mapping) else parse_captions(captions)
    if not given:
        raise ValueError("no captions given: name each instance that has one, {'left': 'a man waves'}")
    options: dict[str, Any] = {"max_sequence_length": max_sequence_length}
    if phrases:
        shared = bind_prompt(pipeline, prompt, phrases, **options)
    else:
        tokens, length, kind = prompt_tokens(pipeline, prompt, **options)
        shared = PromptBinding(prompt, length, tuple(token for token in tokens if token.row >= 0), (), kind)
    own = []
    for name, said in given:
        tokens, length, kind = prompt_tokens(pipeline, said, **options)
        own.append((name, bind(said, tokens, [caption_phrase(name, said)], length, kind)))
    return with_captions(shared, own)


@torch.no_grad()
def encode_captions(
    pipeline: Any,
    prompt: str,
    captions: str | Mapping[str, str],
    phrases: str | Iterable[PhraseSpec] | Iterable[Phrase] = (),
    *,
    negative_prompt: str | None = "",
    max_sequence_length: int | None = None,
) -> CaptionedPrompt:
    """Encodes a prompt that all instances share and a caption for each of them, and puts the rows behind each other.

    Args:
        pipeline: of CogVideoX (with rotary positions), Wan (without a second attention to a picture) or LTX-Video.
        prompt: what everybody sees: the place, the camera, who is there.
        captions: by the name of the instance's mask track; or as text, one "NAME: caption" a line.
        phrases: which words of the shared prompt are whom (`bind_prompt`); may be left out.
        negative_prompt: None for a run without guidance.
        max_sequence_length: rows of each text; None for the pipeline's own.

    Raises ValueError for a model that mixes its texts, and as `bind_prompt` and `with_captions` do.
    """
    spec = backbone_of(pipeline.transformer)
    found, length = family(spec.name), max_sequence_length or spec.text_tokens
    if trouble := found.text_trouble(pipeline.transformer):
        raise ValueError(f"captions of instances cannot be kept apart in {spec.title}: {trouble}")
    binding = bind_captions(pipeline, prompt, captions, phrases, length)
    picture = torch.zeros(1, 1, 3, dtype=torch.uint8)

    def encoded(text: str) -> dict[str, Tensor]:
        return found.text(pipeline, text, length, "", picture)

    said = captions.values() if isinstance(captions, Mapping) else (text for _, text in parse_captions(captions))
    texts = [encoded(text) for text in (prompt, *said)]
    inputs: dict[str, Any] = {"prompt": None, "prompt_embeds": torch.cat([text["rows"] for text in texts])[None]}
    if "mask" in texts[0]:
        inputs["prompt_attention_mask"] = torch.cat([text["mask"] for text in texts])[None]
    if negative_prompt is not None:
        joint = any(site.has_t2v for site in sites_of(pipeline.transformer))
        inputs |= _negative(encoded(negative_prompt), inputs, len(texts), joint)
    return CaptionedPrompt(binding, inputs)


def _negative(text: Mapping[str, Tensor], inputs: Mapping[str, Any], count: int, joint: bool) -> dict[str, Any]:
    """The negative prompt at the length that its pipeline takes. What fills it is left out by a mask, or counts once
    (`InstanceCaptions.fills`)."""
    rows = text["rows"][None]
    if "mask" in text:
        mask = torch.zeros_like(inputs["prompt_attention_mask"])
        mask[:, : rows.shape[1]] = text["mask"]
        return {"negative_prompt_embeds": rows.repeat(1, count, 1), "negative_prompt_attention_mask": mask}
    return {"negative_prompt_embeds": rows.repeat(1, count, 1) if joint else rows}
