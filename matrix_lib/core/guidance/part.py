"""Which part of a whole schedule a sampling run is.

A sampler is told the noise levels of its own steps alone. Graphs split one schedule over several samplers (Wan 2.2's
two experts), and let a second sampler refine what a first one made. Schedules, clocks and frozen steps count the steps
of the whole schedule, so that they mean the same in one run and in its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["RunPart"]


@dataclass(frozen=True, eq=False)
class RunPart:
    """The place of a run in its whole schedule.

    Args:
        places: for each step of the run which step of the whole schedule it is, from 0; not whole numbers where the
            whole schedule is not known and places are shares of the model's own time.
        steps: of the whole schedule.
        fresh: whether this run adds noise; None: not known. A run that adds none goes on with the latent of another.
        start: the latent (B, C, T, H, W) that noise is added to, as the model sees latents; None: empty, or not known.
    """

    places: tuple[float, ...]
    steps: int
    fresh: bool | None = True
    start: Tensor | None = None

    @classmethod
    def all_of(cls, steps: int) -> RunPart:
        """A run that is a whole schedule."""
        return cls(tuple(range(steps)), steps)

    @property
    def begins(self) -> bool:
        """Whether it starts where the whole schedule starts."""
        return not self.places or self.places[0] == 0

    @property
    def whole(self) -> bool:
        """Whether it is the whole schedule."""
        return self.begins and len(self.places) == self.steps

    @property
    def refines(self) -> bool:
        """Whether it goes once more over a clip that is there: it adds noise, and less than all."""
        return not self.begins and self.fresh is not False

    def place(self, step: int) -> float:
        """Which step of the whole schedule a step of the run is."""
        return self.places[min(step, len(self.places) - 1)] if self.places else 0

    def told(self, acts: Sequence[bool]) -> list[str]:
        """A sentence for people, where the run is only a part. `acts`: whether anything is done, for each step."""
        if self.whole:
            return []
        first, last = round(self.places[0]) + 1, round(self.places[-1]) + 1
        kind = "a refining pass" if self.refines else "part of a split run"
        done = sum(acts)
        what = f"{done} of its {len(acts)} steps are acted on" if done else "nothing is done in it"
        return [
            f"this run is {kind}, steps {first} to {last} of {self.steps}: schedules, clocks and frozen steps count "
            f"those of the whole, so {what}"
        ]
