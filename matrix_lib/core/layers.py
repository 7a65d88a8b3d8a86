"""Which layers to watch, steer or train: what travels between nodes, presets and files, and how people write it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .json_text import parse_object
from .ranges import parse_numbers
from .sites import AttentionSite

__all__ = ["LayerDraw", "LayerSet", "Layers", "parse_layers", "spread_layers"]


def _check_numbers(layers: Sequence[int], what: str) -> None:
    if len(set(layers)) != len(layers) or any(layer < 0 for layer in layers):
        raise ValueError(f"{what} are different numbers from 0 on; got {list(layers)}")


@dataclass(frozen=True)
class LayerSet:
    """Layers of one backbone for each kind of map, and where the choice comes from.

    v2t, v2v: global layer numbers, best first. scores: per kind the score of every layer that was compared, by its
    number as text (JSON has no other keys); empty where the choice was published without scores. experts: where two
    models take turns at the steps of a run (Wan 2.2 A14B), what holds for each one's own steps, by its name
    (`Capture.experts`); the rest is then over all steps.
    """

    backbone: str
    v2t: tuple[int, ...]
    v2v: tuple[int, ...]
    source: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    experts: Mapping[str, LayerSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_numbers(self.v2t, "v2t layers")
        _check_numbers(self.v2v, "v2v layers")

    @property
    def text(self) -> str:
        """Both kinds as a person writes layers, for example "7, 11, 12"."""
        return ", ".join(map(str, sorted({*self.v2t, *self.v2v})))

    def of_expert(self, name: str) -> LayerSet:
        """The layers of one of `experts`. Raises ValueError, listing them, for another name."""
        if name not in self.experts:
            known = ", ".join(self.experts) or "none: they are of one model, or of all steps"
            raise ValueError(f"these layers are not given for an expert called {name!r}; experts: {known}")
        return self.experts[name]

    def to_json(self) -> str:
        """As JSON; `experts` only where there are any."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "experts" or value}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LayerSet:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        try:
            return cls._read(parse_object(text, "this"))
        except (AttributeError, KeyError, TypeError, OverflowError):
            raise ValueError(
                "this is no set of layers: expected JSON with backbone, v2t, v2v and source, where v2t and v2v list "
                "layer numbers"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"this is no set of layers: expected JSON with backbone, v2t, v2v and source ({error})"
            ) from None

    @classmethod
    def _read(cls, data: Mapping[str, Any], whole: bool = True) -> LayerSet:
        """whole: not one of `experts`, which have none of their own."""
        layers = {kind: tuple(_layer(n) for n in data[kind]) for kind in ("v2t", "v2v")}
        scores = {
            str(kind): {str(layer): _score(score) for layer, score in table.items()}
            for kind, table in data.get("scores", {}).items()
        }
        experts = {}
        if whole:
            experts = {str(name): cls._read(each, False) for name, each in data.get("experts", {}).items()}
        return cls(str(data["backbone"]), **layers, source=str(data["source"]), scores=scores, experts=experts)


def _layer(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"a layer is a whole number; got {str(value)[:40]!r}")
    return value


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a score is a number; got {str(value)[:40]!r}")
    return float(value)


def parse_layers(text: str, layers: Iterable[int], dominant: Iterable[int] | None = None) -> tuple[int, ...] | None:
    """Layer numbers from what a person wrote: "all" (None), "dominant", or numbers and ranges such as "7, 11-13".

    Args:
        layers: the layers that exist.
        dominant: what "dominant" stands for; None where nothing is known about this model.

    Raises ValueError saying what was written, what is accepted, and which layers exist.
    """
    existing = sorted(set(layers))
    have = f"this model has layers {existing[0]}..{existing[-1]}" if existing else "this model has no layers"
    words = {"all": existing, "dominant": tuple(dominant or ())}
    wanted: set[int] = set()
    try:
        for piece, numbers in parse_numbers(text, "layers", words):
            if piece == "all":
                return None
            if piece == "dominant" and dominant is None:
                raise ValueError("no dominant layers are known for this model; write numbers")
            wanted.update(numbers)
    except ValueError as error:
        raise ValueError(f"{error}: {have}") from None
    if unknown := sorted(wanted - set(existing)):
        shown = str(unknown) if len(unknown) < 9 else f"{unknown[0]} to {unknown[-1]}"
        raise ValueError(f"layers {shown} do not exist: {have}")
    if not wanted:
        raise ValueError(f"{text[:60]!r} names no layer; {have}")
    return tuple(sorted(wanted))


def spread_layers(layers: Iterable[int], count: int = 3) -> tuple[int, ...]:
    """`count` layers spread evenly over those that exist, for a quick look where none are known to matter."""
    existing = sorted(set(layers))
    if len(existing) <= count:
        return tuple(existing)
    return tuple(existing[round((i + 0.5) * len(existing) / count - 0.5)] for i in range(count))


@dataclass(frozen=True)
class Layers:
    """Where to act: layers whose video-to-text attention is edited, and layers whose video-to-video attention is.

    Global layer numbers; None is all of them, () none. `sites`: a regular expression that the names of attentions have
    to match from the start, for what numbers cannot tell apart (a U-Net's first and second temporal attention). `part`:
    of a diffusers pipeline whose transformers take turns the one that is meant ("transformer_2", as in `apply_lora`),
    in its own steps; "" for all of them.
    """

    v2t: tuple[int, ...] | None = None
    v2v: tuple[int, ...] | None = None
    sites: str = ""
    part: str = ""

    @classmethod
    def only(cls, layers: Iterable[int] | None) -> Layers:
        """The same layers for both."""
        chosen = None if layers is None else tuple(layers)
        return cls(chosen, chosen)

    def acts_on_text(self, site: AttentionSite) -> bool:
        """Whether attention to words is acted on at a site."""
        return site.has_v2t and (self.v2t is None or site.layer in self.v2t) and self.names(site)

    def acts_on_video(self, site: AttentionSite) -> bool:
        """Whether attention to the video is acted on at a site."""
        own = site.has_v2v or site.kind in ("spatial", "temporal")
        return own and (self.v2v is None or site.layer in self.v2v) and self.names(site)

    def names(self, site: AttentionSite) -> bool:
        """Whether a site's name is among `sites`."""
        return not self.sites or re.match(self.sites, site.name) is not None

    def check_part(self, parts: Iterable[str], whose: str) -> None:
        """Raises ValueError where `part` is none of those that `whose` has."""
        have = [part for part in parts if part]
        if self.part and self.part not in have:
            known = ", ".join(have) or "one network, without part"
            raise ValueError(f"Layers(part={self.part!r}): {whose} has {known}")

    def check_sites(self, sites: Iterable[AttentionSite]) -> None:
        """Raises ValueError where `sites` names none that the model has."""
        have = list(sites)
        if not any(self.names(site) for site in have):
            some = ", ".join(site.name for site in have[:3])
            raise ValueError(f"sites={self.sites!r} matches no attention of this model, which are {some}, ...")

    def check(self, known: Iterable[int]) -> None:
        """Raises ValueError where a layer is named that the model does not have."""
        have = set(known)
        if unknown := sorted({*(self.v2t or ()), *(self.v2v or ())} - have):
            raise ValueError(f"layers {unknown} do not exist: this model has layers 0..{max(have)}")


@dataclass(frozen=True)
class LayerDraw:
    """Which layers carry a loss at a step.

    Args:
        layers: the candidates.
        count: how many of them a step takes at random; None takes all at every step.
    """

    layers: tuple[int, ...]
    count: int | None = None

    def __post_init__(self) -> None:
        _check_numbers(self.layers, "layers")
        if self.count is not None and not 1 <= self.count <= len(self.layers):
            raise ValueError(f"a step draws 1 to {len(self.layers)} of {len(self.layers)} layers; got {self.count}")

    @classmethod
    def stride(cls, first: int, stop: int, step: int) -> LayerDraw:
        """Every `step`-th layer of range(first, stop), the same ones at every step."""
        return cls(tuple(range(first, stop, step)))

    @classmethod
    def random(cls, first: int, stop: int, count: int) -> LayerDraw:
        """`count` layers of range(first, stop), new ones at every step."""
        return cls(tuple(range(first, stop)), count)

    def at(self, step: int, seed: int = 0) -> tuple[int, ...]:
        """The layers of a step, ascending: a function of step and seed alone, so that resumed runs agree."""
        if self.count is None:
            return tuple(sorted(self.layers))
        return tuple(sorted(random.Random(f"{seed}/{step}").sample(self.layers, self.count)))
