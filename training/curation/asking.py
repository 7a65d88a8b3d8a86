"""Asking a judge from a stage: who it is, as data that travels to a worker, and answers that are kept one file each.

An answer belongs to a request by its key, which is made of all that the judge sees. It is on the disk before it is
used, so that nobody is asked twice for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from matrix_lib.evaluation.judges.endpoint import EndpointJudge
from matrix_lib.evaluation.judges.endpoint_wire import Endpoint
from matrix_lib.evaluation.judges.files import FileJudge, write_requests
from matrix_lib.evaluation.judges.judge import Judge, JudgeError, Reply, Request
from matrix_lib.evaluation.judges.local import LocalJudge
from matrix_lib.evaluation.judges.store import Answers, Check, Stored, ask
from matrix_lib.io.files import whole_file

from .stage import Place, StageDownError

__all__ = ["Asking", "EndpointSource", "FileSource", "JudgeSource", "LocalSource"]


class JudgeSource(Protocol):
    """Names a judge. `identity` is what its answers depend on. gpu: whether it wants one."""

    gpu: bool

    @property
    def identity(self) -> Any: ...

    def open(self, place: Place, stage: str) -> Judge:
        """The judge, in the worker that asks it. Raises ValueError with what is missing."""


@dataclass(frozen=True)
class FileSource:
    """Another program: requests stand in WORK/requests-STAGE.jsonl, answers in WORK/answers-STAGE.jsonl."""

    gpu = False
    identity = "file"

    def open(self, place: Place, stage: str) -> Judge:
        """See `JudgeSource`."""
        return FileJudge(place.work / f"answers-{stage}.jsonl")


@dataclass(frozen=True)
class LocalSource:
    """A vision-language model's folder."""

    folder: Path
    most: int = 1024
    gpu = True

    @property
    def identity(self) -> Any:
        return ["local", self.folder.name, self.most]

    def open(self, place: Place, stage: str) -> Judge:
        """See `JudgeSource`."""
        return LocalJudge(self.folder, place.device, most=self.most)


@dataclass(frozen=True)
class EndpointSource:
    """An OpenAI-compatible address. What its answers depend on is the model, not where it runs."""

    endpoint: Endpoint
    gpu = False

    @property
    def identity(self) -> Any:
        return ["endpoint", self.endpoint.model, self.endpoint.temperature, self.endpoint.seed]

    def open(self, place: Place, stage: str) -> Judge:
        """See `JudgeSource`."""
        return EndpointJudge(self.endpoint)


class Asking:
    """A judge and its answers, in one worker of a stage."""

    def __init__(self, source: JudgeSource, place: Place, stage: str) -> None:
        self.judge, self.stage = source.open(place, stage), stage
        self.answers = place.work / "answers" / stage
        self.told = place.work / f"requests-{stage}.jsonl"
        self.by_file = isinstance(self.judge, FileJudge)
        if self.by_file:
            self.told.unlink(missing_ok=True)

    def put(self, requests: Sequence[Request], check: Check) -> dict[str, str | JudgeError]:
        """By key: an answer that can be read, or why there is none (a JudgeError; of another class where what came
        cannot be read). Each is asked twice at most, the second time with what was wrong.

        Raises StageDownError where the judge cannot go on.
        """
        kept = _Kept(self.answers, self.judge.name, requests)
        try:
            ask(requests, self.judge, kept, check)
        except JudgeError as error:
            raise StageDownError(str(error)) from None
        if self.by_file:
            self._tell([request for request in requests if request.key not in kept.found])
        found: dict[str, str | JudgeError] = {}
        for request in requests:
            if (stored := kept.found.get(request.key)) is not None:
                found[request.key] = stored.raw
            else:
                found[request.key] = UnreadableError(why) if (why := kept.unread.get(request.key)) else JudgeError(
                    kept.failed.get(request.key, "not answered yet")
                )  # fmt: skip
        return found

    def _tell(self, requests: Sequence[Request]) -> None:
        """Adds requests to the file that another program answers."""
        part = self.told.with_suffix(".part.jsonl")
        write_requests(requests, part)
        with open(self.told, "ab") as file:
            file.write(part.read_bytes())
        part.unlink()


class UnreadableError(JudgeError):
    """The judge did answer, and what it said cannot be read: the clip stays open."""


class _Kept(Answers):
    """The answers to these requests: those on the disk, and those that come."""

    def __init__(self, folder: Path, judge: str, requests: Sequence[Request]) -> None:
        super().__init__(folder / "none.jsonl")
        self.folder, self.unread = folder, dict[str, str]()
        for request in requests:
            path = self._path(request.key, judge)
            if path.is_file():
                entry = json.loads(path.read_text(encoding="utf-8"))
                self.found[request.key] = Stored(request.key, entry["judge"], entry["model"], entry["raw"])

    def add(self, request: Request, judge: str, reply: Reply) -> None:
        """Keeps an answer."""
        entry = {"judge": judge, "model": reply.model, "raw": reply.raw, "usage": dict(reply.usage)}
        with whole_file(self._path(request.key, judge)) as temporary:
            temporary.write_bytes(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        with self._lock:
            self.found.setdefault(request.key, Stored(request.key, judge, reply.model, reply.raw))

    def fail(self, request: Request, judge: str, why: str) -> None:
        """Notes why there is no answer."""
        with self._lock:
            self.found.pop(request.key, None)
            self.failed[request.key] = why
            if ". The answer was: " in why:  # as `ask` tells of what it could not read
                self.unread[request.key] = why

    def _path(self, key: str, judge: str) -> Path:
        who = "".join(c if c.isalnum() or c in "-." else "_" for c in judge)[:80]
        return self.folder / who / key[:2] / f"{key}.json"
