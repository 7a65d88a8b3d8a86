"""What a stage of a curation is: it is set up once, then given batches of clips, and says what it needs.

A clip is a dict: its name, and under each stage's name what that stage found. What a stage makes of a clip is a result,
one line of JSON in the stage's file:

    {"name", "key", "status": "kept" | "dropped" | "open" | "bad", "reason", ...what it found}

`dropped`: a rule of the curation leaves it out. `open`: nobody could say. `bad`: its files cannot be used. The key is
made of everything that the result depends on; a line without a key was written by a person or by another tool.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = ["STATUSES", "Failure", "Item", "Place", "Resources", "Result", "Stage", "StageDownError", "digest", "key_of"]

Item = dict[str, Any]
Result = dict[str, Any]
Status = Literal["kept", "dropped", "open", "bad"]
STATUSES: tuple[Status, ...] = ("kept", "dropped", "open", "bad")
_OWN = ("name", "key")  # of a line, and no part of what a stage found


@dataclass(frozen=True)
class Resources:
    """What a stage needs.

    Args:
        gpu: one worker a GPU, where there are any.
        alone: one worker and no more, such as for a service that is asked from threads.
        batch: clips that it is given at once.
    """

    gpu: bool = False
    alone: bool = False
    batch: int = 1


@dataclass(frozen=True)
class Place:
    """Where a worker is: the curation's folder, the folder of raw clips, and the device that is its own."""

    work: Path
    raw: Path
    device: str = "cpu"


class Failure(dict[str, Any]):
    """In the place of a result: this clip could not be worked on now, and is tried again next time."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name=name, failed=reason)


class StageDownError(Exception):
    """Every other clip would fail, too: a service that is gone, a disk that is full. The run ends here."""


class Stage(Protocol):
    """One step from raw clips to a set.

    Settings are fields of a dataclass: they make the key, and they travel to workers.

    Attributes:
        name: of its file and of its part of a clip. needs: stages whose results it reads.
        version: a whole number that grows when it does something else with the same settings.
        resources: see `Resources`.
    """

    name: str
    version: int
    needs: tuple[str, ...]

    @property
    def resources(self) -> Resources: ...

    def setup(self, place: Place) -> None:
        """Opens models; called once in each worker. Raises ValueError where something is missing."""

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """A result or a `Failure` for each clip, in their order. Raises StageDownError where no clip would do."""

    def taken(self, result: Result, item: Item) -> Result:
        """A line of another tool, completed. Raises ValueError where it does not say what this stage has to say."""


def digest(value: Any) -> str:
    """SHA-256 of plain data, the same wherever and whenever it is made."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "identity"):
        return value.identity
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {each.name: getattr(value, each.name) for each in fields(value)}]
    raise TypeError(f"{value!r} is no plain data")


def key_of(stage: Stage, item: Item) -> str:
    """Of the stage, its version, its settings, and what it reads of the clip."""
    settings = {name: value for name, value in vars(stage).items() if not name.startswith("_")}
    read = {need: _found(item[need]) for need in stage.needs}
    return digest([stage.name, stage.version, settings, item["name"], read])[:32]


def _found(result: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a result for the stages behind it."""
    return {name: value for name, value in result.items() if name not in _OWN}
