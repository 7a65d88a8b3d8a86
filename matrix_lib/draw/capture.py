"""From a capture and a person's choices, in words, to what `render` and `charts` draw."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..core.grid import Fit, Framing
from ..core.ranges import parse_numbers, ranges
from ..core.tracks.palette import distinct_colours
from ..instrument.capture import Capture, MapKind
from ..instrument.kinds import KINDS
from ..instrument.maps import Maps
from .charts import Scores, layers_by_steps
from .heatmaps import Look, Panel, overlay_frames, token_frames
from .sound import sound_over_time
from .style import Colour, colours_of
from .word_table import word_table

if TYPE_CHECKING:
    from ..core.tracks.tracks import MaskTracks

__all__ = [
    "Choice",
    "attention_chart",
    "attention_pictures",
    "choose_names",
    "choose_numbers",
    "scores_of",
    "shares_chart",
    "to_image",
]


_SWITCHES = {
    "v2t": "words",
    "v2v": "instances",
    "t2v": "words_look",
    "t2t": "words_look",
    "a2t": "sound",
    "a2v": "sound",
}


def _kind(kind: str) -> str:
    """A kind of map in words: "video to text"."""
    return KINDS[kind].title.rpartition("(")[2].rstrip(")") if kind in KINDS else kind


def _unrecorded(kind: str) -> str:
    how = _SWITCHES.get(kind)
    again = f"switch {how!r} on where it is recorded, and sample again" if how else "capture again"
    return f"this capture holds no {_kind(kind)} maps: choose another kind, or {again}"


@dataclass(frozen=True)
class Choice:
    """What to look at, as a person writes it.

    Args:
        kind: "v2t", "v2v" or another that was recorded.
        names: "all", or names of words and instances with commas between.
        layers, steps: "all", "first", "last", or numbers and ranges: "7, 11-13". Steps also by who took them, where a
            run has several models: "expert 1".
        stream: which prompt and sample, from 0.
        head: the number of a head that was kept apart; None for the mean over heads.
    """

    kind: MapKind = "v2t"
    names: str = "all"
    layers: str = "all"
    steps: str = "all"
    stream: int = 0
    head: int | None = None


def choose_numbers(
    text: str, what: str, existing: Sequence[int], named: Mapping[str, Sequence[int]] | None = None
) -> tuple[int, ...]:
    """The numbers of `existing` that a text names, ascending as they exist. Raises ValueError, listing what exists,
    where it names others or cannot be read; a range takes whatever exists inside of it, which has to be something.
    `named`: further words, and the numbers that they stand for."""
    have = f"this capture has {what}s {_shown(existing)}"
    words = {"all": existing, "first": existing[:1], "last": existing[-1:]}
    words |= {name.lower(): numbers for name, numbers in (named or {}).items()}
    wanted: set[int] = set()
    try:
        for piece, numbers in parse_numbers(text, f"{what}s", words):
            found = {n for n in existing if n in numbers}
            if not found:
                raise ValueError(f"{what} {piece} was not captured")
            wanted |= found
    except ValueError as error:
        raise ValueError(f"{error}: {have}") from None
    return tuple(n for n in existing if n in wanted)


def choose_names(text: str, existing: Sequence[str], kind: str = "v2t") -> tuple[str, ...]:
    """The names of `existing` that a text lists; capitals do not matter. Raises ValueError with what exists."""
    if not existing:
        raise ValueError(_unrecorded(kind))
    if text.strip().lower() in ("", "all"):
        return tuple(existing)
    known = {name.lower(): name for name in existing}
    whole = known.get(text.strip().lower())
    wanted = [whole] if whole else [part.strip() for part in text.split(",") if part.strip()]
    for name in wanted:
        if name.lower() not in known:
            near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
            hint = f" Did you mean {known[near[0]]!r}?" if near else ""
            raise ValueError(f"no {_kind(kind)} map is called {name!r}: this capture has {', '.join(existing)}.{hint}")
    return tuple(dict.fromkeys(known[name.lower()] for name in wanted))


def attention_pictures(
    capture: Capture,
    choice: Choice,
    frames: Tensor | None = None,
    tracks: MaskTracks | None = None,
    look: Look | None = None,
) -> tuple[int, float, Iterator[Image.Image]]:
    """The pictures of an attention video: how many there will be, how many of them stand for one pixel frame, and the
    pictures themselves, drawn as they are asked for.

    Args:
        frames: (n, H, W, 3 or more) float in [0, 1] or uint8; see `overlay_frames` and `token_frames`.
        tracks: outlined on the frames, and the colours of the names.

    Raises ValueError for choices that do not exist and frames of another shape.
    """
    capture = _of_head(capture, choice)
    stream = capture.stream(choice.stream)
    maps = _maps(capture, choice)
    if maps.over is not None:
        raise ValueError(
            f"{_kind(choice.kind)} has no places in the clip: look at it with MATRIX Chart Words And Sound"
        )
    chosen = choose_names(choice.names, maps.entities, choice.kind)
    at_layers = choose_numbers(choice.layers, "layer", maps.layers)
    at_steps = _steps(capture, choice)
    detail = _detail(capture, choice.kind, at_layers, at_steps) + _head(choice)
    colours = _colours(capture, choice, tracks)
    panels = [
        Panel(
            capture.maps(choice.kind, at_layers, at_steps, n, choice.stream).numpy(),
            n,
            colours[n],
            detail,
            maps.points.get(n),
        )
        for n in chosen
    ]
    ground = None if frames is None else _as_uint8(frames)
    outlines = {}
    if tracks is not None and ground is not None:
        size = (ground.shape[1], ground.shape[2])
        outlines = {name: (tracks.track(name).colour, _Masks(tracks, name, size)) for name in tracks.names}
    given = 0 if ground is None else len(ground)
    count = len(token_frames(stream.grid, given))
    share = stream.grid.frames / stream.grid.pixel_frames if given <= 1 else 1.0
    fit: Fit = "center" if tracks is None else tracks.fit
    return count, share, overlay_frames(panels, stream.grid, ground, look or Look(), outlines, fit)


def scores_of(
    capture: Capture, choice: Choice, tracks: MaskTracks | None = None, without: Tensor | None = None
) -> Scores:
    """Scores of every layer and step for the chosen names: alignment with the tracks where they are given and belong to
    one of the names (but for the places `without`, see `Capture.aas`), else concentration."""
    capture = _of_head(capture, choice)
    stream = capture.stream(choice.stream)
    names = _maps(capture, choice).entities
    chosen = choose_names(choice.names, names, choice.kind)
    found = None
    if tracks is not None and (stream.binding.instances or set(names) & set(tracks.names)):
        spelled = tracks.spelled(phrase.name for phrase in stream.binding.instances)
        found = capture.aas(spelled.to_grid(stream.grid), choice.kind, choice.stream, without)
        chosen = tuple(name for name in chosen if name in found.entities) or chosen
    aligned = found is not None and set(chosen) <= set(found.entities)
    if found is None or not aligned:
        found = capture.concentration(choice.kind, choice.stream)
    columns = [found.entities.index(name) for name in chosen]
    return Scores(
        values=found.share[..., columns].numpy(),
        layers=found.layers,
        steps=[step.index for step in capture.steps],
        sigmas=[step.sigma for step in capture.steps],
        calls=found.weights[..., columns].numpy(),
        names=chosen,
        unit="share of attention on the mask" if aligned else "concentration: 0 is flat, 1 a single token",
        chance=found.chance[columns].tolist() if aligned else None,
    )


def attention_chart(
    capture: Capture, choice: Choice, tracks: MaskTracks | None = None, colormap: str = "ember"
) -> Image.Image:
    """The layers-by-steps chart of the chosen names."""
    scores = scores_of(capture, choice, tracks)
    what = "finds its mask" if scores.chance is not None else "concentrates"
    title = f"{_kind(choice.kind).capitalize()}{_head(choice)}: where and when attention {what}"
    prompt = capture.stream(choice.stream).binding.prompt
    subtitle = f"{capture.backbone}   {prompt}"
    return layers_by_steps(scores, title, subtitle, _colours(capture, choice, tracks), colormap)


def shares_chart(
    capture: Capture,
    choice: Choice,
    rate: float = 0.0,
    tracks: MaskTracks | None = None,
    colormap: str = "ember",
) -> tuple[Image.Image, str]:
    """What words look at ("t2t"), or what the sound looks at over time ("a2t", "a2v"): a picture, and its values as a
    Markdown table, means over the chosen layers and steps.

    Args:
        rate: audio tokens a second, for sound. tracks: the colours of the names.

    Raises ValueError for choices that do not exist, and for kinds that are maps of the clip.
    """
    maps = _maps(capture, choice)
    if maps.over is None:
        raise ValueError(f"{_kind(choice.kind)} is a map of the clip: look at it with MATRIX Preview Attention")
    chosen = choose_names(choice.names, maps.entities, choice.kind)
    layers, steps = choose_numbers(choice.layers, "layer", maps.layers), _steps(capture, choice)
    found = [capture.maps(choice.kind, layers, steps, name, choice.stream).flatten().numpy() for name in chosen]
    values, title = np.stack(found), KINDS[choice.kind].title.capitalize() if choice.kind in KINDS else choice.kind
    said = f"{_detail(capture, choice.kind, layers, steps)}   {capture.stream(choice.stream).binding.prompt}"
    if maps.over.columns:
        picture = word_table(values, chosen, maps.over.columns, title, said, colormap)
        return picture, _markdown(chosen, maps.over.columns, values)
    chance = [maps.over.chance[maps.entities.index(name)] for name in chosen] if maps.over.chance else None
    colours = _colours(capture, choice, tracks)
    moments = [f"{moment / rate:.2f} s" for moment in range(values.shape[1])]
    return sound_over_time(values, chosen, rate, title, said, colours, chance), _markdown(chosen, moments, values)


def _markdown(rows: Sequence[str], columns: Sequence[str], values: NDArray[np.floating]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    cells = [" | ".join("-" if np.isnan(each) else f"{each:.4f}" for each in row) for row in values]
    return "\n".join([*lines, *(f"| {name} | {cell} |" for name, cell in zip(rows, cells))])


def to_image(pictures: Iterable[Image.Image], count: int) -> Tensor:
    """(count, H, W, 3) float32 in [0, 1] of pictures of one size."""
    out: Tensor | None = None
    for i, picture in enumerate(pictures):
        array = np.asarray(picture, dtype=np.float32)
        out = torch.empty(count, *array.shape) if out is None else out
        out[i] = torch.from_numpy(array) / 255.0
    if out is None:
        raise ValueError("there are no pictures to stack")
    return out


def _maps(capture: Capture, choice: Choice) -> Maps:
    maps = capture.stream(choice.stream).maps
    if choice.kind not in maps:
        raise ValueError(_unrecorded(choice.kind))
    return maps[choice.kind]


def _of_head(capture: Capture, choice: Choice) -> Capture:
    """The capture, whose maps of the chosen kind are of the chosen head alone. Raises ValueError for a head that was
    not kept apart."""
    if choice.head is None:
        return capture
    stream, maps = capture.stream(choice.stream), _maps(capture, choice).of_head(choice.head)
    streams = list(capture.streams)
    streams[choice.stream] = replace(stream, maps={**stream.maps, choice.kind: maps})
    return replace(capture, streams=streams)


def _steps(capture: Capture, choice: Choice) -> tuple[int, ...]:
    """The chosen steps, without those in which nothing was recorded. Where all of them are, all stay: what is asked of
    them then says so."""
    experts = capture.experts if len(capture.experts) > 1 else {}
    chosen = choose_numbers(choice.steps, "step", [step.index for step in capture.steps], experts)
    calls = {step.index: capture.stream(choice.stream).calls(i) for i, step in enumerate(capture.steps)}
    return tuple(number for number in chosen if calls[number]) or chosen


class _Masks(Sequence[NDArray[np.bool_]]):
    """The masks of one instance, each unpacked when asked for and cropped as frames of `size` were, or as they are
    between bars."""

    def __init__(self, tracks: MaskTracks, name: str, size: tuple[int, int]) -> None:
        self.tracks, self.name = tracks, name
        self.framing = Framing((tracks.height, tracks.width), size, tracks.fit)

    def __len__(self) -> int:
        return self.tracks.frames

    def __getitem__(self, i):  # type: ignore[no-untyped-def, override]
        mask = self.tracks.mask(self.name, i)
        if self.framing.window() != (0, 0, *self.framing.target):
            return self.framing.apply(mask, "nearest").numpy()
        top, left, height, width = self.framing.box()
        return mask[top : top + height, left : left + width].numpy()


def _as_uint8(frames: Tensor) -> NDArray[np.uint8]:
    """(n, H, W, 3) uint8 of an IMAGE, frame by frame (alpha is dropped)."""
    if frames.ndim != 4 or frames.shape[-1] < 3 or 0 in frames.shape:
        raise ValueError(f"frames are an IMAGE batch (frames, height, width, 3); got {tuple(frames.shape)}")
    if frames.dtype == torch.uint8:
        return frames[..., :3].cpu().numpy()
    out = np.empty((*frames.shape[:3], 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        out[i] = (frame[..., :3].float().nan_to_num().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return out


def _colours(capture: Capture, choice: Choice, tracks: MaskTracks | None) -> dict[str, Colour]:
    binding, names = capture.stream(choice.stream).binding, _maps(capture, choice).entities
    if tracks is not None:
        return colours_of(names, tracks.names, tracks.palette)
    instances = [phrase.name for phrase in binding.instances]
    return colours_of(names, instances, distinct_colours(len(instances)))


def _detail(capture: Capture, kind: str, layers: Sequence[int], steps: Sequence[int]) -> str:
    """For the legend: "video to text, layers 7, 11, step 45, sigma 0.05"."""
    sigma = {step.index: step.sigma for step in capture.steps}
    noise = f"{sigma[steps[0]]:.2g}" + (f" to {sigma[steps[-1]]:.2g}" if len(steps) > 1 else "")
    layer = f"layer{'s' if len(layers) > 1 else ''} {_shown(layers)}"
    return f"{_kind(kind)}, {layer}, step{'s' if len(steps) > 1 else ''} {_shown(steps)}, sigma {noise}"


def _head(choice: Choice) -> str:
    return "" if choice.head is None else f", head {choice.head}"


def _shown(numbers: Sequence[int]) -> str:
    """Numbers for people: 0-4, 7, 9-12; evenly spaced ones as 0, 5 ... 45."""
    if len(numbers) > 4 and len(set(np.diff(numbers))) == 1 and numbers[1] - numbers[0] > 1:
        return f"{numbers[0]}, {numbers[1]} ... {numbers[-1]}"
    return ranges(numbers) or "(none)"
