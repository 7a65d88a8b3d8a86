"""What each score is: its definition, its range, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MEASURES", "Measure", "measures_table"]

Group = Literal["presence", "looks", "paths", "boxes", "tracking", "points", "contact"]


@dataclass(frozen=True)
class Measure:
    """One number of a clip.

    better: "higher" or "lower". low, high: its range. said: the definition. group: what it is about. needs: what has to
    be given besides tracks of the video.
    """

    better: Literal["higher", "lower"]
    low: float
    high: float
    group: Group
    needs: str
    said: str


_INF = float("inf")
_WHOLE, _PIXELS = "given tracks", "frames"

MEASURES: dict[str, Measure] = {
    "spi": Measure(
        "higher", 0, 1, "presence", "", "semantic preservation, ((1 - 5 emergence)+ + (1 - 5 disappearance)+) / 2"
    ),
    "spi_released": Measure(
        "higher", -4, 1, "presence", "", "the same without the clamp, as MATRIX's released code has it"
    ),
    "disappearance": Measure(
        "lower", 0, 1, "presence", "", "share of the frames after the first in which an instance has no pixel"
    ),
    "emergence": Measure(
        "lower",
        0,
        1,
        "presence",
        "frames, or tracks of what is new",
        "share of the frames after the first with a double, or with a track that is in no given one and not in frame 0",
    ),
    "doubled": Measure(
        "lower",
        0,
        1,
        "presence",
        _PIXELS,
        "share of the frames after the first that show the looks of an instance a second time: outside of every "
        "track, or as a track that frame 0 does not have",
    ),
    "drift": Measure(
        "lower",
        0,
        1,
        "looks",
        _PIXELS,
        "distance of an instance's looks from its first frame's, mean over frames, then over instances: Hellinger's "
        "for colours, (1 - cosine) / 2 for given features",
    ),
    "drift_end": Measure("lower", 0, 1, "looks", _PIXELS, "the same in the last frame that shows the instance"),
    "swapped_looks": Measure(
        "lower",
        0,
        1,
        "looks",
        _PIXELS,
        "share of the frames after the first in which two tracks have each other's looks (look-alikes are left out)",
    ),
    "swapped_paths": Measure(
        "lower",
        0,
        1,
        "paths",
        _WHOLE,
        "share of the frames after the first in which two instances are on each other's given path, look-alikes too",
    ),
    "trajectory_iou": Measure(
        "higher",
        0,
        1,
        "paths",
        _WHOLE,
        "IoU of masks with the given ones, mean over the frames that the given track has, then over instances",
    ),
    "j": Measure("higher", 0, 1, "paths", _WHOLE, "DAVIS J: mean IoU over all frames (1 where both masks are empty)"),
    "f": Measure("higher", 0, 1, "paths", _WHOLE, "DAVIS F: F-measure of mask edges within .008 of the diagonal"),
    "j_and_f": Measure("higher", 0, 1, "paths", _WHOLE, "the mean of J and F"),
    "box_iou": Measure(
        "higher",
        0,
        1,
        "boxes",
        _WHOLE,
        "mIoU of boxes, mean over the frames that the given track has, then over instances; 0 where nothing is seen",
    ),
    "box_iou_pooled": Measure(
        "higher",
        0,
        1,
        "boxes",
        _WHOLE,
        "the same in the form of Peekaboo's release: intersections over the clip, divided by unions over the clip",
    ),
    "coverage": Measure(
        "higher", 0, 1, "boxes", _WHOLE, "share of instances that are seen in more than half of their given frames"
    ),
    "centre_distance": Measure(
        "lower",
        0,
        1,
        "boxes",
        _WHOLE,
        "distance of box centres in shares of the frame's diagonal, mean over frames with both boxes",
    ),
    "ap50": Measure(
        "higher", 0, 1, "boxes", _WHOLE, "share of the frames with both boxes in which their IoU is .5 or more"
    ),
    "hota": Measure(
        "higher", 0, 1, "tracking", _WHOLE, "HOTA (arXiv 2009.07736) of masks, mean over IoU thresholds .05 to .95"
    ),
    "det_a": Measure("higher", 0, 1, "tracking", _WHOLE, "its detection accuracy"),
    "ass_a": Measure("higher", 0, 1, "tracking", _WHOLE, "its association accuracy"),
    "loc_a": Measure("higher", 0, 1, "tracking", _WHOLE, "its localisation accuracy"),
    "epe": Measure(
        "lower",
        0,
        _INF,
        "points",
        "point tracks",
        "end-point error in pixels: mean distance of points, over the frames after the first in which they are visible",
    ),
    "contact": Measure(
        "higher", 0, 1, "contact", "", "TAViD's contact score: 1 where the pair touches in at least one frame"
    ),
    "contact_share": Measure(
        "higher", 0, 1, "contact", _WHOLE, "share of the frames with contact by the given tracks that have it here"
    ),
    "contact_agreement": Measure(
        "higher", 0, 1, "contact", _WHOLE, "share of frames in which both touch or both do not"
    ),
    "contact_sustained": Measure("higher", 0, _INF, "contact", "", "seconds of the longest run of contact"),
}


def measures_table() -> str:
    """The measures as a Markdown table."""
    lines = ["| measure | range | better | needs | what it is |", "|---|---|---|---|---|"]
    for name, each in MEASURES.items():
        high = "∞" if each.high == _INF else f"{each.high:g}"
        lines.append(f"| `{name}` | {each.low:g} to {high} | {each.better} | {each.needs or '-'} | {each.said} |")
    return "\n".join(lines) + "\n"
