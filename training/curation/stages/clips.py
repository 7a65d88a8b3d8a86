"""Stage 1: every frame of every video is decoded once; shots, still clips, overlays, and what doubles are found by.

    {"name", "status", "reason", "parts": [{"name", "status", "reason", "caption", "sha256", "shot": [first, stop],
     "file_fps", "wanted_fps", "fps", "frames", "height", "width", "cuts", "moves", "looks", "text", ...}]}

A part is a clip: the longest shot of a file, or each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matrix_lib.io.video import VideoFacts, checked_frames, frame_times, is_even

from ..frames import numbers_of, picked, sampled, video_of
from ..models.overlays import RapidOcr
from ..models.shots import ShotDetector, shots_of, shrunk
from ..stage import Item, Place, Resources, Result

__all__ = ["Clips", "doubles"]

_LOOKED = 8  # frames of a clip whose looks are kept
_APART = 4  # a change of more than this between two values counts as motion


@dataclass
class Clips:
    """Settings of the stage.

    Args:
        shots: who finds cuts; None takes every file as one shot.
        keep: the longest shot of a file, or all of them as clips of their own.
        fps: frames a second of the clips; 0 leaves their own.
        frames: a clip has so many at least. longest: a file has so many at most.
        height, width: pixels that a clip has at least.
        moves: share of pixels that change between frames at least; less is a still picture.
        overlays: who reads text; None: nobody looks. text: share of a frame that text may cover.
    """

    shots: ShotDetector | None = None
    keep: Literal["longest", "all"] = "longest"
    fps: float = 0.0
    frames: int = 49
    longest: int = 20_000
    height: int = 240
    width: int = 240
    moves: float = 0.002
    overlays: RapidOcr | None = None
    text: float = 0.02
    name: str = field(default="clips", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=("raw",), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(gpu=bool(self.shots and self.shots.gpu), batch=4)

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place = place
        for model in (self.shots, self.overlays):
            if model is not None:
                model.open(place)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`."""
        return [self._one(item) for item in batch]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        parts = result.get("parts")
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise ValueError("a line of clips has `parts`, a list of clips")
        wanted = {"name", "caption", "sha256", "shot", "file_fps", "wanted_fps", "fps", "frames", "height", "width"}
        for part in parts:
            if missing := sorted(wanted - part.keys()):
                raise ValueError(f"a part of clips lacks {', '.join(missing)}")
            part.setdefault("status", "kept")
            part.setdefault("reason", "")
        return result

    def _one(self, item: Item) -> Result:
        path = video_of(item, self._place)
        try:
            small, facts = _decoded(path, self.longest)
            sha256 = _hashed(path)
            uneven = self.fps and not is_even(frame_times(path))
        except (ValueError, OSError) as error:
            return {"status": "bad", "reason": str(error), "parts": []}
        if uneven:
            said = f"its frames have no even rate, so {self.fps:g} a second cannot be taken: encode it anew with ffmpeg"
            return {"status": "bad", "reason": said, "parts": []}
        marks = np.zeros(len(small), dtype=bool) if self.shots is None else self.shots.cuts(small)
        shots = shots_of(marks)
        cuts = [first for first, _ in shots[1:]]
        chosen = shots if self.keep == "all" else [max(shots, key=lambda shot: shot[1] - shot[0])]
        parts = []
        for number, shot in enumerate(chosen, 1):
            name = item["name"] if len(chosen) == 1 else f"{item['name']}-{number:02d}"
            part = {"name": name, "sha256": sha256, "cuts": cuts, **self._part(shot, small, facts)}
            part |= {k: v for k, v in item["raw"].items() if k in ("caption", "source", "licence")}
            status, reason = self._rules({**item, "clips": part}, part)
            parts.append({"name": name, "status": status, "reason": reason, **part})
        kept = any(part["status"] == "kept" for part in parts)
        reason = "" if kept else parts[0]["reason"]
        return {"status": "kept" if kept else "dropped", "reason": reason, "parts": parts}

    def _part(self, shot: tuple[int, int], small: NDArray[np.uint8], facts: VideoFacts) -> dict[str, Any]:
        numbers = numbers_of(shot, facts.fps, self.fps)
        seen = small[numbers]
        return {
            "shot": list(shot),
            "whole": len(numbers) == facts.frames,
            "file_fps": facts.fps,
            "wanted_fps": self.fps,
            "fps": min(facts.fps, self.fps) if self.fps else facts.fps,
            "frames": len(numbers),
            "height": facts.height,
            "width": facts.width,
            "moves": _moves(seen),
            "looks": _looks(seen),
        }

    def _rules(self, item: Item, part: dict[str, Any]) -> tuple[str, str]:
        """(status, reason) by the rules of this stage, the cheap ones first."""
        if part["frames"] < self.frames:
            cut = f" in its longest shot ({len(part['cuts'])} cuts)" if part["cuts"] and self.keep == "longest" else ""
            return "dropped", f"too short: {part['frames']} frames{cut}, and {self.frames} are wanted"
        if part["height"] < self.height or part["width"] < self.width:
            size = f"{part['width']}x{part['height']}"
            return "dropped", f"too small: {size} pixels, and {self.width}x{self.height} are wanted"
        if part["moves"] < self.moves:
            return "dropped", f"still: {100 * part['moves']:.2g} % of its pixels change"
        if self.overlays is not None:
            found = [self.overlays.share(frame) for _, frame in picked(item, self._place, sampled(part["frames"], 2))]
            part["text"], words = max(found)
            if part["text"] > self.text:
                return "dropped", f"text covers {100 * part['text']:.2g} % of a frame: {words!r}"
        return "kept", ""


def _decoded(path: Path, longest: int) -> tuple[NDArray[np.uint8], VideoFacts]:
    """Every frame, small, and what the file is."""
    small, reading = [], checked_frames(path)
    while True:
        try:
            small.append(shrunk(next(reading)))
        except StopIteration as end:
            return np.stack(small), end.value
        if len(small) > longest:
            reading.close()
            raise ValueError(
                f"{path.name!r} has more than {longest} frames: cut it into files first, or raise `longest`"
            )


def _hashed(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _moves(frames: NDArray[np.uint8]) -> float:
    """Share of values that change from frame to frame, and from the first frame to any other."""
    if len(frames) < 2:
        return 0.0
    far = frames[[round(n * (len(frames) - 1) / _LOOKED) for n in range(1, _LOOKED + 1)]].astype(np.int16)
    changed = np.abs(far - frames[0].astype(np.int16)).max(-1) > _APART
    return round(float(changed.mean()), 6)


def _looks(frames: NDArray[np.uint8]) -> str:
    """A difference hash of 64 bits of each of 8 frames, as hexadecimal digits."""
    found = []
    for n in range(_LOOKED):
        frame = frames[min(len(frames) - 1, int((n + 0.5) * len(frames) / _LOOKED))]
        grey = np.asarray(Image.fromarray(frame).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
        found.append(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex())
    return "".join(found)


def doubles(looks: Sequence[tuple[str, str]], most: float = 6.0) -> dict[str, str]:
    """{clip: the clip that it doubles} of (name, looks), in their order: the first of those alike is kept.

    most: bits of 64 by which the frames of two clips may differ on average. Every clip is compared with all that are
    kept before it.
    """
    rows = np.array([np.frombuffer(bytes.fromhex(look), dtype=np.uint64) for _, look in looks]).reshape(-1, _LOOKED)
    kept, names = np.empty_like(rows), list[str]()
    found: dict[str, str] = {}
    for (name, _), row in zip(looks, rows):
        far = np.bitwise_count(kept[: len(names)] ^ row).sum(1)
        if len(names) and far.min() <= most * _LOOKED:
            found[name] = names[int(far.argmin())]
        else:
            kept[len(names)] = row
            names.append(name)
    return found
