"""What more workers give `training.curate`: one stage that is made of computing (masks by the mini tracker, no model),
with the local engine and with Ray, with 1, 2 and 4 workers of one thread.

Runs are interleaved and the best of each counts, for a machine is seldom idle. Seconds are from when the first clip is
begun to when the last one ends, so that starting workers is apart. Beside them stands what others hardly change:
the CPU seconds of the busiest worker, which the work of one is compared to. The tracks have to be the same.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.curation.local import Engine, LocalEngine
from training.curation.models.trackers import MiniTracker
from training.curation.on_ray import RayEngine
from training.curation.raw import read_raw
from training.curation.run import Curation, Options, Stages
from training.curation.stage import Item, Place, Result
from training.curation.stages.checks import Checks
from training.curation.stages.clips import Clips
from training.curation.stages.tracks import Tracks
from training.curation.stages.write import Write

from .curation import asked_nobody, write_raw

__all__ = ["run"]

_WORKERS = (1, 2, 4)
_CLIPS, _SIZE, _FRAMES = 48, 64, 17  # pixels are doubled


def run(rounds: int, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """{engine: {workers: {seconds, busiest_cpu_seconds, clips_a_second}}} and how many times as fast as one worker."""
    clips = int(os.environ.get("CLIPS") or _CLIPS)
    seen: dict[str, dict[int, list[tuple[float, float]]]] = {}
    digests: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="curation_") as text:
        folder = Path(text)
        write_raw(folder, clips, _FRAMES, _SIZE, _SIZE, 2)
        for turn in range(rounds):
            for workers in _WORKERS:
                for name, make in (("local", LocalEngine), ("ray", RayEngine)):
                    seconds, busiest, found = _timed(folder, make, workers)
                    seen.setdefault(name, {}).setdefault(workers, []).append((seconds, busiest))
                    digests.add(found)
                    print(
                        f"round {turn + 1}: {name}, {workers}: {seconds:.2f} s, busiest {busiest:.2f} CPU s", flush=True
                    )
    found: dict[str, Any] = {"clips": clips, "same_tracks": len(digests) == 1}
    for name, each in seen.items():
        best = {workers: [min(values) for values in zip(*runs)] for workers, runs in each.items()}
        found[name] = {
            str(workers): {
                "seconds": round(seconds, 2),
                "busiest_cpu_seconds": round(busiest, 2),
                "times_as_fast": round(best[1][0] / seconds, 2),
                "times_as_fast_by_cpu": round(best[1][1] / busiest, 2),
            }
            for workers, (seconds, busiest) in best.items()
        }
    save(found)
    print(json.dumps(found, indent=1))
    return found


def _timed(folder: Path, make: Callable[[Place, int], Engine], workers: int) -> tuple[float, float, str]:
    """(seconds from the first clip to the last; CPU seconds of the busiest worker; a digest of all tracks)."""
    place = Place(folder / "work", folder / "raw")
    reader, looker = asked_nobody()
    stages = Stages(Clips(None, frames=_FRAMES, height=_SIZE, width=_SIZE), *reader, looker, Tracks(MiniTracker()),
                    Checks(frames=_FRAMES, first_frame="any"), Write(folder / "out"))  # fmt: skip
    curation = Curation(read_raw(place.raw), place, stages, Options(until="anchors", doubles=-1), str)
    curation.run(LocalEngine(place))
    curation.open()
    items = [curation.load(name)[0] for name in curation.names]
    engine = make(place, workers)
    try:
        results = [result for _, result in engine.run([_TimedTracks(MiniTracker())], iter(items))]
    finally:
        engine.close()
        shutil.rmtree(place.work / "parts", ignore_errors=True)  # Ray's results: the next run would not ask again
    if odd := [result for result in results if "tracks" not in result]:
        raise RuntimeError(f"{len(odd)} of {len(results)} clips have no tracks: {odd[0]}")
    made = [result["tracks"] for result in results]
    cpu: dict[int, float] = {}
    for each in made:
        cpu[each["worker"]] = cpu.get(each["worker"], 0.0) + each["cpu"]
    seconds = max(each["ended"] for each in made) - min(each["begun"] for each in made)
    return seconds, max(cpu.values()), "".join(each["digest"] for each in made)


@dataclass
class _TimedTracks(Tracks):
    """Says of each clip when it was worked on, by whom, and for how long."""

    def process(self, batch: Sequence[Item]) -> list[Result]:
        found = []
        for item in batch:
            begun, cpu = time.time(), time.process_time()
            (result,) = super().process([item])
            more = {"begun": begun, "ended": time.time(), "cpu": time.process_time() - cpu, "worker": os.getpid()}
            found.append({**result, **more})
        return found
