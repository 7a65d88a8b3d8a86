"""Which tokens of each native Wan network are the clip, and which of a latent's frames.

Networks of this family share their blocks and differ in what they put before and behind the clip; every class that
lays its tokens out itself has an entry here. T, H, W: latent frames, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..warn import warn

__all__ = ["LAYOUTS", "UNSEEN", "frames_in_front"]

Given = Mapping[str, Any]
_NOTHING = 1e-3  # of a latent's standard deviation: a picture's latents are never all below it

UNSEEN = {
    "CausalWanModel": "its blocks call attention without the options through which others watch it, and its later "
    "blocks of frames attend to a cache"
}
"""Networks whose attention nobody outside of them sees, and why."""


def _tokens(shape: Sequence[int], patch: Sequence[int], whole: bool = False) -> int:
    """Tokens of latents (..., T, H, W): patches that are filled up, or `whole` ones alone."""
    sizes = shape[-len(patch) :]
    return math.prod(size // step if whole else -(-size // step) for size, step in zip(sizes, patch))


def _picture(network: nn.Module, given: Given) -> int:
    """A reference picture that goes through a projection of its own, in front of the clip."""
    reference = given.get("reference_latent")
    if reference is None or getattr(network, "ref_conv", None) is None:
        return 0
    return _tokens(reference.shape, network.patch_size[1:], whole=True)


def _subjects(network: nn.Module, given: Given) -> int:
    """Frames that are put behind the latent (Phantom's subjects)."""
    behind = given.get("time_dim_concat")
    return 0 if behind is None else _tokens(behind.shape, network.patch_size)


def _wan(network: nn.Module, given: Given) -> tuple[int, int]:
    context = given.get("context_latents") or ()  # in-context references (Bernini)
    behind = sum(_tokens(latent.shape, network.patch_size) for latent in context)
    return _picture(network, given), _subjects(network, given) + behind


def _plain(network: nn.Module, given: Given) -> tuple[int, int]:
    return 0, _subjects(network, given)


def _pictured(network: nn.Module, given: Given) -> tuple[int, int]:
    return _picture(network, given), _subjects(network, given)


def _humo(network: nn.Module, given: Given) -> tuple[int, int]:
    reference = given.get("reference_latent")
    behind = 0 if reference is None else _tokens(reference.shape, network.patch_size, whole=True)
    return 0, _subjects(network, given) + behind


def _sound(network: nn.Module, given: Given) -> tuple[int, int]:
    """A reference as HuMo's, then the frames before the clip, packed the coarser the older they are."""
    before, behind = _humo(network, given)
    motion = given.get("reference_motion")
    if motion is not None:
        packer = network.frame_packer
        projections = (packer.proj, packer.proj_2x, packer.proj_4x)
        for frames, projection in zip(packer.zip_frame_buckets, projections):
            behind += _tokens((frames, *motion.shape[-2:]), projection.stride, whole=True)
    return before, behind


def _scail(network: nn.Module, given: Given) -> tuple[int, int]:
    """References are frames in front of the clip, poses stand behind it."""
    reference, pose = given.get("reference_latent"), given.get("pose_latents")
    before = 0 if reference is None else _tokens(reference.shape, network.patch_size)
    behind = 0 if pose is None else _tokens(pose.shape, network.patch_size)
    return before, _subjects(network, given) + behind


LAYOUTS: dict[str, Callable[[nn.Module, Given], tuple[int, int]]] = {
    "WanModel": _wan,
    "VaceWanModel": _plain,
    "CameraWanModel": _plain,
    "AnimateWanModel": _pictured,
    "WanDancerModel": _pictured,
    "HumoWanModel": _humo,
    "WanModel_S2V": _sound,
    "SCAILWanModel": _scail,
}
"""By the class that lays the tokens out: from a network and what it is called with to the tokens (before, behind) those
of the latent."""


def frames_in_front(writer: str, model: Any, conds: Iterable[Given], latent: tuple[int, int, int]) -> int:
    """Latent frames in front of the clip, which the host's TrimVideoLatent cuts off. See `Family.frames_in_front`."""
    read = {"VaceWanModel": _vace_front, "AnimateWanModel": _animate_front}.get(writer)
    if read is None:
        return 0
    found = {front for cond in conds for front in read(model, cond, latent)}
    if len(found) > 1:
        raise ValueError(
            f"the conditionings of this run disagree about how many reference frames stand in front of the clip "
            f"({', '.join(map(str, sorted(found)))} latent frames), so it is open which frames tracks and maps are of: "
            "give all of them the same references"
        )
    front = found.pop() if found else 0
    if front >= latent[0]:
        raise ValueError(f"all {latent[0]} latent frames of this run are references: there is no clip to follow")
    return front


def _vace_front(model: Any, cond: Given, latent: tuple[int, int, int]) -> list[int]:
    """A reference frame has nothing to be made (its mask is 0) and, other than any frame of a video, nothing at all
    where the frame to be made is described. One answer for each control video of a conditioning."""
    frames, masks = cond.get("vace_frames") or (), cond.get("vace_mask") or ()
    return [_leading(_empty(model, video) & _all(mask == 0)) for video, mask in zip(frames, masks)]


def _empty(model: Any, video: Tensor) -> Tensor:
    """(T,) bool: frames whose second half of channels, as the network sees them, is zero."""
    made = model.process_latent_in(video[:, video.shape[1] // 2 :].float())
    return _all(made.abs() < _NOTHING)


def _animate_front(model: Any, cond: Given, latent: tuple[int, int, int]) -> list[int]:
    """The network puts poses and faces from the second latent frame on: one reference. Poses are as long as the clip,
    and tell where there are more."""
    mask, image, pose = (cond.get(name) for name in ("concat_mask", "concat_latent_image", "pose_video_latent"))
    given = 0 if mask is None or image is None else _leading(_all(mask == 0))
    if not given:
        return []
    if pose is not None and 1 <= latent[0] - pose.shape[2] <= given:
        return [latent[0] - pose.shape[2]]
    if given > 1:
        warn(
            f"the first {given} latent frames are given; the first one is taken as the reference, and the clip "
            "begins behind it (a single reference picture makes one)"
        )
    return [1]


def _all(holds: Tensor) -> Tensor:
    """(B, C, T, H, W) bool -> (T,): where it holds in a whole frame."""
    return holds.movedim(2, 0).flatten(1).all(1)


def _leading(frames: Tensor) -> int:
    """How many frames in front hold."""
    return int(frames.to(torch.int64).cumprod(0).sum())
