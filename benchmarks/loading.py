"""Whether training ever waits for its data: batches of the trainer's own stream, from its cache on disk.

Clips of the mini world with three instances at the published sizes of CogVideoX-5B-I2V and Wan2.1-I2V-14B. Everything
is done that a step asks of the loader: entries are read and checked against their hashes, masks brought to tokens and
pixels, noise drawn. Latents and text rows are random numbers of the right sizes: loading does not look at them.

How long a batch takes where the next one is asked for at once, by clips a batch and threads (`data.workers`), and how
long steps of one clip wait that take as long as on an H200 while the next batch is made (`MATRIX_LOADING_STEP` seconds,
3.3 and 13): the main thread sleeps, as it does for a GPU. `training-loops` measures the same beside real steps.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.clips.encoders import ModelFiles
from training.clips.store import Entry
from training.data.alignment_clips import ClipStream
from training.fit import parse

from .two_gpus import Case, make_model, raw_videos

__all__ = ["run"]

Save = Callable[[dict[str, Any]], None]
CLIPS, WIDTH = 4, 4096
CASES = {
    "cogvideox": (Case(49, 480, 720, CLIPS, 1, 2, 1, (), 0, 0, 0.0, (320, 480)), 3.3),
    "wan": (Case(81, 480, 832, CLIPS, 1, 2, 1, (), 0, 0, 0.0, (296, 512)), 13.0),
}


def run(rounds: int, save: Save) -> dict[str, Any]:
    """Seconds of a batch and shares of a step, of each size that `MATRIX_LOADING` names (`cogvideox wan`)."""
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    for name in os.environ.get("MATRIX_LOADING", " ".join(CASES)).split():
        case, step = CASES[name]
        found[name] = measure(case, float(os.environ.get("MATRIX_LOADING_STEP", step)), rounds)
        save(found)
    return found


def measure(case: Case, step: float, rounds: int, workers: Sequence[int] = (1, 2, 4)) -> dict[str, Any]:
    """Batches of clips of one size."""
    found: dict[str, Any] = {"pixels": [case.frames, case.height, case.width], "step_s": step, "batch_s": {}}
    with tempfile.TemporaryDirectory() as place:
        settings = inputs(Path(place), case)
        for batch in (1, CLIPS):
            for threads in workers:
                stream = opened([*settings, f"data.batch={batch}", f"data.workers={threads}"])
                try:
                    stream.batch(0)
                    times = [_asked(stream, at) for at in range(1, rounds + 1)]
                    label = f"{batch} clips, {threads} workers"
                    found["batch_s"][label] = round(statistics.median(times), 4)
                    print(f"{label}: {found['batch_s'][label]:.3f} s a batch", flush=True)
                    if (batch, threads) == (1, 2):  # as the trainer's presets have it
                        waits = [_asked(stream, at, step) for at in range(rounds + 1, 2 * rounds + 1)]
                        found["waits"] = round(sum(waits) / (sum(waits) + step * rounds), 6)
                        print(f"share of steps of {step:g} s that waits: {found['waits']}", flush=True)
                finally:
                    stream.close()
    return found


def _asked(stream: ClipStream, at: int, step: float = 0.0) -> float:
    """Seconds that a batch is waited for behind a step in which the main thread sleeps."""
    time.sleep(step)
    began = time.perf_counter()
    stream.batch(at)
    return time.perf_counter() - began


def inputs(folder: Path, case: Case) -> list[str]:
    """A tiny model and clips in `folder`; what is the same in the settings of every stream."""
    make_model(folder / "model", case, torch.device("cpu"))
    height, width = case.drawn or (case.height, case.width)
    world = WorldConfig(height, width, case.frames, single_motion_share=0.0, distractor_share=0.0, max_instances=3)
    with raw_videos():
        export_clips(make_clips(0, case.clips, world), folder / "clips")
        settings = [
            "matrix_cogvideox_5b_i2v", f"task.model={folder / 'model'}", f"data.folder={folder / 'clips'}",
            f"data.cache={folder / 'cache'}", f"data.frames={case.frames}", f"data.height={case.height}",
            f"data.width={case.width}", "data.bystanders=true", "data.skip_bad=true", *case.settings,
        ]  # fmt: skip
        opened(settings).close()  # checks the videos while they can be read; what was found is remembered
    return settings


def opened(settings: Sequence[str]) -> ClipStream:
    """The trainer's stream, with a random entry for everything that its cache lacks."""
    config = parse(settings)
    stream = ClipStream(config, ModelFiles(config.task.model, torch.device("cpu"), torch.bfloat16, True))
    cache, random = stream.clips.cache, torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).bfloat16()

    for sample in stream.clips.samples:
        grid = cache.model.shape.grid(*sample.bucket)
        shape = (grid.frames, 16, grid.height * 2, grid.width * 2)
        made = {
            "video": {"latents": numbers(*shape), "image": numbers(*shape)},
            "id_map": {"extra": numbers(*shape)},
            "text": {"rows": numbers(cache.model.shape.text_rows, WIDTH)},
        }
        for job in cache.jobs(sample):
            cache.store.claim(job.kind, job.key, partial(Entry, made[job.kind], {"of": job.name}))
    stream.fill()  # what is left: the empty prompt
    stream.empty = {name: numbers(1, cache.model.shape.text_rows, WIDTH) for name in stream.empty}
    return stream
