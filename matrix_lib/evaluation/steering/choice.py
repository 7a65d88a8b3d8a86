"""From a sweep to defaults: of every mode the setting that follows tracks best at no loss of what is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .plan import PLAIN, UNSAMPLED, Condition
from .results import Measured

__all__ = ["MARGIN", "best_of", "chosen"]

MARGIN = 0.02  # mean SPI that a default may cost at most


def chosen(found: Sequence[Measured], tracks: str, names: Iterable[str] | None = None) -> Measured | None:
    """Of all (or `names`) under these tracks that lose no SPI, the one with the greatest trajectory IoU.

    No loss: the mean difference in SPI to no guidance is above -0.02, or not significantly below 0 and above -0.05.
    None where nothing was measured beside no guidance, or everything loses.
    """
    here = {one.condition: one for one in found if one.tracks == tracks and not one.condition.startswith(UNSAMPLED)}
    plain = here.pop(PLAIN, None)
    if plain is None:
        return None
    fit = [one for name, one in here.items() if (names is None or name in set(names)) and keeps(one, plain)]
    return max(fit, key=lambda one: one.mean("iou"), default=None)


def keeps(one: Measured, plain: Measured) -> bool:
    """Whether a condition loses no SPI; see `chosen`."""
    loss = one.against(plain, "spi")
    return loss.mean > -MARGIN or (loss.high >= 0 and loss.mean > -0.05)


def best_of(found: Sequence[Measured], plan: Iterable[Condition], tracks: str) -> dict[tuple[str, str], Condition]:
    """Conditions of `plan` that a sweep speaks for, by mode and kind: "gentle" is what `chosen` takes, where it follows
    better than no guidance does; "faithful" has the greatest interaction fidelity of what the tracks tell, which counts
    lost and new things too, where that is above no guidance."""
    plain = next((one for one in found if one.condition == PLAIN and one.tracks == tracks), None)
    if plain is None:
        raise ValueError(f"a sweep without {PLAIN!r} under the tracks {tracks!r} chooses nothing: measure that, too")
    modes: dict[str, dict[str, Condition]] = {}
    for condition in plan:
        if condition.mode:
            modes.setdefault(condition.mode, {})[condition.name] = condition
    best = {}
    for mode, known in modes.items():
        current = [
            one
            for one in found
            if one.tracks == tracks and one.condition in known and one.settings == known[one.condition].settings
        ]
        gentle = chosen([*current, plain], tracks, known)
        if gentle is not None and gentle.mean("iou") > plain.mean("iou"):
            best[mode, "gentle"] = known[gentle.condition]
        faithful = max(current, key=lambda one: one.mean("fidelity"), default=plain)
        if faithful.mean("fidelity") > plain.mean("fidelity"):
            best[mode, "faithful"] = known[faithful.condition]
    return best
