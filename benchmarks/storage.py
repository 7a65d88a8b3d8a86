"""Captures on disk: how large and how exact files are, how fast they are written while sampling and opened by slice.

Sizes and speeds are of a capture of CogVideoX-5B-I2V (42 layers, 50 steps, ten words, three instances, 13x30x45 tokens)
of random maps whose values are spread over decades, as attention is. Written while sampling: what writing a step takes.
Read: one map, all maps of a layer, and all of an entity, from a file that the system holds in memory.

Errors are of real maps: one clip of the mini model, every layer and step. Step bins, too: what is lost where steps are
kept as fewer bins, each the mean of its steps. Even bins are what a recorder keeps; beside them the best ones, known
when the run is over, and bins of a rule that knows the past alone (where there is one bin too many, those two
neighbours go together that lose the least by it). `MATRIX_STORAGE` names parts (`files bins`).
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.grid import Grid
from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps, Storage
from matrix_lib.io.captures import CaptureParts, load_capture, save_capture

__all__ = ["best_bins", "even_bins", "lost", "merged_bins", "run"]

Save = Callable[[dict[str, Any]], None]
Bins = list[tuple[int, int]]  # first and last but one step of each
SIZE = (42, 50, 10, 3, Grid.from_pixels(49, 480, 720))
STORED: tuple[Storage, ...] = ("float16", "uint8")


def run(rounds: int, save: Save, size: tuple[int, int, int, int, Grid] = SIZE, steps: int = 24) -> dict[str, Any]:
    """Both parts; medians over `rounds`."""
    found: dict[str, Any] = {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "files": lambda: files(rounds, *size),
        "bins": lambda: bins(steps),
    }
    for name in os.environ.get("MATRIX_STORAGE", " ".join(parts)).split():
        found[name] = parts[name]()
        print(name, found[name], flush=True)
        save(found)
    return found


def files(rounds: int, layers: int, steps: int, words: int, instances: int, grid: Grid) -> dict[str, Any]:
    """{type: megabytes; seconds and MB/s of writing it whole; seconds that a step waits for its part; seconds to open
    it and to read one map, a layer, an entity}."""
    whole = random_capture(layers, steps, words, instances, grid)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for kind in STORED:
            path, times = Path(place) / f"{kind}.safetensors", dict[str, list[float]]()
            for turn in range(rounds):
                _one_file(whole.stored(kind), path, turn, times)
            megabytes = path.stat().st_size / 1e6
            found[kind] = {"mb": round(megabytes, 3)}
            found[kind] |= {name: round(statistics.median(series), 5) for name, series in times.items()}
            found[kind]["write_mb_s"] = round(megabytes / found[kind]["write_s"], 1)
            path.unlink()
    return found


def _one_file(capture: Capture, path: Path, turn: int, times: dict[str, list[float]]) -> None:
    _clock(times, "write_s", lambda: save_capture(capture, path))
    parts = CaptureParts(path.with_name(f"run-{path.name}"))
    for step in range(min(len(capture.steps), 10)):
        part = capture.take([step])
        _clock(times, "step_s", lambda step=step, part=part: parts(step, part))
    for file in parts.folder.iterdir():
        file.unlink()
    _clock(times, "open_s", lambda: load_capture(path))
    opened = load_capture(path)
    layers, count = opened.stream(0).get("v2t").layers, len(opened.steps)
    at, step = turn % len(layers), turn % count
    _clock(times, "one_map_s", lambda: opened.maps("v2t", layer=layers[at], step=step, entity="word 0"))
    _clock(times, "a_layer_s", lambda: opened.stream(0).get("v2t").layer(at))
    _clock(times, "an_entity_s", lambda: opened.maps("v2t", entity="word 1"))


def _clock(times: dict[str, list[float]], name: str, run: Callable[[], Any]) -> None:
    began = time.perf_counter()
    run()
    times.setdefault(name, []).append(time.perf_counter() - began)


def random_capture(layers: int, steps: int, words: int, instances: int, grid: Grid) -> Capture:
    """Maps of random values from 1e-7 to 1e-2."""
    random = torch.Generator().manual_seed(0)

    def maps(names: Sequence[str]) -> Maps:
        values = torch.empty(layers, steps, len(names), *grid.shape, dtype=torch.float16)
        for layer in values:
            layer.copy_(10 ** (torch.rand(layer.shape, generator=random) * 5 - 7))
        return Maps.whole(values, range(layers), names, [2] * steps)

    names = [f"word {i}" for i in range(words)]
    phrases = tuple(Phrase(n, n, "instance" if i < instances else "word", 0, 1, (i,)) for i, n in enumerate(names))
    binding = PromptBinding(" ".join(names), 226, (), phrases, "t5")
    made = Stream("a", binding, grid, {"v2t": maps(names), "v2v": maps(names[:instances])})
    return Capture([made], "cogvideox", tuple(StepInfo(i, 1 - i / steps, 2) for i in range(steps)))


def bins(steps: int) -> dict[str, Any]:
    """Errors of uint8, and what fewer bins lose, of one clip of the mini model."""
    capture = mini_capture(steps)
    found: dict[str, Any] = {"steps": steps, "uint8": {}}
    for kind, maps in capture.stored("uint8").stream(0).maps.items():
        assert maps.error is not None
        found["uint8"][kind] = {"largest": round(maps.error.largest, 5), "mean": round(maps.error.mean, 5)}
    gram = sum(_gram(maps.values) for maps in capture.stream(0).maps.values())
    assert isinstance(gram, Tensor)
    for count in (n for n in (4, 6, 8, 12) if n < steps):
        ways = {"even": even_bins(steps, count), "best": best_bins(gram, count), "by change": merged_bins(gram, count)}
        found[f"{count} bins"] = {name: round(lost(gram, made), 4) for name, made in ways.items()}
        found[f"{count} bins"]["first steps"] = {name: [start for start, _ in made] for name, made in ways.items()}
    return found


def mini_capture(steps: int) -> Capture:
    """A clip of the mini model, every layer and step, words and instances."""
    from matrix_lib import bind_prompt, watch
    from matrix_lib.hosts.bundle import load
    from matrix_lib.hosts.diffusers.mini import Sizes, build_pipeline, sample
    from matrix_lib.mini.export import mask_tracks
    from matrix_lib.mini.world import WorldConfig, make_clips

    mini = load()
    sizes = Sizes(**mini.sizes)
    weights = (mini.weights(part) for part in ("codec", "text", "transformer"))
    pipe = build_pipeline(sizes, *weights, mini.tokenizer)
    clips = make_clips(seed=5, count=1, config=WorldConfig(height=128, width=128, frames=17))
    binding = bind_prompt(pipe, clips.prompts[0], clips.phrases[0])
    with watch(pipe.transformer, binding, mask_tracks(clips, 0), steps=steps) as seen:
        sample(pipe, sizes, clips.prompts, clips.video[:, 0], steps=steps, cfg=1.0)
    return seen.capture()


def _gram(values: Tensor) -> Tensor:
    """(S, S) float64 products of the steps of maps (L, S, ...), every map over its mean, so that all count alike."""
    maps = values.double().flatten(3)
    maps = maps / maps.mean((1, 3), keepdim=True).clamp_min(1e-30)
    rows = maps.transpose(0, 1).flatten(1)
    return rows @ rows.T


def _cost(gram: Tensor, start: int, stop: int) -> float:
    """Sum of squared differences of steps to their mean."""
    part = gram[start:stop, start:stop]
    return float(part.trace() - part.sum() / (stop - start))


def lost(gram: Tensor, made: Bins) -> float:
    """Root of the squared differences of all steps to the mean of their bin, over that of all squares."""
    return float((sum(_cost(gram, *each) for each in made) / float(gram.trace())) ** 0.5)


def even_bins(steps: int, count: int) -> Bins:
    """As many steps in each as can be, as recorders have it."""
    firsts = [-(-number * steps // count) for number in range(count + 1)]
    return list(pairwise(firsts))


def best_bins(gram: Tensor, count: int) -> Bins:
    """Those that lose the least."""
    steps = len(gram)
    best: dict[tuple[int, int], tuple[float, Bins]] = {(0, 0): (0.0, [])}
    for used in range(1, count + 1):
        for stop in range(used, steps + 1):
            ways = (
                (best[used - 1, start][0] + _cost(gram, start, stop), start)
                for start in range(used - 1, stop)
                if (used - 1, start) in best
            )
            value, start = min(ways)
            best[used, stop] = (value, [*best[used - 1, start][1], (start, stop)])
    return best[count, steps][1]


def merged_bins(gram: Tensor, count: int) -> Bins:
    """Bins of a run that knows its past alone."""
    made: Bins = []
    for step in range(len(gram)):
        made.append((step, step + 1))
        if len(made) > count:
            more = [_cost(gram, a[0], b[1]) - _cost(gram, *a) - _cost(gram, *b) for a, b in pairwise(made)]
            at = more.index(min(more))
            made[at : at + 2] = [(made[at][0], made[at + 1][1])]
    return made
