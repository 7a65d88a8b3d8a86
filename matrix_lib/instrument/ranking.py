"""Ranks the layers of one capture by how well they align with mask tracks."""

from __future__ import annotations

import torch

from ..core.layers import LayerSet
from ..core.ranges import ranges
from ..core.tracks.tracks import MaskTracks
from .capture import Alignment, Capture, MapKind

__all__ = ["describe", "layer_table", "rank_layers"]


def rank_layers(capture: Capture, tracks: MaskTracks, keep: int = 3, stream: int = 0) -> LayerSet:
    """The `keep` layers of each kind whose attention lies most on the masks, above chance.

    The score of a layer is its share of attention on an entity's mask minus the mask's share of the area, averaged over
    entities and steps: 0 is what a flat map would get. One clip shows where this clip's interaction is attended to;
    that a layer *decides* success takes many clips (see `evaluation.layers.dominance.dominant_layers`).

    Raises ValueError where no entity has a mask, or keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep at least 1 layer of each kind; got {keep}")
    chosen: dict[str, tuple[int, ...]] = {"v2t": (), "v2v": ()}
    scores: dict[str, dict[str, float]] = {}
    for kind, alignment in alignments(capture, tracks, stream).items():
        gain = (alignment.over_steps() - alignment.chance).mean(1)
        order = torch.argsort(gain, descending=True, stable=True).tolist()
        chosen[kind] = tuple(alignment.layers[i] for i in order[:keep])
        scores[kind] = {str(layer): round(float(value), 6) for layer, value in zip(alignment.layers, gain)}
    source = f"attention share above chance in one capture, {len(capture.steps)} step bins"
    return LayerSet(capture.backbone, chosen["v2t"], chosen["v2v"], source, scores)


def alignments(capture: Capture, tracks: MaskTracks, stream: int = 0) -> dict[MapKind, Alignment]:
    """Alignment of each kind that the capture holds and that has masks. Raises ValueError where none has."""
    grid = tracks.to_grid(capture.stream(stream).grid)
    found: dict[MapKind, Alignment] = {}
    error: ValueError | None = None
    kinds: tuple[MapKind, ...] = ("v2t", "v2v")
    for kind in kinds:
        if not capture.stream(stream).get(kind)[2]:
            continue
        try:
            found[kind] = capture.aas(grid, kind, stream)
        except ValueError as reason:
            error = reason
    if not found:
        raise error or ValueError("this capture holds no maps")
    return found


def layer_table(capture: Capture, tracks: MaskTracks, layers: LayerSet, stream: int = 0) -> str:
    """A Markdown table: every layer's share of attention on each entity's mask, beside chance."""
    lines: list[str] = []
    titles = {"v2t": "words (video to text)", "v2v": "instances (video to video)"}
    for kind, alignment in alignments(capture, tracks, stream).items():
        share = alignment.over_steps()
        best = {"v2t": layers.v2t, "v2v": layers.v2v}[kind]
        lines += [f"### {titles[kind]}", "", "| layer | " + " | ".join(alignment.entities) + " | above chance |"]
        lines.append("|---" * (len(alignment.entities) + 2) + "|")
        lines.append("| *chance* | " + " | ".join(f"{c:.3f}" for c in alignment.chance) + " | 0 |")
        for row, layer in enumerate(alignment.layers):
            name = f"**{layer}**" if layer in best else str(layer)
            cells = " | ".join(f"{value:.3f}" for value in share[row])
            lines.append(f"| {name} | {cells} | {layers.scores[kind][str(layer)]:+.3f} |")
        lines.append("")
    return "\n".join(lines)


def describe(capture: Capture) -> str:
    """What a capture holds, one fact a line, and everything to know about it."""
    steps = capture.steps
    missing = [step.index for step in steps if not step.calls]
    lines = [
        f"{capture.backbone}: {len(steps)} step bins, {len(capture.streams)} prompt x sample, "
        f"{capture.nbytes / 1e6:.1f} MB"
    ]
    for stream in capture.streams:
        f, h, w = stream.grid.shape
        lines.append(f"prompt: {stream.binding.prompt}")
        lines.append(f"tokens: {f} frames x {h} x {w}")
        for kind, title in (("v2t", "words"), ("v2v", "instances")):
            _, layers, names = stream.get(kind)
            where = f"layers {ranges(layers)}: {', '.join(names)}" if names else "none"
            lines.append(f"{title}: {where}")
    if missing:
        lines.append(f"steps {missing} were not captured: the sampler skipped them")
    lines += [f"note: {note}" for note in capture.meta.get("notes", ())]
    return "\n".join(lines)
