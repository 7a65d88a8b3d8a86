"""A hand on the mouse of a page, which counts what it does: for `trial.py` and `trial_core.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["Person"]


class Person:
    """A hand on the mouse that counts: clicks, drags, turns of the wheel."""

    def __init__(self, page: Any, pictures: Path | None) -> None:
        self.page, self.pictures = page, pictures
        self.counts = {"clicks": 0, "drags": 0, "scrolls": 0, "typed": 0, "keys": 0}
        self.said: list[str] = []

    def click(self, what: str, place: Any) -> None:
        """A place on the screen, or an element."""
        if isinstance(place, tuple):
            self.page.mouse.click(*place)
        else:
            place.click()
        self._did("clicks", what)

    def drag(self, what: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=8)
        mouse.up()
        self._did("drags", what)

    def type(self, what: str, text: str) -> None:
        """Into the field that has the focus."""
        self.page.keyboard.type(text)
        self.counts["keys"] += len(text)
        self._did("typed", what)

    def _did(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        self.page.wait_for_timeout(400)
        self.said.append(f"{len(self.said) + 1}. {kind.removesuffix('s')}: {what}")
        print(self.said[-1], flush=True)
        if self.pictures:
            self.page.screenshot(path=str(self.pictures / f"{len(self.said):02}.png"))

    def tell(self, seconds: dict[str, float]) -> None:
        """Prints what was counted, and how long the parts took."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        parts = {name: round(value, 1) for name, value in seconds.items()}
        print(json.dumps({**self.counts, "seconds": parts, "whole": round(sum(parts.values()), 1), "load": load}))
