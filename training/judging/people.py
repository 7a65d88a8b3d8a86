"""People at `training.judge`: the page on which they answer (`serve`), and side-by-side preference (`prefer`)."""

from __future__ import annotations

import argparse
import json
import math
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from matrix_lib.evaluation.agreement import Agreement
from matrix_lib.evaluation.intergen import people, side_by_side
from matrix_lib.evaluation.intergen.run import Options, find_videos, prepare, sheet_of
from matrix_lib.evaluation.intergen.suite import Suite, read_suite
from matrix_lib.evaluation.intergen.tables import Table, agreement_table, preference_table
from matrix_lib.evaluation.preference import Preference, preference
from matrix_lib.io.files import whole_file
from matrix_lib.pages.deck import Card, Deck
from matrix_lib.pages.marks import Marks, check_name
from matrix_lib.pages.server import PageServer

__all__ = ["add_page", "add_prefer", "model_names", "prefer", "preferences", "serve"]


def serve(given: argparse.Namespace, options: Options) -> int:
    """Asks people about folders of videos, mixed. 0 where everything is answered, 2 where something is left."""
    suite = read_suite(given.suite)
    cards, problems = _questions(suite, given.videos, options)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not cards:
        raise ValueError("nothing of this can be judged: see above")
    decks = []
    with ExitStack() as held:
        for name in _raters(given):
            kept = people.EveryMarks(name)
            for folder, videos in cards.items():
                marks = held.enter_context(people.marks_in(folder, name).held())
                for card in (card for some in videos for card in some):
                    kept.add(card.id, marks)
            every = [some for videos in cards.values() for some in videos]
            order = people.mixed(every, f"{given.order} {name}")
            decks.append(Deck("Judging interactions", order, kept, people.TASK))
        left = _show(decks, given)
    return 2 if left or problems else 0


def prefer(given: argparse.Namespace) -> int:
    """Shows people two models' videos side by side, and says what they prefer."""
    suite = read_suite(given.suite)
    folders = dict(zip(model_names(given.videos), given.videos, strict=True))
    out = given.out or given.suite / "preference"
    pairs, problems = side_by_side.pairs_of(suite, folders, given.per_prompt, given.order)
    if not pairs:
        raise ValueError(f"there is nothing to compare: {'; '.join(problems[:5])}")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    questions = _asked(given)
    left = 0
    if given.rater:
        decks = []
        with ExitStack() as held:
            for name in _raters(given):
                marks = held.enter_context(Marks(out / f"{check_name(name)}.jsonl", name).held())
                cards = side_by_side.cards_of(pairs, questions, f"{given.order} {name}")
                decks.append(Deck("Which one?", cards, marks, side_by_side.TASK))
            left = _show(decks, given)
    votes = {name: side_by_side.votes_in(out, pairs, name) for name in questions}
    if not any(votes.values()):
        raise ValueError(f"nobody has voted yet in {out}: say --rater NAME, and answer on the page")
    _write_preferences(out, votes, list(folders))
    return 2 if left or problems else 0


def preferences(suite: Path, out: Path | None, folders: Sequence[Path]) -> Table | None:
    """What people prefer of these models, from what `prefer` wrote; None where there is no vote on them."""
    found = side_by_side.read_votes((out or suite / "preference") / side_by_side.VOTES, model_names(folders))
    known = {name: preference(votes, model_names(folders)) for name, votes in found.items() if votes}
    return preference_table(known) if known else None


def model_names(folders: Sequence[Path]) -> list[str]:
    """A name for each model's folder: the last part of its path, all of it where two have the same.

    Raises ValueError for a folder that is given twice.
    """
    last = [folder.resolve().name for folder in folders]
    found = [one if last.count(one) == 1 else str(folder) for one, folder in zip(last, folders, strict=True)]
    for name, folder in zip(found, folders, strict=True):
        if found.count(name) > 1:
            raise ValueError(f"{folder} is given twice")
    return found


def _questions(
    suite: Suite, folders: Sequence[Path], options: Options
) -> tuple[dict[Path, list[list[Card]]], list[str]]:
    """({folder: cards of each video}, what cannot be judged, by name)."""
    sheets = prepare(suite)
    found: dict[Path, list[list[Card]]] = {}
    problems: list[str] = []
    for folder in folders:
        videos, missing = find_videos(suite, folder)
        problems += [f"{folder.name}/{name}: there is no video" for name in missing]
        for count, video in enumerate(videos, 1):
            print(f"\r{folder.name}: {count} of {len(videos)} videos are made ready", end="", file=sys.stderr)
            try:
                cards = people.cards_of(video, sheet_of(video, sheets), suite, options)
                found.setdefault(folder, []).append(cards)
            except ValueError as error:
                problems.append(f"{folder.name}/{video.name}: {error}")
        print(file=sys.stderr)
    return found, problems


def _raters(given: argparse.Namespace) -> list[str]:
    names = [check_name(name) for name in given.rater]
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"each person has a name of their own; got {', '.join(names)}")
    return names


def _show(decks: Sequence[Deck], given: argparse.Namespace) -> int:
    """Serves the decks until Ctrl-C, and returns how many cards are left."""
    with PageServer(decks, given.port) as server:
        for deck, address in zip(decks, server.addresses, strict=True):
            left = sum(not deck.done(card) for card in deck.cards)
            print(f"{deck.marks.by}: {left} of {len(deck.cards)} are left. Open this in a browser on this machine:")
            print(f"    {address}", flush=True)
            if given.open:
                webbrowser.open(address)
        print("Answers are kept as they are given. Ctrl-C stops; the same command goes on.", flush=True)
        server.wait()
    every = 0
    for deck in decks:
        left = sum(not deck.done(card) for card in deck.cards)
        every += left
        print(f"{deck.marks.by}: {len(deck.cards) - left} of {len(deck.cards)} are done")
    return every


def _asked(given: argparse.Namespace) -> dict[str, str]:
    """Texts of the questions by name."""
    found = {name: side_by_side.QUESTIONS[name] for name in given.about}
    for each in given.ask or ():
        name, _, text = each.partition("=")
        if not name.strip() or not text.strip():
            raise ValueError(f"a question of your own is NAME=TEXT; got {each!r}")
        found[name.strip()] = text.strip()
    return found


def _write_preferences(out: Path, votes: Mapping[str, Sequence[Any]], models: Sequence[str]) -> None:
    found = {name: preference(some, models) for name, some in votes.items() if some}
    side_by_side.write_votes(out / side_by_side.VOTES, votes)
    same = {name: side_by_side.agreements(some) for name, some in votes.items()}
    tables = [preference_table(found)]
    tables += [agreement_table(same)] if any(same.values()) else []
    for name, text in (
        ("preference.json", json.dumps(_plain(found, same), indent=1, ensure_ascii=False) + "\n"),
        ("preference.md", "\n".join(table.markdown() for table in tables)),
        ("preference.tex", tables[0].latex()),
        ("preference.csv", tables[0].csv()),
    ):
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print("\n".join(table.markdown() for table in tables), end="")


def _plain(found: Mapping[str, Preference], same: Mapping[str, Sequence[Agreement]]) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 9)

    def numbers(each: Any) -> list[float | None]:
        return [number(value) for value in (each.mean, each.low, each.high)]

    return {
        name: {
            "votes": one.votes,
            "ties": one.ties,
            "prompts": one.prompts,
            "share": {model: numbers(each) for model, each in one.share.items()},
            "strength": {model: numbers(each) for model, each in one.strength.items()},
            "pairs": [
                {"one": p.one, "other": p.other, "lead": numbers(p.lead), "p_holm": number(p.p)} for p in one.pairs
            ],
            "agreement": [
                {"judges": a.judges, "agreed": number(a.agreed), "kappa": numbers(a.kappa), "count": a.count}
                for a in same[name]
            ],
        }
        for name, one in found.items()
    }


def add_page(parser: argparse.ArgumentParser, needed: bool) -> None:
    """Settings of the page."""
    parser.add_argument(
        "--rater", nargs="+", default=[], required=needed, metavar="NAME", help="who answers; each has an address"
    )
    parser.add_argument("--port", type=int, default=0, help="of the page on 127.0.0.1 (default: a free one)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--order", type=int, default=0, help="a seed of the order in which things are asked (0)")


def add_prefer(parser: argparse.ArgumentParser) -> None:
    """Settings of `prefer`."""
    add_page(parser, needed=False)
    every = tuple(side_by_side.QUESTIONS)
    parser.add_argument("--about", nargs="*", choices=every, default=every, help="what is asked of each pair (all)")
    parser.add_argument("--ask", action="append", metavar="NAME=TEXT", help="a question of your own, again for more")
    parser.add_argument("--per-prompt", type=int, help="pairs of a prompt that are asked (default: all)")
    parser.add_argument("--out", type=Path, help="where votes and results go (default: SUITE/preference)")
