"""A CLIP for nodes that encode a prompt themselves: what it makes of this prompt carries the binding.

Such nodes put something of their own in front of the words (MiniMax H3's given frames and references, HunyuanVideo's
picture). The tokens that they have made are read like those of 'MATRIX Bind Prompt', so each word is bound to the row
that it has there.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding, bind
from .bound_rows import remember
from .prompts import encode, read_prompt
from .run import BINDING, ENCODED, TRACKS

__all__ = ["bound_clip", "unbound", "with_binding"]

_TOKENS = [type("Tokens", (kind,), {}) for kind in (list, dict)]  # which know how they were read


@dataclass(frozen=True)
class _Words:
    """What a bound CLIP knows. typed: the prompt as it was typed, which `binding` may have written out otherwise.
    options: of `read_prompt`."""

    typed: str
    binding: PromptBinding
    tracks: MaskTracks | None
    options: dict[str, Any]


class _Bound:
    """In front of the class of a host CLIP. Its copies (with a LoRA, say) are bound as well."""

    words: _Words

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        return _made(unbound(self).clone(*args, **kwargs), self.words)

    def tokenize(self, text: str, return_word_ids: bool = False, **told: Any) -> Any:
        """The host's tokens of the bound prompt. Raises ValueError for another text, and as `read_prompt` does."""
        words = self.words
        if text not in (words.typed, words.binding.prompt):
            raise ValueError(
                f"this CLIP is bound to the prompt {_shown(words.typed)}, and the node encodes {_shown(text)}: give it "
                "the prompt of 'MATRIX Bind Prompt' (one text for both), or the CLIP of the loader, which is not bound"
            )
        read = read_prompt(unbound(self), words.binding.prompt, told=told, **words.options)
        tokens: Any = _TOKENS[isinstance(read.encode, dict)](read.encode)
        tokens.read = read
        return tokens

    def encode_from_tokens_scheduled(self, tokens: Any, *args: Any, **kwargs: Any) -> list:
        """CONDITIONING with the binding on board. Raises ValueError for tokens that this CLIP has not made."""
        words, read = self.words, getattr(tokens, "read", None)
        if read is None or tokens != read.encode:
            raise ValueError(
                f"this CLIP is bound to the prompt {_shown(words.typed)}, and a node encodes tokens that are not those "
                "that it has made of it: give that node the CLIP of the loader"
            )
        old = words.binding
        notes = dict.fromkeys((*old.notes, *read.notes))
        made = bind(old.prompt, read.tokens, old.phrases, read.length, read.family, weights=True, notes=notes)
        return with_binding(encode(unbound(self), read, *args, **kwargs), made, words.tracks)


def bound_clip(clip: Any, typed: str, binding: PromptBinding, tracks: MaskTracks | None = None, **options: Any) -> Any:
    """A copy of a host CLIP whose conditionings of one prompt carry a binding.

    Args:
        typed: the prompt as a person typed it. binding: of that prompt, as `prompts.bind_prompt` makes it.
        options: `overlong` and `tag_ids` of `prompts.read_prompt`.
    """
    return _made(unbound(clip).clone(), _Words(typed, binding, tracks, options))


def unbound(clip: Any) -> Any:
    """The same CLIP, which knows of no binding."""
    if not isinstance(clip, _Bound):
        return clip
    plain = copy.copy(clip)
    plain.__class__ = type(clip).plain  # type: ignore[attr-defined]
    return plain


def with_binding(conditioning: list, binding: PromptBinding, tracks: MaskTracks | None) -> list:
    """A CONDITIONING whose entries all carry a binding, and tracks where there are any."""
    values = {BINDING: binding} | ({} if tracks is None else {TRACKS: tracks})
    return [[rows, {**more, ENCODED: remember(rows, binding), **values}] for rows, more in conditioning]


@functools.cache
def _kind(plain: type) -> type:
    return type(f"Bound{plain.__name__}", (_Bound, plain), {"plain": plain})


def _made(clip: Any, words: _Words) -> Any:
    clip.__class__ = _kind(type(clip))  # type: ignore[arg-type]
    clip.words = words
    return clip


def _shown(text: str) -> str:
    return repr(text if len(text) < 60 else text[:57] + "...")
