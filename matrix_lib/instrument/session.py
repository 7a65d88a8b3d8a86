"""Who is attached to one sampling run. A session lives as long as the run and holds all of its state.

Hosts turn their model's attention into `AttentionCall`s. Where an editor answers, the call runs edited (see
`editing.py`), else the host runs it itself; either way `Session.observe` is handed each call as it ran. Nothing here
knows a host or a model family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from ..core.guidance.base import Edit
from ..core.sites import AttentionCall, AttentionSite
from .steps import StepHook

__all__ = ["PERTURBED", "BaseObserver", "Editor", "Noted", "Observer", "Session"]

PERTURBED = "perturbed"  # AttentionCall.extra: which extra prediction a call belongs to


class Observer(Protocol):
    """Sees calls, never changes them."""

    def wants(self, site: AttentionSite) -> bool:
        """Whether calls at this site are worth making an `AttentionCall` of."""

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        """One call that has run. lse (B, H, Nq) float32 from the kernel that ran it, or None."""

    def step_done(self, step: int, denoised: Tensor | None) -> None:
        """The sampler finished `step`; `denoised` is its current estimate of the clean latent (B, C, T, H, W)."""

    def settle(self, site: AttentionSite, whole: bool) -> None:
        """The site's attention has ended. whole: it ran as it should, so that what `observe` was told of it since the
        last time counts; else that is dropped, and `note` says why."""

    def note(self, text: str) -> None:
        """A sentence for people: what could not be seen, and why."""


class Noted:
    """Notes for people, each once."""

    notes: list[str]

    def note(self, text: str) -> None:
        """A sentence for people: what could not be seen, or steered, and why."""
        notes = self.__dict__.setdefault("notes", [])
        if text not in notes:
            notes.append(text)


class BaseObserver(Noted):
    """An observer that takes each call as it comes."""

    def step_done(self, step: int, denoised: Tensor | None) -> None:
        """Nothing to do."""

    def settle(self, site: AttentionSite, whole: bool) -> None:
        """Nothing to do."""


class Editor(Protocol):
    """Changes what a call computes."""

    def wants(self, site: AttentionSite) -> bool:
        """Whether it may ever edit calls at this site."""

    def edits(self, call: AttentionCall) -> Sequence[Edit | None]:
        """One entry per batch row, None for a row that is left alone; empty when the whole call is."""

    def note(self, text: str) -> None:
        """A sentence for people: what could not be steered, and why."""

    def finished(self) -> None:
        """The run ended, well or badly."""


class Session:
    """The observers, editors and step hooks of one run.

    prediction: the name of an extra prediction that the observers watch; None: the sampler's own predictions.
    forward_done: called with what the model was fed, and what that was made of, at the end of each forward of an extra
    prediction with gradients, while a backward pass through it still finds everything attached.
    done: called when the run has ended, well or badly.
    """

    def __init__(
        self,
        observers: Sequence[Observer] = (),
        editors: Sequence[Editor] = (),
        hooks: Sequence[StepHook] = (),
        prediction: object = None,
        forward_done: Callable[[Tensor, Tensor], None] | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        self.observers, self.editors, self.hooks = tuple(observers), tuple(editors), tuple(hooks)
        self.prediction, self.forward_done, self._done = prediction, forward_done, done

    def wants(self, site: AttentionSite) -> bool:
        return self.watches(site) or any(editor.wants(site) for editor in self.editors)

    def watches(self, site: AttentionSite) -> bool:
        return any(observer.wants(site) for observer in self.observers)

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        for observer in self.observers:
            if observer.wants(call.site):
                observer.observe(call, lse)

    def edits(self, call: AttentionCall) -> list[Sequence[Edit | None]]:
        """What each editor has to say about a call; empty when none changes it."""
        given = [editor.edits(call) for editor in self.editors if editor.wants(call.site)]
        return [edits for edits in given if any(edit is not None for edit in edits)]

    def step_done(self, step: int, denoised: Tensor | None = None) -> None:
        for observer in self.observers:
            observer.step_done(step, denoised)

    def settle(self, site: AttentionSite, whole: bool = True) -> None:
        for observer in self.observers:
            if observer.wants(site):
                observer.settle(site, whole)

    @property
    def steers(self) -> bool:
        """Whether what it sees changes the result, so that a call it cannot see is an error."""
        return bool(self.editors) or self.prediction is not None

    def note(self, text: str) -> None:
        for observer in self.observers:
            observer.note(text)
        for editor in self.editors:
            editor.note(text)

    def finished(self) -> None:
        for editor in self.editors:
            editor.finished()
        if self._done is not None:
            self._done()
