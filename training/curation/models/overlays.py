"""Text that was laid over a film: captions, logos, watermarks, by an OCR model that comes in its package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..frames import Frame
from ..stage import Place

__all__ = ["RapidOcr"]


@dataclass(frozen=True)
class RapidOcr:
    """`rapidocr` with the models in its wheel; it runs on the CPU.

    Args:
        confidence: of a line of text, from which on it counts.
        threads: of its runtime in each worker.
    """

    confidence: float = 0.6
    threads: int = 1

    def open(self, place: Place) -> None:
        """Raises ValueError with the install line where the package is missing."""
        try:
            import onnxruntime  # noqa: F401
            from rapidocr import RapidOCR
        except ImportError:
            raise ValueError("text overlays need rapidocr:  pip install rapidocr onnxruntime") from None
        threads = {f"EngineConfig.onnxruntime.{which}_op_num_threads": self.threads for which in ("intra", "inter")}
        os.environ.setdefault("ORT_LOGGING_LEVEL", "3")
        object.__setattr__(self, "_ocr", RapidOCR(params={"Global.log_level": "error", **threads}))

    def share(self, frame: Frame) -> tuple[float, str]:
        """(share of the frame inside of lines of text, the texts)."""
        ocr: Any = self._ocr  # type: ignore[attr-defined]
        found = ocr(np.ascontiguousarray(frame[..., ::-1]))  # it wants blue first
        if found.boxes is None:
            return 0.0, ""
        kept = [
            (box, text) for box, text, sure in zip(found.boxes, found.txts, found.scores) if sure >= self.confidence
        ]
        area = sum(_area(np.asarray(box, dtype=np.float64)) for box, _ in kept)
        return min(1.0, area / (frame.shape[0] * frame.shape[1])), " | ".join(text for _, text in kept)[:200]


def _area(corners: Any) -> float:
    """Of a polygon (N, 2)."""
    x, y = corners[:, 0], corners[:, 1]
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
