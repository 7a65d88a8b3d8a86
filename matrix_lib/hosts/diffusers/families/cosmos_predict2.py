"""What is particular to Cosmos Predict 2 in diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ....backbones.cosmos_predict2 import SPEC
from .base import Family
from .wan import Wan

__all__ = ["FAMILY", "CosmosPredict2"]

_SIGMA_GIVEN = 1e-4  # noise that its pipeline says given frames have (`sigma_conditioning`)
_STEPS = 1000.0  # a scheduler's timestep at noise level 1


class CosmosPredict2(Wan):
    """Cosmos Predict 2 Video2World, whose VAE is Wan's. Frames that are given stand clean in the place of the sample's;
    a mask channel and a timestep of their own tell which."""

    def check(self, given: Mapping[str, Any]) -> None:
        """What other models of its class are called with."""
        if isinstance(given["encoder_hidden_states"], tuple):
            raise ValueError(f"this transformer attends to a picture beside the text, which {SPEC.title} does not")

    def check_trainable(self, index: Mapping[str, Any]) -> None:
        """Every Video2World model can be."""

    def parts_beside(self) -> dict[str, Any]:
        """Its pipeline cannot be made without a safety checker, which is for what is generated."""
        return {"safety_checker": _NoneGenerated()}

    def started(self, pipe: Any, noisy: Tensor, first: Callable[[], Tensor]) -> Tensor:
        """Its pipeline multiplies what it begins from, as if that were noise alone."""
        return noisy / pipe.scheduler.config.sigma_max

    def rate(self, given: Mapping[str, Any]) -> float | None:
        return None if given.get("fps") is None else float(given["fps"])

    def time(self, given: Mapping[str, Any]) -> float:
        """Its time is sigma / (1 + sigma), its scheduler's 1000 sigma."""
        time = min(super().time(given), 1.0 - 1e-6)
        return _STEPS * time / (1.0 - time)

    def held(self, given: Mapping[str, Any]) -> Tensor | None:
        mask: Tensor | None = given.get("condition_mask")
        return None if mask is None else mask > 0.5

    def inputs(
        self,
        config: Any,
        hidden: Tensor,
        t: Tensor,
        text: Mapping[str, Tensor],
        positions: Any = None,
        guidance: float = 1.0,
        given_frames: int = 0,
    ) -> dict[str, Any]:
        """Which frames are given, by mask and timestep, and a mask of padding, of which there is none."""
        made = Family.inputs(self, config, hidden, t, text)
        shape = (len(hidden), 1, hidden.shape[1], *hidden.shape[3:])
        mask = hidden.new_zeros(shape)
        mask[:, :, :given_frames] = 1.0
        times = (t.float() / _STEPS).view(-1, 1, 1, 1, 1).repeat(1, 1, hidden.shape[1], 1, 1)
        times[:, :, :given_frames] = _SIGMA_GIVEN / (1.0 + _SIGMA_GIVEN)
        stride = SPEC.spatial_stride
        sides = (hidden.shape[3] * stride, hidden.shape[4] * stride)
        made |= {"timestep": times.to(hidden.dtype), "condition_mask": mask, "fps": int(SPEC.fps[""])}
        made["padding_mask"] = hidden.new_zeros(1, 1, *sides)
        return made


class _NoneGenerated:
    """Stands where a safety checker would, in a pipeline that only encodes."""

    def to(self, device: Any) -> None:
        """It has no weights."""

    def check_text_safety(self, prompt: str) -> bool:
        raise ValueError(
            "this pipeline was opened to encode clips and prompts, without its safety checker, and generates nothing: "
            "open the model with diffusers, which needs pip install cosmos_guardrail"
        )


FAMILY = CosmosPredict2(SPEC)
