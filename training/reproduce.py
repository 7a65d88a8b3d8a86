"""`python -m training.reproduce --out FOLDER`: the claims of three papers, asked again on small models with room.

Trains bases that were not told something, fine-tunes them in arms that differ in one thing each, judges them all on the
same clips, and writes what each claim comes to: report.md and report.html. Jobs are shared out to the processes of all
GPUs; the same command goes on where it was stopped. Rows add up over sittings: --have names files of earlier ones.

    python -m training.reproduce --out runs/reproduce --plan                # what it would run, and hours
    python -m training.reproduce --out runs/reproduce --gpus 2 --slots 4    # runs it
    python -m training.reproduce --out runs/reproduce --report              # what there is, once more
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .reproduction.plan import GROUPS, Job, jobs_of, plan_text, slowness
from .reproduction.report import fill_page, write_report
from .reproduction.scale import SCALES
from .reproduction.sittings import read_sittings
from .reproduction.state import State, manifest
from .reproduction.worker import Worker
from .run.ending import ending

__all__ = ["main"]

_GRACE = 15.0  # seconds that processes get to save what they are at
_THREADS = 4


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "\n".join(f"    {name:<12}{group.about}" for name, group in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m training.reproduce",
        description=f"{__doc__}\nClaims:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--claims", nargs="+", default=list(GROUPS), metavar="CLAIM")
    parser.add_argument("--bases", type=int, default=0, help="at most so many bases of each claim")
    parser.add_argument("--rounds", type=int, default=0, help="at most so many rounds: the first ones decide most")
    parser.add_argument("--arms", nargs="*", default=[], metavar="ARM", help="only arms of these names")
    parser.add_argument("--only", nargs="*", default=[], metavar="BASE", help="only these bases, such as weak_roles-4")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], metavar="SEED", help="only runs of these seeds")
    parser.add_argument("--gpus", type=int, default=int(torch.cuda.is_available()), help="0: this process alone")
    parser.add_argument("--slots", type=int, default=4, help="processes a GPU; under NVIDIA MPS 5 were fastest")
    parser.add_argument("--base-slots", type=int, default=1, help="of these, how many train bases at the same time")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds from now that it may take")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--have", type=Path, nargs="*", default=[], help="files of earlier sittings, for the report")
    parser.add_argument("--page", type=Path, help="a page with the report's marks, which gets the report")
    parser.add_argument("--look", default="", help="sittings that run side by side, seen together first: one name")
    parser.add_argument("--commit", default="", help="what the manifest says of the code, where there is no git")
    parser.add_argument("--plan", action="store_true", help="only say what would be run, and how long it takes")
    parser.add_argument("--report", action="store_true", help="only write the report of what is there")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if min(chosen.bases, chosen.rounds, chosen.gpus, chosen.slots - 1) < 0 or math.isnan(chosen.deadline):
        parser.error("--bases, --rounds and --gpus are 0 or more, --slots 1 or more, and a --deadline is seconds")
    return chosen


def _seconds(state: State, chosen: argparse.Namespace) -> Callable[[Job], float]:
    """Seconds of a whole GPU of a job: measured, or as stated beforehand."""
    measured = state.seconds()

    def of(job: Job) -> float:
        found = measured.get((job.kind, job.base.preset))
        share = 1 if job.kind == "base" else max(1, chosen.slots)
        return sum(found) / len(found) / share if found else SCALES[chosen.scale].expected(job.kind) * slowness(job)

    return of


def _work(chosen: argparse.Namespace, jobs: Sequence[Job], until: float, gpu: int = 0, place: int = 0) -> int:
    """Works on jobs in this process."""
    worker = Worker(
        State(chosen.out),
        SCALES[chosen.scale],
        gpu,
        place < max(1, chosen.base_slots),
        max(1, chosen.slots),
        lambda: until - time.monotonic(),
    )
    return worker.work(jobs)


def _spread(given: Sequence[str], chosen: argparse.Namespace, until: float) -> int:
    """One process a slot of each GPU. Returns how many failed."""
    children = []
    for place in range(chosen.slots):
        for gpu in range(chosen.gpus):
            left = until - time.monotonic()
            command = [sys.executable, "-m", "training.reproduce", *given, "--worker", f"{gpu}/{place}"]
            command += ["--deadline", str(left - _GRACE)]  # the last one counts
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}
            children.append(subprocess.Popen(command, env=env))
    try:
        for child in children:
            left = until - _GRACE / 2 - time.monotonic()
            child.wait(None if left == float("inf") else max(0.1, left))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for child in children:
            child.terminate()  # a run that is trained on saves itself
        for child in children:
            try:
                child.wait(_GRACE / 2)
            except subprocess.TimeoutExpired:
                child.kill()
    return sum(child.wait() not in (0, -15, 130) for child in children)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything that was asked for is done; 1 when something is left or failed, and 130 when stopped."""
    with ending("training.reproduce", "the same command goes on from here"):
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    until_known = time.monotonic()
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _arguments(given)
    until = until_known + chosen.deadline
    jobs = jobs_of(chosen.claims, chosen.bases, chosen.rounds, chosen.arms, chosen.only, chosen.seeds)
    read_sittings(chosen.have)  # what cannot be read is told now, not after hours
    state = State(chosen.out)
    if chosen.worker:
        torch.set_num_threads(_THREADS if torch.cuda.is_available() else 1)
        gpu, _, place = chosen.worker.partition("/")
        try:
            _work(chosen, jobs, until, int(gpu), int(place))
        except KeyboardInterrupt:
            return 130
        return 0
    if chosen.plan:
        print(plan_text(jobs, state.done(), max(1, chosen.gpus), _seconds(state, chosen)))
        return 0
    stopped = failed = 0
    if not chosen.report:
        state.forgive()
        try:
            failed = _spread(given, chosen, until) if chosen.gpus else 0
            if not chosen.gpus:
                _work(chosen, jobs, until)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here")
            stopped = 1
    about = manifest(SCALES[chosen.scale], chosen.gpus, chosen.slots, chosen.commit)
    if chosen.report:  # not of where the report is written
        about = state.exported() or about
    about |= {"look": chosen.look} if chosen.look else {}
    made = state.export(about)
    own = [made] if state.done() or not chosen.have else []  # a folder for the report of earlier sittings has no rows
    report = write_report(read_sittings([*chosen.have, *own]), chosen.out)
    if chosen.page:
        fill_page(chosen.page, report)
    print(f"{report}\nwrote {made} and the report beside it")
    if stopped:
        return 130
    left = [job.name for job in jobs if job.name not in state.done()]
    bad = sorted(state.failed())
    print(f"{len(jobs) - len(left)} of {len(jobs)} jobs are done" + (f"; failed: {', '.join(bad)}" if bad else ""))
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
