"""A judge that is somebody else's program, or a person later: requests go to a file, answers come from one.

requests.jsonl   {"key", "kind", "id", "seed", "interaction", "repeat", "system", "text", "frames", "schema"}
answers.jsonl    {"key", "judge", "model", "raw"}, by whoever answers, in any order
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ...io.files import whole_file
from .judge import JudgeError, Reply, Request

__all__ = ["FileJudge", "write_requests"]


def write_requests(requests: Iterable[Request], path: Path) -> int:
    """Writes what is to be answered, and returns how much it is. Paths of pictures are relative to the file."""
    count = 0
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for request in requests:
            frames = [
                {"index": picture.index, "png": os.path.relpath(picture.path, path.parent)}
                for picture in request.pictures
            ]
            entry = {
                "key": request.key,
                "kind": request.kind,
                "id": request.id,
                "seed": request.seed,
                "interaction": request.interaction,
                "repeat": request.repeat,
                "system": request.system,
                "text": request.text,
                "frames": frames,
                "schema": request.schema,
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += 1
    return count


class FileJudge:
    """Answers what lies in the answers of another program, and nothing else. damaged: lines that are none."""

    name, workers = "file", 1

    def __init__(self, path: Path) -> None:
        from .store import Answers

        self.path, self._given = path, Answers(path)
        self.damaged = self._given.damaged

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """Raises JudgeError for a request that nobody has answered yet, or whose answer could not be read."""
        found = self._given.found.get(request.key)
        if found is None:
            raise JudgeError(f"{self.path} holds no answer to {request.where}")
        if complaint:
            raise JudgeError(f"{self.path}: the answer to {request.where} cannot be read: {complaint}")
        return Reply(found.raw, found.model)
