"""Prompts as a diffusers pipeline reads them: every token with its conditioning row and its characters in the prompt.

Pipelines know no weights. They cut a prompt at their `max_sequence_length`; a phrase that is cut off cannot be bound.
Wan's pipeline tidies the prompt before it is split, HunyuanVideo's puts it into a chat template and crops that again,
HunyuanVideo 1.5's leaves the template to the tokenizer, LTX-2's connectors move the words to the front, Kandinsky 5's
tidies as well as it puts into a template, and pads nothing; nor does MiniMax H3's, which cuts nothing either.
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any, get_args

from ...backbones import REGISTRY, BackboneSpec, families, reader
from ...backbones.spec import TextEncoder
from ...core.words.binding import CUT, Phrase, PromptBinding, Token, bind
from ...core.words.phrases import PhraseSpec
from ...core.words.prompt import Span
from ..tokens import Piece, shifted, tokenizer_pieces

__all__ = ["bind_prompt", "prompt_tokens", "spec_of", "template_of"]

# What Python's html.unescape takes for an entity.
_ENTITY = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)")


def spec_of(pipeline: Any) -> BackboneSpec:
    """The family of a pipeline, by its name. Raises ValueError for one that is not known."""
    name = type(pipeline).__name__
    for spec in REGISTRY.values():
        if re.match(spec.pipelines, name):
            return spec
    raise ValueError(
        f"{name} is no pipeline that we know (those of {families()}). For another one pass its tokenizer and family="
        f"{', '.join(map(repr, get_args(TextEncoder)))}"
    )


def template_of(pipeline: type) -> Mapping[str, Any]:
    """The chat template of a class of HunyuanVideo pipelines, as its own module defines it, and of Kandinsky 5, as an
    empty one has it; of HunyuanVideo 1.5 the "system" message that its tokenizer puts into a template. All but
    HunyuanVideo's for text with "crop_start"."""
    if hasattr(pipeline, "_encode_prompt_qwen"):
        parts = [name for name in inspect.signature(pipeline.__init__).parameters if name != "self"]  # type: ignore[misc]
        return _own_template(pipeline(**dict.fromkeys(parts)))
    encode = getattr(pipeline, "_get_mllm_prompt_embeds", None)
    if encode is None:
        return vars(sys.modules[pipeline.__module__])["DEFAULT_PROMPT_TEMPLATE"]  # type: ignore[no-any-return]
    usual = inspect.signature(encode).parameters
    return {"system": usual["system_message"].default, "crop_start": usual["crop_start"].default}


def _own_template(pipeline: Any) -> Mapping[str, Any]:
    return {"template": pipeline.prompt_template, "crop_start": pipeline.prompt_template_encode_start_idx}


def _repaired(prompt: str) -> tuple[str, list[Span]]:
    """The prompt after ftfy, where that is installed, and the place of each of its characters."""
    places = [(i, i + 1) for i in range(len(prompt))]
    try:
        import ftfy
    except ImportError:
        return prompt, places
    text = ftfy.fix_text(prompt)
    if len(text) != len(prompt):
        places = []
        for kind, i, j, k, m in SequenceMatcher(None, prompt, text, autojunk=False).get_opcodes():
            places += [(i + n, i + n + 1) if kind == "equal" else (i, j) for n in range(m - k)]
    return text, places


def _unescaped(text: str, places: list[Span]) -> tuple[str, list[Span]]:
    """HTML entities as the signs they name; each sign stands where its entity stood."""
    out, moved, at = "", [], 0
    for entity in _ENTITY.finditer(text):
        out += text[at : entity.start()]
        moved += places[at : entity.start()]
        sign = html.unescape(entity[0])
        out += sign
        moved += [(places[entity.start()][0], places[entity.end() - 1][1])] * len(sign)
        at = entity.end()
    return out + text[at:], moved + places[at:]


def _tidied(prompt: str) -> tuple[str, list[Span]]:
    """What Wan's pipeline makes of a prompt (repaired text where ftfy is installed, entities resolved twice, single
    spaces), and where each character stands in the prompt as typed."""
    text, places = _unescaped(*_unescaped(*_repaired(prompt)))
    kept = [i for i, char in enumerate(text) if not (char.isspace() and (i + 1 == len(text) or text[i + 1].isspace()))]
    while kept and text[kept[0]].isspace():
        kept.pop(0)
    return "".join(" " if text[i].isspace() else text[i] for i in kept), [places[i] for i in kept]


def _check(tokenizer: Any, text: str, pieces: Sequence[Piece], room: int) -> list[int]:
    """The ids that the pipeline will encode, without padding; ValueError where they are not ours."""
    theirs = list(tokenizer(text, max_length=room, truncation=True, add_special_tokens=True)["input_ids"])
    ours = [piece.id for piece in pieces]
    if len(ours) > room:  # truncation may keep the end token in the last place
        ours = [*ours[: room - 1], *theirs[room - 1 :]]
    if theirs != ours:
        raise ValueError(
            f"{type(tokenizer).__name__} splits this prompt differently for its own pipeline than with character "
            "offsets, so words cannot be bound to rows: load the fast tokenizer with AutoTokenizer.from_pretrained"
        )
    return theirs


def _rows(pieces: Sequence[Piece], kept: int, shift: int) -> list[Token]:
    """Tokens of the pieces that stand on characters; piece n is row n + shift, pieces from `kept` on were cut off."""
    return [
        Token(n + shift if n < kept else CUT, piece.id, piece.start, piece.end, piece.text)
        for n, piece in enumerate(pieces)
        if piece.end > piece.start and n + shift >= 0
    ]


def _left_padding(tokenizer: Any, ids: Sequence[int], room: int) -> int:
    return room - len(ids) if getattr(tokenizer, "padding_side", "right") == "left" else 0


def _plain(tokenizer: Any, prompt: str, rows: int, tidy: bool) -> list[Token]:
    """Tokens of a T5 or UMT5 prompt, padded to `rows`; a longer one keeps its end token in the last row."""
    text, places = _tidied(prompt) if tidy else (prompt, [])
    pieces = tokenizer_pieces(tokenizer, text, special=True)
    if not pieces or pieces[-1].id != tokenizer.eos_token_id:  # a slow tokenizer's pieces come without it
        pieces.append(Piece(tokenizer.eos_token_id, tokenizer.eos_token, len(text), len(text)))
    ids = _check(tokenizer, text, pieces, rows)
    placed = shifted(pieces, places) if tidy else pieces
    kept = len(pieces) if len(pieces) <= rows else rows - 1
    return _rows(placed, kept, _left_padding(tokenizer, ids, rows))


def _packed(tokenizer: Any, prompt: str, rows: int) -> list[Token]:
    """Tokens of a prompt of LTX-2. Its pipeline strips it and pads in front; its connectors pack the words to the front
    and put registers behind them."""
    text = prompt.strip()
    before = prompt.index(text)
    pieces = tokenizer_pieces(tokenizer, text, special=True)
    kept = len(_check(tokenizer, text, pieces, rows))
    return _rows([replace(p, start=p.start + before, end=p.end + before) for p in pieces], kept, 0)


def _chat(
    tokenizer: Any, prompt: str, rows: int, template: Mapping[str, Any], image_step: int
) -> tuple[list[Token], int]:
    """(tokens, conditioning rows) of a prompt in HunyuanVideo's chat template. With an image its rows come first, and
    the four tokens of the assistant's header go; where truncation took that header, the prompt's last four go."""
    frame, images = template["template"], template.get("image_emb_len", 0)
    crop = template.get("crop_start")
    if crop is None:
        crop = len(tokenizer(frame)["input_ids"]) - (5 if images else 2)
    text = frame.format(prompt)
    pieces = tokenizer_pieces(tokenizer, text, special=True)
    ids = _check(tokenizer, text, pieces, crop + rows)
    offset = frame.index("{}")
    spans = [(max(piece.start - offset, 0), min(piece.end - offset, len(prompt))) for piece in pieces]
    placed = [Piece(piece.id, piece.text, start, max(start, end)) for piece, (start, end) in zip(pieces, spans)]
    lead = -(-images // image_step) if 0 < image_step < 6 else images
    kept = min(len(pieces), crop + rows)
    if images and ids.count(tokenizer.convert_tokens_to_ids("<|end_header_id|>")) < 3:
        kept -= 4
    shift = lead - crop + _left_padding(tokenizer, ids, crop + rows)
    return _rows(placed, kept, shift), rows + lead - (4 if images else 0)


_HERE = "\N{OBJECT REPLACEMENT CHARACTER}"


def _messages(tokenizer: Any, prompt: str, rows: int, template: Mapping[str, Any]) -> list[Token]:
    """Tokens of a prompt of HunyuanVideo 1.5: what the user says behind a system message, in the tokenizer's own chat
    template, of which the pipeline leaves out the first `crop_start` tokens."""
    crop, words = int(template["crop_start"]), prompt or " "

    def chat(said: str, **more: Any) -> Any:
        messages = [{"role": "system", "content": template["system"]}, {"role": "user", "content": said}]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **more)

    head, _, tail = chat(_HERE, tokenize=False).partition(_HERE)
    text = chat(words, tokenize=False)
    if text != head + words + tail:
        raise ValueError(
            f"the chat template of {type(tokenizer).__name__} changes the prompt (spaces at its ends, say), so words "
            "cannot be bound to rows: write the prompt as the template leaves it"
        )
    pieces, room = tokenizer_pieces(tokenizer, text), crop + rows
    ids = list(chat(words, tokenize=True, return_dict=True, max_length=room, truncation=True)["input_ids"])
    if [piece.id for piece in pieces][:room] != ids:
        raise ValueError(
            f"{type(tokenizer).__name__} splits this prompt differently for its own pipeline than with character "
            "offsets, so words cannot be bound to rows: load the fast tokenizer with AutoTokenizer.from_pretrained"
        )
    spans = [(max(p.start - len(head), 0), min(p.end - len(head), len(prompt))) for p in pieces]
    placed = [Piece(p.id, p.text, start, max(start, end)) for p, (start, end) in zip(pieces, spans)]
    return _rows(placed, room, _left_padding(tokenizer, ids, room) - crop)


def _shortened(tokenizer: Any, prompt: str, rows: int, template: Mapping[str, Any]) -> tuple[list[Token], int]:
    """(tokens, conditioning rows) of a prompt of Kandinsky 5: tidied, in a template whose first `crop_start` tokens go.
    Of one that is too long the pipeline takes as many characters off the whole text as it has too many, so the mark at
    its end goes first."""
    words = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor, which takes pictures as well
    text, places = _tidied(prompt)
    frame, crop = template["template"], int(template["crop_start"])
    whole, offset, room = frame.format(text), frame.index("{}"), crop + rows
    pieces = every = tokenizer_pieces(words, whole)
    if len(pieces) > room:
        over = words.decode([piece.id for piece in pieces[crop:-2]][rows - 2 :])
        whole = whole[: len(whole) - len(over)]
        pieces = tokenizer_pieces(words, whole)
    kept = len(_check(words, whole, pieces, room))
    end = pieces[kept - 1].end
    lost = [replace(piece, start=max(piece.start, end)) for piece in every if piece.end > end]
    spans = [(max(p.start - offset, 0), min(p.end - offset, len(text))) for p in (*pieces[:kept], *lost)]
    own = [Piece(p.id, p.text, start, max(start, end)) for p, (start, end) in zip((*pieces[:kept], *lost), spans)]
    return _rows(shifted(own, places), kept, -crop), kept - crop


def prompt_tokens(
    pipeline: Any,
    prompt: str,
    max_sequence_length: int | None = None,
    family: TextEncoder | None = None,
    template: Mapping[str, Any] | None = None,
    image_step: int = 2,
) -> tuple[list[Token], int, TextEncoder]:
    """(tokens, conditioning rows, family) of a prompt, as this pipeline encodes it.

    Args:
        pipeline: of a family that is known; or a tokenizer, with `family`, a kind of `TextEncoder`.
        max_sequence_length: what the pipeline is called with; None is its default.
        template: HunyuanVideo's `prompt_template`, or as `template_of`; None is the pipeline's own.
        image_step: HunyuanVideo I2V's `image_embed_interleave`.

    Tokens beyond the length have row -1. Raises ValueError on an unknown pipeline, and where our tokens are not those
    that the pipeline encodes.
    """
    tokenizer = getattr(pipeline, "tokenizer", None) if family is None else pipeline
    spec = reader(family) if family else spec_of(pipeline)
    assert spec is not None
    kind, rows = spec.text_encoder, max_sequence_length or spec.text_tokens
    if kind == "gemma3":
        tokens = _packed(tokenizer, prompt, rows)
        return tokens, rows, kind
    if kind == "qwen3vl":
        bare = _rows(tokenizer_pieces(tokenizer, prompt), rows, 0)
        return bare, len(_check(tokenizer, prompt, tokenizer_pieces(tokenizer, prompt), rows)), kind
    if kind not in ("llama", "qwen25", "qwen25_clip"):
        return _plain(tokenizer, prompt, rows, tidy=kind == "umt5"), rows, kind
    if template is None and family is not None:
        raise ValueError(
            "a tokenizer alone does not tell the chat template: pass template={'template': '...{}...'} (LLaMA), "
            "template={'system': '...', 'crop_start': 108} (Qwen2.5-VL) or template={'template': '...{}...', "
            "'crop_start': 128} (Qwen2.5-VL with CLIP-L)"
        )
    if kind == "qwen25_clip":
        tokens, length = _shortened(tokenizer, prompt, rows, template or _own_template(pipeline))
        return tokens, length, kind
    if kind == "qwen25":
        usual: int = getattr(pipeline, "tokenizer_max_length", spec.text_tokens)
        rows = max_sequence_length or usual
        said = template or {
            "system": pipeline.system_message,
            "crop_start": pipeline.prompt_template_encode_start_idx,
        }
        return _messages(tokenizer, prompt, rows, said), rows, kind
    tokens, length = _chat(tokenizer, prompt, rows, template or template_of(type(pipeline)), image_step)
    return tokens, length, kind


def bind_prompt(
    pipeline: Any, prompt: str, phrases: str | Iterable[PhraseSpec] | Iterable[Phrase], **options: Any
) -> PromptBinding:
    """Binds phrases (see `core.phrases`) to the conditioning rows of a pipeline's prompt.

    `options` are those of `prompt_tokens`. Raises ValueError as `core.binding.bind` does.

        binding = bind_prompt(pipe, "a man rides behind a van", "man: a man\nvan: a van\nrides = verb(man -> van)")
    """
    tokens, length, family = prompt_tokens(pipeline, prompt, **options)
    return bind(prompt, tokens, phrases, length, family)
