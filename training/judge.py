"""`python -m training.judge prepare|track|ask|serve|score|report|prefer|export`: InterGenEval for generated videos.

    prepare SUITE                            check a suite, make its questions
    track SUITE VIDEOS --sam2 FILE           tracks of videos that have none
    ask SUITE VIDEOS --judge JUDGE           file: write requests.jsonl, take what answers.jsonl holds
                                             local: a vision-language model's folder; endpoint: a service
    serve SUITE VIDEOS ... --rater NAME      a page on this machine, on which people answer
    score SUITE VIDEOS [VIDEOS ...]          tables, and paired differences between models
    report SUITE VIDEOS [VIDEOS ...]         the same as a page with videos and answers, and in the papers' forms
    prefer SUITE VIDEOS VIDEOS ...           a page with two models' videos side by side, and whom people prefer
    export SUITE DATA [--videos VIDEOS]      the same in the folders of MATRIX's released evaluation

Nothing is sent anywhere unless `--judge endpoint` is given and what it prints is agreed to.
Each step keeps what it made: run it again to go on. See docs/judging.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from matrix_lib.evaluation.intergen.authors_folders import export_suite, export_videos, take_suite, take_videos
from matrix_lib.evaluation.intergen.question_writer import question_request, read_questions
from matrix_lib.evaluation.intergen.questions import write_sheet
from matrix_lib.evaluation.intergen.report import compare, table
from matrix_lib.evaluation.intergen.run import (
    EMERGENCE,
    OUT,
    QUESTIONS,
    Options,
    check,
    find_videos,
    prepare,
    requests_of,
    sheet_of,
)
from matrix_lib.evaluation.intergen.suite import Suite, read_suite
from matrix_lib.evaluation.intergen.tables import agreement_table
from matrix_lib.evaluation.intergen.tracking import first_masks, track_video
from matrix_lib.evaluation.judges.judge import JudgeError, Request
from matrix_lib.evaluation.judges.store import Answers
from matrix_lib.io.sam2_checkpoints import load_sam2
from matrix_lib.io.tracks import save_tracks
from training.judging.choice import add_settings, put
from training.judging.people import add_page, add_prefer, prefer, serve
from training.judging.report import add_report, report
from training.judging.scoring import add_scoring, score_all
from training.run.shares import Shares

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where everything was done, 2 where something is missing."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except JudgeError as error:
        print(f"\npython -m training.judge: the judge cannot go on: {error}", file=sys.stderr)
        print("everything that was answered is kept: run the same command to go on", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"python -m training.judge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; everything that was answered is kept: run the same command to go on", file=sys.stderr)
        return 130


def _prepare(given: argparse.Namespace) -> int:
    if given.authors is not None:
        told = take_suite(given.authors, given.suite)
        print(f"{told.samples} samples and the questions of {told.questions} were taken over from {given.authors}")
        _tell(told.notes)
    suite = read_suite(given.suite)
    if given.videos is not None:
        if given.authors is None or not given.of:
            raise ValueError("--videos takes a model's videos over: it needs --authors DATA and --of MODEL")
        told = take_videos(given.authors, given.of, suite, given.videos)
        print(f"{told.samples} videos, of which {told.questions} have tracks, were taken over into {given.videos}")
        _tell(told.notes)
    if given.questions == "model":
        _written(given, suite)
    sheets = prepare(suite, {"template": True, "model": False}.get(given.questions))
    asked = sum(len(sheet.asked) for sheet in sheets.values())
    print(f"{len(suite.samples)} samples, {asked} interactions of 10 questions each, suite {suite.hash}")
    if left := [sample.id for sample in suite.samples if sample.id not in sheets]:
        print(f"left open: {len(left)} samples have no questions: {', '.join(left[:20])}", file=sys.stderr)
    return 2 if left and not given.dry_run else 0


def _export(given: argparse.Namespace) -> int:
    suite = read_suite(given.suite)
    notes = export_suite(suite, given.data)
    if given.videos is not None:
        model = given.of or given.videos.resolve().name
        notes += export_videos(suite, given.videos, given.data, model)
    _tell(notes)
    print(f"{len(suite.samples)} samples were written to {given.data} in the released layout")
    return 2 if notes else 0


def _written(given: argparse.Namespace, suite: Suite) -> None:
    """Questions from a model, for samples that have none."""
    folder = suite.folder / QUESTIONS
    samples = {each.id: each for each in suite.samples if not (folder / f"{each.id}.json").is_file()}
    if not samples:
        return
    requests = [question_request(sample) for sample in samples.values()]
    put(given, requests, folder, lambda request, raw: read_questions(raw, samples[request.id], suite.hash, ""))
    answers = Answers(folder / "answers.jsonl")
    for request in requests:
        if (found := answers.found.get(request.key)) is not None:
            sample = samples[request.id]
            write_sheet(read_questions(found.raw, sample, suite.hash, found.model), folder / f"{sample.id}.json")
        elif not given.dry_run:
            print(f"{request.where}: {answers.failed.get(request.key, 'not answered yet')[:300]}", file=sys.stderr)


def _track(given: argparse.Namespace) -> int:
    suite = read_suite(given.suite)
    videos, missing = find_videos(suite, given.videos)
    shares = Shares(gpu=given.device.startswith("cuda"))
    problems = [f"{name}: there is no video" for name in missing] if shares.first else []
    predictor = load_sam2(given.sam2, shares.device(given.device))
    for number, video in enumerate(shares.of(videos), 1):
        path = video.beside(".tracks.safetensors")
        try:
            if path.is_file():
                if path.stat().st_mtime < video.path.stat().st_mtime:
                    problems.append(f"{video.name}: its tracks are older than it: remove {path} to track it anew")
                continue
            masks = first_masks(suite, video.sample)
            roles = {each.name: each.role for each in video.sample.instances}
            tracks, note = track_video(predictor, video.path, masks, roles)
            save_tracks(tracks, path)
            print(f"{number} of {len(shares.of(videos))}: {path}" + (f"; {note}" if note else ""), flush=True)
        except ValueError as error:
            problems.append(f"{video.name}: {error}")
    _tell(problems)
    shares.meet()
    shares.end()
    return 2 if problems else 0


def _ask(given: argparse.Namespace) -> int:
    suite = read_suite(given.suite)
    requests, problems = _requests(suite, given.videos, _options(given))
    _tell(problems)
    left = put(given, requests, given.videos / OUT, check)
    return 2 if (left and not given.dry_run) or problems else 0


def _score(given: argparse.Namespace) -> int:
    found = score_all(given, _options(given))
    print(table(found.means))
    if found.differences:
        print(compare(found.differences))
    if found.agreements:
        print(agreement_table(found.agreements).markdown())
    if given.complete and found.missing:
        raise ValueError("videos are missing from the means (see above), and --complete asks for all of them")
    return 2 if found.missing else 0


def _requests(suite: Suite, folder: Path, options: Options) -> tuple[list[Request], list[str]]:
    """Everything that is asked about a folder of videos, and what stands in the way, by name."""
    sheets = prepare(suite)
    videos, missing = find_videos(suite, folder)
    found: list[Request] = []
    problems = [f"{name}: there is no video" for name in missing]
    for video in videos:
        try:
            found += requests_of(video, sheet_of(video, sheets), suite, options)
        except ValueError as error:
            problems.append(f"{video.name}: {error}")
    if not found:
        raise ValueError(f"nothing in {folder} can be judged: {'; '.join(problems[:5])}")
    return found, problems


def _tell(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)


def _options(given: argparse.Namespace) -> Options:
    return Options(**{each.name: getattr(given, each.name) for each in fields(Options)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.judge", description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True)
    first = steps.add_parser("prepare", help="check a suite and make its questions")
    first.set_defaults(run=_prepare)
    tracked = steps.add_parser("track", help="tracks of videos, from the suite's first masks")
    tracked.set_defaults(run=_track)
    second = steps.add_parser("ask", help="ask a judge about a folder of videos")
    second.set_defaults(run=_ask)
    third = steps.add_parser("score", help="scores of one or more folders of videos")
    third.set_defaults(run=_score)
    served = steps.add_parser("serve", help="a page on which people judge")
    served.set_defaults(run=lambda given: serve(given, _options(given)), repeats=1)
    preferred = steps.add_parser("prefer", help="a page on which people choose between models, and what they prefer")
    preferred.set_defaults(run=prefer)
    reported = steps.add_parser("report", help="scores as a page with videos and answers, and as tables of the papers")
    reported.set_defaults(run=lambda given: report(given, _options(given)))
    fourth = steps.add_parser("export", help="a suite, and a model's videos, in the released evaluation's folders")
    fourth.set_defaults(run=_export)
    for step in (first, tracked, second, third, served, preferred, reported, fourth):
        step.add_argument("suite", type=Path, help="folder with suite.json")
    first.add_argument(
        "--questions", choices=("template", "model"), help="who writes them: a template (default), or a model's judge"
    )
    fourth.add_argument("data", type=Path, help="folder that gets EVAL_DATA, OUTPUTS and EVAL_RESULTS")
    first.add_argument("--authors", type=Path, metavar="DATA", help="make the suite of the released evaluation's files")
    for step in (first, fourth):
        step.add_argument("--videos", type=Path, help="a folder of videos that is taken over, or written, with tracks")
        step.add_argument("--of", metavar="MODEL", default="", help="the model's name in that layout")
    for step in (tracked, second):
        step.add_argument("videos", type=Path, help="folder with ID.mp4, or ID/SEED.mp4")
    tracked.add_argument("--sam2", type=Path, required=True, help="a SAM 2 or 2.1 checkpoint")
    tracked.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    for step in (first, second):
        add_settings(step)
    for step in (third, served, preferred, reported):
        step.add_argument("videos", type=Path, nargs="+", help="folders of videos, one a model")
    add_page(served, needed=True)
    add_prefer(preferred)
    add_report(reported)
    add_scoring(third)
    for step in (second, third, reported):
        step.add_argument("--repeats", type=int, default=1, help="judgements of each request, odd (default: 1)")
    for step in (second, third, served, reported):
        step.add_argument("--emergence", choices=EMERGENCE, default="judge", help="who says what is new")
        step.add_argument("--shrunk", type=float, default=0.0, help="an instance below this share of its area is gone")
        step.add_argument("--grace", type=int, default=0, help="frames of absence that are forgiven")
        step.add_argument("--longest", type=int, default=768, help="pixels of a picture's longer side (default: 768)")
        step.add_argument("--clean", dest="boxes", action="store_false", help="pictures without boxes")
        step.add_argument("--show-prompt", action="store_true", help="the judge reads the video's prompt")
        step.add_argument("--shuffle", type=int, help="a seed that mixes the order of the questions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
