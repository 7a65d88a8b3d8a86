"""The LoRAs that a model is analysed with: one, or of a model with two experts (Wan 2.2 A14B) one for each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.lora.apply import apply_lora
from matrix_lib.io.lora.read import describe

from ..run.exported import read_lora
from ..run.task_settings import EXPERTS, noted_expert

__all__ = ["AnalysedLoRAs"]


@dataclass(frozen=True)
class AnalysedLoRAs:
    """What stands beside a model while it is analysed.

    loras: by expert ("high", "low"; "" where the model has one transformer) the name of its file and what it holds.
    """

    loras: Mapping[str, tuple[str, AlignmentLoRA]] = field(default_factory=dict)

    @classmethod
    def read(cls, given: Iterable[str], model: str, backbone: str) -> AnalysedLoRAs:
        """From what `--lora` is given: FILE, or of a model with two experts high=FILE and low=FILE.

        Of a file that says whose it is, as those of `task.expert` do, FILE alone is enough. Raises ValueError where it
        is open, where it is said of another expert, and for two of one.
        """
        two = _two_experts(model)
        found: dict[str, tuple[str, AlignmentLoRA]] = {}
        for text in given:
            expert, path = _divided(text)
            lora = read_lora(Path(path), backbone)
            expert = _whose(expert, path, lora, two)
            if expert in found:
                raise ValueError(
                    f"--lora: {found[expert][0]} and {Path(path).name} are both of {_of(expert)}; give one"
                )
            found[expert] = (Path(path).name, lora)
        return cls(found)

    @contextlib.contextmanager
    def on(self, pipeline: Any, tracks: MaskTracks, strength: float) -> Iterator[None]:
        """The pipeline with all of them, reading the first frame of these tracks where they read any."""
        with contextlib.ExitStack() as stack:
            for expert, (_, lora) in self.loras.items():
                part = EXPERTS.get(expert, "")
                stack.enter_context(apply_lora(pipeline, lora, tracks, strength=strength, part=part))
            yield

    def plan(self, strength: float) -> dict[str, Any]:
        """What results depend on."""
        digests = {expert: lora.digest for expert, (_, lora) in self.loras.items()}
        return {"lora": digests.get("", digests), "strength": strength} if digests else {}

    @property
    def titles(self) -> list[str]:
        """Each one's name, with the expert that it is of."""
        return [f"{name} on {_of(expert)}" if expert else name for expert, (name, _) in self.loras.items()]

    def about(self, strength: float) -> dict[str, str]:
        """A line for the report; {} where there are none."""
        alone = " (the other expert has none)" if len(self.loras) == 1 and "" not in self.loras else ""
        return {"LoRA": f"{' and '.join(self.titles)}{alone}, strength {strength:g}"} if self.loras else {}

    def described(self) -> str:
        """What they are, in lines."""
        return "\n".join(f"{title}: {describe(lora)}" for title, (_, lora) in zip(self.titles, self.loras.values()))


def _of(expert: str) -> str:
    return f"the expert of the {expert} noise levels" if expert else "the model's only transformer"


def _two_experts(model: str) -> bool:
    index = Path(model) / "model_index.json"
    said = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    return (said.get("transformer_2") or [None])[0] is not None


def _divided(text: str) -> tuple[str, str]:
    expert, sign, path = text.partition("=")
    return (expert, path) if sign and expert in EXPERTS and not Path(text).exists() else ("", text)


def _whose(expert: str, path: str, lora: AlignmentLoRA, two: bool) -> str:
    noted = noted_expert(lora.info.notes)
    if not two:
        if expert or noted:
            raise ValueError(f"--lora: {path} is for {_of(expert or noted)}, and this model has one transformer")
        return ""
    if expert and noted and expert != noted:
        raise ValueError(f"--lora {expert}={path}: the file says that it is of {_of(noted)}; write {noted}={path}")
    if not (expert or noted):
        raise ValueError(
            f"--lora: this model has two experts, and {path} does not say whose it is: write --lora high={path} for "
            f"the one of the noisy steps, or --lora low={path}; both take --lora twice"
        )
    return expert or noted
