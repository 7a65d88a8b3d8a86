"""Distances between two sets of features (N, D): Fréchet's (FID, FVD), KID, JEDi. All in float64.

Features come from `extractors`, or from files of any program.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Moments", "frechet", "jedi", "kid", "polynomial_mmd", "read_features"]

Array = NDArray[Any]
_BLOCK = 2048  # rows of a kernel matrix at a time
_MOST = 8 << 30


class Moments:
    """Mean and covariance of features that come in pieces: nothing grows but D x D numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Array | None = None
        self._spread: Array | None = None

    def add(self, features: ArrayLike) -> None:
        """features (n, D). Raises ValueError for another shape, another D, and numbers that are not finite."""
        new = _checked(features)
        if self._mean is None or self._spread is None:
            self._mean, self._spread = np.zeros(new.shape[1]), np.zeros((new.shape[1], new.shape[1]))
        if new.shape[1] != len(self._mean):
            raise ValueError(f"these features have {new.shape[1]} numbers each, those before them {len(self._mean)}")
        mean = new.mean(0)
        centred, step = new - mean, mean - self._mean
        total = self.count + len(new)
        self._spread += centred.T @ centred + np.outer(step, step) * (self.count * len(new) / total)
        self._mean = self._mean + step * (len(new) / total)
        self.count = total

    @property
    def mean(self) -> Array:
        if self._mean is None or self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features; there are {self.count}")
        return self._mean

    def covariance(self, biased: bool = False) -> Array:
        """(D, D), over N - 1, or over N where `biased`."""
        if self._spread is None or self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features; there are {self.count}")
        return self._spread / (self.count - (not biased))


def frechet(real: Moments, made: Moments, biased: bool = False) -> float:
    """Fréchet's distance of two normal distributions: FID on Inception features, FVD on those of I3D or VideoMAE.

    biased: covariances over N, as the `cd-fvd` package has them; FID has N - 1.
    """
    if len(real.mean) != len(made.mean):
        raise ValueError(f"the two sets have features of {len(real.mean)} and {len(made.mean)} numbers")
    one, other = real.covariance(biased), made.covariance(biased)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(((real.mean - made.mean) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * shared)


def polynomial_mmd(
    real: ArrayLike, made: ArrayLike, degree: int, constant: float, gamma: float | None = None, biased: bool = True
) -> float:
    """Squared maximum mean discrepancy with the kernel (gamma x.y + constant) ** degree; gamma is 1 / D by default.

    biased: pairs of a feature with itself count. The kernel's rows are computed in blocks.
    """
    one, other = _checked(real), _checked(made)
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"the two sets have features of {one.shape[1]} and {other.shape[1]} numbers")
    if min(len(one), len(other)) < 2:
        raise ValueError("a discrepancy needs at least 2 features on each side")
    scale = 1 / one.shape[1] if gamma is None else gamma

    def total(left: Array, right: Array) -> float:
        starts = range(0, len(left), _BLOCK)
        return sum(float(((scale * left[i : i + _BLOCK] @ right.T + constant) ** degree).sum()) for i in starts)

    def within(each: Array) -> float:
        own = 0.0 if biased else float(((scale * (each**2).sum(1) + constant) ** degree).sum())
        return (total(each, each) - own) / (len(each) * (len(each) - (not biased)))

    return within(one) + within(other) - 2 * total(one, other) / (len(one) * len(other))


def kid(real: ArrayLike, made: ArrayLike, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation) of KID over random subsets: the unbiased discrepancy of degree 3.

    size: at most as many features as the smaller set has. Raises ValueError for fewer.
    """
    one, other = _checked(real), _checked(made)
    if not 2 <= size <= min(len(one), len(other)):
        raise ValueError(f"subsets of {size} cannot be drawn from {len(one)} and {len(other)} features: choose fewer")
    chance = np.random.default_rng(seed)
    found = [
        polynomial_mmd(
            one[chance.choice(len(one), size, False)], other[chance.choice(len(other), size, False)], 3, 1, None, False
        )
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def jedi(real: ArrayLike, made: ArrayLike) -> float:
    """JEDi (arXiv 2410.05203) of V-JEPA features (N, D), as its released code has it: 100 times the biased discrepancy
    of degree 2 without a constant."""
    return 100 * polynomial_mmd(real, made, 2, 0)


def read_features(path: str | os.PathLike[str]) -> Array:
    """Features (N, D) float64 from a .npy file. Nothing pickled is opened.

    Raises ValueError for a file that is missing, too large, or none of such numbers.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no file of features {str(source)!r}")
    if source.stat().st_size > _MOST:
        raise ValueError(f"{source.name} has {source.stat().st_size:,} bytes; {_MOST:,} are the most")
    try:
        return _checked(np.load(source, allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise ValueError(f"{source.name} cannot be read as features (N, D): {error!s:.200}") from None


def _checked(features: ArrayLike) -> Array:
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"features are (number, size); got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("some features are nan or infinite")
    return array
