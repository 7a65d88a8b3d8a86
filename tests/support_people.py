"""People who answer: straight into their files, as the page does, or over the page's own address."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any
from unittest.mock import patch

from matrix_lib.evaluation.intergen.people import cards_of, marks_in
from matrix_lib.evaluation.intergen.run import Options, find_videos, prepare
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.pages.deck import Card, Question
from matrix_lib.pages.marks import Mark
from matrix_lib.pages.server import PageServer
from training.judge import main

__all__ = ["Command", "Says", "answer_all", "fetched", "posted", "serving"]

Says = Callable[[Card, Question], Mark | None]
"""What somebody answers; None leaves the question open."""


def answer_all(suite: str, videos: str, name: str, says: Says) -> int:
    """Has a person answer everything about a folder; returns how many answers were given."""
    read = read_suite(suite)
    sheets, marks, given = prepare(read), marks_in(Path(videos), name), 0
    for video in find_videos(read, Path(videos))[0]:
        for card in cards_of(video, sheets[video.sample.id], read, Options()):
            for question in card.questions:
                if (mark := says(card, question)) is not None:
                    marks.put(card.id, question.id, mark)
                    given += 1
    return given


def fetched(address: str, rest: str) -> Any:
    """JSON from below a page's address."""
    with urllib.request.urlopen(address + rest, timeout=10) as reply:
        return json.load(reply)


def posted(address: str, **mark: Any) -> Any:
    """An answer, sent as the page sends it."""
    body, kind = json.dumps({"frame": None, **mark}).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address + "mark", body, kind), timeout=10) as reply:
        return json.load(reply)


class Command:
    """A command that serves a page. addresses: of its people; code: what it ended with."""

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.code: int | None = None


@contextmanager
def serving(*arguments: str) -> Iterator[Command]:
    """`training.judge` in a thread, until the block ends: what Ctrl-C ends in the main thread is an event here."""
    command, ready, over = Command(), Event(), Event()

    def wait(server: PageServer) -> None:
        command.addresses = server.addresses
        ready.set()
        over.wait(120)

    def run() -> None:
        try:
            command.code = main(list(arguments))
        finally:
            ready.set()

    with patch.object(PageServer, "wait", wait):
        thread = Thread(target=run)
        thread.start()
        ready.wait(120)
        try:
            yield command
        finally:
            over.set()
            thread.join(60)
