"""Runs of an analysis as they would come out of a model in which chosen layers carry the interaction."""

import numpy as np

from matrix_lib.evaluation.layers.scores import KindScores, RunScores

ENTITIES = ("cyclist", "van", "passes")
ROLES = ("subject", "object", "verb")


def planted_runs(count=40, layers=12, heads=4, steps=6, frames=3, deciding=(3, 7), attending=(5,), seed=0, failing=0.5):
    """`deciding` layers score higher in successes, by twice the spread between clips; `attending` ones score high
    whatever comes of it. The mask covers a tenth of the area; mass is 1."""
    rng = np.random.default_rng(seed)
    pattern = 1 + 0.3 * rng.standard_normal((layers, 1, 1, heads))  # some heads of a layer attend more, in every clip
    runs = []
    for n in range(count):
        success = rng.random() >= failing if count > 4 else bool(n % 2)
        kinds = {}
        for kind in ("v2t", "v2v"):
            base = 0.14 + 0.02 * rng.standard_normal((layers, 1, 1, 1)) + 0.01 * rng.standard_normal((layers, 1, 3, 1))
            base[list(attending)] += 0.25
            base[list(deciding)] += 0.2 + (0.04 if success else 0.0)
            curve = np.sin(np.linspace(0.4, 2.8, steps))[None, :, None, None]
            each = np.clip(0.1 + (base - 0.1) * curve / curve.mean(), 0.0, 1.0)
            share = np.clip(each * pattern, 0.0, 1.0).astype(np.float32)
            kinds[kind] = scores_of(kind, share, frames)
        runs.append(RunScores(f"clip_{n:03d}", 0, "A cyclist passes a van.", kinds, success=success))
    return runs


def scores_of(kind, share, frames=3):
    """Marginals of shares (L, St, E, H), spread evenly over `frames`."""
    layers, steps, entities, heads = share.shape
    by_step, by_head = share.mean(3), share.mean(1)
    by_frame = np.repeat(share.mean((1, 3))[..., None], frames, -1) / frames
    ones = np.ones((layers, steps, entities), dtype=np.float32)
    return KindScores(
        kind, tuple(range(layers)), ENTITIES[:entities], ROLES[:entities],
        tuple((i, 999.0 - 100 * i, 1) for i in range(steps)), (True,) * frames,
        by_step, ones, by_head, np.ones_like(by_head), by_frame, np.full_like(by_frame, 1 / frames),
        np.full((entities, frames), 0.1, dtype=np.float32),
    )  # fmt: skip
