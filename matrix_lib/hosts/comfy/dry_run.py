"""Where a sampler's steps begin, and what it makes of a start: found by running it on a few numbers.

Samplers are plain functions over `model(x, sigma)`. Most call the model with their own state, which may then be changed
in place: a dry run tells which calls are followed by a callback, and whether the start is forgotten where their input
is set to something else.

Others (multi-stage samplers of other packs, SA-Solver) call it with copies, or go back to a state that they keep. These
are still affine: with every prediction held fixed, a change of the start changes the input of each later call by a
factor, its gain. So moving the latent at a call is taken as another start, which gave the same predictions up to there.
From then on the model is shown what that run's latent would be, and the sampler goes on with the answers. Any solver
that is linear in state and predictions is served so: Runge-Kutta, multi-step, exponential, with or without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Gains", "Proxy", "find_steps"]


class Proxy:
    """Something in front of the model that a sampler calls; other attributes are the model's own."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Probe(Proxy):
    """A model that predicts half of what it is shown, and counts. `fixed`: the call whose input it sets to 1. The same
    clean latent ("clean", or a number) or the same noise ("noise") is then predicted everywhere, which is what samplers
    remember of earlier steps, so that nothing but the state tells one run from another."""

    def __init__(self, model: Any, fixed: int | None = None, same: str | float = "") -> None:
        super().__init__(model)
        self.fixed, self.same = fixed, 0.5 if same == "clean" else same
        self.seen: list[tuple[Tensor, float]] = []
        self.begins: list[int] = []
        self.out: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, **kwargs: Any) -> Tensor:
        if len(self.seen) == self.fixed:
            x.fill_(1.0)
        denoised = x * 0.5
        if isinstance(self.same, float):
            denoised = torch.full_like(x, self.same)
        elif self.same:
            denoised = x - 0.5 * float(sigma.flatten()[0])
        self.seen.append((x.clone(), float(sigma.flatten()[0])))
        for after in (model_options or {}).get("sampler_post_cfg_function", ()):  # samplers that want both predictions
            denoised = after({"denoised": denoised, "uncond_denoised": denoised, "cond_denoised": denoised})
        return denoised

    def step_done(self, state: dict[str, Any]) -> None:
        self.begins.append(len(self.seen) - 1)


@dataclass(frozen=True)
class Gains:
    """What a change of the start by 1 changes at the input of each model call (`calls`), and in the result (`out`)."""

    calls: tuple[float, ...]
    out: float


class DryRun:
    """Runs a sampler's function over `sigmas` on a few numbers; random numbers are left as they were.

    options: of the sampler. Raises what the sampler raises."""

    def __init__(
        self, function: Callable[..., Any], model: Any, x: Tensor, sigmas: Tensor, options: dict[str, Any], seed: Any
    ) -> None:
        self.function, self.model, self.sigmas, self.options, self.seed = function, model, sigmas, options, seed
        self.devices = [x.device] if x.device.type == "cuda" else []
        self.point = x[(slice(None),) * 2 + (slice(0, 1),) * (x.ndim - 2)]
        self.patch = x[(slice(None),) * 2 + (slice(0, 2), slice(0, 4), slice(0, 4))[: x.ndim - 2]]

    def __call__(
        self, start: Tensor, fixed: int | None = None, same: str | float = "", sigmas: Tensor | None = None
    ) -> _Probe:
        probe = _Probe(self.model, fixed, same)
        sigmas = self.sigmas if sigmas is None else sigmas
        given = {"model_options": {"transformer_options": {"sample_sigmas": sigmas.clone()}}, "seed": self.seed}
        with torch.random.fork_rng(self.devices):
            probe.out = self.function(
                probe, start.clone(), sigmas.clone(), extra_args=given, callback=probe.step_done, disable=True,
                **self.options,
            )  # fmt: skip
        return probe


def find_steps(
    function: Callable[..., Any], model: Any, x: Tensor, sigmas: Tensor, options: dict[str, Any], seed: Any
) -> tuple[dict[int, int], Gains | None]:
    """{ordinal of a model call: the step that it begins} of a sampler's function over `sigmas`, and None where the
    inputs of these calls are its state, or its gains.

    `options`: of the sampler. Raises ValueError for a sampler that does not take the steps of `sigmas`, and for one
    that is not affine.
    """
    run = DryRun(function, model, x, sigmas, options, seed)
    probe = run(run.point)
    if (found := _own_state(run, probe)) is not None:
        return found, None
    begins = _begins(probe, sigmas)
    gains = None if begins is None else _gains(run)
    if begins is None or gains is None:
        raise ValueError(_hidden(function))
    return begins, gains


def _own_state(run: DryRun, probe: _Probe) -> dict[int, int] | None:
    """The calls that begin steps, where their inputs may be changed in place; None where they may not."""
    sigmas = run.sigmas
    if len(probe.begins) != len(sigmas) - 1:
        return None
    found = {place: step for step, place in enumerate(probe.begins)}
    noisy = [(probe.seen[place][1], float(sigmas[step])) for place, step in found.items()]
    if not all(at * 0.99 <= sigma <= at * 1.5 for sigma, at in noisy):  # or churned
        return None
    return found if _forgets(run, probe) else None


def _forgets(run: DryRun, probe: _Probe) -> bool:
    """With the state of the second step set, nothing may be left of the start in the third: a sampler that calls the
    model with a copy, or whose corrector goes back to the state before, remembers it."""
    sigmas = run.sigmas
    if len(sigmas) < 4:  # too few steps to see: more of them, between the same ends
        shares = torch.linspace(0, 1, 5, device=sigmas.device)
        sigmas = sigmas[0] + (sigmas[-1] - sigmas[0]) * shares.to(sigmas)
        probe = run(run.point, sigmas=sigmas)
        if len(probe.begins) < 3:
            return False
    _, second, third = probe.begins[:3]

    def same(kind: str) -> bool:
        one, two = (run(start, second, kind, sigmas).seen[third][0] for start in (run.point, run.point + 3))
        return torch.allclose(one, two, rtol=1e-4, atol=1e-5)

    return same("clean") or same("noise")


def _begins(probe: _Probe, sigmas: Tensor) -> dict[int, int] | None:
    """The calls that begin steps of a sampler that calls back behind the first, or behind the last call of each."""
    steps = len(sigmas) - 1
    for places in (probe.begins, [0, *(place + 1 for place in probe.begins)][:steps]):
        if len(places) == steps and places[-1] < len(probe.seen):
            pairs = [(probe.seen[place][1], float(sigmas[step])) for step, place in enumerate(places)]
            if all(abs(sigma - at) <= 1e-3 * at for sigma, at in pairs):
                return {place: step for step, place in enumerate(places)}
    return None


def _gains(run: DryRun) -> Gains | None:
    """None for a sampler that is not affine, element by element."""
    found: list[Tensor] = []
    for clean, start, by in ((0.5, 0.0, 64.0), (0.5, 0.0, 192.0), (-1.0, 2.0, 64.0)):  # large: small gains count
        one, two = (run(run.patch + start + more, same=clean) for more in (0.0, by))
        if [at for _, at in one.seen] != [at for _, at in two.seen] or (found and len(one.seen) != len(found[0]) - 1):
            return None
        inputs = [(a, b) for (a, _), (b, _) in zip(one.seen, two.seen)] + [(one.out, two.out)]
        found.append(torch.stack([((b - a) / by).double().flatten() for a, b in inputs]))
    first = found[0].mean(1)
    if not all(torch.allclose(each, first[:, None].expand_as(each), rtol=1e-3, atol=1e-6) for each in found):
        return None
    *calls, out = first.tolist()
    return Gains(tuple(calls), out)


def _hidden(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
    return (
        f"the sampler {name!r} does not show where its steps begin, so nothing can be done before them. Use another: "
        "euler, heun, dpmpp_2m, uni_pc and most others do."
    )
