"""Who is attached to one sampling run. A session lives as long as the run and holds all of its state.

Hosts turn their model's attention into `AttentionCall`s, run them, and hand each to `Session.observe`. Nothing here
knows a host or a model family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..core.sites import AttentionCall, AttentionSite

__all__ = ["Observer", "Session"]


class Observer(Protocol):
    """Sees calls, never changes them."""

    def wants(self, site: AttentionSite) -> bool:
        """Whether calls at this site are worth making an `AttentionCall` of."""

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        """One call that has run. lse (B, H, Nq) float32 from the kernel that ran it, or None."""

    def step_done(self, step: int, denoised: Tensor | None) -> None:
        """The sampler finished `step`; `denoised` is its current estimate of the clean latent (B, C, T, H, W)."""


class Session:
    """The observers of one run."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = tuple(observers)

    def wants(self, site: AttentionSite) -> bool:
        return any(observer.wants(site) for observer in self.observers)

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        for observer in self.observers:
            if observer.wants(call.site):
                observer.observe(call, lse)

    def step_done(self, step: int, denoised: Tensor | None = None) -> None:
        for observer in self.observers:
            observer.step_done(step, denoised)
