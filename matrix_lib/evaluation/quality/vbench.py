"""VBench's dynamic degree and motion smoothness (arXiv 2311.17982), and the files of VBench itself.

Dynamic degree: optical flow between frames at about 8 a second; of each flow the mean length of its longest 5 %; a
video is dynamic where enough of these pass a threshold that grows with its size. Motion smoothness: every second frame
is left out, a network puts one between its neighbours, and what lies between that and the real one is the roughness.

F frames; frames (F, H, W, 3) uint8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...io.files import whole_file

__all__ = [
    "Dynamic",
    "Flow",
    "Interpolator",
    "dynamic_degree",
    "motion_smoothness",
    "read_between",
    "read_results",
    "smoothness",
    "write_prompts",
]

Flow = Callable[[Tensor, Tensor], Tensor]
"""(frame, next frame), each (3, h, w) float of 0 to 255 -> flow (2, h, w) in pixels; sides are multiples of 8."""
Interpolator = Callable[[Tensor, Tensor], Tensor]
"""(frame, next frame), each (3, H, W) float in [0, 1] -> what lies half way between them, (3, H, W).

VBench's is AMT-S. No package carries it; a network of one's own is used from Python, or through files (`read_between`).
"""
_LONGEST, _LEAST = 0.05, 3
_BYTES = 8 << 30


class Dynamic(NamedTuple):
    """dynamic: VBench's yes or no. lengths: per flow the mean length of its longest 5 %, in pixels. limit, wanted: how
    many of them have to be longer than what."""

    dynamic: bool
    lengths: tuple[float, ...]
    limit: float
    wanted: int


def dynamic_degree(frames: Tensor, fps: float, flow: Flow) -> Dynamic:
    """Whether a video moves, as VBench's code has it.

    Raises ValueError for fewer than 3 frames at 8 a second, of which its rule calls all dynamic.
    """
    if not fps > 0:
        raise ValueError(f"frames per second are above 0; got {fps}")
    some = frames[:: max(1, round(fps / 8))]
    if frames.ndim != 4 or len(some) < _LEAST:
        raise ValueError(f"dynamic degree needs {_LEAST} frames or more at 8 a second; this video has {len(some)}")
    limit = 6.0 * min(frames.shape[1:3]) / 256 * max(1.0, 8.0 / fps)
    wanted = round(4 * len(some) / 16)
    pictures = [_padded(frame.permute(2, 0, 1).float()) for frame in some]
    lengths = [_longest(flow(one, other)) for one, other in pairwise(pictures)]
    return Dynamic(sum(length > limit for length in lengths) >= wanted, tuple(lengths), limit, wanted)


def motion_smoothness(frames: Tensor, interpolator: Interpolator) -> float:
    """In [0, 1], 1 where every second frame is what the network puts there. See `smoothness`."""
    kept = [frame.permute(2, 0, 1).float() / 255 for frame in frames[::2]]
    made = []
    for one, other in pairwise(kept):
        found = interpolator(one, other)
        if found.shape != one.shape:
            raise ValueError(
                f"an interpolator gives {tuple(one.shape)} for frames of that shape; got {tuple(found.shape)}"
            )
        made.append((found.double() * 255).clamp(0, 255).to(torch.uint8).permute(1, 2, 0))
    return smoothness(frames, torch.stack(made) if made else frames[:0])


def smoothness(frames: Tensor, between: Tensor) -> float:
    """1 - the mean distance of frames 1, 3, 5, ... from what was put in their place, in shares of 255.

    between: (n, H, W, 3) uint8, one for each frame with a neighbour on both sides: n = (F - 1) // 2.
    """
    count = (len(frames) - 1) // 2
    if count < 1:
        raise ValueError(f"motion smoothness needs 3 frames or more; this video has {len(frames)}")
    if between.shape != (count, *frames.shape[1:]) or between.dtype != torch.uint8:
        raise ValueError(
            f"between {len(frames)} frames of {tuple(frames.shape[1:])} lie {count} of that size, uint8; got "
            f"{tuple(between.shape)} {between.dtype}"
        )
    real = frames[1::2][:count]
    rough = [float((a.double() - b.double()).abs().mean()) for a, b in zip(real, between)]
    return 1 - sum(rough) / len(rough) / 255


def _padded(frame: Tensor) -> Tensor:
    """Sides to multiples of 8, edges repeated, as much on either side."""
    down, across = -frame.shape[1] % 8, -frame.shape[2] % 8
    around = (across // 2, across - across // 2, down // 2, down - down // 2)
    return torch.nn.functional.pad(frame[None], around, mode="replicate")[0]


def _longest(flow: Tensor) -> float:
    length = flow.double().square().sum(0).sqrt().flatten()
    return float(length.topk(int(len(length) * _LONGEST)).values.mean())


# ---- files


def read_between(folder: Path, name: str) -> Tensor:
    """Frames that another program has put between those of video `name`: `folder`/NAME.npy, (n, H, W, 3) uint8.

    Nothing pickled is opened. Raises ValueError for a file that is missing, too large, or of another form.
    """
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: it holds what an interpolation network (VBench has AMT-S) puts between frames 0 and "
            "2, 2 and 4, ... of the video, (n, H, W, 3) uint8"
        )
    if path.stat().st_size > _BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; {_BYTES:,} are the most")
    try:
        found: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise ValueError(f"{path.name} cannot be read as frames: {error!s:.200}") from None
    if found.dtype != np.uint8 or found.ndim != 4:
        raise ValueError(f"{path.name} holds frames (n, H, W, 3) uint8; got {found.shape} {found.dtype}")
    return torch.from_numpy(found)


def write_prompts(path: Path, videos: Sequence[Path], prompts: dict[str, str]) -> None:
    """What `vbench evaluate --mode custom_input --prompt_file` reads: {path of a video: its prompt}."""
    content = {str(video.resolve()): prompts[video.stem] for video in videos}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, dict[str, float]]:
    """{dimension: {video: value}} of a `..._eval_results.json` that VBench wrote; a yes counts as 1.

    Raises ValueError for files of another form, and where two videos have one name.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): _per_video(name, found[1]) for name, found in content.items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        form = '{"dimension": [mean, [{"video_path", "video_results"}, ...]]}'
        raise ValueError(f"{path} cannot be read as results of VBench, {form}: {error!s:.200}") from None


def _per_video(dimension: str, lines: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in lines:
        name, value = Path(str(line["video_path"])).stem, float(line["video_results"])
        if name in found:
            raise ValueError(f"{dimension} has two videos that are called {name!r}")
        if not np.isfinite(value):
            raise ValueError(f"{dimension} of {name!r} is {value}")
        found[name] = value
    return found
