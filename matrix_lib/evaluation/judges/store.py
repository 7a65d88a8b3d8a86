"""Answers as they come: one line of JSON a call, appended and flushed, so that a run that stops goes on where it was.

    {"key", "judge", "model", "date", "raw", "usage"}      an answer
    {"key", "judge", "model", "date", "error"}             a call that failed, or an answer before this line that cannot
                                                           be read; it is asked again next time

An answer belongs to a request by the key alone, which is made of all that the judge sees.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .judge import Judge, JudgeError, Reply, Request

__all__ = ["Answers", "Check", "Stored", "ask"]

Check = Callable[[Request, str], Any]
"""Reads an answer, or raises ValueError that says what is wrong with it."""


@dataclass(frozen=True)
class Stored:
    """One answer of the file."""

    key: str
    judge: str
    model: str
    raw: str


class Answers:
    """The answers in a file, or, without a path, in memory alone. Lines that a killed run left half written are passed
    over; of two answers with one key the first counts."""

    def __init__(self, path: Path | None) -> None:
        self.path, self._lock = path, threading.Lock()
        self.found: dict[str, Stored] = {}
        self.failed: dict[str, str] = {}
        self.damaged = 0
        if path is not None and path.is_file():
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            key, said = str(entry["key"]), str(entry.get("error", ""))
            if said:
                self.failed[key] = said
                self.found.pop(key, None)
                return
            stored = Stored(key, str(entry["judge"]), str(entry["model"]), entry["raw"])
            if not isinstance(stored.raw, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.damaged += bool(line.strip())
            return
        self.found.setdefault(key, stored)
        self.failed.pop(key, None)

    def add(self, request: Request, judge: str, reply: Reply) -> None:
        """Keeps an answer."""
        entry = {"judge": judge, "model": reply.model, "raw": reply.raw, "usage": dict(reply.usage)}
        with self._lock:
            self.found.setdefault(request.key, Stored(request.key, judge, reply.model, reply.raw))
            self.failed.pop(request.key, None)
            self._write({"key": request.key, **entry})

    def fail(self, request: Request, judge: str, why: str) -> None:
        """Notes that a call failed: it is missing, and will be asked again. An answer that was there counts no more."""
        with self._lock:
            self.found.pop(request.key, None)
            self.failed[request.key] = why
            self._write({"key": request.key, "judge": judge, "error": why[:2000] or "no reason was given"})

    def _write(self, entry: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**entry, "date": datetime.now(UTC).isoformat(timespec="seconds")}, ensure_ascii=False)
        with open(self.path, "ab+") as file:
            if file.tell() and not _ends_whole(file):
                file.write(b"\n")  # what a killed run left behind is not to swallow this line
            # Half of a surrogate pair cannot be written; as an escape it is what it was.
            file.write(line.encode("utf-8", "backslashreplace") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def recheck(self, requests: Iterable[Request], check: Check) -> None:
        """Notes answers that cannot be read as failed: whoever wrote them into the file did not check."""
        for request in {request.key: request for request in requests}.values():
            if (given := self.found.get(request.key)) is not None:
                try:
                    check(request, given.raw)
                except ValueError as error:
                    self.fail(request, given.judge, f"{error}. The answer was: {given.raw[:1000]}")

    def judges(self, keys: Iterable[str]) -> set[str]:
        """Whom these requests were put to, of those that are answered."""
        return {one.judge for key in keys if (one := self.found.get(key)) is not None}

    def models(self, keys: Iterable[str]) -> set[str]:
        """Who gave the answers to these requests."""
        return {f"{one.judge}: {one.model}" for key in keys if (one := self.found.get(key)) is not None}


def ask(
    requests: Sequence[Request],
    judge: Judge,
    answers: Answers,
    check: Check,
    tries: int = 2,
    progress: Callable[[int, int], None] = lambda done, of: None,
    beat: Callable[[], None] = lambda: None,
) -> int:
    """Asks what is not answered yet; returns how many requests stay without an answer that can be read.

    Args:
        check: reads an answer, or raises ValueError with a sentence that the judge is sent for its next try.
        tries: how often a request is asked where the answer cannot be read.
        beat: called at least twice a second while others answer, to end the run by an exception. A judge with one
            worker is asked in the calling thread, with a beat before each request.

    An answer that cannot be read is kept as a failure with its text. A judge whose failure would repeat for every
    request (`JudgeError.again` false) ends the run; KeyboardInterrupt does, too. Everything that was answered is kept.
    """
    once = {request.key: request for request in requests}
    answers.recheck(requests, check)
    open_ = [request for key, request in once.items() if key not in answers.found]
    done = len(once) - len(open_)
    progress(done, len(once))
    if judge.workers <= 1:
        for each in open_:
            beat()
            _one(each, judge, answers, check, tries)
            done += 1
            progress(done, len(once))
        return sum(key not in answers.found for key in once)
    queue = iter(open_)
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(max_workers=judge.workers) as pool:
        try:
            while True:
                while len(running) < judge.workers and (request := next(queue, None)) is not None:
                    running.add(pool.submit(_one, request, judge, answers, check, tries))
                if not running:
                    break
                ended, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                beat()
                for future in ended:
                    future.result()
                    done += 1
                    progress(done, len(once))
        except BaseException:
            for future in running:
                future.cancel()
            if (stop := getattr(judge, "stop", None)) is not None:
                stop()
            raise
    return sum(key not in answers.found for key in once)


def _one(request: Request, judge: Judge, answers: Answers, check: Check, tries: int) -> None:
    complaint, raw = "", ""
    for _ in range(max(1, tries)):
        try:
            reply = judge.answer(request, complaint)
        except JudgeError as error:
            answers.fail(request, judge.name, str(error))
            if not error.again:
                raise
            return
        raw = reply.raw
        try:
            check(request, raw)
        except ValueError as error:
            complaint = str(error)
            continue
        answers.add(request, judge.name, reply)
        return
    answers.fail(request, judge.name, f"{complaint}. The answer was: {raw[:1000]}")


def _ends_whole(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    whole = file.read(1) == b"\n"
    file.seek(0, os.SEEK_END)
    return bool(whole)
