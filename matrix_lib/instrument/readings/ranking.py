"""Ranks the layers of one capture by how well they align with mask tracks."""

from __future__ import annotations

import contextlib

import torch

from ...core.layers import LayerSet
from ...core.ranges import ranges
from ...core.tracks.tracks import MaskTracks
from ..capture import Alignment, Capture, MapKind
from ..kinds import KINDS
from ..maps import Maps
from .sinks import find_sinks

__all__ = ["describe", "expert_tables", "layer_table", "rank_layers"]


def rank_layers(
    capture: Capture, tracks: MaskTracks, keep: int = 3, stream: int = 0, without_sinks: bool = False
) -> LayerSet:
    """The `keep` layers of each kind whose attention lies most on the masks, above chance.

    The score of a layer is its share of attention on an entity's mask minus the mask's share of the area, averaged over
    entities and steps: 0 is what a flat map would get. Steps in which nothing was recorded are in no mean. One clip
    shows where this clip's interaction is attended to;
    that a layer *decides* success takes many clips (see `evaluation.layers.dominance.dominant_layers`).
    `without_sinks` leaves out places that everybody looks at (`sinks.find_sinks`).

    Raises ValueError where no entity has a mask, or keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep at least 1 layer of each kind; got {keep}")
    chosen: dict[str, tuple[int, ...]] = {"v2t": (), "v2v": ()}
    scores: dict[str, dict[str, float]] = {}
    for kind, alignment in alignments(capture, tracks, stream, without_sinks).items():
        gain = alignment.over_steps("gain").nanmean(1)
        seen = [i for i in torch.argsort(gain, descending=True, stable=True).tolist() if not gain[i].isnan()]
        chosen[kind] = tuple(alignment.layers[i] for i in seen[:keep])
        scores[kind] = {str(alignment.layers[i]): round(float(gain[i]), 6) for i in sorted(seen)}
    experts = capture.experts
    by = f" of {next(iter(experts))}" if len(experts) == 1 and next(iter(experts)) != "expert 1" else ""
    without = ", without attention sinks" if without_sinks else ""
    source = f"attention share above chance in one capture, {len(capture.steps)} step bins{by}{without}"
    each = {}
    for name in experts if len(experts) > 1 else ():
        with contextlib.suppress(ValueError):  # what has no maps; `expert_tables` says why
            each[name] = rank_layers(capture.of_expert(name), tracks, keep, stream, without_sinks)
    return LayerSet(capture.backbone, chosen["v2t"], chosen["v2v"], source, scores, each)


def alignments(
    capture: Capture, tracks: MaskTracks, stream: int = 0, without_sinks: bool = False
) -> dict[MapKind, Alignment]:
    """Alignment of each kind that the capture holds and that has masks, of all places or of all but attention sinks.
    Raises ValueError where none has."""
    grid = tracks.to_grid(capture.stream(stream).grid)
    out = find_sinks(capture, stream, tracks).left_out if without_sinks else {}
    found: dict[MapKind, Alignment] = {}
    error: ValueError | None = None
    kinds: tuple[MapKind, ...] = ("v2t", "v2v")
    for kind in kinds:
        if kind not in capture.stream(stream).maps:
            continue
        try:
            found[kind] = capture.aas(grid, kind, stream, out.get(kind))
        except ValueError as reason:
            error = reason
    if not found:
        raise error or ValueError("this capture holds no maps")
    return found


def layer_table(
    capture: Capture, tracks: MaskTracks, layers: LayerSet, stream: int = 0, without_sinks: bool = False
) -> str:
    """A Markdown table: every layer's share of attention on each entity's mask, beside chance. Below it what was not
    recorded, by name, and the attention sinks that were left out."""
    lines: list[str] = []
    titles = {"v2t": "words (video to text)", "v2v": "instances (video to video)"}
    for kind, alignment in alignments(capture, tracks, stream, without_sinks).items():
        share = alignment.over_steps()
        best = {"v2t": layers.v2t, "v2v": layers.v2v}[kind]
        lines += [f"### {titles[kind]}", "", "| layer | " + " | ".join(alignment.entities) + " | above chance |"]
        lines.append("|---" * (len(alignment.entities) + 2) + "|")
        lines.append("| *chance* | " + " | ".join(f"{c:.3f}" for c in alignment.chance) + " | 0 |")
        for row, layer in enumerate(alignment.layers):
            name = f"**{layer}**" if layer in best else str(layer)
            cells = " | ".join("-" if value.isnan() else f"{value:.3f}" for value in share[row])
            gain = layers.scores[kind].get(str(layer))
            lines.append(f"| {name} | {cells} | {'not recorded' if gain is None else f'{gain:+.3f}'} |")
        lines.append("")
    if without_sinks:
        lines += [f"left out, {line}" for line in find_sinks(capture, stream, tracks).lines] or ["no sink was found"]
    return "\n".join([*lines, *_absences(capture)])


def expert_tables(capture: Capture, tracks: MaskTracks, keep: int, stream: int = 0, without_sinks: bool = False) -> str:
    """For a run with several models (Wan 2.2's experts) the best layers and the table of each, as Markdown; "" for a
    run with one."""
    if len(capture.experts) < 2:
        return ""
    parts = []
    for name, steps in capture.experts.items():
        own = capture.of_expert(name)
        head = f"## {name}: steps {ranges(steps)}"
        try:
            layers = rank_layers(own, tracks, keep, stream, without_sinks)
            table = layer_table(own, tracks, layers, stream, without_sinks)
            parts.append(f"{head}\n\nbest layers: {layers.text}\n\n{table}")
        except ValueError as reason:
            parts.append(f"{head}\n\n{reason}")
    return "\n\n".join(parts)


def describe(capture: Capture) -> str:
    """What a capture holds, one fact a line, and everything to know about it."""
    lines = [
        f"{capture.backbone}: {len(capture.steps)} step bins, {len(capture.streams)} prompt x sample, "
        f"{capture.nbytes / 1e6:.1f} MB"
    ]
    if len(capture.experts) > 1:
        lines += [f"{name}: steps {ranges(steps)}" for name, steps in capture.experts.items()]
    for stream in capture.streams:
        f, h, w = stream.grid.shape
        lines.append(f"prompt: {stream.binding.prompt}")
        lines.append(f"tokens: {f} frames x {h} x {w}")
        for kind in dict.fromkeys(("v2t", "v2v", *stream.maps)):
            title = {"v2t": "words", "v2v": "instances"}.get(kind) or (KINDS[kind].title if kind in KINDS else kind)
            lines.append(f"{title}: {_held(stream.maps[kind]) if kind in stream.maps else 'none'}")
    return "\n".join([*lines, *_absences(capture), *(f"note: {note}" for note in capture.meta.get("notes", ()))])


def _held(maps: Maps) -> str:
    """Layers, names and type of the maps of a kind."""
    text = f"layers {ranges(maps.layers)}: {', '.join(maps.entities)}"
    if maps.heads:
        text += f"; heads {ranges(maps.heads)}"
    if maps.storage == "uint8":
        lost = "" if maps.error is None else f", at most {maps.error.largest:.2%} of a map's largest value off"
        text += f" (uint8{lost})"
    return text


def _absences(capture: Capture) -> list[str]:
    """What was not recorded, by name: steps that were skipped, prompts that were not active, layers, frames."""
    lines, skipped = [], capture.skipped
    if skipped:
        lines.append(
            f"step{'s' * (len(skipped) > 1)} {ranges(skipped)} {'were' if len(skipped) > 1 else 'was'} skipped: no "
            "attention of a bound prompt ran there (a cache such as EasyCache answered, or another prompt was active). "
            "They are in no mean"
        )
    active = [i for i, step in enumerate(capture.steps) if step.calls]
    for stream in capture.streams:
        who = f"prompt {stream.binding.prompt!r}" if len(capture.streams) > 1 else "the prompt"
        idle = [i for i in active if not stream.calls(i)] if stream.maps else []
        if idle:
            numbers = ranges([capture.steps[i].index for i in idle])
            lines.append(f"{who} was not active in steps {numbers}: these are in no mean of it")
        for kind, maps in stream.maps.items():
            lines += _partly(f"{kind} of {who}", maps, [i for i in active if i not in idle])
    return lines


def _partly(what: str, maps: Maps, active: list[int]) -> list[str]:
    """Layers and frames of which nothing was recorded in any of these steps."""
    seen = maps.counts[:, active] > 0
    lines = []
    layers = [layer for layer, found in zip(maps.layers, seen.flatten(1).any(1)) if not found]
    frames = [frame for frame, found in enumerate(seen.flatten(0, 2).any(0)) if not found]
    if active and layers:
        lines.append(f"{what}: nothing was recorded in layers {ranges(layers)}")
    if active and frames and len(frames) < seen.shape[-1]:
        lines.append(f"{what}: nothing was recorded in token frames {ranges(frames)}")
    return lines
