"""The folder of one sitting: what is done, who is at what, and all of it in one file for the way home.

bases/NAME/       the bundle of a base: stays where it was made
jobs/NAME.json    what a finished job found; pictures apart, in pictures/NAME.json
locks/NAME        who is at a job: process and GPU
failed/NAME       why a job failed; tried again at the next start
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from matrix_lib.io.files import whole_file

from .plan import Job
from .scale import Scale

__all__ = ["FORMAT", "State", "manifest"]

FORMAT = 1
SITTING = "sitting.json"


class State:
    """Args: folder: of the sitting. Several processes of one machine share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bases", "jobs", "pictures", "locks", "runs", "failed"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def base(self, job: Job) -> Path:
        """The bundle of the job's base."""
        return self.folder / "bases" / job.base.name

    def run(self, job: Job) -> Path:
        """Where a job trains."""
        return self.folder / "runs" / job.name

    def done(self) -> set[str]:
        """Names of finished jobs."""
        return {path.stem for path in (self.folder / "jobs").glob("*.json")}

    def failed(self) -> set[str]:
        """Names of jobs that failed since the last start."""
        return {path.name for path in (self.folder / "failed").iterdir()}

    def fail(self, job: Job, why: str) -> None:
        (self.folder / "failed" / job.name).write_text(why)

    def forgive(self) -> None:
        """Failed jobs are tried again."""
        for path in (self.folder / "failed").iterdir():
            path.unlink()

    def held(self) -> set[str]:
        """Names of the jobs that somebody is at."""
        locks = list((self.folder / "locks").iterdir())
        return {path.name for path in locks if _alive(_holder(path))}

    def result(self, job: Job) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "jobs" / f"{job.name}.json").read_text())
        return found

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        """Keeps what a job found; its picture apart."""
        picture = result.pop("picture", "")
        if picture:
            self._write("pictures", job, {"picture": picture})
        self._write("jobs", job, {"claim": job.claim, "kind": job.kind, **result})

    def _write(self, kind: str, job: Job, value: Mapping[str, Any]) -> None:
        with whole_file(self.folder / kind / f"{job.name}.json") as temporary:
            temporary.write_text(json.dumps(value, separators=(",", ":")))

    # --- who is at what

    def take(self, job: Job, gpu: int) -> bool:
        """Whether the job is now this process's own; nobody else's then."""
        path = self.folder / "locks" / job.name
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if _alive(_holder(path)):
                return False
            path.unlink(missing_ok=True)  # its process is gone; the next look takes it
            return False
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps({"process": os.getpid(), "gpu": gpu}))
        return True

    def leave(self, job: Job) -> None:
        (self.folder / "locks" / job.name).unlink(missing_ok=True)

    def busy(self, gpu: int) -> bool:
        """Whether somebody trains a base on this GPU."""
        held = [_holder(path) for path in (self.folder / "locks").glob("*.base")]
        return any(holder.get("gpu") == gpu and _alive(holder) for holder in held)

    # --- what came out

    def seconds(self) -> dict[tuple[str, str], list[float]]:
        """How long finished jobs took, by kind and preset of the base."""
        found: dict[tuple[str, str], list[float]] = {}
        for path in (self.folder / "jobs").glob("*.json"):
            row, preset = json.loads(path.read_text()), path.name.partition(".")[0].rpartition("-")[0]
            found.setdefault((row["kind"], preset), []).append(row["seconds"]["all"])
        return found

    def rows(self, kind: str = "jobs") -> dict[str, Any]:
        paths = sorted((self.folder / kind).glob("*.json"))
        return {path.stem: json.loads(path.read_text()) for path in paths}

    def exported(self) -> dict[str, Any]:
        """The manifest of the sitting as it was last written; {} where it was not."""
        path = self.folder / SITTING
        found: dict[str, Any] = json.loads(path.read_text())["manifest"] if path.is_file() else {}
        return found

    def export(self, about: Mapping[str, Any]) -> Path:
        """Writes the sitting as one file, and its pictures as another beside it."""
        out = self.folder / SITTING
        pictures = {name: row["picture"] for name, row in self.rows("pictures").items()}
        for path, value in (
            (out, {"format": FORMAT, "manifest": about, "jobs": self.rows()}),
            (out.with_suffix(".pictures.json"), pictures),
        ):
            with whole_file(path) as temporary:
                temporary.write_text(json.dumps(value, separators=(",", ":")))
        return out


def manifest(scale: Scale, gpus: int, slots: int, commit: str = "") -> dict[str, Any]:
    """Where and with what a sitting runs."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit or _commit(),
        "device": f"{gpus} x {device}" if gpus else device,
        "jobs at a time on a GPU": slots,
        "torch": torch.__version__,
        "scale": scale.name,
    }


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _holder(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {"new": True}  # being written, or gone by now
    return found


def _alive(holder: Mapping[str, Any]) -> bool:
    if "process" not in holder:
        return bool(holder.get("new"))
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
