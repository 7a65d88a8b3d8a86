"""What is to be judged: samples with their prompts, instances and interactions.

SUITE/suite.json   {"format": "intergen", "version": 1, "stride": 5, "samples": [
    {"id", "prompt", "type", "direction": "unidirectional" | "bidirectional",
     "instances": [{"name", "class", "appearance", "role": "subject" | "object" | "instance"}],
     "interactions": [{"name": "opens", "subject": "man", "object": "fridge", "phrase": "opens"}]}]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "FILE", "Instance", "Interaction", "Sample", "Suite", "as_json", "read_sample", "read_suite"]

FILE, FORMAT, VERSION = "suite.json", "intergen", 1
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "orange": (255, 128, 0),
    "white": (255, 255, 255),
}
"""Colours of boxes by the words that judges are told, in the order of a sample's instances; the first six are the
released code's."""
_DIRECTIONS, _ROLES = ("unidirectional", "bidirectional"), ("subject", "object", "instance")
_LONGEST = 64 << 20


@dataclass(frozen=True)
class Instance:
    """One thing or person. name: as tracks call it; kind: its class; appearance: what tells it from its like."""

    name: str
    kind: str
    appearance: str
    role: str = "instance"


@dataclass(frozen=True)
class Interaction:
    """Who does what to whom. name: the verb; recipient: "" for a verb without an object."""

    name: str
    subject: str
    recipient: str = ""
    phrase: str = ""


@dataclass(frozen=True)
class Sample:
    """One prompt with its first frame's instances. Raises ValueError, naming the sample, for what does not fit."""

    id: str
    prompt: str
    instances: tuple[Instance, ...]
    interactions: tuple[Interaction, ...] = ()
    type: str = ""
    direction: str = "unidirectional"

    def __post_init__(self) -> None:
        names = [each.name for each in self.instances]
        problems = []
        if not 0 < len(self.id) <= 120 or any(c in self.id for c in '/\\\0:*?"<>|') or self.id.startswith("."):
            problems.append("its id has to do as a file name of at most 120 characters")
        if not self.prompt.strip():
            problems.append("its prompt is empty")
        if not names:
            problems.append("it has no instances")
        if len(names) > len(COLOURS):
            problems.append(f"it has {len(names)} instances, and boxes have {len(COLOURS)} colours that words can tell")
        if len(set(names)) != len(names) or any(not name.strip() or set(name) & set("{}") for name in names):
            problems.append(f"names of instances are different, not empty and without braces; got {str(names)[:200]}")
        problems += [
            f"{who!r:.60} of {each.name!r:.60} is none of its instances ({', '.join(names):.200})"
            for each in self.interactions
            for who in (each.subject, each.recipient)
            if who not in names and not (who == "" and who == each.recipient)
        ]
        problems += [f"{each.name!r:.60} is done by {each.subject!r:.60} to itself" for each in self.interactions
                     if each.subject == each.recipient]  # fmt: skip
        if self.direction not in _DIRECTIONS:
            problems.append(f"its direction is {' or '.join(_DIRECTIONS)}; got {self.direction!r:.60}")
        wrong = [each for each in self.instances if each.role not in _ROLES]
        problems += [f"the role of {each.name!r:.60} is {', '.join(_ROLES)}; got {each.role!r:.60}" for each in wrong]
        if problems:
            raise ValueError(f"sample {self.id!r:.140}: {'; '.join(problems[:20])}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.instances)

    def colour(self, name: str) -> str:
        """The word for the colour of an instance's box."""
        return list(COLOURS)[self.names.index(name)]

    def called(self, name: str) -> str:
        """How a judge is told of an instance: "the man in a cap (red box)"."""
        one = self.instances[self.names.index(name)]
        return f"{one.appearance or one.kind or one.name} ({self.colour(name)} box)"


@dataclass(frozen=True)
class Suite:
    """All samples. stride: a video is judged on its first frame, its last, and each `stride`-th between."""

    folder: Path
    samples: tuple[Sample, ...]
    stride: int = 5

    def sample(self, name: str) -> Sample:
        """By id. Raises ValueError where there is none."""
        for each in self.samples:
            if each.id == name:
                return each
        raise ValueError(f"the suite in {self.folder} has no sample {name!r}")

    @cached_property
    def hash(self) -> str:
        """Of all that is asked: suites of one hash can be compared."""
        content = json.dumps([_plain(sample) for sample in self.samples] + [self.stride], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:24]


def read_suite(folder: str | Path) -> Suite:
    """Reads `suite.json`. Raises ValueError that names the file, the sample and what is wrong with it."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} is missing: a suite is a folder with that file (docs/judging.md has an example)")
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} has {path.stat().st_size >> 20} MB; a suite has at most {_LONGEST >> 20}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'it is not of the form {{"format": "{FORMAT}", "version": {VERSION}, "samples": [...]}}')
        if content.get("version") != VERSION:
            raise ValueError(f"it is of version {content.get('version')!r:.20}, and this release reads {VERSION}")
        stride, samples = content.get("stride", 5), content.get("samples")
        if not isinstance(stride, int) or isinstance(stride, bool) or not 1 <= stride <= 10000:
            raise ValueError(f"its stride is a whole number from 1 to 10000; got {stride!r:.40}")
        if not isinstance(samples, list) or not samples:
            raise ValueError("it has no samples")
        made = tuple(read_sample(each, f"sample {place}") for place, each in enumerate(samples))
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} cannot be read as a suite: {said}") from None
    seen: set[str] = set()
    for sample in made:
        if sample.id.casefold() in seen:  # ids are file names, in which capitals may not count
            raise ValueError(f"{path}: samples have ids of their own; {sample.id!r} is there twice")
        seen.add(sample.id.casefold())
    return Suite(Path(folder), made, stride)


def read_sample(given: Any, where: str = "the sample") -> Sample:
    """A sample from its JSON. where: how an error names it. Raises ValueError."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is no object")
    instances = _objects(given.get("instances"), f"{where}: instances")
    interactions = _objects(given.get("interactions", []), f"{where}: interactions")
    return Sample(
        id=_text(given, "id", where),
        prompt=_text(given, "prompt", where),
        instances=tuple(
            Instance(
                _text(each, "name", where),
                _text(each, "class", where, ""),
                _text(each, "appearance", where, ""),
                _text(each, "role", where, "instance"),
            )
            for each in instances
        ),
        interactions=tuple(
            Interaction(
                _text(each, "name", where),
                _text(each, "subject", where),
                _text(each, "object", where, ""),
                _text(each, "phrase", where, ""),
            )
            for each in interactions
        ),
        type=_text(given, "type", where, ""),
        direction=_text(given, "direction", where, "unidirectional"),
    )


def as_json(sample: Sample) -> dict[str, Any]:
    """A sample as `suite.json` has it."""
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "type": sample.type,
        "direction": sample.direction,
        "instances": [
            {"name": each.name, "class": each.kind, "appearance": each.appearance, "role": each.role}
            for each in sample.instances
        ],
        "interactions": [
            {"name": each.name, "subject": each.subject, "object": each.recipient, "phrase": each.phrase}
            for each in sample.interactions
        ],
    }


def _objects(given: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(each, Mapping) for each in given):
        raise ValueError(f"{where} is a list of objects; got {str(given)[:60]}")
    return given


def _text(given: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        what = "is missing" if value is None else f"is a text; got {str(value)[:60]}"
        raise ValueError(f"{where}: {key} {what}")
    return value


def _plain(sample: Sample) -> list[Any]:
    return [
        sample.id,
        sample.prompt,
        sample.type,
        sample.direction,
        [[each.name, each.kind, each.appearance, each.role] for each in sample.instances],
        [[each.name, each.subject, each.recipient, each.phrase] for each in sample.interactions],
    ]
