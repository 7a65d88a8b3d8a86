"""Tokens with their characters, from any tokenizer that the hosts bring. No tokenizer library is imported here.

A tokenizer says which pieces it made; where each piece stands in the text is checked, and worked out anew from the
pieces where the tokenizer's own offsets are wrong or missing. Text that cannot be followed exactly is an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Piece", "fast_pieces", "sentencepiece_pieces", "tokenizer_pieces"]

_META = "\u2581"  # how SentencePiece writes a space


@dataclass(frozen=True)
class Piece:
    """A token id, its surface as the tokenizer writes it, and its characters [start, end) in the text."""

    id: int
    text: str
    start: int
    end: int


# Control characters that SentencePiece's normalisation removes (its nmt rules).
_DROPPED = frozenset(map(chr, [*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F]))

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")

_Unit = tuple[str, int, int]  # a normalised character and the source characters [start, end) that it stands for


def _byte_decoder() -> dict[str, int]:
    """The printable characters that byte-level BPE writes bytes as (GPT-2's table), back to bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + i): byte for i, byte in enumerate(rest)}}


_BYTES = _byte_decoder()


def _agrees(surface: str, text: str, byte_level: bool) -> bool:
    """Whether a piece can be what the tokenizer made of `text`: byte-level pieces are among its bytes (or those of its
    composed form, which Qwen's tokenizer reads), and so are the bytes that pieces fall back to; ASCII pieces of ASCII
    text stand in it. Other text may have been normalised (accents, ligatures), so there anything can be."""
    if surface == text:
        return True
    if byte := _BYTE_PIECE.fullmatch(surface):
        return bytes.fromhex(byte[1]) in text.encode()
    if byte_level and all(char in _BYTES for char in surface):
        made = bytes(_BYTES[char] for char in surface).strip()
        return made in text.encode() or made in unicodedata.normalize("NFC", text).encode()
    word = surface.replace(_META, "").strip()
    if word == "<unk>" or not (word.isascii() and text.isascii()):
        return bool(text)
    return word in text


def _walk(surfaces: Sequence[str], units: Sequence[_Unit], droppable: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Places pieces along a text, character by character. Characters of the text may be missing in the pieces where
    `droppable`; anything else that does not match raises ValueError."""
    spans: list[tuple[int, int]] = []
    at = 0
    for surface in surfaces:
        if not surface:  # a further byte of the character before
            spans.append(spans[-1])
            continue
        start = end = -1
        for char in surface.replace(_META, ""):
            while at < len(units) and units[at][0] != char and droppable(units[at][0]):
                at += 1
            if at == len(units) or units[at][0] != char:
                rest = "".join(unit[0] for unit in units[at : at + 12])
                raise ValueError(f"token {surface!r} cannot be found in the text at {rest!r}")
            start = units[at][1] if start < 0 else start
            end = units[at][2]
            at += 1
        if start < 0:  # a lone space belongs to the word that it begins
            ahead = next((unit for unit in units[at:] if not droppable(unit[0])), None)
            last = units[-1][2] if units else 0
            start, end = (ahead[1], ahead[2]) if ahead else (last, last)
        spans.append((start, end))
    if any(not droppable(unit[0]) for unit in units[at:]):
        raise ValueError(f"the tokens end before {''.join(unit[0] for unit in units[at:])!r}")
    return spans


def _characters(text: str) -> list[_Unit]:
    return [(char, index, index + 1) for index, char in enumerate(text)]


def _normal_characters(text: str) -> list[_Unit]:
    """Characters after compatibility normalisation, each with the source characters of its cluster."""
    units: list[_Unit] = []
    i = 0
    while i < len(text):
        j = _with_marks(text, i + 1)
        while j < len(text) and (unicodedata.combining(text[j]) or "\u1160" <= text[j] <= "\u11ff"):
            j += 1
        units += [(char, i, j) for char in unicodedata.normalize("NFKC", text[i:j])]
        i = j
    return units


def _invisible(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in ("Cc", "Cf")


def fast_pieces(tokenizer: Any, text: str, special: bool = False) -> list[Piece]:
    """Pieces of a transformers tokenizer with offsets; `special` keeps the start and end tokens that it adds.

    transformers 5 builds some LLaMA tokenizers so that spaces and accents vanish before the merges and every offset is
    wrong; such pieces are placed by their surfaces: what the vocabulary has no letter for was dropped.
    """
    made = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special)
    ids = [int(token) for token in made["input_ids"]]
    seen = [i for i, char in enumerate(text) if char not in _DROPPED]
    if len(seen) < len(text):  # offsets around control characters that make no token are off
        clean = "".join(text[i] for i in seen)
        if list(tokenizer(clean, add_special_tokens=special)["input_ids"]) == ids:
            return shifted(fast_pieces(tokenizer, clean, special), [(i, i + 1) for i in seen])
    surfaces = tokenizer.convert_ids_to_tokens(ids)
    spans = [(int(start), int(end)) for start, end in made["offset_mapping"]]
    own = set(tokenizer.all_special_ids) if special else set()
    inner = [n for n, (token, (start, end)) in enumerate(zip(ids, spans)) if not (token in own and start == end)]
    byte_level = _known(tokenizer, "\u0120")
    seen_by = {n: text[spans[n][0] : _with_marks(text, spans[n][1])] for n in inner}
    wrong = next((n for n in inner if not _agrees(surfaces[n], seen_by[n], byte_level)), None)
    if wrong is not None and not byte_level:
        raise ValueError(
            f"token {surfaces[wrong]!r} is said to be {text[slice(*spans[wrong])]!r}; take control characters out"
        )
    if wrong is not None:
        found = _walk([surfaces[n] for n in inner], _characters(text), lambda char: not _known(tokenizer, char))
        for n, span in zip(inner, found):
            spans[n] = span
    return [
        Piece(token, surface, start, _with_marks(text, end) if end > start else end)
        for token, surface, (start, end) in zip(ids, surfaces, spans)
    ]


def _known(tokenizer: Any, surface: str) -> bool:
    """Whether the vocabulary has this piece."""
    found = tokenizer.convert_tokens_to_ids(surface)
    return found is not None and found != tokenizer.unk_token_id


def _with_marks(text: str, end: int) -> int:
    """An end moved behind the combining marks that follow: offsets of composed letters leave them out."""
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return end


def sentencepiece_pieces(processor: Any, text: str) -> list[Piece]:
    """Pieces of a SentencePieceProcessor, without start and end tokens.

    The processor's own map from normalised to source characters is used where its version has one.
    """
    ids = processor.encode(text, out_type=int, add_bos=False, add_eos=False)
    surfaces = processor.encode(text, out_type=str, add_bos=False, add_eos=False)
    try:
        normal, where = processor.normalize(text, with_offsets=True)
        units = _sourced(normal, where, text)
    except (AttributeError, TypeError):  # sentencepiece before 0.2.1
        units = _normal_characters(text)
    spans = _walk(_without_bytes(surfaces), units, _invisible)
    return [Piece(int(token), surface, *span) for token, surface, span in zip(ids, surfaces, spans)]


def _without_bytes(surfaces: Sequence[str]) -> list[str]:
    """Surfaces in which the byte pieces (<0xE2>) of one character are that character, then nothing."""
    out: list[str] = []
    held: list[int] = []
    for surface in surfaces:
        byte = _BYTE_PIECE.fullmatch(surface)
        if not byte:
            out.append(surface)
            continue
        held.append(int(byte[1], 16))
        out.append("")
        try:
            char = bytes(held).decode()
        except UnicodeDecodeError:
            continue
        out[-len(held)] = char
        held = []
    return out


def _sourced(normal: str, where: Sequence[int], text: str) -> list[_Unit]:
    """Units from a normalised text and the source index of each of its characters (one more index marks the end)."""
    units: list[_Unit] = []
    for index, char in enumerate(normal):
        if char != _META:
            end = next((stop for stop in where[index + 1 :] if stop > where[index]), len(text))
            units.append((char, where[index], end))
    return units


def tokenizer_pieces(tokenizer: Any, text: str, special: bool = False) -> list[Piece]:
    """Pieces of whatever tokenizer a pipeline has: fast, or a slow one around SentencePiece.

    With `special`, the end token that a slow tokenizer adds is left out; a fast one's start and end tokens are kept.
    """
    if getattr(tokenizer, "is_fast", False):
        return fast_pieces(tokenizer, text, special)
    processor = getattr(tokenizer, "sp_model", None)
    if processor is None:
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which characters its tokens stand for: load the fast tokenizer, "
            "for example with AutoTokenizer.from_pretrained(...)"
        )
    pieces = sentencepiece_pieces(processor, text)
    if [piece.id for piece in pieces] != list(tokenizer(text, add_special_tokens=False)["input_ids"]):
        raise ValueError(
            f"{type(tokenizer).__name__} changes the text before it is split, so its tokens cannot be placed: load the "
            "fast tokenizer, for example with AutoTokenizer.from_pretrained(...)"
        )
    return pieces


def shifted(pieces: Iterable[Piece], places: Sequence[tuple[int, int]]) -> list[Piece]:
    """Pieces of a text whose character i stands at `places[i]` of a longer one, moved there. A piece without
    characters goes behind the piece before it."""
    out: list[Piece] = []
    for piece in pieces:
        if piece.end > piece.start:
            span = (places[piece.start][0], places[piece.end - 1][1])
        else:
            last = places[piece.start - 1][1] if 0 < piece.start <= len(places) else places[0][0] if places else 0
            span = (last, last)
        out.append(Piece(piece.id, piece.text, *span))
    return out
