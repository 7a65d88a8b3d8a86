"""Distances of features against plain float64 loops, and against the numbers of the packages that define them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matrix_lib.evaluation.quality.consistency import frame_consistency
from matrix_lib.evaluation.quality.distances import Moments, frechet, jedi, kid, polynomial_mmd, read_features


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    return chance.normal(size=(60, 12)), chance.normal(size=(50, 12)) * 1.3 + 0.2


def moments(features: np.ndarray, piece: int = 7) -> Moments:
    found = Moments()
    for at in range(0, len(features), piece):
        found.add(features[at : at + piece])
    return found


def slow_mmd(x: np.ndarray, y: np.ndarray, degree: int, constant: float, biased: bool) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b)) / len(a) + constant) ** degree

    def within(z: np.ndarray) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if biased or i != j]
        return sum(pairs) / len(pairs)

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_moments_in_pieces(sets) -> None:
    features = sets[0] * 3 + 100
    for piece in (1, 7, 60):
        found = moments(features, piece)
        assert np.allclose(found.mean, features.mean(0), atol=1e-10)
        assert np.allclose(found.covariance(), np.cov(features, rowvar=False), atol=1e-9)
        assert np.allclose(found.covariance(biased=True), np.cov(features, rowvar=False, bias=True), atol=1e-9)


def test_frechet_of_the_packages(sets) -> None:
    real, made = map(moments, sets)
    assert frechet(real, made, biased=True) == pytest.approx(3.840826430516608, abs=1e-7)  # cd-fvd 0.1.1
    assert frechet(real, made) == pytest.approx(3.9021719281799108, abs=1e-7)  # torch-fidelity 0.4.0
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet(made, real) == pytest.approx(frechet(real, made))


def test_frechet_of_two_normal_distributions_of_one_number() -> None:
    one, other = np.array([[0.0], [2.0]]), np.array([[5.0], [11.0]])  # means 1 and 8, deviations sqrt(2) and sqrt(18)
    assert frechet(moments(one), moments(other)) == pytest.approx(49 + (2**0.5 - 18**0.5) ** 2)


def test_frechet_of_fewer_features_than_numbers() -> None:
    chance = np.random.default_rng(1)
    few, many = chance.normal(size=(5, 40)), chance.normal(size=(300, 40))
    assert 0 < frechet(moments(few), moments(many)) < 200


@pytest.mark.parametrize(("degree", "constant", "biased"), [(3, 1, False), (2, 0, True), (2, 1, False)])
def test_polynomial_discrepancy(sets, degree, constant, biased) -> None:
    x, y = sets[0][:9], sets[1][:7]
    expected = slow_mmd(x, y, degree, constant, biased)
    assert polynomial_mmd(x, y, degree, constant, None, biased) == pytest.approx(expected, rel=1e-10)


def test_blocks_change_nothing(sets, monkeypatch) -> None:
    whole = polynomial_mmd(*sets, 3, 1)
    monkeypatch.setattr("matrix_lib.evaluation.quality.distances._BLOCK", 7)
    assert polynomial_mmd(*sets, 3, 1) == pytest.approx(whole, rel=1e-12)


def test_kid_and_jedi(sets) -> None:
    real, made = sets[0][:50], sets[1]
    assert polynomial_mmd(real, made, 3, 1, None, False) == pytest.approx(0.35500197687389257, rel=1e-9)  # torchmetrics
    mean, spread = kid(real, made, subsets=3, size=50)  # subsets are all of it
    assert mean == pytest.approx(0.35500197687389257, rel=1e-9)
    assert spread == pytest.approx(0, abs=1e-12)
    assert kid(*sets, subsets=5, size=20) == kid(*sets, subsets=5, size=20)
    assert jedi(*sets) == pytest.approx(100 * slow_mmd(*sets, 2, 0, True), rel=1e-9)
    assert jedi(real, real) == pytest.approx(0, abs=1e-10)


def test_what_cannot_be_compared_is_refused(sets, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="12 and 5 numbers"):
        frechet(moments(sets[0]), moments(sets[1][:, :5]))
    with pytest.raises(ValueError, match="12 and 5 numbers"):
        jedi(sets[0], sets[1][:, :5])
    with pytest.raises(ValueError, match="at least 2"):
        frechet(moments(sets[0][:1]), moments(sets[1]))
    with pytest.raises(ValueError, match="subsets of 1000 cannot be drawn from 60 and 50"):
        kid(*sets)
    with pytest.raises(ValueError, match="those before them 12"):
        moments(sets[0]).add(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="nan or infinite"):
        jedi(np.full((3, 2), np.nan), np.zeros((3, 2)))
    np.save(tmp_path / "f.npy", sets[0].astype(np.float16))
    assert read_features(tmp_path / "f.npy").dtype == np.float64
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "t.npy", np.array(["a"]))
    for name, words in (("none", "there is no file"), ("o", "cannot be read as features"), ("t", "cannot be read")):
        with pytest.raises(ValueError, match=words):
            read_features(tmp_path / f"{name}.npy")


def test_consistency_of_frames_by_hand() -> None:
    turned = [[2.0, 0.0], [0.0, 3.0], [0.0, 1.0], [-1.0, 0.0]]
    assert frame_consistency(turned) == pytest.approx((0 + 0.5 + 0) / 3)
    assert frame_consistency(np.ones((5, 3))) == pytest.approx(1)
    for wrong, words in (([[1.0, 2.0]], "2 frames or more"), ([[0.0, 0.0], [1.0, 1.0]], "no direction")):
        with pytest.raises(ValueError, match=words):
            frame_consistency(wrong)
