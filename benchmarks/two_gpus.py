"""Two GPUs against one: the real trainer on the same clips, copied (DDP) and split (FSDP2), at the same batch.

The loss curves have to be one curve, and a step has to take about half the time. The model is CogVideoX-5B-I2V-shaped
with fewer and narrower blocks and random weights, the clips are of the mini world; latents and text rows are made
before anything is timed. Both one-GPU runs go at once, each on a GPU of its own: they differ by what a GPU's sums
differ by from run to run, and both GPUs are as warm as they are in the other runs.

`python -m benchmarks.two_gpus REPORT PRESET setting=value ...` is one process of a run: `training.fit` with a watch.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from matrix_lib.io.video import Clip, VideoFacts
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from scripts.tiny_models import model_factory
from training.clips.batches import open_clips
from training.clips.encoders import ModelFiles
from training.fit import Trainer, parse

__all__ = ["run"]

Save = Callable[[dict[str, Any]], None]
ROOT = Path(__file__).resolve().parent.parent
PRESET = "matrix_cogvideox_5b_i2v"
CURVES = ("loss", "sga", "spa", "norm")
GOAL = 1.8
_TAIL = 30  # lines of a failed run that are told


@dataclass(frozen=True)
class Case:
    """What is trained: pixels of a clip, how many clips, the model's size, clips that a process sees at once, the
    layers of the losses, steps before the watch counts, steps a round, and seconds that a run may take. drawn: pixels
    that the world draws them at, where it does not draw them as large."""

    frames: int
    height: int
    width: int
    clips: int
    layers: int
    heads: int
    batch: int
    settings: tuple[str, ...]
    warm_up: int
    steps_a_round: int
    limit: float
    drawn: tuple[int, int] | None = None


FULL = Case(25, 384, 512, 8, 13, 24, 2, (), 4, 4, 150.0)
SMALL = Case(
    9, 64, 64, 4, 2, 2, 1, ("task.v2t=0", "task.v2v=1", "task.rank=4", "task.decoder=8", "optim.lr=3e-3"), 1, 1, 300.0
)


def run(rounds: int, save: Save, kinds: Sequence[str] = ("ddp", "fsdp2")) -> dict[str, Any]:
    """Trains on one GPU (twice) and on two in each of these ways; a round is a few more steps of every run.

    A way that fails is told (`failed`) and the next one is tried. Without two GPUs two processes of a CPU train a tiny
    model: the curves then mean the same, the times nothing.
    """
    gpus = visible_gpus()
    case = FULL if len(gpus) == 2 else SMALL
    if not gpus:
        print("no two GPUs: two processes of a CPU and a tiny model; the times mean nothing", flush=True)
    steps = case.warm_up + case.steps_a_round * rounds
    found: dict[str, Any] = {
        "devices": [torch.cuda.get_device_name(i) for i in range(2)] if gpus else ["CPU", "CPU"],
        "times_mean_something": bool(gpus),
        "pixels": [case.frames, case.height, case.width],
        "batch": case.batch * 2,
        "steps": steps,
        "warm_up": case.warm_up,
        "goal": GOAL,
        "runs": {},
        "difference": {},
        "speed": {},
    }
    with tempfile.TemporaryDirectory() as place:
        folder, began = Path(place), time.monotonic()
        settings = [*make_inputs(folder, case, gpus, found), f"run.steps={steps}"]
        found["set_up_s"] = round(time.monotonic() - began, 1)
        save(found)
        launcher = Launcher(folder, gpus, case)

        def keep(name: str, made: dict[str, Any]) -> None:
            found["runs"][name] = made
            if name != "one" and (whole := found["runs"].get("one", {})).get("loss") and made.get("loss"):
                found["difference"][name] = difference(made, whole)
                if name != "again":
                    found["speed"][name] = round(whole["step_ms"] / made["step_ms"], 3)
            save(found)
            print(told(name, found), flush=True)

        parts = [*settings, "optim.accumulate=2"]
        with ThreadPoolExecutor(2) as pool:
            alone = [pool.submit(launcher, name, (place,), parts) for place, name in enumerate(("one", "again"))]
        for name, result in zip(("one", "again"), alone):
            keep(name, result.result())
        for kind in kinds:
            keep(kind, launcher(kind, (0, 1), [*settings, f"run.sharding={kind}"]))
    return found


def visible_gpus() -> list[str]:
    """The first two GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where there are fewer."""
    if torch.cuda.device_count() < 2:
        return []
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (given or ["0", "1"])[:2]


def difference(made: dict[str, Any], whole: dict[str, Any]) -> dict[str, float]:
    """Largest relative difference over the steps, curve by curve."""

    def largest(name: str) -> float:
        return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in zip(made[name], whole[name], strict=True))

    return {name: float(f"{largest(name):.3g}") for name in CURVES}


def told(name: str, found: dict[str, Any]) -> str:
    """A line about a run."""
    made = found["runs"][name]
    if "failed" in made:
        return f"{name}: failed\n{made['failed']}"
    text = f"{name}: {made['step_ms']:.0f} ms a step, {', '.join(f'{gb:.2f} GB' for gb in made['peak_gb'])}"
    text += f", {found['speed'][name]:.2f} times as fast" if name in found["speed"] else ""
    return text + (f", curves differ by {found['difference'][name]}" if name in found["difference"] else "")


# --- what is trained, on what


def make_inputs(folder: Path, case: Case, gpus: Sequence[str], found: dict[str, Any]) -> list[str]:
    """Model, clips and a filled cache in `folder`; the arguments of `training.fit` that are the same in every run."""
    device = torch.device("cuda:0" if gpus else "cpu")
    found["parameters"] = make_model(folder / "model", case, device)
    print(f"a model of {found['parameters'] / 1e6:.0f} million parameters", flush=True)
    settings = [
        PRESET, f"task.model={folder / 'model'}", f"data.folder={folder / 'clips'}", f"data.cache={folder / 'cache'}",
        f"data.frames={case.frames}", f"data.height={case.height}", f"data.width={case.width}",
        f"data.batch={case.batch}", "data.bystanders=true", "data.skip_bad=true", "optim.lr=3e-4", "optim.warmup=2",
        "run.log_every=1", "run.save_every=1000000", "run.preview_every=0", "run.tensorboard=false", "run.bar=false",
        *case.settings,
    ]  # fmt: skip
    config = parse(settings)
    world = WorldConfig(
        *(case.drawn or (case.height, case.width)),
        case.frames,
        single_motion_share=0.0,
        distractor_share=0.0,
        max_instances=3,
    )
    with raw_videos():
        export_clips(make_clips(0, case.clips, world), folder / "clips")
        # number formats as in training/tasks/alignment.py: entries of a cache are found by them
        model = ModelFiles(str(folder / "model"), device, torch.bfloat16 if gpus else torch.float32, offload=True)
        clips = open_clips(config.data, model, config.run.seed, case.batch * 2, bar=False)
        clips.fill(bar=False)
        clips.close()
    found["tokens"] = model.shape.grid(case.frames, case.height, case.width).size + model.shape.text_rows
    print(f"{len(clips.samples)} clips of {found['tokens']} tokens are encoded", flush=True)
    return settings


def make_model(folder: Path, case: Case, device: torch.device) -> int:
    """A folder of a CogVideoX pipeline with random weights; the number of the transformer's parameters. Encoders are
    tiny, the transformer is made where it is fast."""
    from diffusers import CogVideoXTransformer3DModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    sample = (case.frames, case.height // 8, case.width // 8)
    model_factory().make_cogvideox(folder, sample=sample, layers=1)
    sizes = CogVideoXTransformer3DModel.load_config(folder / "transformer")
    sizes |= {"num_layers": case.layers, "num_attention_heads": case.heads, "time_embed_dim": 512}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            transformer = CogVideoXTransformer3DModel.from_config(sizes)
    finally:
        torch.set_default_dtype(torch.float32)
    transformer.save_pretrained(folder / "transformer")
    count = sum(p.numel() for p in transformer.parameters())
    del transformer
    torch.cuda.empty_cache()
    return count


@contextlib.contextmanager
def raw_videos() -> Iterator[None]:
    """While open, video files hold their frames as they are, so that clips can be made and encoded where there is no
    PyAV. The trainer itself opens no video: it finds everything about these files in the cache."""

    def write(path: Path, frames: Tensor, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, frames=frames.numpy(), fps=fps)

    def read(path: Path, start: int = 0, stop: int | None = None) -> Clip:
        with np.load(path) as file:
            return Clip(torch.from_numpy(file["frames"][start:stop]), float(file["fps"]))

    def check(path: Path) -> VideoFacts:
        found = read(path)
        frames, height, width, _ = found.frames.shape
        return VideoFacts(frames, height, width, found.fps)

    with (
        patch("matrix_lib.mini.export.write_video", write),
        patch("matrix_lib.io.clips.source.read_video", read),
        patch("training.clips.files.check_video", check),
        patch("training.clips.files.frame_times", lambda path: ()),
    ):
        yield


# --- runs


class Launcher:
    """Starts runs of the trainer, one process a GPU, as docs/training.md says, and reads what they leave."""

    def __init__(self, folder: Path, gpus: Sequence[str], case: Case) -> None:
        self.folder, self.gpus, self.case = folder, gpus, case

    def __call__(self, name: str, places: Sequence[int], settings: Sequence[str]) -> dict[str, Any]:
        """One run on the GPUs of these places; its curves and times, or why it `failed`."""
        began = time.monotonic()
        out = self.folder / name
        out.mkdir()
        command = [sys.executable]
        if len(places) > 1:
            command += ["-m", "torch.distributed.run", f"--nproc_per_node={len(places)}", "--master_addr=127.0.0.1"]
            command += [f"--master_port={free_port()}"]
        command += ["-m", "benchmarks.two_gpus", str(out / "report"), *settings, f"run.out={out}"]
        failed = self._follow(name, command, ",".join(self.gpus[place] for place in places if self.gpus))
        wall = {"wall_s": round(time.monotonic() - began, 1)}
        if failed:
            return {"failed": failed, **wall}
        reports = [json.loads((out / f"report-{rank}.json").read_text()) for rank in range(len(places))]
        return {**curves(out / "metrics.csv"), **figures(reports, self.case.warm_up), **wall}

    def _follow(self, name: str, command: list[str], gpus: str) -> str:
        """Runs a command and says how it comes along; the end of what it said where it fails or takes too long."""
        threads = {"OMP_NUM_THREADS": "4" if gpus else "1", **os.environ}
        environment = {**threads, "CUDA_VISIBLE_DEVICES": gpus, "PYTHONPATH": path_with_root(), "PYTHONUNBUFFERED": "1"}
        last: deque[str] = deque(maxlen=_TAIL)
        options: dict[str, Any] = {"cwd": ROOT, "env": environment, "text": True, "process_group": 0}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as process:
            stop = threading.Timer(self.case.limit, end, (process,))
            stop.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    last.append(line)
                    if line.startswith("step "):
                        print(f"{name}: {line}", end="", flush=True)
                code = process.wait()
            finally:
                stop.cancel()
                if process.poll() is None:
                    end(process)
        if not code:
            return ""
        late = f" (no run may take more than {self.case.limit:.0f} s)" if code == -signal.SIGKILL else ""
        return f"it ended with {code}{late}:\n{''.join(last)}"


def end(process: subprocess.Popen[str]) -> None:
    """Ends a run and every process that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def path_with_root() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def curves(path: Path) -> dict[str, list[float]]:
    """The curves of a run, one value a step, from its `metrics.csv`."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in CURVES}


def figures(reports: Sequence[dict[str, Any]], warm_up: int) -> dict[str, Any]:
    """Times of the first process after the warm-up; memory of each."""
    times = reports[0]["ms"][warm_up:]
    return {
        "step_ms": round(statistics.median(times), 2),
        "step_ms_range": [round(min(times), 2), round(max(times), 2)],
        "peak_gb": [round(report["peak_gb"], 3) for report in reports],
        "split_weights": reports[0]["split"],
    }


# --- one process of a run


class Watched(Trainer):
    """The trainer, with the time at which each step begins (the log of the step before has waited for the GPU)."""

    def run(self) -> Path:
        self.stamps: list[float] = []
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        return super().run()

    def advance(self) -> dict[str, Tensor]:
        self.stamps.append(time.perf_counter())
        return super().advance()

    def progress(self) -> float:
        """After the last step is logged: the time at which it ended."""
        if self.step == self.config.run.steps:
            self.stamps.append(time.perf_counter())
        return super().progress()


def main(arguments: Sequence[str]) -> None:
    """Trains, and leaves REPORT-RANK.json."""
    trainer = Watched(parse(arguments[1:]))
    trainer.run()
    report = {
        "ms": [(b - a) * 1e3 for a, b in zip(trainer.stamps, trainer.stamps[1:])],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0,
        "split": sum(isinstance(p, DTensor) for p in trainer.plain.parameters()),
    }
    Path(f"{arguments[0]}-{trainer.accelerator.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
