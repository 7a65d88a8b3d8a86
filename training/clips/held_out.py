"""Which clips are held out, and what is shown of them: by clip, never by window, and the same ones in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import Sample
from .prompts import PromptForm, bind_written, write_prompt

if TYPE_CHECKING:
    from .encoders import Model
    from .store import Store

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
        asked = set(_lines(self.clips) if Path(self.clips).is_file() else self.clips.split(","))
        asked = {name.strip() for name in asked if name.strip()}
        if unknown := sorted(asked - set(names)):
            near = get_close_matches(unknown[0], names, 3) or names[:3]
            raise ValueError(
                f"validation.clips: no clip of the folder is called {unknown[0]!r} ({len(unknown)} such names); there "
                f"are {', '.join(near)}{' ...' if len(names) > len(near) else ''}"
            )
        return asked

    def shown(
        self, held: Sequence[Sample], form: PromptForm, model: Model, store: Store | None = None
    ) -> tuple[Sample, ...]:
        """Held-out samples with the words of `prompts`. Raises ValueError for a line that names none of them, or whose
        words lack a phrase of the clip."""
        if not self.prompts:
            return ()
        if not Path(self.prompts).is_file():
            raise ValueError(f"validation.prompts: there is no file {self.prompts!r}; its lines are CLIP: PROMPT")
        firsts: dict[str, Sample] = {}
        for sample in held:
            firsts.setdefault(sample.clip.name, sample)
        made = []
        for number, line in enumerate(_lines(self.prompts), 1):
            name, colon, prompt = line.partition(":")
            if not colon or name.strip() not in firsts:
                known = ", ".join(list(firsts)[:5]) or "none"
                raise ValueError(f"{self.prompts}, line {number}: begin with a held-out clip and a colon ({known})")
            made.append(_said(firsts[name.strip()], prompt.strip(), number, form, model, store, self.prompts))
        return tuple(made)


def _said(
    sample: Sample, prompt: str, number: int, form: PromptForm, model: Model, store: Store | None, place: str
) -> Sample:
    try:
        written = write_prompt(replace(sample.clip, prompt=prompt, tagged=prompt), form)
        binding = bind_written(model, written, store)
    except ValueError as error:
        raise ValueError(f"{place}, line {number}: {error}") from error
    return replace(sample, name=f"{sample.name}-words{number}", written=written, binding=binding)


def _lines(path: str) -> list[str]:
    return [line for line in Path(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
