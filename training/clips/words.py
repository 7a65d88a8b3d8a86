"""Further prompts of clips, from text files with lines `CLIP: PROMPT`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import Sample
from .prompts import PromptForm, bind_written, write_prompt

if TYPE_CHECKING:
    from .encoders import Model
    from .store import Store

__all__ = ["Speaker", "text_lines"]


def text_lines(path: str) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not empty, with their numbers from 1 on."""
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            yield number, line.strip()


@dataclass(frozen=True)
class Speaker:
    """Gives samples other prompts, written and bound as their own are."""

    form: PromptForm
    model: Model
    store: Store | None = None
    verbs: bool = True

    def read(
        self, path: str, setting: str, samples: Sequence[Sample], others: Iterable[str] = ()
    ) -> list[tuple[int, Sample]]:
        """Samples with the prompt of each line, and the line's number: every window of the clip that it names.

        Args:
            setting: that named the file, for errors.
            others: clips that are known and not among the samples; their lines are passed over.

        Raises ValueError for a file that is missing, a line that names no clip, or words that lack a phrase of it.
        """
        if not Path(path).is_file():
            raise ValueError(f"{setting}: there is no file {path!r}; its lines are CLIP: PROMPT")
        known: dict[str, list[Sample]] = {}
        for sample in samples:
            known.setdefault(sample.clip.name, []).append(sample)
        away, made = set(others), []
        for number, line in text_lines(path):
            name, colon, prompt = (part.strip() for part in line.partition(":"))
            if colon and name in away and name not in known:
                continue
            if not colon or name not in known:
                some = ", ".join(list(known)[:5]) or "none"
                raise ValueError(f"{path}, line {number}: begin with a clip and a colon ({some}); got {line[:60]!r}")
            made += [(number, self._said(sample, prompt, f"{path}, line {number}")) for sample in known[name]]
        return made

    def _said(self, sample: Sample, prompt: str, where: str) -> Sample:
        try:
            written = write_prompt(replace(sample.clip, prompt=prompt, tagged=prompt), self.form, self.verbs)
            return replace(sample, written=written, binding=bind_written(self.model, written, self.store))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
