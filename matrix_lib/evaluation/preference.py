"""Which of several models people prefer, from pairs that they were shown side by side.

Two summaries, each with a 95 % interval by a bootstrap over prompts (all votes on a prompt are drawn together):

    share       of its comparisons that a model wins, a tie counting half
    strength    Bradley-Terry: P(i over j) = 1 / (1 + exp(s_j - s_i)), mean 0 over the models; a tie counts half a win
                for either. Half a win more for both sides of each pair that met keeps strengths finite where one model
                wins always (for two models: the logit of Haldane and Anscombe).

Sources: Bradley and Terry 1952, Biometrika 39, p. 324; Anscombe 1956, Biometrika 43, p. 461.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import Estimate, bootstrap, holm, wilson

__all__ = ["Difference", "Preference", "Vote", "bradley_terry", "preference"]

_RESAMPLES, _STEPS = 1000, 60
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Vote:
    """Of one person on one pair. won: the model that was preferred, "" for a tie. pair: which one, where a prompt has
    several of the same models."""

    prompt: str
    one: str
    other: str
    won: str
    by: str = ""
    pair: str = ""


@dataclass(frozen=True)
class Difference:
    """Between two models that met. lead: share of prompts' votes for `one` less that for `other`, -1 to 1, with its
    interval over prompts; p: corrected for all pairs (Holm)."""

    one: str
    other: str
    lead: Estimate
    p: float


@dataclass(frozen=True)
class Preference:
    """share, strength: by model, best first. strength is nan where models never met, not even through others; its
    interval is not known for a model that always won or lost."""

    share: dict[str, Estimate]
    strength: dict[str, Estimate]
    pairs: tuple[Difference, ...]
    votes: int
    ties: int
    prompts: int


def preference(votes: Sequence[Vote], models: Sequence[str]) -> Preference:
    """Everything about these votes. models: all that were compared, so that one without votes is seen.

    Raises ValueError where there is no vote, and for one about a model that is none of them.
    """
    if not votes:
        raise ValueError("there are no votes")
    wins = _wins(votes, models)  # prompts, models, models
    total = wins.sum(0)
    draws = np.random.default_rng(0).multinomial(len(wins), np.full(len(wins), 1 / len(wins)), _RESAMPLES)
    drawn = np.tensordot(draws, wins, 1)
    shares, strengths = _shares(total), bradley_terry(total)
    many = _shares(drawn), bradley_terry(drawn)
    order = sorted(range(len(models)), key=lambda i: (-np.nan_to_num(strengths[i], nan=-math.inf), models[i]))
    met = (total + total.T).sum(1)
    share = {models[i]: _share(shares[i], many[0][:, i], int(met[i]), len(wins)) for i in order}
    strength = {
        # who always won, or lost, may be stronger without limit
        models[i]: _estimate(strengths[i], many[1][:, i], int(met[i]), 0 if shares[i] in (0, 1) else len(wins))
        for i in order
    }
    ties = sum(not vote.won for vote in votes)
    return Preference(share, strength, _pairs(wins, models, order), len(votes), ties, len(wins))


def bradley_terry(wins: Array, prior: float = 0.5) -> Array:
    """Strengths (..., M), mean 0, of wins (..., M, M): how often row was preferred to column, ties as halves.

    prior: wins that both sides of each pair that met are given. All are nan where some models never met the others,
    not even through third ones. By Newton's method on the likelihood, which has one maximum.
    """
    wins = np.asarray(wins, float)
    met = (wins + wins.swapaxes(-1, -2)) > 0
    wins = wins + prior * met
    games = wins + wins.swapaxes(-1, -2)
    size = wins.shape[-1]
    strength = np.zeros(wins.shape[:-1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strength[..., None, :] - strength[..., :, None]))
        slope = (wins - games * chance).sum(-1)
        weight = games * chance * (1 - chance)
        curve = np.eye(size) * weight.sum(-1)[..., None] - weight + 1 / size  # the mean stays 0
        step = np.linalg.solve(curve + 1e-12 * np.eye(size), slope[..., None])[..., 0]
        strength = strength + np.clip(step, -1, 1)  # far out the likelihood is flat, and a whole step overshoots
        strength -= strength.mean(-1, keepdims=True)
        if np.abs(step).max(initial=0) < 1e-10:
            break
    return np.where(_connected(met)[..., None], strength, np.nan)


def _connected(met: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether everybody met everybody, if through others."""
    reach = met | np.eye(met.shape[-1], dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(max(2, met.shape[-1]))))):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    return np.asarray(reach.all((-1, -2)))


def _wins(votes: Sequence[Vote], models: Sequence[str]) -> Array:
    """(P, M, M) by prompt."""
    prompts = {name: place for place, name in enumerate(dict.fromkeys(vote.prompt for vote in votes))}
    places = {name: place for place, name in enumerate(models)}
    wins = np.zeros((len(prompts), len(models), len(models)))
    for vote in votes:
        if {vote.one, vote.other} - set(places) or vote.won not in ("", vote.one, vote.other):
            raise ValueError(f"a vote is about two of {', '.join(models)}; got {vote}")
        one, other = places[vote.one], places[vote.other]
        part = 0.5 if not vote.won else float(vote.won == vote.one)
        wins[prompts[vote.prompt], one, other] += part
        wins[prompts[vote.prompt], other, one] += 1 - part
    return wins


def _shares(wins: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return wins.sum(-1) / (wins + wins.swapaxes(-1, -2)).sum(-1)


def _share(value: float, drawn: Array, count: int, prompts: int) -> Estimate:
    """A share of 0 or 1 has no spread to draw from: how often another outcome can have stayed unseen in so many
    prompts."""
    if value in (0, 1) and prompts:
        found = wilson(round(value * prompts), prompts)
        return Estimate(float(value), found.low, found.high, count)
    return _estimate(value, drawn, count, prompts)


def _estimate(value: float, drawn: Array, count: int, prompts: int) -> Estimate:
    known = drawn[~np.isnan(drawn)]
    if prompts < 2 or math.isnan(value) or len(known) < 0.9 * len(drawn) or np.ptp(known) == 0:
        return Estimate(float(value), math.nan, math.nan, count)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), count)


def _pairs(wins: Array, models: Sequence[str], order: Sequence[int]) -> tuple[Difference, ...]:
    leads = []
    for i, j in itertools.combinations(order, 2):
        games = wins[:, i, j] + wins[:, j, i]
        there = games > 0
        if there.any():
            lead = (wins[there, i, j] - wins[there, j, i]) / games[there]
            leads.append((models[i], models[j], bootstrap(lead, bounds=(-1, 1))))
    p = holm([lead.p for _, _, lead in leads])
    return tuple(Difference(*each, value) for each, value in zip(leads, p, strict=True))
