"""Boxes of a class of things in a picture. A box is (x0, y0, x1, y1) in pixels of the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from ..frames import Frame
from ..stage import Place

__all__ = ["Box", "Detector", "DetectorSource", "FolderDetector", "clipped", "distinct", "iou"]

Corners = tuple[float, float, float, float]


class Box(NamedTuple):
    """One candidate: how sure the detector is (0 to 1), and where."""

    score: float
    box: Corners


class Detector(Protocol):
    """Finds things by a word."""

    def find(self, picture: Frame, kind: str) -> list[Box]:
        """All boxes of one class, of any score. picture: (H, W, 3) uint8. Raises ValueError for a class that it cannot
        know."""


class DetectorSource(Protocol):
    """Names a detector; it travels to workers. `identity` is what its boxes depend on."""

    gpu: bool

    @property
    def identity(self) -> Any: ...

    def open(self, place: Place) -> Detector:
        """The detector, in a worker. Raises ValueError with what is missing."""


@dataclass(frozen=True)
class FolderDetector:
    """A detector's folder, through `transformers`: one that reads words (Grounding DINO, OWLv2, ...), or one of fixed
    classes (RF-DETR, RT-DETR, D-FINE, DETR, ...).

    Args:
        folder: of the model, with its processor. least: scores below are not told.
        text: of Grounding DINO, how sure it is of the word.
    """

    folder: Path
    least: float = 0.05
    text: float = 0.25
    gpu = True

    @property
    def identity(self) -> Any:
        """The folder's configuration, and its weights' names and sizes."""
        files = sorted((path.name, path.stat().st_size) for path in self.folder.glob("*.safetensors"))
        config = self.folder / "config.json"
        content = config.read_bytes() if config.is_file() else b""
        return [self.folder.name, hashlib.sha256(content).hexdigest()[:16], files, self.least, self.text]

    def open(self, place: Place) -> Detector:
        """See `DetectorSource`."""
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"{self.folder} is no model folder: it has no config.json")
        try:
            from transformers import AutoConfig
        except ImportError:
            raise ValueError("this detector needs the transformers package:  pip install transformers") from None
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(self.folder, **local)
            if type(config) in _known("zero-shot"):
                return _ByWords(self.folder, place.device, self.least, self.text)
            if type(config) in _known("fixed"):
                return _OfClasses(self.folder, place.device, self.least)
        except Exception as error:  # configurations, weights and packages fail in many ways
            raise ValueError(
                f"{self.folder} does not open as a detector: {' '.join(str(error).split())[:300]}"
            ) from None
        raise ValueError(f"{self.folder} is no detector that transformers knows: it is of {config.model_type!r}")


def _known(kind: str) -> Any:
    from transformers import AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection

    auto: Any = AutoModelForZeroShotObjectDetection if kind == "zero-shot" else AutoModelForObjectDetection
    return auto._model_mapping.keys()


class _ByWords:
    """Models that read what they look for. One class a call: several are confused in one sentence."""

    def __init__(self, folder: Path, device: str, least: float, text: float) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder, local_files_only=True)
        self.model, self.device, self.least, self.text = model.to(device).eval(), device, least, text
        self.says_words = "grounding-dino" in self.model.config.model_type

    def find(self, picture: Frame, kind: str) -> list[Box]:
        """See `Detector`."""
        words = f"{kind.lower().rstrip('.')}." if self.says_words else [[f"a photo of a {kind}"]]
        inputs = self.processor(images=Image.fromarray(picture), text=words, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        more = {"input_ids": inputs["input_ids"], "text_threshold": self.text} if self.says_words else {}
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.least, target_sizes=[picture.shape[:2]], **more
        )
        return clipped(found["scores"].tolist(), found["boxes"].tolist(), picture)


class _OfClasses:
    """Models of fixed classes."""

    def __init__(self, folder: Path, device: str, least: float) -> None:
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self.processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True)
        self.model, self.device, self.least = model.to(device).eval(), device, least
        self.labels = {str(name).casefold(): int(n) for n, name in self.model.config.id2label.items()}
        self._last: tuple[bytes, Mapping[str, Any]] | None = None

    def find(self, picture: Frame, kind: str) -> list[Box]:
        """See `Detector`."""
        if (label := self.labels.get(kind.casefold())) is None:
            raise ValueError(f"this detector knows no {kind!r}; it knows {', '.join(sorted(self.labels))[:300]}")
        found = self._all(picture)
        mine = [n for n, each in enumerate(found["labels"].tolist()) if each == label]
        scores, boxes = found["scores"].tolist(), found["boxes"].tolist()
        return clipped([scores[n] for n in mine], [boxes[n] for n in mine], picture)

    def _all(self, picture: Frame) -> Mapping[str, Any]:
        """Everything in a picture; it is asked once for each class of a clip."""
        mark = hashlib.sha256(picture.tobytes()).digest()
        if self._last is None or self._last[0] != mark:
            inputs = self.processor(images=Image.fromarray(picture), return_tensors="pt").to(self.device)
            with torch.inference_mode():
                outputs = self.model(**inputs)
            (found,) = self.processor.post_process_object_detection(
                outputs, threshold=self.least, target_sizes=[picture.shape[:2]]
            )
            self._last = (mark, found)
        return self._last[1]


def clipped(scores: Sequence[float], boxes: Sequence[Sequence[float]], picture: Frame) -> list[Box]:
    """Boxes cut at the frame; what is left of one without an area is dropped. Coordinates to a tenth of a pixel."""
    height, width = picture.shape[:2]
    found = []
    for score, (x0, y0, x1, y1) in zip(scores, boxes):
        cut = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
        corners = tuple(round(float(v), 1) for v in cut)
        if corners[2] > corners[0] and corners[3] > corners[1]:
            found.append(Box(round(float(score), 4), corners))  # type: ignore[arg-type]
    return found


def distinct(boxes: Iterable[Box], overlap: float) -> list[Box]:
    """The best of boxes that overlap (IoU) by more than `overlap`, from the surest on."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda each: (-each.score, each.box)):
        if all(iou(box.box, other.box) <= overlap for other in kept):
            kept.append(box)
    return kept


def iou(one: Corners, other: Corners) -> float:
    """Intersection over union of two boxes."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return float(wide * tall / (np.sum(areas) - wide * tall))
