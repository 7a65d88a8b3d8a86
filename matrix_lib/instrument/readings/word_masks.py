"""Masks out of maps: where a capture says that each word or instance is, by a threshold and nothing else.

A map is read frame by frame: 0 is the frame's median, what most places have, and 1 is its peak, or half of the peak
that the map usually has where that is more, so that a frame that does not show an instance gives it no mask. A pixel is
an entity's where that reading, smoothly enlarged, is at least the threshold and no other entity's is higher. It is what
DAAM (arXiv 2210.04885) does with words and pictures; no conditional random field, no segmenter.

L layers, St step bins, E entities, F, h, w token frames, rows, columns; H, W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.ranges import ranges
from ...core.tracks import runs
from ...core.tracks.packed import ROLES
from ...core.tracks.palette import Colour, distinct_colours
from ...core.tracks.tracks import MaskTracks
from ..capture import Capture, MapKind, Stream
from ..maps import Maps
from .sinks import Sinks

__all__ = ["THRESHOLDS", "WordMasks", "relative_heat", "sharpest_layers", "step_heat", "told_names", "word_masks"]

THRESHOLDS = {"v2t": 0.5, "v2v": 0.3}
"""By kind, the best of a few on clips of the mini world (docs/reading-captures.md); 0.5 for others."""
_FAINT = 0.5  # of the peak that a map usually has: a frame whose peak is lower is measured by that instead
_FLAT = 1.5  # a peak below so many times the median looks nowhere in particular


@dataclass(frozen=True)
class WordMasks:
    """Masks that were read off maps.

    Args:
        tracks: one track an entity, over the pixel frames of the clip that the model made. A token frame's mask stands
            in all of its pixel frames; token frames that were not recorded have none.
        notes: what a person should know: frames without a mask, and why.
        vague: by name, token frames whose mask says nothing: the map looks nowhere in particular there, or was not
            recorded.
    """

    tracks: MaskTracks
    notes: tuple[str, ...]
    vague: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def word_masks(
    capture: Capture,
    names: Sequence[str] | None = None,
    *,
    kind: MapKind = "v2t",
    layers: Iterable[int] | None = None,
    steps: Iterable[int] | None = None,
    stream: int = 0,
    threshold: float | None = None,
    sinks: Sinks | None = None,
    palette: dict[str, Colour] | None = None,
    fps: float = 8.0,
    rests: Mapping[str, Iterable[int]] | None = None,
) -> WordMasks:
    """The masks of words (kind "v2t") or of instances (kind "v2v").

    Args:
        names: whose; None for all but verbs, which have no place of their own.
        layers: global layer numbers, None for the sharpest (`sharpest_layers`). steps: of `StepInfo.index`, None for
            all; they count as often as they were called.
        threshold: in (0, 1]: 0 is a frame's median, 1 its peak; None for the kind's own (`THRESHOLDS`).
        sinks: places to leave out.
        palette: colours by name; others get those of the binding's instances.
        fps: of the clip.
        rests: by name, token frames in which it is known to rest. Its map in each of them is the mean over all that
            follow each other: a thing at rest is in one place, and is hardly looked at in each single frame.

    Raises ValueError, listing what there is, for names, layers and steps that the capture does not hold.
    """
    threshold = THRESHOLDS.get(kind, 0.5) if threshold is None else threshold
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is above 0 (a frame's median) and at most 1 (its peak); got {threshold:g}")
    own = capture.stream(stream)
    chosen = told_names(own, kind) if names is None else tuple(names)
    at = tuple(layers) if layers is not None else sharpest_layers(capture, kind, stream)
    heat = _mean_heat(capture, chosen, kind, at, steps, stream, sinks)
    for name in (name for name in chosen if name in (rests or {})):
        _pool(heat[chosen.index(name)], sorted(set((rests or {})[name])))
    relative, absent, flat = relative_heat(heat), *_untold(heat)
    colours = _colours(own, chosen, palette or {})
    roles = {phrase.name: phrase.role for phrase in own.binding.phrases}
    height, width = own.grid.frame_pixels
    edges: dict[str, list] = {name: [] for name in chosen}
    for frame, (start, stop) in enumerate(own.grid.pixel_spans()):
        for name, mask in zip(chosen, _pixel_masks(relative[:, frame], own, threshold)):
            edges[name] += [runs.pack(mask.numpy())] * (stop - start)
    tracks = MaskTracks.from_edges(
        edges,
        own.grid.pixel_frames,
        height,
        width,
        {name: roles[name] for name in chosen if roles.get(name) in ROLES},
        fps,
    ).with_palette([colours[name] for name in chosen])
    vague = {name: tuple(own.nonzero()[:, 0].tolist()) for name, own in zip(chosen, absent | flat)}
    return WordMasks(tracks, tuple(_notes(chosen, absent, flat)), vague)


def told_names(stream: Stream, kind: MapKind) -> tuple[str, ...]:
    """The entities of a kind without verbs, which look where their subject and object are, and, where there are others,
    without pinned points, which have a place and no shape. Raises ValueError where there are only verbs, or no such
    maps."""
    if stream.get(kind).over is not None:
        raise ValueError(f"{kind} maps have no places in the clip: choose one of {', '.join(stream.on_clip)}")
    verbs, points = {verb.name for verb in stream.binding.verbs}, stream.get(kind).points
    named = tuple(name for name in stream.get(kind).entities if name not in verbs)
    found = tuple(name for name in named if name not in points) or named
    if not found:
        raise ValueError(f"the {kind} maps are of verbs alone ({', '.join(sorted(verbs))}): bind the instances' words")
    return found


def sharpest_layers(capture: Capture, kind: MapKind = "v2t", stream: int = 0, part: float = 0.25) -> tuple[int, ...]:
    """A part of the captured layers (a quarter), at least one: those whose maps of instances and words are most
    concentrated, ascending. It takes no masks; see `rank_layers` for what masks tell."""
    names = told_names(capture.stream(stream), kind)
    found = capture.concentration(kind, stream)
    columns = [found.entities.index(name) for name in names]
    score = found.over_steps("share")[:, columns].nanmean(1).nan_to_num(-1.0)
    order = torch.argsort(score, descending=True, stable=True).tolist()
    return tuple(sorted(found.layers[i] for i in order[: max(1, int(part * len(order)))]))


def relative_heat(maps: Tensor) -> Tensor:
    """Maps (..., F, h, w) with every frame read from its median, 0, to its peak, 1 (or to half of the usual peak, where
    its own is fainter), float32. NaN stays; a frame in which all places are alike is 0."""
    flat = maps.float().flatten(-2)
    floor = flat.median(-1, keepdim=True).values
    height = flat.amax(-1, keepdim=True) - floor
    usual = height.nanmedian(-2, keepdim=True).values
    scale = torch.maximum(height, _FAINT * usual)
    return torch.where(scale > 0, (flat - floor) / scale.clamp_min(1e-30), flat * 0).reshape(maps.shape)


def step_heat(
    capture: Capture,
    names: Sequence[str],
    kind: MapKind,
    layers: Iterable[int],
    stream: int = 0,
    sinks: Sinks | None = None,
) -> Tensor:
    """(St, E, F, h, w) float32: the maps of these entities at every step bin, the mean over these layers without their
    sinks; NaN where no layer recorded the frame. Raises ValueError for names and layers that were not captured."""
    maps = capture.stream(stream).get(kind)
    rows, columns = _rows(layers, maps), _columns(names, maps, kind)
    total = torch.zeros(maps.bins, len(columns), *capture.stream(stream).grid.shape)
    seen = torch.zeros_like(total)
    for i in rows:
        keep = torch.ones(total.shape[2:]) if sinks is None else (~sinks.left_out[kind][i]).float()
        there = (maps.counts[i][:, columns] > 0)[..., None, None] * keep
        total += torch.where(there > 0, maps.layer(i, entities=columns), 0.0)
        seen += there
    mean = total / seen
    # A sink of every chosen layer is no hole: it is what most places of its frame are.
    recorded = (maps.counts[rows][:, :, columns] > 0).any(0)[..., None, None]
    hole = recorded & (seen == 0)
    return torch.where(hole, mean.flatten(-2).nanmedian(-1).values[..., None, None], mean) if hole.any() else mean


def _mean_heat(
    capture: Capture,
    names: Sequence[str],
    kind: MapKind,
    layers: Sequence[int],
    steps: Iterable[int] | None,
    stream: int,
    sinks: Sinks | None,
) -> Tensor:
    """(E, F, h, w): the mean over the chosen steps, each as often as it was called."""
    existing = [step.index for step in capture.steps]
    chosen = existing if steps is None else list(steps)
    unknown = [step for step in chosen if step not in existing]
    if unknown or not chosen:
        raise ValueError(f"step {unknown or '(none)'} was not captured: this capture has steps {ranges(existing)}")
    bins = [existing.index(step) for step in chosen]
    maps = capture.stream(stream).get(kind)
    heat = step_heat(capture, names, kind, layers, stream, sinks)[bins]
    rows, columns = _rows(layers, maps), _columns(names, maps, kind)
    calls = maps.counts[rows][:, bins][:, :, columns].float().mean(0)[..., None, None]  # (St, E, F, 1, 1)
    total = torch.where(heat.isnan(), 0.0, heat * calls).sum(0)
    return total / torch.where(heat.isnan(), 0.0, calls.expand_as(heat)).sum(0)


def _pool(heat: Tensor, frames: Sequence[int]) -> None:
    """Puts the mean over these token frames, one run of following ones at a time, into each of them; heat (F, h, w)."""
    for _, run in itertools.groupby(enumerate(frames), lambda pair: pair[1] - pair[0]):
        at = [frame for _, frame in run]
        heat[at] = heat[at].nanmean(0)


def _rows(layers: Iterable[int], maps: Maps) -> list[int]:
    chosen = list(layers)
    unknown = [layer for layer in chosen if layer not in maps.layers]
    if unknown or not chosen:
        raise ValueError(f"layer {unknown or '(none)'} was not captured: this capture has layers {ranges(maps.layers)}")
    return [maps.layers.index(layer) for layer in chosen]


def _columns(names: Sequence[str], maps: Maps, kind: MapKind) -> list[int]:
    for name in names:
        if name not in maps.entities:
            raise ValueError(f"no {kind} map is called {name!r}: this capture has {', '.join(maps.entities)}")
    return [maps.entities.index(name) for name in names]


def _pixel_masks(relative: Tensor, stream: Stream, threshold: float) -> Iterator[Tensor]:
    """(H, W) bool of each entity in one token frame, from (E, h, w) relative heat."""
    (high, wide), (height, width) = stream.grid.token_pixels, stream.grid.frame_pixels
    size = (stream.grid.height * high, stream.grid.width * wide)
    heat = F.interpolate(relative[None].nan_to_num(0.0), size=size, mode="bilinear", align_corners=False)[0]
    heat = heat[:, :height, :width]  # the last tokens may reach over the frame
    best = heat.argmax(0)
    for place, own in enumerate(heat):
        yield (own >= threshold) & (best == place)


def _colours(stream: Stream, names: Sequence[str], palette: dict[str, Colour]) -> dict[str, Colour]:
    instances = [phrase.name for phrase in stream.binding.instances]
    others = [name for name in dict.fromkeys((*instances, *names)) if name not in palette]
    return {**palette, **dict(zip(others, distinct_colours(len(others), list(palette.values()))))}


def _untold(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Of maps (E, F, h, w), each (E, F) bool: not recorded, and looking nowhere in particular."""
    own = heat.flatten(2)
    absent = own.isnan().all(-1)
    return absent, ~absent & (own.amax(-1) < _FLAT * own.median(-1).values)


def _notes(names: Sequence[str], absent: Tensor, flat: Tensor) -> Iterator[str]:
    """What of maps gives no mask, or one that says little."""
    for name, gone, level in zip(names, absent, flat):
        if gone.any():
            yield f"{name!r} was not recorded in token frames {ranges(gone.nonzero()[:, 0].tolist())}: no mask there"
        if level.any():
            yield (
                f"{name!r} looks nowhere in particular in token frames {ranges(level.nonzero()[:, 0].tolist())}: its "
                "mask says little there. Choose other layers, or later steps"
            )
