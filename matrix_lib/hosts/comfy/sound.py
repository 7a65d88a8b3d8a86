"""Records whose sound a native MODEL makes, while it samples sound and clip together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.grid import Grid
from ...instrument.session import Session
from ...instrument.sound import SoundRecorder
from .attach import attach
from .model import sites_of
from .run import RunInfo

__all__ = ["listen"]


def listen(model: Any, layers: Sequence[int] | None = None) -> tuple[Any, list[SoundRecorder]]:
    """(clone of MODEL, list that gets a recorder for each sampling run). The original is untouched.

    Raises ValueError for a MODEL without sound, and for layers that it does not have.
    """
    runs: list[SoundRecorder] = []

    def start(info: RunInfo) -> Session:
        runs.append(SoundRecorder(info.sites, info.grid, len(info.sigmas), layers))
        return Session([runs[-1]])

    SoundRecorder(sites_of(model), Grid(1, 1, 1), 1, layers)  # says at once what cannot be listened to
    return attach(model, start), runs
