"""Prompts as a ComfyUI CLIP reads them: every token with its conditioning row and its characters in the prompt.

The list that `clip.tokenize` makes is what the host encodes, so it is the truth: our tokens are compared with it, id by
id, and a difference is an error, never a guess. Families: T5 (CogVideoX, LTX-Video, Cosmos Predict 2, Mochi 1),
UMT5 (Wan), LLaMA (HunyuanVideo), Qwen2.5-VL (HunyuanVideo 1.5; Kandinsky 5, with CLIP-L beside it), Gemma 3 (LTX-2),
Qwen3-VL (MiniMax H3, whose given frames or references stand in front of the words).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ...backbones import REGISTRY, BackboneSpec, reader
from ...core.words.binding import CUT, PromptBinding, Token, bind, check_tokens, locate
from ...core.words.forms import write_tags, write_target
from ...core.words.phrases import PhraseSpec
from ...core.words.prompt import Segment, parse_prompt
from ..tokens import Piece, fast_pieces, sentencepiece_pieces, shifted
from .run import BINDING, TRACKS

__all__ = [
    "FORMS",
    "PromptTokens",
    "TextEncoder",
    "bind_prompt",
    "check_positives",
    "encode",
    "find_encoder",
    "read_prompt",
    "reuse",
]

# How a prompt is written out: as typed; with MATRIX's tags, as characters or as the ids of its training; with TAViD's
# word before the object.
FORMS = ("plain", "tags", "tag_ids", "target")
_FAMILY = {"t5xxl": "t5", "umt5xxl": "umt5", "llama": "llama", "gemma3_12b": "gemma3", "qwen25_7b": "qwen25"}
_FAMILY |= {"qwen3vl_32b": "qwen3vl"}
_READ_WHOLE = ("<|im_start|>", "<|start_header_id|>")  # prompts that begin so are a whole chat to the host's Qwen
_IM_START, _USER, _BREAK = 151644, 872, 198  # Qwen's ids of <|im_start|>, `user` and a line break
_QWEN = ("qwen25", "qwen25_clip")
_TAG = re.compile(r"<id([1-5])>")
# What nodes that encode a prompt themselves say to `clip.tokenize` beside it, and what is known of.
_TOLD = {
    "qwen3vl": ("images", "minimax_ref_items"),
    "llama": ("llama_template", "image_embeds", "image_interleave"),
}
# UMT5's tokenizer has 300 sentinels behind its pieces; transformers appends added tokens behind those.
_UMT5_SENTINELS = 300
Entry = tuple[Any, float]  # what the host encodes: (token id or image embedding, weight)


@dataclass(frozen=True)
class TextEncoder:
    """The part of a host CLIP that makes the conditioning rows: the `key` of its tokens in what `clip.tokenize` returns
    (None where that is the list itself), its tokenizer, its family (t5, umt5, llama, gemma3, qwen25, qwen25_clip,
    qwen3vl), the chat template around prompts, whether it knows ComfyUI's weights, what it reads in place of an empty
    prompt.
    """

    key: str | None
    tokenizer: Any
    family: str
    template: str = "{}"
    weights: bool = True
    nothing: str = ""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as it will be encoded. `tokens` are the prompt's own, row -1 where cut off; `length` counts all rows of
    the conditioning; `encode` is what the host's CLIP takes; `notes` say what happened to it."""

    prompt: str
    tokens: tuple[Token, ...]
    length: int
    family: str
    encode: Any
    notes: tuple[str, ...] = ()


@dataclass
class _Draft:
    """Entries for the host and pieces for us, index by index; pieces are None for what is not of the prompt."""

    entries: list[Entry] = field(default_factory=list)
    pieces: list[Piece | None] = field(default_factory=list)


def find_encoder(clip: Any) -> TextEncoder:
    """The text encoder of a host CLIP that makes conditioning rows; ValueError where it is of no known family."""
    outer = clip.tokenizer
    if hasattr(outer, "llama") and hasattr(outer, "llama_template"):
        return TextEncoder("llama", outer.llama, "llama", outer.llama_template)
    key, inner = None, outer
    if hasattr(outer, "clip_name") and hasattr(outer, "clip"):
        key, inner = outer.clip_name, getattr(outer, outer.clip)
    family = _FAMILY.get(getattr(inner, "embedding_key", ""), "")
    weights = not getattr(inner, "disable_weights", False)
    if family == "qwen25" and key is not None and "{}" in getattr(outer, "llama_template", ""):
        if hasattr(outer, "clip_l"):
            return TextEncoder(key, inner, "qwen25_clip", outer.llama_template, weights=False)
        return TextEncoder(key, inner, family, outer.llama_template, weights=False, nothing=" ")
    if family == "qwen3vl":
        return TextEncoder(key, inner, family, weights=False)
    if family in ("t5", "umt5", "gemma3"):
        return TextEncoder(key, inner, family, weights=weights)
    raise ValueError(
        f"this CLIP reads prompts with {type(outer).__name__}, which is none that we know. Accepted are "
        + "; ".join(f"{' with '.join(s.text_encoder_titles)} ({s.title}: {s.clip_loader})" for s in REGISTRY.values())
    )


def _pieces(encoder: TextEncoder, text: str) -> list[Piece]:
    """Pieces of a run of text as the host's tokenizer makes them, without its start and end tokens."""
    tokenizer = encoder.tokenizer.tokenizer
    processor = getattr(tokenizer, "tokenizer", None)
    if hasattr(processor, "piece_to_id"):  # the host's wrapper around SentencePiece
        return sentencepiece_pieces(processor, text)
    return fast_pieces(tokenizer, text)


def _tag_base(clip: Any, encoder: TextEncoder) -> int:
    """The id that the authors' training gave to <id1>: the first behind everything the tokenizer knows."""
    if encoder.family not in ("t5", "umt5"):
        spec = reader(encoder.family)
        assert spec is not None
        raise ValueError(f"nobody has published token ids of <idK> tags for {spec.title}: use the tags as characters")
    tokenizer = encoder.tokenizer.tokenizer
    size = getattr(getattr(tokenizer, "tokenizer", None), "get_piece_size", None)
    base = len(tokenizer) if size is None else size() + _UMT5_SENTINELS
    model = clip.cond_stage_model
    model = getattr(model, model.clip) if hasattr(model, "clip") else model
    rows = model.transformer.get_input_embeddings().weight.shape[0]
    if base + 5 > rows:
        raise ValueError(
            f"the <idK> ids would be {base}..{base + 4}, but this text encoder has embeddings for {rows} ids only: use "
            "the tags as characters"
        )
    return base


def _with_tags(encoder: TextEncoder, text: str, base: int) -> list[Piece]:
    """Pieces of a run of text in which each <idK> is the single id base + K - 1."""
    out: list[Piece] = []
    at = 0
    for tag in [*_TAG.finditer(text), None]:
        end = tag.start() if tag else len(text)
        run = text[at:end]
        places = [(at + i, at + i + 1) for i in range(len(run))]
        if run.strip():
            out += shifted(_pieces(encoder, run), places)
        if tag and encoder.family == "umt5" and run[-1:].isspace():
            # SentencePiece drops a space at the end; the authors' tokenizer splits at the tag and keeps it.
            processor = encoder.tokenizer.tokenizer.tokenizer
            out.append(Piece(processor.piece_to_id("\u2581"), "\u2581", end - 1, end))
        if tag:
            out.append(Piece(base + int(tag[1]) - 1, tag[0], *tag.span()))
            at = tag.end()
    return out


def _read_segments(encoder: TextEncoder, segments: Iterable[Segment], base: int | None) -> _Draft:
    draft = _Draft()
    for segment in segments:
        try:
            made = _pieces(encoder, segment.text) if base is None else _with_tags(encoder, segment.text, base)
        except ValueError as error:
            raise ValueError(f"the prompt cannot be followed through the tokenizer: {error}") from None
        draft.pieces += shifted(made, segment.spans)
        draft.entries += [(piece.id, segment.weight) for piece in made]
    return draft


def _host_entries(clip: Any, encoder: TextEncoder, prompt: str, extra: dict[str, Any]) -> tuple[Any, list[Entry]]:
    """What the host's CLIP would encode: everything, and the one section that makes rows."""
    made = clip.tokenize(prompt, **extra)
    sections = made if encoder.key is None else made[encoder.key]
    if len(sections) != 1:
        raise ValueError(
            f"this CLIP splits the prompt into {len(sections)} sections of {encoder.tokenizer.max_length} tokens; "
            "shorten the prompt, or load the text encoder with the type of your video model"
        )
    return made, list(sections[0])


def _check_plain(encoder: TextEncoder, prompt: str) -> None:
    if encoder.tokenizer.embedding_directory is not None and re.search(r"(^|[\s(])embedding:", prompt):
        raise ValueError(
            "the prompt uses embedding:NAME, whose rows cannot be bound to words: take it out of this prompt"
        )
    if encoder.family in _QWEN and prompt.startswith(_READ_WHOLE):
        raise ValueError(
            f"the prompt begins with a chat template of its own ({prompt[:20]!r}), and ComfyUI then leaves the model's "
            "away: write the words alone"
        )


def _same(entries: list[Entry], draft: _Draft, start: int) -> None:
    """Raises ValueError unless the host encodes exactly our tokens from index `start` on."""
    for index, (ours, piece) in enumerate(zip(draft.entries, draft.pieces), start):
        theirs = entries[index] if index < len(entries) else ("nothing", 1.0)
        if theirs != ours:
            raise ValueError(
                f"token {index} of the prompt is {theirs[0]} with weight {theirs[1]:.4g} in ComfyUI, but we read "
                f"{piece.text if piece else ''!r} ({ours[0]}, weight {ours[1]:.4g}): this version of ComfyUI splits "
                "prompts in a way that we do not know, so words cannot be bound to rows"
            )


def _crop(entries: list[Entry], image_step: int) -> tuple[int, int, int]:
    """The part of a chat prompt that HunyuanVideo's text encoder keeps: (first entry, end, image rows in front).

    It begins behind the user header (and the line break that follows, where that is a token of its own) and ends with
    the end-of-turn token; embeddings of an image in the system part are moved in front of it.
    """
    ids = [entry[0] for entry in entries]
    first, end, images = 0, len(ids), 0
    waiting = False
    for index, token in enumerate(ids):
        if isinstance(token, dict):
            images += -(-len(token["data"]) // image_step)
        elif ids[index : index + 3] == [128006, 882, 128007]:
            first, end, waiting = index + 2, len(ids) - 1, True
        elif token == 128009 and waiting:
            end, waiting = index + 1, False
    if len(ids) > first + 2 and ids[first + 1] == 271:
        first += 2
    return first, end, images


def _behind_user(entries: list[Entry]) -> int:
    """The first entry that Qwen2.5-VL's rows are kept from: behind the second header of its chat, that of the user."""
    ids = [entry[0] for entry in entries]
    headers = [index for index, token in enumerate(ids) if token == _IM_START][:2]
    first = headers[-1] if headers else 0
    named = ids[first + 1 : first + 3] == [_USER, _BREAK] and len(ids) > first + 3
    return first + 3 if named else first


def _tokens(draft: _Draft, start: int, first: int, last: int, lead: int) -> tuple[Token, ...]:
    """Tokens of the prompt; entry `first` is row `lead`, entries from `last` on were cut off."""
    out = []
    for index, piece in enumerate(draft.pieces, start):
        if piece is not None and index >= first:
            row = index - first + lead if index < last else CUT
            out.append(Token(row, piece.id, piece.start, piece.end, piece.text))
    return tuple(out)


def _own_pieces(draft: _Draft, offset: int, length: int) -> _Draft:
    """Pieces of the chat template become None, those of the prompt count characters from its beginning."""
    pieces: list[Piece | None] = []
    for piece in draft.pieces:
        start, end = (max(piece.start - offset, 0), min(piece.end - offset, length)) if piece else (0, 0)
        pieces.append(replace(piece, start=start, end=end) if piece and start < end else None)
    return _Draft(draft.entries, pieces)


def _tail_note(prompt: str, tokens: Iterable[Token], over: int, limit: int, cut: bool) -> str:
    if not cut:
        return f"the prompt has {over} rows more than the {limit} that the model was trained with; all are kept"
    lost = [token.start for token in tokens if token.row == CUT and token.end > token.start]
    words = prompt[min(lost) :].strip() if lost else ""
    shown = words if len(words) < 60 else words[:57] + "..."
    return f"the model reads {limit} rows: {over} tokens at the end are left out, from {shown!r} on"


def _chat(encoder: TextEncoder, vision: Any, image_step: int) -> tuple[str, dict[str, Any]]:
    """The chat template around a prompt, and what `clip.tokenize` has to be told for it."""
    if vision is None:
        return encoder.template, {}
    embeddings = getattr(vision, "mm_projected", None)
    if encoder.family != "llama" or embeddings is None:
        raise ValueError(
            "an image belongs to the prompt of HunyuanVideo I2V only: give HunyuanVideo's text encoders and what "
            "CLIP Vision Encode makes with llava_llama3_vision, or leave clip_vision_output unconnected"
        )
    # The same words as in the host's own node for it.
    from comfy_extras import nodes_hunyuan

    template = nodes_hunyuan.PROMPT_TEMPLATE_ENCODE_VIDEO_I2V
    return template, {"llama_template": template, "image_embeds": embeddings, "image_interleave": image_step}


def _shown(encoder: TextEncoder, pictures: Any) -> dict[str, Any]:
    """What `clip.tokenize` has to be told of pictures in front of the words."""
    if encoder.family != "qwen3vl":
        raise ValueError(
            "pictures in front of the words belong to MiniMax H3's text encoder (Qwen3-VL) only: leave image "
            "unconnected; the first frame goes to 'MATRIX First Frame'"
        )
    if getattr(pictures, "ndim", 0) != 4 or not len(pictures) or pictures.shape[-1] < 3:
        raise ValueError(f"pictures are an IMAGE (n, height, width, 3); got {tuple(getattr(pictures, 'shape', ()))}")
    return {"images": list(pictures[..., :3].split(1))}


def _check_told(encoder: TextEncoder, told: Iterable[str]) -> None:
    """Raises ValueError for what a node tells `clip.tokenize` and nobody has written down here what it does."""
    if unknown := sorted(set(told) - set(_TOLD.get(encoder.family, ()))):
        spec = reader(encoder.family)
        assert spec is not None
        raise ValueError(
            f"the node that encodes this prompt tells {_encoders(spec)} {', '.join(unknown)}, and it is not known here "
            "where the words are then: connect the CONDITIONING of 'MATRIX Bind Prompt' instead"
        )


def _plain(entry: Entry) -> Entry:
    token, weight = entry
    if isinstance(token, dict):  # an image stands where the template has <image>
        return 128257, weight
    return (int(token) if not hasattr(token, "shape") else -1), weight


def _respelled(clip: Any, encoder: TextEncoder, draft: _Draft) -> list[Entry]:
    """Our own tokens as the host would have put them: between its start and end token, padded as its options say."""
    tokenizer, options = encoder.tokenizer, getattr(clip, "tokenizer_options", {})
    start = [] if tokenizer.start_token is None else [(tokenizer.start_token, 1.0)]
    end = [] if tokenizer.end_token is None else [(tokenizer.end_token, 1.0)]
    body = [*start, *draft.entries, *end]
    least = options.get(f"{tokenizer.embedding_key}_min_length", tokenizer.min_length) or 0
    behind = options.get(f"{tokenizer.embedding_key}_min_padding", tokenizer.min_padding) or 0
    return body + [(tokenizer.pad_token, 1.0)] * max(least - len(body), behind)


def _pads_in_front(encoder: TextEncoder, entries: list[Entry], tokens: int) -> int:
    """Entries in front of the start token, of a tokenizer that pads there."""
    if not getattr(encoder.tokenizer, "pad_left", False):
        return 0
    return max(len(entries) - tokens - (encoder.tokenizer.start_token is not None), 0)


def _shown_rows(entry: Entry) -> int:
    """How many rows Qwen3-VL makes of an entry: of a picture, or of two frames of a video, as the host sizes them."""
    token, _ = entry
    if not isinstance(token, dict):
        return 1
    from comfy.text_encoders import minimax, qwen_vl

    if token.get("minimax_video_block"):
        _, grid = minimax.process_video_block(token["data"])
    else:
        _, grid = qwen_vl.process_qwen2vl_images(token["data"], patch_size=16)
    return int(grid.prod()) // 4


def _kept(encoder: TextEncoder, entries: list[Entry], tokens: int, image_step: int) -> tuple[int, int, int]:
    """(first, end, lead): entries [first, end) are the prompt and its end token, behind `lead` other rows."""
    if encoder.family == "llama":
        return _crop(entries, image_step)
    if encoder.family in _QWEN:
        return _behind_user(entries), len(entries), 0
    if encoder.family == "qwen3vl":
        front = _begins(encoder, entries, tokens)
        return front, len(entries), sum(map(_shown_rows, entries[:front]))
    if pads := _pads_in_front(encoder, entries, tokens):  # the text encoder drops their rows
        return pads, len(entries), 0
    ends = encoder.tokenizer.end_token is not None
    return 0, tokens + (encoder.tokenizer.start_token is not None) + ends, 0


def _begins(encoder: TextEncoder, entries: list[Entry], tokens: int) -> int:
    """The entry that is the first of the prompt or of the template around it. Behind what Qwen3-VL is shown (names of
    pictures, videos and sounds, and what is seen of them) the prompt is the end."""
    if encoder.family == "qwen3vl":
        return max(len(entries) - tokens, 0)
    return _pads_in_front(encoder, entries, tokens) + (encoder.tokenizer.start_token is not None)


def _finish(
    prompt: str, encoder: TextEncoder, entries: list[Entry], draft: _Draft, keep: bool, image_step: int
) -> tuple[list[Entry], tuple[Token, ...], int, tuple[str, ...]]:
    """(entries, tokens, conditioning rows, notes) after the model's limit."""
    start = _begins(encoder, entries, len(draft.entries))
    first, end, lead = _kept(encoder, entries, len(draft.entries), image_step)
    spec = reader(encoder.family, encoder.tokenizer.min_length)
    assert spec is not None
    limit = spec.text_tokens  # the host never truncates; diffusers and the authors do, here
    over = max(end - first - limit, 0)
    gone = 0 if keep else over
    ends = encoder.family == "llama" or encoder.tokenizer.end_token is not None  # its row stays
    last = end - ends - gone if gone else end
    tokens = _tokens(draft, start, first, last, lead)
    entries = entries[:last] + entries[end - ends :] if gone else entries
    notes = [_tail_note(prompt, tokens, over, limit, not keep)] if over else []
    if encoder.family == "llama" and any(" " in prompt[t.start : t.end].strip() for t in tokens):
        notes.append(
            "this ComfyUI's tokenizer loses the spaces between words (transformers 5 does that to it), so some tokens "
            "belong to two words; the model reads the prompt like that, too"
        )
    whole = encoder.family in ("t5", "umt5")  # their padding makes rows, too
    length = len(entries) if whole else end - first - gone + lead
    return entries, tokens, length, tuple(notes)


def read_prompt(
    clip: Any,
    prompt: str,
    overlong: Literal["cut", "keep"] = "cut",
    tag_ids: bool = False,
    vision: Any = None,
    image_step: int = 2,
    pictures: Any = None,
    told: Mapping[str, Any] | None = None,
) -> PromptTokens:
    """Tokens of a prompt as this CLIP will encode it.

    Args:
        clip: a host CLIP of a family that is known.
        overlong: a prompt longer than the model was trained with is cut as diffusers does, or kept whole as the host
            does by itself.
        tag_ids: <id1>..<id5> become the single ids that MATRIX's training gave them. Their embeddings are untrained
            rows; only weights trained on those ids know them.
        vision: HunyuanVideo I2V: the CLIP vision output of its LLaVA encoder; every `image_step`-th of the image's
            embeddings becomes a row before the text.
        pictures: MiniMax H3: (n, H, W, 3) in [0, 1], the given frames, which its text encoder looks at before it reads.
        told: instead of vision and pictures, what another node says to `clip.tokenize` beside the prompt: MiniMax H3's
            given frames or references, HunyuanVideo I2V's template and image.

    Raises ValueError on a CLIP of no known family and wherever our reading differs from the host's.
    """
    encoder = find_encoder(clip)
    _check_plain(encoder, prompt)
    frame, extra = _chat(encoder, vision, image_step)
    if pictures is not None:
        extra = _shown(encoder, pictures)
    if told is not None:
        _check_told(encoder, told)
        frame, extra = told.get("llama_template") or frame, dict(told)
        image_step = int(told.get("image_interleave", image_step))
    base = _tag_base(clip, encoder) if tag_ids else None
    segments = parse_prompt(frame.format(prompt or encoder.nothing), weights=encoder.weights)
    draft = _own_pieces(_read_segments(encoder, segments.segments, base), frame.index("{}"), len(prompt))
    made, entries = _host_entries(clip, encoder, prompt, extra)
    if base is None:
        _same([_plain(entry) for entry in entries], draft, _begins(encoder, entries, len(draft.entries)))
    else:
        entries = _respelled(clip, encoder, draft)
    entries, tokens, length, notes = _finish(prompt, encoder, entries, draft, overlong == "keep", image_step)
    encoded = [entries] if encoder.key is None else {**made, encoder.key: [entries]}
    return PromptTokens(prompt, tokens, length, encoder.family, encoded, notes)


def encode(clip: Any, prompt: PromptTokens, *options: Any, **more: Any) -> list:
    """CONDITIONING of a prompt; ValueError where its rows are not those that `read_prompt` counted. options, more: of
    the host's own method."""
    conditioning = clip.encode_from_tokens_scheduled(prompt.encode, *options, **more)
    for rows, _ in conditioning:
        if rows.shape[1] != prompt.length:
            raise ValueError(
                f"the text encoder made {rows.shape[1]} rows where {prompt.length} were expected: this version of "
                "ComfyUI crops prompts in a way that we do not know, so words cannot be bound to rows"
            )
    return conditioning


def bind_prompt(
    clip: Any, prompt: str, phrases: str | Iterable[PhraseSpec], form: str = "plain", **options: Any
) -> tuple[PromptTokens, PromptBinding]:
    """Writes a prompt out in one of the `FORMS`, reads it with this CLIP (`options` as in `read_prompt`), and binds its
    phrases. Raises ValueError as `read_prompt`, `core.binding.bind` and the forms do."""
    if form not in FORMS:
        raise ValueError(f"a prompt is written out as one of {', '.join(FORMS)}; got {form!r}")
    if form == "target":
        prompt, (found, notes) = write_target(prompt, phrases, weights=True)
    elif form in ("tags", "tag_ids"):
        prompt, (found, notes) = write_tags(prompt, phrases, weights=True)
    else:
        found, notes = locate(prompt, phrases, weights=True)
    read = read_prompt(clip, prompt, tag_ids=form == "tag_ids", **options)
    bound = bind(prompt, read.tokens, found, read.length, read.family, weights=True, notes=(*read.notes, *notes))
    return read, bound


def reuse(clip: Any, binding: PromptBinding, form: str = "plain", **options: Any) -> tuple[PromptTokens, PromptBinding]:
    """The binding's own prompt, as this CLIP reads it; ValueError unless the tokens agree."""
    read = read_prompt(clip, binding.prompt, tag_ids=form == "tag_ids", **options)
    check_tokens(binding, read.tokens, read.length)
    return read, binding


def check_positives(spec: BackboneSpec, positives: list[dict], words: bool) -> None:
    """Whether the positives of a guider can be watched.

    Args:
        words: whether words will be recorded; without them every prompt that is bound needs mask tracks.

    Raises ValueError where no positive carries a binding, or one is of another text encoder or another conditioning.
    """
    bound = [cond for cond in positives if BINDING in cond]
    if not bound:
        raise ValueError(
            "The guider's positive conditioning carries no binding, so there are no words to look at. Connect the "
            "CONDITIONING output of 'MATRIX Bind Prompt' to the guider (through any conditioning nodes), or its bound "
            "CLIP to the node that encodes the prompt."
        )
    if not words and not any(cond.get(TRACKS) is not None for cond in bound):
        raise ValueError(
            "Only instances are to be recorded, but the conditioning carries no mask tracks. Connect tracks to "
            "'MATRIX Bind Prompt', or switch words on."
        )
    for cond in bound:
        _check(spec, cond)


def _check(spec: BackboneSpec, cond: dict[str, Any]) -> None:
    binding = cond[BINDING]
    if binding.model and binding.model != spec.text_encoder:
        theirs = reader(binding.model)
        raise ValueError(
            f"This prompt was bound with {_encoders(theirs) if theirs else binding.model}, but the MODEL is "
            f"{spec.title}, which reads {_encoders(spec)}. Bind the prompt with the CLIP that belongs to the model."
        )
    rows = getattr(cond.get("cross_attn"), "shape", (0, binding.length))[1]
    if rows < binding.length:
        raise ValueError(
            f"The binding was made for a conditioning of {binding.length} rows, but this one has {rows}: a node behind "
            "'MATRIX Bind Prompt' exchanged it. Bind the prompt that is sampled."
        )


def _encoders(spec: BackboneSpec) -> str:
    titles = spec.text_encoder_titles
    return f"{spec.title}'s text encoder{'s' if len(titles) > 1 else ''} ({' and '.join(titles)})"
