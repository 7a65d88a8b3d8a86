"""`python -m training.score_tracks GIVEN VIDEOS [VIDEOS ...]`: scores generated videos by their tracks alone.

GIVEN/ID.safetensors (or ID.tracks.safetensors)    where everybody should be
VIDEOS/ID[.SEED].tracks.safetensors                tracks of the generated videos, one folder a model
VIDEOS/ID[.SEED].mp4                               the videos, for looks, doubles and drift

Nothing is asked of a language model. Scores are written beside the videos while it goes on; what is scored stays: run
it again after more videos are there. `torchrun --nproc_per_node 8 -m training.score_tracks ...` shares the videos
between processes; the report is the same. See docs/track-scores.md.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix_lib.evaluation.trajectories.measures import measures_table
from matrix_lib.evaluation.trajectories.report import Row, add_rows, parts, read_rows, summary_table, write_scores
from matrix_lib.evaluation.trajectories.score import TrackScores, score_tracks
from matrix_lib.io.tables import need_pyarrow
from matrix_lib.io.tracks import load_tracks
from matrix_lib.io.video import each_frame

from .run.shares import Shares

__all__ = ["main"]

_TRACKS = ".tracks.safetensors"
_KEEP_EVERY = 25  # videos between two states of the files
_VERSION = "1"  # of the scores: raised when a measure changes


@dataclass(frozen=True)
class _Job:
    sample: str
    seed: str
    given: Path
    tracks: Path
    video: Path | None

    @property
    def name(self) -> str:
        return f"{self.sample}.{self.seed}" if self.seed else self.sample


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where every sample has scores, 2 where something is missing, 1 for what cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m training.score_tracks", description=__doc__.splitlines()[0])
    parser.add_argument("given", nargs="?", type=Path, help="folder of given tracks, ID.safetensors")
    parser.add_argument("videos", nargs="*", type=Path, help="folders of tracks and videos, one a model")
    parser.add_argument("--stride", type=int, default=1, help="presence is judged on every so many frames (default: 1)")
    parser.add_argument("--pair", nargs=2, metavar=("ACTOR", "TARGET"), help="whose contact is scored")
    parser.add_argument("--no-video", action="store_true", help="score tracks alone, whatever videos there are")
    parser.add_argument("--measures", action="store_true", help="print what is measured, and stop")
    given = parser.parse_args(arguments)
    try:
        if given.measures:
            print(measures_table(), end="")
            return 0
        if given.given is None or not given.videos:
            raise ValueError("a folder of given tracks and at least one of generated videos are needed")
        return _score(given)
    except (ValueError, OSError) as error:
        print(f"python -m training.score_tracks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was scored is kept: run the same command to go on", file=sys.stderr)
        return 130


def _score(given: argparse.Namespace) -> int:
    shares = Shares(gpu=False)
    try:
        need_pyarrow()
        parquet = True
    except ValueError as error:
        parquet = False
        if shares.first:
            print(f"no Parquet table is written: {error}", file=sys.stderr)
    samples = _samples(given.given)
    runs, missing = {}, False
    for folder in given.videos:
        jobs, absent = _jobs(folder, samples, not given.no_video)
        rows = _scored(folder, jobs, given, shares, parquet)
        if not shares.first:
            continue
        rows += [Row(sample, "", "", None, f"there is no {sample}{_TRACKS} in {folder}") for sample in absent]
        missing |= any(row.scores is None for row in rows)
        runs[folder.name] = write_scores(folder, rows, parquet)
        for part in parts(folder):
            part.unlink()
        for row in rows:
            if row.scores is None:
                print(f"{folder.name}: {row.name} has no scores: {row.why}", file=sys.stderr)
    if shares.first:
        print(summary_table(runs), end="")
    shares.meet()
    shares.end()
    return 2 if missing else 0


def _scored(folder: Path, jobs: list[_Job], given: argparse.Namespace, shares: Shares, parquet: bool) -> list[Row]:
    """Rows of all jobs, in their order; of a process that is not the first, its own part."""
    kept = read_rows(folder)
    shares.meet()  # nobody writes before everybody has read
    left = [(job, key) for job in jobs if (key := _key(job, given)) not in kept]
    made: dict[str, Row] = {}
    fresh: list[Row] = []
    mine = shares.of(left)
    before, of = (len(jobs) - len(left), len(jobs)) if shares.count == 1 else (0, len(mine))

    def keep() -> None:
        """What is done by now, on the disk."""
        if shares.count > 1:
            add_rows(folder, shares.place, fresh)
        else:
            write_scores(folder, _in_order(jobs, kept | made, given), parquet)
        fresh.clear()

    try:
        for count, (job, key) in enumerate(mine, before + 1):
            made[key] = _one(job, key, given)
            fresh.append(made[key])
            if shares.first:
                print(f"\r{folder.name}: {count} of {of}", end="", file=sys.stderr, flush=True)
            if len(fresh) >= _KEEP_EVERY:
                keep()
    except KeyboardInterrupt:
        if fresh:
            keep()
        raise
    if mine and shares.first:
        print(file=sys.stderr)
    if shares.count > 1 and fresh:
        keep()
    shares.meet()
    if not shares.first or shares.count == 1:
        return _in_order(jobs, kept | made, given)
    every = kept | read_rows(folder) | made
    for job, key in left:  # what another process could not score is told by scoring it here
        if key not in every:
            every[key] = _one(job, key, given)
    return _in_order(jobs, every, given)


def _in_order(jobs: list[_Job], rows: dict[str, Row], given: argparse.Namespace) -> list[Row]:
    return [rows[key] for job in jobs if (key := _key(job, given)) in rows]


def _one(job: _Job, key: str, given: argparse.Namespace) -> Row:
    try:
        frames = None if job.video is None else each_frame(job.video)
        pairs = None if given.pair is None else [tuple(given.pair)]
        scores = score_tracks(load_tracks(job.given), load_tracks(job.tracks), frames, pairs=pairs, stride=given.stride)
    except ValueError as error:
        return Row(job.sample, job.seed, key, None, str(error))
    # Rounded as in the files: means of what was just scored and of what was read back are the same.
    return Row(job.sample, job.seed, key, TrackScores.from_json(scores.as_json()))


def _samples(folder: Path) -> dict[str, Path]:
    """Given tracks by sample."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        name = path.name.removesuffix(_TRACKS).removesuffix(".safetensors")
        if name in found:
            raise ValueError(f"{found[name].name} and {path.name} are both tracks of {name!r}: keep one of them")
        found[name] = path
    if not found:
        raise ValueError(f"there are no track files (ID.safetensors) in {str(folder)!r}")
    return found


def _jobs(folder: Path, samples: dict[str, Path], videos: bool) -> tuple[list[_Job], list[str]]:
    """(what there is to score, samples without tracks). Raises ValueError for tracks of samples that nobody gave."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    jobs = []
    for path in sorted(folder.glob(f"*{_TRACKS}")):
        name = path.name.removesuffix(_TRACKS)
        sample, _, seed = (name, "", "") if name in samples else name.rpartition(".")
        if sample not in samples:
            raise ValueError(f"{path} belongs to no given tracks: {name!r} is none of {', '.join([*samples][:5])}, ...")
        video = folder / f"{name}.mp4"
        jobs.append(_Job(sample, seed, samples[sample], path, video if videos and video.is_file() else None))
    return jobs, [sample for sample in samples if sample not in {job.sample for job in jobs}]


def _key(job: _Job, given: argparse.Namespace) -> str:
    """Of everything that scores depend on: files by size and time of change, settings, version."""
    state = hashlib.sha256(_VERSION.encode())
    for path in (job.given, job.tracks, job.video):
        stat = path.stat() if path is not None else None
        state.update(f"{path and path.name}:{stat and (stat.st_size, stat.st_mtime_ns)};".encode())
    state.update(f"{given.stride}:{given.pair}:{job.name}".encode())
    return state.hexdigest()[:24]


if __name__ == "__main__":
    sys.exit(main())
