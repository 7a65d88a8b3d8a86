"""How a diffusers transformer takes latents: with channels first or last, with frames first, or as tokens, and which
of their frames are the clip.

B batch, C channels, T latent frames, h x w latents.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...backbones import BackboneSpec
from .families import family
from .families.base import Packed

__all__ = [
    "LaidOut",
    "Segment",
    "Segments",
    "arguments",
    "clip_begins",
    "output_of",
    "told_segments",
    "with_output",
]


def arguments(net: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a transformer is called with, by name."""
    return inspect.signature(net.forward).bind_partial(*args, **kwargs).arguments


def output_of(returned: Any) -> Tensor:
    """The prediction in what a transformer returns: a tuple, an object, or without return_dict Kandinsky 5's tensor."""
    if isinstance(returned, Tensor):
        return returned
    return returned[0] if isinstance(returned, tuple) else returned.sample


def with_output(returned: Any, made: Tensor) -> Any:
    """What a transformer returns, with another prediction in it and everything else (sound) as it was."""
    if isinstance(returned, Tensor):
        return made
    if isinstance(returned, tuple):
        return (made, *returned[1:])
    changed = copy.copy(returned)
    changed.sample = made
    return changed


@dataclass(frozen=True)
class LaidOut:
    """Latents of one call. size: (T, h, w) of tokens (B, T*h*w, C); None where the tensor has these axes. packed: of a
    sequence that the pipeline has made itself."""

    frames_first: bool = False
    channels_last: bool = False
    size: tuple[int, int, int] | None = None
    packed: Packed | None = None

    @classmethod
    def of(cls, spec: BackboneSpec, net: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LaidOut:
        """Of a call of a transformer. Raises ValueError where it does not tell how many tokens are where."""
        found, given = family(spec.name), arguments(net, args, kwargs)
        size = found.size(given) if spec.flat else None
        return cls(spec.frames_first, spec.channels_last, size, found.packed(given))

    @property
    def channel_axis(self) -> int:
        if self.packed is not None or self.size is not None:
            return 2
        return 4 if self.channels_last else 2 if self.frames_first else 1

    @property
    def cells(self) -> int:
        """Numbers per channel along `channel_axis`."""
        return 1 if self.packed is None else self.packed.cells

    def latents(self, x: Tensor) -> Tensor:
        """(B, C, T, h, w), whichever way x has them. Tokens that the size does not count stand behind and are left
        out."""
        if self.packed is not None:
            return self.packed.clip(x)
        if self.size is not None and x.ndim == 3:
            t, h, w = self.size
            return x[:, : t * h * w].transpose(1, 2).unflatten(2, self.size)
        if self.channels_last:
            return x.movedim(-1, 1)
        return x.transpose(1, 2) if self.frames_first else x

    def back(self, latents: Tensor, like: Tensor) -> Tensor:
        """The way back; what stands behind comes from `like`. What stands in front of a packed clip is zero."""
        if self.packed is not None:
            tokens = self.packed.tokens(latents)
            return torch.nn.functional.pad(tokens, (0, 0, like.shape[1] - tokens.shape[1], 0))
        if self.size is not None and like.ndim == 3:
            tokens = latents.flatten(2).transpose(1, 2)
            if tokens.shape[1] == like.shape[1]:
                return tokens
            whole = like.clone()
            whole[:, : tokens.shape[1]] = tokens
            return whole
        if self.channels_last:
            return latents.movedim(1, -1).contiguous()  # patches are made with `view`
        return latents.transpose(1, 2) if self.frames_first else latents


def clip_begins(spec: BackboneSpec, given: Mapping[str, Any], frames: int) -> int:
    """Which of `frames` latent frames is the clip's first, behind references, of what a transformer is called with.

    Raises ValueError where there is none."""
    front = family(spec.name).frames_in_front(given)
    if front >= frames:
        raise ValueError(f"all {frames} latent frames of this run are references: there is no clip to follow")
    return front


class Segment(NamedTuple):
    """Which part of a long clip a call makes. start: the pixel frame of the clip that it begins with. taken: how many
    of its first pixel frames the segment before has made; 0 in the first one. length: pixel frames of the whole clip,
    behind which what a last segment makes is cut off; 0 where nobody says."""

    start: int = 0
    taken: int = 0
    length: int = 0


_TELLS = "prepare_prev_segment_cond_latents"  # what Wan Animate's pipeline calls before each segment
_FILLS = "pad_video_frames"  # and with each of its videos before the first one, that of poses first
_told: weakref.WeakKeyDictionary[Any, Segment] = weakref.WeakKeyDictionary()
"""By transformer the segment that its pipeline has begun, where it says so."""
_listening: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""How many listen to a pipeline."""


@contextlib.contextmanager
def told_segments(pipe: Any) -> Iterator[None]:
    """While open, a pipeline that makes clips in segments is listened to: which one it begins is known from itself,
    whatever masks its transformer is given. Nothing happens with a bare transformer and with other pipelines."""
    make, net = getattr(pipe, _TELLS, None), getattr(pipe, "transformer", None)
    fill = getattr(pipe, _FILLS, None)
    if make is None or net is None:
        yield
        return
    if not _listening.get(pipe):
        lengths: list[int] = []
        vars(pipe)[_TELLS] = _noting(make, getattr(net, "_orig_mod", net), lengths)
        if fill is not None:
            vars(pipe)[_FILLS] = _measuring(fill, lengths)
    _listening[pipe] = _listening.get(pipe, 0) + 1
    try:
        yield
    finally:
        _listening[pipe] -= 1
        if not _listening[pipe]:
            del vars(pipe)[_TELLS]
            vars(pipe).pop(_FILLS, None)
            _told.pop(getattr(net, "_orig_mod", net), None)


def _measuring(fill: Callable[..., Any], lengths: list[int]) -> Callable[..., Any]:
    @functools.wraps(fill)
    def measured(frames: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(len(frames))
        return fill(frames, *args, **kwargs)

    return measured


def _noting(make: Callable[..., Any], net: Any, lengths: list[int]) -> Callable[..., Any]:
    signature = inspect.signature(make)

    @functools.wraps(make)
    def noted(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        start = int(given.arguments["start_frame"])
        if start:
            taken, length = int(given.arguments["prev_segment_cond_frames"]), _told.get(net, Segment()).length
        else:
            # of this run alone: one that failed has left lengths, too
            videos = 2 if given.arguments.get("mask_video") is None else 4
            taken, length = 0, lengths[-videos] if len(lengths) >= videos else 0
        lengths.clear()
        _told[net] = Segment(start, taken, length)
        return make(*args, **kwargs)

    return noted


class Segments:
    """Follows the calls of a transformer through the clip that its pipeline makes, segment after segment."""

    def __init__(self, spec: BackboneSpec, net: Any) -> None:
        self.spec, self.net = spec, net
        self._said: Segment | None = None
        self._marks: tuple[Tensor, ...] | None = None
        self._now, self._end = Segment(), 0

    def of(self, given: Mapping[str, Any], frames: int) -> Segment | None:
        """The segment of a call, by what it is given; None in families that sample none. frames: latent frames of it.

        Raises ValueError where the call is of another clip, or does not tell where in the clip it is.
        """
        found = family(self.spec.name)
        marks, before = found.segment(given), self._marks
        same = before is not None and len(marks) == len(before) and all(map(torch.equal, before, marks))
        told, said = _told.get(self.net), self._said
        self._said = told
        same = same and (told is None or told == said)
        if before is not None and not same:
            taken = found.taken(given) if told is None else told.taken
            if not taken:
                raise ValueError(
                    f"the {self.spec.title} pipeline has begun another clip, and tracks, maps and steering are of one: "
                    "for each clip open watch or steer anew"
                )
            self._now = told or Segment(self._end - taken, taken)
        elif before is None:
            self._now = told or self._now
        if not same:
            self._marks = tuple(mark.detach().clone() for mark in marks)
            self._end = self._now.start + (frames - 1) * self.spec.temporal_stride + 1
        return self._now if marks else None
