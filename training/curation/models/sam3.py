"""Masks by SAM 3, which finds all things of a word in a clip and follows them; an anchor says which of them is whom."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matrix_lib.core.tracks.text import Prompt
from matrix_lib.core.tracks.tracks import MaskTracks

from ..frames import Frame
from ..stage import Place
from .detectors import iou
from .trackers import Prompts, Tracker

__all__ = ["Sam3Tracker"]

_LEAST = 0.3  # IoU of a thing's box and the anchor's
_DOUBLES = "without the package `kernels` SAM 3 drops no doubles and fills no holes:  pip install kernels"


@dataclass(frozen=True)
class Sam3Tracker:
    """SAM 3 for videos (`Sam3VideoModel` of `transformers`), prompted with the classes of the instances.

    Args:
        folder: of the model, with its processor. least: IoU of a thing with an anchor's box, from which on it is it.
    """

    folder: Path
    least: float = _LEAST
    gpu = True

    @property
    def identity(self) -> Any:
        """The folder's configuration, and its weights' names and sizes."""
        files = sorted((path.name, path.stat().st_size) for path in self.folder.glob("*.safetensors"))
        config = self.folder / "config.json"
        content = config.read_bytes() if config.is_file() else b""
        return ["sam3", self.folder.name, hashlib.sha256(content).hexdigest()[:16], files, self.least]

    def open(self, place: Place) -> Tracker:
        """See `TrackerSource`."""
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"{self.folder} is no model folder: it has no config.json")
        try:
            from transformers import Sam3VideoConfig, Sam3VideoModel, Sam3VideoProcessor
        except ImportError:
            raise ValueError("SAM 3 needs a newer transformers package:  pip install -U transformers") from None
        dtype = torch.bfloat16 if place.device.startswith("cuda") else torch.float32
        try:
            config = Sam3VideoConfig.from_pretrained(self.folder, local_files_only=True)
            if (kind := json.loads((self.folder / "config.json").read_bytes()).get("model_type")) != config.model_type:
                raise ValueError(f"it is of {kind!r}, and {config.model_type!r} is wanted")
            processor = Sam3VideoProcessor.from_pretrained(self.folder, local_files_only=True)
            model, told = Sam3VideoModel.from_pretrained(
                self.folder, local_files_only=True, dtype=dtype, output_loading_info=True
            )
            if missing := sorted(told["missing_keys"]):
                raise ValueError(f"{len(missing)} weights are missing: {', '.join(missing[:3])}")
        except Exception as error:  # configurations, weights and packages fail in many ways
            said = " ".join(str(error).split())[:300]
            raise ValueError(f"{self.folder} does not open as SAM 3 for videos: {said}") from None
        return _Sam3(model.to(place.device).eval(), processor, place.device, dtype, self.least)


@dataclass
class _Thing:
    """Something that was found: the word that found it, and its masks by frame, packed."""

    word: str
    masks: dict[int, NDArray[np.uint8]]


class _Sam3:
    def __init__(self, model: Any, processor: Any, device: str, dtype: torch.dtype, least: float) -> None:
        self.model, self.processor, self.device, self.dtype, self.least = model, processor, device, dtype, least

    def follow(
        self, frames: Iterator[Frame], prompts: Prompts, fps: float, words: Mapping[str, str]
    ) -> tuple[MaskTracks, list[str]]:
        """See `Tracker`."""
        clip = list(frames)
        things = self._things(clip, sorted({words[name] for name in prompts}))
        chosen, notes = _chosen(things, prompts, words, clip[0].shape[:2], self.least)
        if importlib.util.find_spec("kernels") is None:
            notes.append(_DOUBLES)
        if not chosen:
            raise ValueError("; ".join(notes))
        shape = clip[0].shape[:2]
        masks = {
            name: [torch.from_numpy(_mask(things[number], at, shape)) for at in range(len(clip))]
            for name, number in sorted(chosen.items())
        }
        return MaskTracks.from_masks(masks, fps=fps), notes

    @torch.inference_mode()
    def _things(self, clip: list[Frame], words: list[str]) -> dict[int, _Thing]:
        session = self.processor.init_video_session(
            video=clip, inference_device=self.device, video_storage_device="cpu", dtype=self.dtype
        )
        self.processor.add_text_prompt(session, words)
        found: dict[int, _Thing] = {}
        for output in self.model.propagate_in_video_iterator(session):
            seen = self.processor.postprocess_outputs(session, output)
            called = {number: word for word, numbers in seen["prompt_to_obj_ids"].items() for number in numbers}
            for number, mask in zip(seen["object_ids"].tolist(), seen["masks"]):
                thing = found.setdefault(number, _Thing(called[number], {}))
                thing.masks[output.frame_idx] = np.packbits(mask.cpu().numpy())
        return found


def _mask(thing: _Thing, at: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    packed = thing.masks.get(at)
    if packed is None:
        return np.zeros(shape, dtype=bool)
    return np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def _chosen(
    things: Mapping[int, _Thing], prompts: Prompts, words: Mapping[str, str], shape: tuple[int, ...], least: float
) -> tuple[dict[str, int], list[str]]:
    """({name: the thing that it is}, sentences). Nothing is two of them; what fits best is given away first."""
    fits = sorted(
        (
            (np.mean([_fit(_mask(thing, at, shape), prompt) for at, prompt in keys.items()]), name, number)
            for name, keys in prompts.items()
            for number, thing in things.items()
            if thing.word == words[name]
        ),
        key=lambda each: (-each[0], each[1:]),
    )
    found: dict[str, int] = {}
    for fit, name, number in fits:
        if fit >= least and name not in found and number not in found.values():
            found[name] = number
    notes = []
    for name in prompts:
        if name not in found:
            best = max((fit for fit, other, _ in fits if other == name), default=0.0)
            seen = sum(thing.word == words[name] for thing in things.values())
            notes.append(f"SAM 3 sees {seen} x {words[name]!r}, and none where {name!r} is (IoU {best:.2f} at best)")
    return found, notes


def _fit(mask: NDArray[np.bool_], prompt: Prompt) -> float:
    """How well a mask is what a prompt shows, 0 to 1: IoU of boxes, and 0 where a point says otherwise."""
    if not mask.any():
        return 0.0
    height, width = mask.shape
    for x, y, inside in prompt.points:
        if mask[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)] != inside:
            return 0.0
    if prompt.box is None:
        return 1.0
    rows, columns = np.nonzero(mask)
    around = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return iou(around, prompt.box)
