"""Mask tracks from points, boxes and masks, by Meta's SAM 2: every instance by itself, frames from disk as they are
needed.

H, W: rows and columns of the video in pixels. The package is reached through its public calls (`init_state`,
`add_new_points_or_box`, `add_new_mask`, `propagate_in_video`) and two entries of its state: the frames, and the
features of the frame seen last, which the states of all instances share.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..core.names import find_name
from ..core.tracks import runs
from ..core.tracks.text import Prompt
from ..core.tracks.tracks import MaskTracks

__all__ = ["frame_features", "track_prompts", "with_masks"]

Prompts = Mapping[str, Mapping[int, Prompt | None]]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures that SAM 2 was trained on
_FEATURES = "cached_features"


@dataclass(frozen=True)
class _Stay:
    """An instance from `first` to `last` frame, without a break; `prompts` are those in between, at least one."""

    name: str
    first: int
    last: int
    prompts: dict[int, Prompt]

    @property
    def start(self) -> int:
        """The frame of its first prompt, where both passes begin."""
        return min(self.prompts)

    def span(self, backwards: bool) -> range:
        """The frames of a pass. Backwards it begins with the prompted frame as well, and is empty if that is all."""
        if backwards:
            return range(self.start, self.first - 1, -1) if self.start > self.first else range(0)
        return range(self.start, self.last + 1)


def track_prompts(
    predictor: Any,
    frames: Iterable[Any],
    prompts: Prompts,
    roles: Mapping[str, str] | None = None,
    fps: float = 8.0,
    folder: str | None = None,
    progress: Callable[[], None] | None = None,
) -> tuple[MaskTracks, tuple[str, ...]]:
    """Follows every prompted instance through the video, forwards from its own first prompt and backwards before it.

    An instance is followed as if there were no other. From a prompt that is None it is gone until it is prompted again;
    from there it starts anew, and is not looked for before.

    Args:
        predictor: from `load_sam2`.
        frames: (H, W, 3) uint8 RGB arrays, one at a time.
        prompts: {name: {frame: Prompt, or None where it leaves}}.
        folder: where the frames lie while this runs; the system's own by default. Memory holds one at a time.
        progress: called for each frame written and each instance in each frame; may raise to interrupt.

    Returns the tracks of those that were found, and a sentence for each that was not. Raises ValueError for frames that
    differ in size, prompts outside the clip, and where nobody is found.
    """
    with tempfile.TemporaryDirectory(prefix="matrix_sam2_", dir=folder) as place:
        count, height, width = _write(frames, Path(place), progress)
        _check(prompts, count, height, width)
        stays = [stay for name, keys in prompts.items() for stay in _stays(name, keys, count)]
        device = torch.device(getattr(predictor, "device", "cpu"))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            states = _states(predictor, Path(place), count, stays)
            found = _follow(predictor, stays, states, progress)
    there = [name for name in prompts if any(len(edges) for edges in found[name].values())]
    lost = [name for name in prompts if name not in there]
    advice = "Move its points onto it, add some, or draw a box around it"
    if not there:
        raise ValueError(f"SAM 2 found nothing for {', '.join(map(repr, lost))}. {advice}")
    nothing = np.zeros(0, dtype=np.uint32)
    packed = {name: [found[name].get(i, nothing) for i in range(count)] for name in there}
    kept = {name: role for name, role in (roles or {}).items() if name in there}
    notes = tuple(f"SAM 2 found nothing for {name!r}: it is left out. {advice}" for name in lost)
    return MaskTracks.from_edges(packed, count, height, width, kept, fps), notes


def with_masks(
    prompts: Prompts, roles: Mapping[str, str], masks: MaskTracks, frame: int = 0
) -> tuple[dict[str, dict[int, Prompt | None]], dict[str, str]]:
    """Prompts and roles, and the masks of `masks` besides: each instance's first one, in the frame where it shows.
    Tracks of one frame alone are of the video's frame `frame`. Names join as `core.names` says.

    Raises ValueError for an instance without a mask, and for one that is prompted in that frame already."""
    told = {name: dict(keys) for name, keys in prompts.items()}
    for name, shown in masks.visible.items():
        if not shown:
            raise ValueError(f"{name!r} has no mask in any frame, so there is nothing to follow")
        at = frame if masks.frames == 1 else shown[0]
        same = find_name(name, list(told)) or name
        if at in told.get(same, {}):
            raise ValueError(f"{same!r} has a mask and another prompt in frame {at}; give one or the other")
        told.setdefault(same, {})[at] = Prompt(mask=masks.mask(name, shown[0]).numpy())
    spelled = {find_name(name, list(told)) or name: role for name, role in masks.roles.items() if role != "instance"}
    return told, {**spelled, **roles}


def _stays(name: str, keys: Mapping[int, Prompt | None], count: int) -> list[_Stay]:
    stays: list[_Stay] = []
    first: int | None = 0  # where it may be from; None while it is gone
    prompts: dict[int, Prompt] = {}
    for frame, prompt in sorted(keys.items()):
        if prompt is not None:
            first = frame if first is None else first
            prompts[frame] = prompt
            continue
        if prompts and first is not None:
            stays.append(_Stay(name, first, frame - 1, prompts))
        first, prompts = None, {}
    return [*stays, _Stay(name, first, count - 1, prompts)] if prompts and first is not None else stays


def _states(predictor: Any, place: Path, count: int, stays: Sequence[_Stay]) -> list[dict[str, Any]]:
    """A state for each stay, with its prompts. The package reads the first frame alone; the others come when needed."""
    alone = place / "first"
    alone.mkdir()
    (place / _file(0)).replace(alone / _file(0))
    empty = predictor.init_state(str(alone), offload_video_to_cpu=True)
    (alone / _file(0)).replace(place / _file(0))
    empty |= {"images": _Frames(place, count, int(predictor.image_size)), "num_frames": count}
    states = [{key: copy.copy(value) for key, value in empty.items()} for _ in stays]
    told = sorted((frame, i) for i, stay in enumerate(stays) for frame in stay.prompts)
    for state, (frame, i) in _sharing(states, told):
        _tell(predictor, state, frame, stays[i].prompts[frame])
    return states


def _sharing(
    states: Sequence[dict[str, Any]], turns: Iterable[tuple[int, int]]
) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """The state of each (frame, number) in turn, with the features of the frame that any of them saw last: a frame is
    encoded once for all instances."""
    features: Any = states[0][_FEATURES]
    for frame, number in turns:
        state = states[number]
        state[_FEATURES] = features
        yield state, (frame, number)
        features = state[_FEATURES]


def _follow(
    predictor: Any, stays: Sequence[_Stay], states: Sequence[dict[str, Any]], progress: Callable[[], None] | None
) -> dict[str, dict[int, NDArray[np.uint32]]]:
    """{name: {frame: run edges}}. The passes of all stays go side by side, frame by frame."""
    found: dict[str, dict[int, NDArray[np.uint32]]] = {stay.name: {} for stay in stays}
    for backwards in (False, True):
        spans = [stay.span(backwards) for stay in stays]
        passes = [
            predictor.propagate_in_video(state, stay.start, max(len(span) - 1, 0), reverse=backwards)
            for stay, state, span in zip(stays, states, spans)
        ]
        turns = sorted(((frame, i) for i, span in enumerate(spans) for frame in span), reverse=backwards)
        for _, (frame, i) in _sharing(states, turns):
            at, _, logits = next(passes[i])
            assert at == frame, "the package goes frame by frame"
            found[stays[i].name].setdefault(frame, runs.pack((logits[0, 0] > 0).cpu().numpy()))
            if progress is not None:
                progress()
        for each in passes:
            each.close()
    return found


@torch.no_grad()
def frame_features(predictor: Any, frames: Tensor, at_once: int = 8) -> Tensor:
    """(C, T, rows, columns) float32, the features of SAM 2's image encoder as they are before its memory: of frames
    (T, H, W, 3) uint8, each by itself, stretched to the model's square. No prompt is needed."""
    device, size = next(predictor.parameters()).device, (predictor.image_size,) * 2
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _STD))
    found = []
    for some in frames.split(at_once):
        pixels = some.to(device).movedim(-1, 1).float() / 255.0
        seen = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        found.append(predictor.forward_image((seen - mean) / std)["vision_features"].float())
    return torch.cat(found).transpose(0, 1)


class _Frames:
    """The frames as the package wants them, (3, size, size) float32, read from their files when asked for."""

    def __init__(self, place: Path, count: int, size: int) -> None:
        self.place, self.count, self.size = place, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.place / _file(index)) as picture:
            pixels = np.asarray(picture.convert("RGB").resize((self.size, self.size)))
        values = torch.from_numpy(pixels / 255.0).float().permute(2, 0, 1)
        return (values - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


def _file(index: int) -> str:
    return f"{index:06d}.jpg"


def _write(frames: Iterable[Any], place: Path, progress: Callable[[], None] | None) -> tuple[int, int, int]:
    """Frames as numbered JPEG files, which is what every release of the package reads. (count, height, width)."""
    size, count = None, 0
    for count, frame in enumerate(frames, 1):
        size = size or frame.shape
        if frame.shape != size or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frames of a video have one size (height, width, 3); got {frame.shape} after {size}")
        Image.fromarray(np.ascontiguousarray(frame)).save(place / _file(count - 1), quality=97, subsampling=0)
        if progress is not None:
            progress()
    if size is None:
        raise ValueError("the video has no frames")
    return count, size[0], size[1]


def _check(prompts: Prompts, count: int, height: int, width: int) -> None:
    for name, keys in prompts.items():
        if not any(prompt is not None for prompt in keys.values()):
            raise ValueError(f"{name!r} is only told to be off; give a point, a box or a mask where it is")
        for frame, prompt in keys.items():
            if not 0 <= frame < count:
                raise ValueError(f"{name!r} has a prompt in frame {frame}, but the video has frames 0 to {count - 1}")
            if prompt is not None:
                _check_prompt(name, frame, prompt, height, width)


def _check_prompt(name: str, frame: int, prompt: Prompt, height: int, width: int) -> None:
    corners = [prompt.box[:2], prompt.box[2:]] if prompt.box else []
    if prompt.box and (prompt.box[2] <= prompt.box[0] or prompt.box[3] <= prompt.box[1]):
        raise ValueError(f"the box of {name!r} in frame {frame} needs x1 > x0 and y1 > y0; got {prompt.box}")
    for x, y, *_ in [*prompt.points, *corners]:
        if not (0 <= x <= width and 0 <= y <= height):
            raise ValueError(f"{name!r} is prompted at {x:g},{y:g}, outside the {width}x{height} frame (x, y)")
    if prompt.mask is None:
        return
    if prompt.points or prompt.box is not None:
        raise ValueError(f"{name!r} has a mask and points in frame {frame}; SAM 2 takes one or the other in a frame")
    if prompt.mask.shape != (height, width) or not prompt.mask.any():
        size, inside = "x".join(map(str, prompt.mask.shape)), int(prompt.mask.sum())
        raise ValueError(
            f"the mask of {name!r} in frame {frame} is {size} pixels (height x width), {inside} of them inside; it "
            f"needs the frame's {height}x{width}, and some inside"
        )


def _tell(predictor: Any, state: Any, frame: int, prompt: Prompt) -> None:
    if prompt.mask is not None:
        predictor.add_new_mask(state, frame_idx=frame, obj_id=0, mask=torch.from_numpy(prompt.mask))
        return
    points = [[x, y] for x, y, _ in prompt.points] or None
    labels = [int(inside) for _, _, inside in prompt.points] or None
    box = None if prompt.box is None else list(prompt.box)
    predictor.add_new_points_or_box(state, frame_idx=frame, obj_id=0, points=points, labels=labels, box=box)
