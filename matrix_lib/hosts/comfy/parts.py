"""Which part of a whole schedule the sigmas of a sampler are.

First the host's own schedulers are asked (those that other packs registered included): is there a number of steps whose
sigmas hold these, one behind the other? Then the whole is known exactly. Else a sigma's place is its share of the
model's own time, as in the host's start_percent and end_percent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...core.guidance.part import RunPart

__all__ = ["part_of", "percent_of", "run_part"]

MOST_STEPS = 100  # of a whole schedule that is looked for; longer ones where the run itself is long
_NEAR = 2e-5  # of a sigma: schedules are float32


def run_part(patcher: Any, sigmas: Sequence[float] | Tensor, noise: Tensor, latent_image: Any) -> RunPart:
    """Which part of its whole schedule a run of a MODEL is. noise, latent_image: as the sampler is given them."""
    given = isinstance(latent_image, Tensor) and latent_image.ndim == 5 and bool(latent_image.any())
    start = patcher.model.process_latent_in(latent_image.clone()) if given else None
    levels = torch.as_tensor(sigmas).tolist()
    return part_of(patcher.get_model_object("model_sampling"), levels, bool(noise.any()), start)


def part_of(sampling: Any, sigmas: Sequence[float], fresh: bool | None = True, start: Tensor | None = None) -> RunPart:
    """Which part of its whole schedule a run over `sigmas` is; a run that climbs in noise is taken as whole.

    Args:
        sampling: the `model_sampling` of the MODEL.
        sigmas: all of them, the last one included.
        fresh, start: see `RunPart`.
    """
    sigmas, steps = [float(sigma) for sigma in sigmas], len(sigmas) - 1
    falls = all(high > low for high, low in itertools.pairwise(sigmas))
    if steps < 1 or not falls or not hasattr(sampling, "percent_to_sigma"):
        return RunPart(tuple(range(max(steps, 0))), max(steps, 0), fresh, start)
    first = percent_of(sampling, sigmas[0])
    starts, ends = first * steps < 0.5, sigmas[-1] == 0
    if starts and ends:
        return RunPart(tuple(range(steps)), steps, fresh, start)
    shares = [0.0 if starts else first, *(percent_of(sampling, sigma) for sigma in sigmas[1:])]
    whole = max(steps, round(steps / max(shares[-1] - shares[0], 1e-3)))
    if found := _whole(sampling, sigmas, whole):
        place, whole = found
        return RunPart(tuple(range(place, place + steps)), whole, fresh, start)
    places = tuple(min(share * whole, whole - 1) for share in shares[:-1])
    return RunPart(places, whole, fresh, start)


def percent_of(sampling: Any, sigma: float) -> float:
    """How much of the model's own time is over at `sigma`: 0 at the start, 1 without noise."""
    if sigma <= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if float(sampling.percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return high if high > 1e-6 else 0.0


def _whole(sampling: Any, sigmas: list[float], guess: int) -> tuple[int, int] | None:
    """(first step, steps) of a schedule of the host that holds `sigmas`; of those near `guess` the shortest, since the
    parts of schedules of almost as many steps may be the same."""
    part = torch.tensor(sigmas)
    close = part.abs() * _NEAR + 1e-7
    least = len(sigmas) - 1
    numbers = range(least, max(MOST_STEPS, 4 * least) + 2)

    def place(name: str, steps: int, short: bool) -> tuple[int, int] | None:
        whole = _schedule(sampling, name, steps + short, short)
        if whole is None or len(whole) < len(part):
            return None
        same = ((whole.unfold(0, len(part), 1) - part).abs() <= close).all(1)
        return (int(same.long().argmax()), len(whole) - 1) if same.any() else None

    for short in (False, True):
        for steps in sorted(numbers, key=lambda number: abs(number - guess)):
            for name in comfy.samplers.SCHEDULER_NAMES:
                found = place(name, steps, short)
                if found is not None:
                    while steps > least and (fewer := place(name, steps - 1, short)) is not None:
                        found, steps = fewer, steps - 1
                    return found
    return None


def _schedule(sampling: Any, name: str, steps: int, short: bool) -> Tensor | None:
    """short: without the last sigma but one, as the host has it for samplers that want it so."""
    try:
        sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps).float().cpu()
    except Exception:
        return None
    return torch.cat([sigmas[:-2], sigmas[-1:]]) if short and len(sigmas) > 2 else sigmas
