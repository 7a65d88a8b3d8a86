"""Which clips are held out, and what is shown of them: by clip, never by window, and the same ones in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from .folder import Sample
from .words import Speaker, text_lines

__all__ = ["HoldOut", "place_of"]


def place_of(name: str) -> float:
    """A number in [0, 1) that belongs to a clip's name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / 256**7


@dataclass(frozen=True)
class HoldOut:
    """Which clips of a folder are held out.

    Args:
        share: of the clips, chosen by `place_of` their names: clips that join a folder move none that were there.
        clips: names with commas between them, or a text file with one a line; not together with a share.
        prompts: a text file with lines `CLIP: PROMPT`, further words to show with that clip's first frame and masks.
    """

    share: float = 0.0
    clips: str = ""
    prompts: str = ""

    def split(self, samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        """(to train on, held out). Raises ValueError where one of them would be empty, or a name is of no clip."""
        names = sorted({sample.clip.name for sample in samples})
        held = self._named(names) if self.clips else {name for name in names if place_of(name) < self.share}
        if not self.clips and not self.share:
            return tuple(samples), ()
        if not held or len(held) == len(names):
            what = "none" if not held else "every one"
            raise ValueError(
                f"{what} of the {len(names)} clips is held out by validation.share={self.share:g}: choose another "
                "share, or name clips in validation.clips"
            )
        apart = [sample.clip.name in held for sample in samples]
        trained = tuple(sample for sample, out in zip(samples, apart) if not out)
        return trained, tuple(sample for sample, out in zip(samples, apart) if out)

    def _named(self, names: Sequence[str]) -> set[str]:
        file = Path(self.clips).is_file()
        asked = {line for _, line in text_lines(self.clips)} if file else set(self.clips.split(","))
        asked = {name.strip() for name in asked if name.strip()}
        if unknown := sorted(asked - set(names)):
            near = get_close_matches(unknown[0], names, 3) or names[:3]
            raise ValueError(
                f"validation.clips: no clip of the folder is called {unknown[0]!r} ({len(unknown)} such names); there "
                f"are {', '.join(near)}{' ...' if len(names) > len(near) else ''}"
            )
        return asked

    def shown(self, held: Sequence[Sample], speaker: Speaker) -> tuple[Sample, ...]:
        """The first window of held-out clips with the words of `prompts`. Raises ValueError as `Speaker.read`."""
        if not self.prompts:
            return ()
        firsts = {sample.clip.name: sample for sample in reversed(held)}
        found = speaker.read(self.prompts, "validation.prompts", tuple(firsts.values()))
        return tuple(replace(sample, name=f"{sample.name}-words{number}") for number, sample in found)
