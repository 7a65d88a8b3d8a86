"""Scores of folders of videos for `training.judge score` and `report`: whose answers count, how far judges agree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matrix_lib.evaluation.agreement import Agreement
from matrix_lib.evaluation.intergen.authors import write_results
from matrix_lib.evaluation.intergen.inspect_log import need_inspect, write_inspect_log
from matrix_lib.evaluation.intergen.labels import FILE as LABELS
from matrix_lib.evaluation.intergen.labels import Success, write_labels
from matrix_lib.evaluation.intergen.panel import Ratings, agreements, mean_of, ratings_of
from matrix_lib.evaluation.intergen.people import answers_of, marks_in, people_in
from matrix_lib.evaluation.intergen.report import Difference, differences, write_scores
from matrix_lib.evaluation.intergen.run import OUT, Options, Video, find_videos, prepare, requests_of, score, sheet_of
from matrix_lib.evaluation.intergen.scores import RunScores, VideoScores, score_video
from matrix_lib.evaluation.intergen.suite import Suite, read_suite
from matrix_lib.evaluation.judges.judge import Request
from matrix_lib.evaluation.judges.store import Answers
from matrix_lib.evaluation.layers.labels import read_labels
from matrix_lib.io.tables import need_pyarrow
from training.judging.people import model_names

__all__ = ["Run", "Scored", "add_scoring", "agreed", "parquet_known", "score_all", "score_folder"]


@dataclass
class Run:
    """One model, scored.

    videos: scores by those who count. judges: who they are. asked, answers: what was asked of the first of them.
    files: the videos that are there, by name. said: the scores of each video by everybody who answered, counted or not.
    """

    name: str
    folder: Path
    videos: list[VideoScores] = field(default_factory=list)
    judges: list[str] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    answers: Answers = field(default_factory=lambda: Answers(None))
    files: dict[str, Video] = field(default_factory=dict)
    said: dict[str, dict[str, VideoScores]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Everything that `score` and `report` say. runs, means: by model, in the order in which they were given."""

    suite: Suite
    runs: Mapping[str, Run]
    means: Mapping[str, RunScores]
    differences: tuple[Difference, ...]
    agreements: Mapping[str, Sequence[Agreement]]

    @property
    def missing(self) -> bool:
        return any(run.complete < run.of for run in self.means.values())


def score_all(given: argparse.Namespace, options: Options) -> Scored:
    """Scores all folders and writes what belongs into each: see `intergen.report`, and labels.csv."""
    suite = read_suite(given.suite)
    sheets = prepare(suite)
    rule = Success(given.least_kisa, given.least_sgi, given.least_spi)
    by_hand = read_labels(given.hand_labels) if given.hand_labels is not None else None
    if given.inspect:
        need_inspect()
    parquet = parquet_known()
    runs, means = {}, {}
    for name, folder in zip(model_names(given.videos), given.videos, strict=True):
        run = runs[name] = score_folder(name, folder, suite, sheets, options, given)
        means[name] = write_scores(folder, run.videos, suite, options, run.judges, parquet)
        for line in write_labels(folder / OUT / LABELS, run.videos, rule, by_hand)[:20]:
            print(f"{LABELS}: {line}", file=sys.stderr)
        if any(video.judges for video in run.videos) and (given.authors or given.inspect):
            raise ValueError("a log, or files in the released form, hold one person's answers: name one with --people")
        if given.authors is not None:
            write_results(given.authors / name, run.videos, suite, ", ".join(run.judges))
        if given.inspect and run.asked:
            write_inspect_log(folder / OUT / "inspect.eval", run.asked, run.answers, means[name], name, suite.hash)
    several = differences({name: run.videos for name, run in runs.items()}, given.margin)
    return Scored(suite, runs, means, tuple(several), agreed(list(runs.values())))


def parquet_known() -> bool:
    """Whether Parquet tables can be written; says so where they cannot."""
    try:
        need_pyarrow()
    except ValueError as error:
        print(f"no Parquet table is written: {error}", file=sys.stderr)
        return False
    return True


def score_folder(
    name: str, folder: Path, suite: Suite, sheets: Mapping[str, Any], options: Options, given: argparse.Namespace
) -> Run:
    """Scores one model's videos by the judge's answers, or by people's.

    Raises ValueError where several judges' answers are in one file and nobody said that this is meant, and for people
    who have judged nothing here.
    """
    answers, present = Answers(folder / OUT / "answers.jsonl"), people_in(folder)
    videos, missing = find_videos(suite, folder)
    run = Run(name, folder, files={video.name: video for video in videos})
    counted = _people(folder, given.people, present, answers)
    marks = {person: marks_in(folder, person) for person in present}
    for each in marks.values():
        if each.damaged:
            print(f"{each.path}: {each.damaged} lines are no answers, and do not count", file=sys.stderr)
    alone = replace(options, repeats=1)
    for video in videos:
        try:
            requests = requests_of(video, sheet_of(video, sheets), suite, options)
        except ValueError as error:
            run.videos.append(score_video(video.sample.id, video.seed, [], None, why=[str(error)]))
            continue
        once = [request for request in requests if request.repeat == 0]
        by: dict[str, VideoScores] = {}
        if not counted or answers.judges(request.key for request in requests):
            by[""] = score(video, requests, answers, options)
        for person in present:
            held = answers_of(marks[person], once)
            if person in counted or held.found:
                by[person] = score(video, once, held, alone)
            if counted and person == counted[0]:
                run.answers.found.update(held.found)
                run.answers.failed.update(held.failed)
        run.asked += once if counted else requests
        run.videos.append(mean_of({person: by[person] for person in counted}) if counted else by[""])
        for judge, found in by.items():
            run.said.setdefault(judge, {})[video.name] = found
    run.videos += [score_video(each, "", [], None, why=["there is no video"]) for each in missing]
    _name_judges(run, answers, counted, given)
    return run


def _people(folder: Path, wanted: Sequence[str] | None, present: Sequence[str], answers: Answers) -> list[str]:
    """Whose answers count; none: those of the judge in answers.jsonl."""
    if wanted is None:
        if answers.found or not present:
            return []
        print(f"{folder}: no judge has answered; people have: {', '.join(present)}", file=sys.stderr)
        return list(present)
    names = list(wanted) or list(present)
    if unknown := [name for name in names if name not in present]:
        raise ValueError(
            f"{', '.join(unknown)} has judged nothing in {folder}; there is {', '.join(present) or 'nobody'}"
        )
    if not names:
        raise ValueError(f"no person has judged anything in {folder}: `python -m training.judge serve` asks them")
    return names


def _name_judges(run: Run, answers: Answers, counted: Sequence[str], given: argparse.Namespace) -> None:
    models = sorted(answers.models(request.key for request in run.asked))
    if counted:
        run.judges = [f"person: {person}" for person in counted]
    else:
        run.answers, run.judges = answers, models
        if len(models) > 1 and not given.mixed:
            raise ValueError(f"{run.folder}: several judges answered ({', '.join(models)}): say --mixed if you mean it")
    if "" in run.said:
        said = run.said.pop("")
        if models:
            run.said = {" and ".join(models): said, **run.said}


def agreed(runs: Sequence[Run]) -> dict[str, list[Agreement]]:
    """How far all judges agree, over all models' videos."""
    said: dict[str, list[Ratings]] = {}
    for run in runs:
        for judge, videos in run.said.items():
            said.setdefault(judge, []).extend(ratings_of(f"{run.name}/{name}", found) for name, found in videos.items())
    return agreements(said)


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Settings of `score` and `report`."""
    parser.add_argument("--mixed", action="store_true", help="answers of several judges may be averaged")
    parser.add_argument(
        "--people",
        nargs="*",
        metavar="NAME",
        help="people's answers count (see serve), the mean over those named, or over all; not given: the judge's "
        "answers, and people's where no judge has answered",
    )
    parser.add_argument("--margin", type=float, default=0.05, help="the smallest difference that matters (0.05)")
    parser.add_argument("--inspect", action="store_true", help="also a log for the viewer of inspect-ai")
    parser.add_argument("--authors", type=Path, metavar="FOLDER", help="also result files in the released form")
    parser.add_argument("--complete", action="store_true", help="fail where anything is missing")
    labels = parser.add_argument_group("labels.csv, for training.analyse: what a success needs at least")
    labels.add_argument("--least-kisa", type=float, default=Success.kisa, help="KISA_raw (default: 5/6)")
    labels.add_argument("--least-sgi", type=float, default=Success.sgi, help="SGI_raw (default: 1)")
    labels.add_argument("--least-spi", type=float, default=Success.spi, help="SPI, clamped (default: 0.9)")
    labels.add_argument("--hand-labels", type=Path, help="a CSV of labels by hand, which win")
