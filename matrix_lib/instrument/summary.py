"""A capture in a few sentences."""

from __future__ import annotations

from .capture import Capture

__all__ = ["describe"]


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
            where = f"layers {_runs(layers)}: {', '.join(names)}" if names else "none"
            lines.append(f"{title}: {where}")
    if missing:
        lines.append(f"steps {missing} were not captured: the sampler skipped them")
    lines += [f"note: {note}" for note in capture.meta.get("notes", ())]
    return "\n".join(lines)


def _runs(numbers: tuple[int, ...]) -> str:
    """Ascending numbers as ranges: 0-3, 7."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
