"""What every way of steering has in common: where it acts, what it needs, and when.

To add one, write a file beside this one: a frozen dataclass of settings that derives from `EditsAttention` and has an
`edit`, or from `Guidance` with a step hook of its own in `instrument/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from torch import Tensor

from ..attention.matching import Axis
from ..attention.regions import LabelColumns, RegionLayout
from ..grid import Grid
from ..layers import Layers
from .scene import CallScene, Spans

if TYPE_CHECKING:
    from ..tracks.tracks import MaskTracks
    from ..words.binding import PromptBinding

__all__ = ["Branches", "Edit", "EditsAttention", "Guidance", "Recording", "Where", "check_branches", "check_finite"]

Where = Literal["attention", "prediction", "step"]
Branches = Literal["both", "cond"]
_LARGEST = 1000.0  # in units of a latent; usual ones stay below 10
Recording = Callable[[Tensor, Tensor, Tensor], None]
"""Told the three outputs (B, H, S, D) of one call under mask normalisation: masked, unmasked, matched."""


@dataclass(frozen=True, eq=False)
class Edit:
    """What one way of steering does to one batch row of a call. Biases of several edits add up.

    match: the output's video rows take the order statistics of the output without this edit's layout, and `record` is
    told about it.
    """

    layout: RegionLayout | None = None
    columns: LabelColumns | None = None
    match: Axis | None = None
    record: Recording | None = None


class Guidance:
    """A way of steering. Its settings are a frozen dataclass, checked when made, equal when they say the same.

    where: "attention" edits the attention of the sampler's own predictions; "prediction" makes a second prediction with
    edited attention, and moves away from it; "step" changes the latent before each step.
    needs_words, needs_reference: what a run must bring besides mask tracks.
    fills: whether it acts on a prediction without the prompt, too, whose text the host brought to the prompt's length.
    only_one: what to do instead of a second one on the same model; "" where several add up.
    """

    where: ClassVar[Where]
    needs_words: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    fills: ClassVar[bool] = False
    only_one: ClassVar[str] = ""

    @property
    def idle(self) -> bool:
        """Whether it changes nothing at any step."""
        return False

    @property
    def needs_tracks(self) -> bool:
        return True

    @property
    def steers_uncond(self) -> bool:
        """Whether the prediction without the prompt is steered, too."""
        return False

    def at(self, step: float, steps: int) -> float:
        """How strong it is at one of the `steps` steps of the whole schedule; 0: the step is left alone."""
        return 0.0 if self.idle else 1.0

    def collapses(self, steps: int) -> list[str]:
        """Sentences for people about settings that say nothing, or all, in a schedule of so few steps."""
        if self.idle or any(self.at(step, steps) for step in range(steps)):
            return []
        return [f"none of the {steps} steps is acted on: its schedule is 0 at all of them"]

    def check_layers(self, known: Iterable[int]) -> None:
        """Raises ValueError where it names layers that the model does not have."""

    def check_names(self, names: Iterable[str]) -> None:
        """Raises ValueError where it names instances that have no track."""

    def check_text(self, title: str, trouble: str) -> None:
        """Raises ValueError where it needs rows of the text kept apart, and the model called `title` does not do that.
        trouble: why not, "" where it does."""

    def check_words(self, bindings: Sequence[PromptBinding]) -> None:
        """Raises ValueError where the bound words of a run lack what it needs; `bindings` are those of its prompts."""
        if self.needs_words and not bindings:
            raise ValueError("the prompt has no bound words to act on: bind them ('MATRIX Bind Prompt', `bind_prompt`)")


class EditsAttention(Guidance, ABC):
    """A way of steering that says what becomes of each attention call.

    edits_video: whether it ever edits attention to the video; else sites without words are left alone.
    """

    edits_video: ClassVar[bool] = True

    layers: Layers

    def check_layers(self, known: Iterable[int]) -> None:
        self.layers.check(known)

    def told(self, grid: Grid, binding: PromptBinding | None, tracks: MaskTracks | None) -> list[str]:
        """Sentences for people about the words and tracks of a prompt on the whole clip's grid. Raises ValueError where
        they do not fit it."""
        return []

    @abstractmethod
    def edit(self, scene: CallScene | None, spans: Spans, strength: float, text: bool, video: bool) -> Edit | None:
        """The edit of one batch row, None where nothing changes.

        Args:
            scene: what the row's tracks and words say of the call, words alone where it needs no tracks; None where it
                needs neither.
            strength: of the step, as `at` gives it.
            text, video: whether attention to words, and to the video, is edited at this site.
        """

    def edit_filled(self, spans: Spans, rows: int, strength: float) -> Edit | None:
        """The edit of a batch row whose own text has `rows` rows, of those that the call has, where the host brought it
        to that length (`fills`)."""
        return None


def check_branches(branches: str) -> None:
    """Raises ValueError for anything but a name of guidance branches."""
    if branches not in get_args(Branches):
        raise ValueError(f"branches is 'cond' (the prompt's prediction alone) or 'both'; got {branches!r}")


def check_finite(before: Tensor, after: Tensor, title: str, step: int, size: float = 1.0) -> None:
    """Raises ValueError where steering made a latent of sound numbers one of numbers that no latent has (thousands of
    times `size`, infinite, NaN). What was unsound before is not its doing, and is left to whoever watches the model.

    size: how large the numbers of a usual latent are here.
    """

    def sound(x: Tensor) -> bool:
        low, high = x.aminmax()
        return -_LARGEST * size < float(low) <= float(high) < _LARGEST * size

    if sound(after) or not sound(before):
        return
    raise ValueError(
        f"{title} made numbers at step {step + 1} that are too large for a latent: the video would be noise. Lower its "
        "strength, its scale or the values of its schedule"
    )
