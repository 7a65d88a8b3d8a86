"""What is particular to MiniMax H3 in diffusers, whose modular pipelines pack the sequence themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....backbones.minimax_h3 import SPEC
from .base import Family, Packed

__all__ = ["FAMILY", "MiniMaxH3"]


class MiniMaxH3(Family):
    """MiniMax H3. Words, given frames and references, sound, and the clip, all in one sequence of one row."""

    def packed(self, given: Mapping[str, Any]) -> Packed:
        """Pictures of the text encoder stand before the words, tagged as the clip's; the clip is what is behind the
        sound."""
        text, tags, places = (given[name] for name in ("text_indices", "token_tags", "position_ids"))
        rows, sound, whole = len(text), int(given["audio_indices"].max()), len(tags)
        frames, *sides = (len(places[sound + 1 :, axis].unique()) for axis in range(3))
        shown = (tags[:rows] == 0).nonzero()
        first = int(shown[-1]) + 1 if len(shown) else 0
        if text.tolist() != list(range(rows)) or frames * sides[0] * sides[1] != whole - sound - 1:
            raise ValueError(
                f"this sequence of {whole} tokens does not have {self.spec.title}'s words first and its clip behind "
                "the sound: it is open which tokens are which"
            )
        _, height, width = self.spec.patch
        own = int((places[given["audio_indices"], 0] >= places[sound + 1, 0]).sum())  # references lie before the clip
        return Packed((frames, sides[0] * height, sides[1] * width), first, rows - first, sound + 1 - rows, own)

    def time(self, given: Mapping[str, Any]) -> float:
        """That of the clip: 1 without noise."""
        return float(given["timestep"][given["timestep_indices"][-1]])


FAMILY = MiniMaxH3(SPEC)
