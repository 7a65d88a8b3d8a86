"""Samplers as other packs write them: they work in float64 on copies, keep their state to themselves, call the model
several times a step at sigmas between, and call back behind the last of these. Written for the tests, after the usual
formulas of exponential and linear Runge-Kutta and multi-step methods."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

__all__ = ["FOREIGN", "foreign"]


def _one(
    name: str, model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Tensor:
    extra_args["model_options"]["transformer_options"]["own key"] = True  # these reach into it, and fail without
    y, sigmas = x.clone().double(), sigmas.double()
    ones = x.new_ones(len(x)).double()
    before: list[tuple[Tensor, Tensor]] = []

    def ask(state: Tensor, sigma: Tensor) -> Tensor:
        return model(state.clone(), sigma * ones, **extra_args).double()

    for step, (at, to) in enumerate(itertools.pairwise(sigmas)):
        clean = ask(y, at)
        if to == 0:
            y, shown = clean, clean
        else:
            y, shown = STEPS[name](y, clean, at, to, ask, before)
        if callback is not None:
            callback({"x": y, "denoised": shown, "i": step, "sigma": at, "sigma_hat": at})
    return y.to(x)


def _res_2m(y: Tensor, clean: Tensor, at: Tensor, to: Tensor, ask: Any, before: Any) -> tuple[Tensor, Tensor]:
    h = (at / to).log()
    phi1 = -torch.expm1(-h)
    last = before[-1] if before else None
    before.append((clean, at))
    if last is None:
        return (to / at) * y + phi1 * clean, clean
    earlier, sigma = last
    share = 0.5 * h / (sigma / at).log()
    return (to / at) * y + phi1 * (clean + share * (clean - earlier)), clean


def _res_2s(y: Tensor, clean: Tensor, at: Tensor, to: Tensor, ask: Any, before: Any) -> tuple[Tensor, Tensor]:
    h, middle = (at / to).log(), (at * to).sqrt()
    half = (middle / at) * y - torch.expm1(-h / 2) * clean
    second = ask(half, middle)
    phi1, phi2 = -torch.expm1(-h) / h, (torch.expm1(-h) + h) / h**2
    return (to / at) * y + h * ((phi1 - 2 * phi2) * clean + 2 * phi2 * second), clean


def _deis_2m(y: Tensor, clean: Tensor, at: Tensor, to: Tensor, ask: Any, before: Any) -> tuple[Tensor, Tensor]:
    """Remembers slopes, not predictions."""
    slope, h = (y - clean) / at, to - at
    earlier = before[-1] if before else None
    before.append((slope, at))
    if earlier is None:
        return y + h * slope, clean
    return y + h * (slope + 0.5 * h / (at - earlier[1]) * (slope - earlier[0])), clean


def _heun_end(y: Tensor, clean: Tensor, at: Tensor, to: Tensor, ask: Any, before: Any) -> tuple[Tensor, Tensor]:
    """Its second stage is at the next step's own sigma."""
    slope = (y - clean) / at
    end = y + (to - at) * slope
    return y + (to - at) * (slope + (end - ask(end, to)) / to) / 2, clean


def _rk4(y: Tensor, clean: Tensor, at: Tensor, to: Tensor, ask: Any, before: Any) -> tuple[Tensor, Tensor]:
    h, middle = to - at, (at + to) / 2
    one = (y - clean) / at
    two = y + h / 2 * one
    two = (two - ask(two, middle)) / middle
    three = y + h / 2 * two
    three = (three - ask(three, middle)) / middle
    four = y + h * three
    four = (four - ask(four, to)) / to
    return y + h * (one + 2 * two + 2 * three + four) / 6, clean


def _res_2s_sde(y: Tensor, clean: Tensor, at: Tensor, to: Tensor, ask: Any, before: Any) -> tuple[Tensor, Tensor]:
    """A flow's: down too far, then noise again, the clean part kept at its size."""
    down = to * (1 + 0.5 * (to / at - 1))
    y, _ = _res_2s(y, clean, at, down, ask, before)
    keep = (1 - to) / (1 - down)
    return keep * y + (to**2 - (keep * down) ** 2).sqrt() * torch.randn_like(y), clean


STEPS = {
    "res_2m": _res_2m, "res_2s": _res_2s, "deis_2m": _deis_2m, "heun_end": _heun_end, "rk4": _rk4,
    "res_2s_sde": _res_2s_sde,
}  # fmt: skip
FOREIGN = tuple(STEPS)


def foreign(name: str) -> Any:
    """A SAMPLER of another pack."""
    import comfy.samplers

    function = functools.partial(_one, name)
    functools.update_wrapper(function, _one)
    return comfy.samplers.KSAMPLER(function)
