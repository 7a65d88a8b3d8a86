"""Many clips of full size through scoring: memory, and clips a second.

python -m scripts.judge_load [--clips 500] [--processes 1] [--frames 49 --height 480 --width 720] [--folder FOLDER]

Writes a few different clips with tracks of three instances, names each of them many times over (hard links), runs
`training.score_tracks` on them, through `torchrun` where there are several processes, and looks at the memory of
each process all the while.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.tracks import save_tracks
from matrix_lib.io.video import write_video

from .comfyui import ROOT

__all__ = ["Memory", "load", "main", "write_clips"]

_DISTINCT = 4


class Memory:
    """Looks at the resident memory of a process and its children until it is left: (seconds, bytes) of each."""

    def __init__(self, process: int, every: float = 0.25) -> None:
        self.seen: dict[int, list[tuple[float, int]]] = {}
        self._process, self._every, self._end = process, every, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        start = time.monotonic()
        while not self._end.wait(self._every):
            try:
                whole = psutil.Process(self._process)
                for one in (whole, *whole.children(recursive=True)):
                    at = time.monotonic() - start
                    self.seen.setdefault(one.pid, []).append((at, one.memory_info().rss))
            except psutil.NoSuchProcess:
                continue

    def growth(self) -> tuple[float, float]:
        """(largest memory in the second fifth of the run, in the last), MiB, of the process that has most at the end.

        The first fifth is left out: packages are loaded and buffers find their size."""
        most = max(self.seen.values(), key=lambda rows: max(size for _, size in rows))
        end = most[-1][0]
        early = [size for at, size in most if 0.2 * end <= at < 0.4 * end]
        late = [size for at, size in most if at >= 0.8 * end]
        return max(early, default=0) / 2**20, max(late, default=0) / 2**20


def write_clips(folder: Path, clips: int, frames: int, height: int, width: int) -> tuple[Path, Path]:
    """(folder of given tracks, folder of videos with their tracks): soft noise with three moving boxes."""
    given, made = folder / "given", folder / "made"
    given.mkdir(parents=True)
    for kind in range(min(_DISTINCT, clips)):
        chance = np.random.default_rng(kind)
        boxes = {}
        for place, name in enumerate(("man", "cup", "dog")):
            x, y = int(chance.integers(0, width // 2)), place * height // 3
            far = x + int(chance.integers(0, width // 4))
            boxes[name] = {
                0: (x, y, x + width // 4, y + height // 4),
                frames - 1: (far, y, far + width // 4, y + height // 4),
            }
        tracks = MaskTracks.from_boxes(boxes, frames, height, width)
        still = {name: {0: each[0]} for name, each in boxes.items()}
        save_tracks(tracks, given / f"{kind:05d}.safetensors")
        seen = MaskTracks.from_boxes(still if kind % 2 else boxes, frames, height, width, hold=True)
        save_tracks(seen, made / f"{kind:05d}.tracks.safetensors")
        write_video(made / f"{kind:05d}.mp4", _pictures(tracks, chance))
    for number in range(_DISTINCT, clips):
        for source, ending in ((given, ".safetensors"), (made, ".tracks.safetensors"), (made, ".mp4")):
            os.link(source / f"{number % _DISTINCT:05d}{ending}", source / f"{number:05d}{ending}")
    return given, made


def _pictures(tracks: MaskTracks, chance: np.random.Generator) -> torch.Tensor:
    """(F, H, W, 3) uint8."""
    size = (tracks.height // 8 + 1, tracks.width // 8 + 1, 3)
    ground = chance.integers(60, 120, size, dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([ground[: tracks.height, : tracks.width]] * tracks.frames)
    for name in tracks.names:
        colour = chance.integers(0, 256, 3, dtype=np.uint8)
        for k in range(tracks.frames):
            frames[k][tracks.mask(name, k).numpy()] = colour
    return torch.from_numpy(frames)


def load(folder: Path, clips: int, processes: int, frames: int, height: int, width: int) -> dict[str, float]:
    """What a run came to. Raises RuntimeError where it fails or leaves a clip out."""
    given, made = write_clips(folder, clips, frames, height, width)
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command += ["training.score_tracks", str(given), str(made)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start, before = time.monotonic(), _spent()
    with open(folder / "log", "wb") as log:
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as running:
            with Memory(running.pid) as memory:
                code = running.wait()
    seconds = time.monotonic() - start
    said = (folder / "log").read_text(encoding="utf-8", errors="replace")
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {said[-2000:]}")
    scored = json.loads((made / "track_summary.json").read_text(encoding="utf-8"))["scored"]
    if scored != clips:
        raise RuntimeError(f"{scored} of {clips} clips have scores: {said[-2000:]}")
    early, late = memory.growth()
    return {
        "clips": clips,
        "processes": processes,
        "seconds": round(seconds, 1),
        "clips_per_second": round(clips / seconds, 3),
        "cpu_seconds_per_clip": round((_spent() - before) / clips, 3),
        "early_mib": round(early, 1),
        "late_mib": round(late, 1),
    }


def _spent() -> float:
    """Seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.judge_load", description=__doc__.splitlines()[0])
    sizes = (("clips", 500), ("processes", 1), ("frames", 49), ("height", 480), ("width", 720))
    for name, default in sizes:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="a new folder for the clips (default: one that goes afterwards)")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="matrix-load-"))
    try:
        print(json.dumps(load(folder, given.clips, given.processes, given.frames, given.height, given.width)))
    finally:
        if given.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
