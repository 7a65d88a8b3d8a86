"""A process that takes jobs of a sitting, one after the other, until none is left or time is over."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .arms import ALIGNMENT, EVEN, TARGET, named_arm
from .bases import train_base
from .bench import BoxBench
from .boxes import run_boxes
from .layers import analyse
from .pictures import strip
from .plan import GROUPS, Job, slowness
from .scale import Scale
from .sets import JUDGED
from .state import State
from .tune import run_arm
from .unet_bench import open_bench

__all__ = ["Worker"]

_ARMS = {"target": TARGET, "again_target": TARGET, "even": EVEN}
_PAUSE = 0.5


@dataclass
class Worker:
    """Args:
    gpu: number of its GPU. lead: of the processes of a GPU one that trains bases; those that do not wait meanwhile.
    slots: processes of a GPU. left: seconds until it has to stop.
    """

    state: State
    scale: Scale
    gpu: int
    lead: bool
    slots: int
    left: Callable[[], float]
    bench: BoxBench | None = None

    def work(self, jobs: Sequence[Job]) -> int:
        """Runs what it can; a job that fails is noted and passed over. Returns how many jobs it finished."""
        count = 0
        while (job := self._next(jobs)) is not None:
            began = time.monotonic()
            try:
                self.state.finish(job, self._run(job))
                count += 1
            except Exception:
                self.state.fail(job, traceback.format_exc())
                traceback.print_exc()
            finally:
                self.state.leave(job)
            print(f"{job.name}: {time.monotonic() - began:.0f} s, {self.left():.0f} s left", flush=True)
        return count

    def _next(self, jobs: Sequence[Job]) -> Job | None:
        """Takes the first job that can be run now; waits where others are at what it needs."""
        while self.left() > _PAUSE:
            over = self.state.done() | self.state.failed()
            waiting = [job for job in jobs if job.name not in over and self._in_time(job)]
            ready = [job for job in waiting if self._ready(job)]
            ready.sort(key=lambda job: job.kind != "base")  # a base makes others ready
            for job in ready:
                if self.state.take(job, self.gpu):
                    if job.name not in self.state.done():
                        return job
                    self.state.leave(job)
            coming = {job.name for job in waiting if job.kind == "base"} | self.state.held()
            if not any(job.kind == "base" or self._has_base(job, coming) for job in waiting):
                return None
            time.sleep(_PAUSE)
        return None

    def _has_base(self, job: Job, coming: set[str]) -> bool:
        """Whether the base of a job is there, or will be."""
        return Job("base", job.base).name in self.state.done() | coming

    def _ready(self, job: Job) -> bool:
        if job.kind == "base":
            return self.lead
        return self._has_base(job, set()) and (self.lead or not self.state.busy(self.gpu))

    def _in_time(self, job: Job) -> bool:
        """Whether a job that starts now ends in time, as far as finished ones tell."""
        if self.left() == float("inf"):
            return True
        known = self.state.seconds().get((job.kind, job.base.preset), [])
        guess = self.scale.expected(job.kind) * slowness(job) * (1 if job.kind == "base" else self.slots)
        # some rows take no time at all: a guess counts until it is proved too low, and half of it ever after
        return self.left() > 1.1 * max([*known, guess / 2 if known else guess])

    def _run(self, job: Job) -> dict[str, Any]:
        if job.kind == "base":
            return self._base(job)
        bench = self._opened(job)
        home = self.state.result(Job("base", job.base))
        if job.kind == "boxes":
            found = run_boxes(job.arm, bench, (GROUPS[job.claim].sets or ("boxes",))[0], job.seed)
        else:
            arm = named_arm(_ARMS.get(job.claim, ALIGNMENT), job.arm)
            run = self.state.run(job)
            found = run_arm(arm, job.seed, bench, home["analysis"], GROUPS[job.claim], run, job.base.seed)
        return {"base": home["base"], **found}

    def _base(self, job: Job) -> dict[str, Any]:
        folder = self.state.base(job)
        base = train_base(job.base, self.scale, folder)
        trained = time.monotonic()
        bench = self._opened(job)
        sets = JUDGED.get(job.base.preset, ())
        found: dict[str, Any] = {"sets": bench.scores(sets), "analysis": analyse(bench, sets[0])} if sets else {}
        if sets:
            found["picture"] = strip(bench.shown[sets[0]])
        # not the clock of this process: an earlier one may have begun the training
        seconds = {"training": base["seconds"], "all": round(base["seconds"] + time.monotonic() - trained, 1)}
        return {"base": base, **found, "seconds": seconds}

    def _opened(self, job: Job) -> Any:
        folder = self.state.base(job)
        if self.bench is None or self.bench.folder != folder:
            self.bench = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
            self.bench = open_bench(Path(folder), self.scale, device)
        return self.bench
