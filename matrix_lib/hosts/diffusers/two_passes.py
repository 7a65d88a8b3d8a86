"""A clip in two passes, without masks from a person: where words look in a short first one steers the second.

    def run(steps):  # a whole clip in so many steps, from the same noise each time
        noise = torch.Generator().manual_seed(7)
        return pipe(prompt=prompt, num_inference_steps=steps, generator=noise).frames[0]

    found = two_passes(pipe, binding, run, RegionBias(), steps=24, first=6)
    print(found.readings[0].report())
    video = found.result

Both passes together take as many steps as one plain run of `steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...core.guidance.base import Guidance
from ...core.words.binding import PromptBinding
from ...instrument.readings.reading import Reading, read_capture
from .attach import watch
from .batches import Branch
from .steer import steer

__all__ = ["TwoPasses", "first_pass", "two_passes"]

T = TypeVar("T")


@dataclass(frozen=True)
class TwoPasses(Generic[T]):
    """What came of two passes.

    Args:
        result: what `run` returned for the second one.
        readings: what the first one told, one per prompt; its `masks` have steered the second.
        notes: what the second one could not be steered by.
    """

    result: T
    readings: tuple[Reading, ...]
    notes: tuple[str, ...]


def first_pass(
    model: Any,
    binding: PromptBinding | Sequence[PromptBinding],
    run: Callable[[int], Any],
    steps: int,
    *,
    layers: Sequence[int] | None = None,
    threshold: float | None = None,
    branches: Sequence[Branch] | None = None,
    prefix_frames: int = 0,
) -> tuple[Reading, ...]:
    """Runs `run(steps)` watched, and reads off it who is where: one reading per prompt, whose masks are mended
    (`instrument.readings.mending`).

    Args:
        model, binding, branches, prefix_frames: as in `watch`.
        run: samples so many steps, of a whole schedule. layers: those to read; None for the sharpest of all.
        threshold: see `word_masks`.

    Raises ValueError as `watch` and `read_capture` do, and where several clips are sampled of one prompt.
    """
    bindings = [binding] if isinstance(binding, PromptBinding) else list(binding)
    more: dict[str, Any] = {"branches": branches, "prefix_frames": prefix_frames}
    with watch(model, bindings, layers=layers, steps=steps, v2v=False, **more) as seen:
        run(steps)
    capture = seen.capture()
    if len(capture.streams) != len(bindings):
        raise ValueError(
            f"two passes make one clip of each prompt: {len(bindings)} prompts, {len(capture.streams)} clips. Give "
            "`binding` once per clip, and let `run` sample one clip of each"
        )
    return tuple(
        read_capture(capture, stream=i, layers=layers, threshold=threshold, mended=True) for i in range(len(bindings))
    )


def two_passes(
    model: Any,
    binding: PromptBinding | Sequence[PromptBinding],
    run: Callable[[int], T],
    guidance: Guidance | Sequence[Guidance],
    *,
    steps: int,
    first: int,
    layers: Sequence[int] | None = None,
    threshold: float | None = None,
    branches: Sequence[Branch] | None = None,
    prefix_frames: int = 0,
    seed: int = 0,
) -> TwoPasses[T]:
    """`first_pass` with `first` steps, then `run(steps - first)` under `guidance` by its masks.

    Args:
        run: samples a clip in so many steps, of a whole schedule. It has to begin with the same noise each time: the
            masks are of the clip that this noise becomes.
        guidance, seed: as in `steer`. Predictions that it adds come on top of `steps`.

    Raises ValueError for passes without steps, and as `first_pass` and `steer` do.
    """
    if not 0 < first < steps:
        raise ValueError(f"of {steps} steps the first pass takes 1 to {steps - 1}, the second the rest; got {first}")
    more: dict[str, Any] = {"branches": branches, "prefix_frames": prefix_frames}
    readings = first_pass(model, binding, run, first, layers=layers, threshold=threshold, **more)
    tracks = [reading.masks for reading in readings]
    bindings = [binding] if isinstance(binding, PromptBinding) else list(binding)
    with steer(model, guidance, bindings, tracks, steps=steps - first, seed=seed, **more) as acting:
        result = run(steps - first)
    notes = dict.fromkeys(note for each in acting for note in each.notes)
    return TwoPasses(result, readings, tuple(notes))
