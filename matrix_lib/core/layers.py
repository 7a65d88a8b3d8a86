"""Which layers to watch, steer or train: a value that travels between nodes, presets and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

__all__ = ["LayerSet"]


@dataclass(frozen=True)
class LayerSet:
    """Layers of one backbone for each kind of map, and where the choice comes from.

    v2t, v2v: global layer numbers, best first. scores: per kind the score of every layer that was compared, by its
    number as text (JSON has no other keys); empty where the choice was published without scores.
    """

    backbone: str
    v2t: tuple[int, ...]
    v2v: tuple[int, ...]
    source: str
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, layers in (("v2t", self.v2t), ("v2v", self.v2v)):
            if len(set(layers)) != len(layers) or any(layer < 0 for layer in layers):
                raise ValueError(f"{kind} layers are different numbers from 0 on; got {list(layers)}")

    @property
    def text(self) -> str:
        """Both kinds as a person writes layers, for example "7, 11, 12"."""
        return ", ".join(map(str, sorted({*self.v2t, *self.v2v})))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> LayerSet:
        """Reads what `to_json` wrote. Raises ValueError on anything else."""
        try:
            data = json.loads(text)
            layers = {kind: tuple(int(n) for n in data[kind]) for kind in ("v2t", "v2v")}
            scores = {
                str(kind): {str(layer): float(score) for layer, score in table.items()}
                for kind, table in data.get("scores", {}).items()
            }
            return cls(str(data["backbone"]), **layers, source=str(data["source"]), scores=scores)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"this is no set of layers: expected JSON with backbone, v2t, v2v and source ({error})"
            ) from None
