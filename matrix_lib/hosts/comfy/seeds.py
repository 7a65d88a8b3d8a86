"""Runs that stop after their first steps, and go on later from where they were, bit for bit.

Samplers keep what they know in variables of their own: momentum, earlier predictions, noise that is drawn step by step.
So a run that stopped is not patched together from a latent. It runs again from its seed, and what the guider predicted
before is handed to it instead of being predicted anew: the sampler comes by the same way, to the bit, at the price of
its own arithmetic. That every answer is for the very same question is checked.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Begun", "begin", "go_on"]

Sample = Callable[[Any], Any]
"""Samples with a guider, as SamplerCustomAdvanced does with this seed's noise."""


class _Enough(Exception):  # noqa: N818 - no error: it ends a sampler's loop from inside
    pass


@dataclass
class Begun:
    """A run that stopped: what its guider was asked (`x`, `sigma`) and said, in main memory."""

    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Predictions that were made for it."""
        return len(self.said)

    @property
    def nbytes(self) -> int:
        parts = [*self.said, *(part for pair in self.asked for part in pair)]
        return sum(part.numel() * part.element_size() for part in parts)


def begin(sample: Sample, guider: Any, sigmas: Tensor, steps: int) -> Begun:
    """Samples the first `steps` steps with a copy of the guider.

    It stops where the guider would first be asked at the noise level of the next step, or one below. Raises ValueError
    where `steps` are not fewer than the run has, and for a guider whose predictions cannot be seen.
    """
    total = len(sigmas) - 1
    if total < 2:
        raise ValueError(
            f"the sigmas are of {max(0, total)} steps, and a run that stops and goes on has two at least: ask the "
            "scheduler for more steps, or a denoise above 0"
        )
    if not 0 < steps < total:
        raise ValueError(
            f"of a run of {total} steps, 1 to {total - 1} can be looked at first; got {steps}: look at fewer, or "
            "sample more steps"
        )
    begun, last = Begun(), float(sigmas[steps])

    def ask(predict: Callable[..., Tensor], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if float(timestep.flatten()[0]) <= last:
            raise _Enough
        begun.asked.append((x.detach().cpu().clone(), timestep.detach().cpu().clone()))
        out = predict(x, timestep, *args, **kwargs)
        begun.said.append(out.detach().cpu().clone())
        return out

    with contextlib.suppress(_Enough), _asking(guider, ask) as own:
        sample(own)
    if not begun.said:
        raise ValueError(
            f"{type(guider).__name__} asks its model by a way of its own, so a run cannot be stopped and go on: use "
            "CFG Guider or Basic Guider"
        )
    return begun


def go_on(sample: Sample, guider: Any, begun: Begun) -> tuple[Any, int]:
    """The whole run, whose first predictions are those of `begun`: what `sample` returns, and how many more predictions
    were made. Raises ValueError where the run asks for something else than it did before."""
    at, more = 0, 0

    def ask(predict: Callable[..., Tensor], x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal at, more
        if at == len(begun.said):
            more += 1
            return predict(x, timestep, *args, **kwargs)
        before, sigma = begun.asked[at]
        if not torch.equal(before, x.detach().cpu()) or not torch.equal(sigma, timestep.detach().cpu()):
            raise ValueError(
                f"prediction {at} of this run is of another latent than it was when the seed was tried: the sampler "
                "draws noise that does not follow from the seed, or something else has changed. Sample it as a whole"
            )
        said = begun.said[at]
        at += 1
        return said.to(x.device)

    with _asking(guider, ask) as own:
        result = sample(own)
    return result, more


@contextlib.contextmanager
def _asking(guider: Any, ask: Callable[..., Tensor]) -> Iterator[Any]:
    """A copy of a guider whose outermost prediction goes through `ask`, in front of every wrapper."""
    own = copy.copy(guider)
    predict = own.outer_predict_noise

    def asked(x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return ask(predict, x, timestep, *args, **kwargs)

    own.outer_predict_noise = asked
    try:
        yield own
    finally:  # in a circle with the copy it would stay, and what was predicted with it, until Python collects
        del own.outer_predict_noise
