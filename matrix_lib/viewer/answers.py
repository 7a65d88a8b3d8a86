"""Answers what a page asks about an exhibit. Nothing here knows a server, and nothing that is asked names a file.

A question is a word and a few texts, all of them from strangers: `manifest`, `map`, `scores`, `reading`, `frame`,
`page`.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .exhibit import Exhibit
from .manifest import manifest
from .page import page_html
from .reading import reading_json
from .scores import scores_json
from .slices import Wanted, slice_of
from .store import GoneError, Store, UnknownError

__all__ = ["Answer", "Answers", "answer_about"]

Query = Mapping[str, str]
_ID = re.compile(r"[0-9a-f]{32}")
_WHOLE = re.compile(r"[0-9]{1,6}")
_LONGEST = 2000  # characters of one text
_MOST_ENTITIES = 16  # maps in one answer

GONE = (
    "this capture is not kept any more: it had to make room for newer ones. Run the node again; where the host takes "
    "its result from the cache, change one of its values first"
)
UNKNOWN = "no capture has this id. Captures are kept while ComfyUI runs: run the node again"


@dataclass(frozen=True)
class Answer:
    """An HTTP status, the type of the body, and the body."""

    status: int
    type: str
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status == 200


def _told(status: int, text: str) -> Answer:
    return Answer(status, "application/json", json.dumps({"error": text}).encode())


def _json(value: Any) -> Answer:
    return Answer(200, "application/json", json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


def answer_about(exhibit: Exhibit, what: str, query: Query) -> Answer:
    """The answer to one question: 200, 400 where it cannot be read or asks for what there is not, 404 for an unknown
    word."""
    if what not in _QUESTIONS:
        return _told(404, f"a viewer asks for {', '.join(_QUESTIONS)}")
    try:
        return _QUESTIONS[what](exhibit, query)
    except ValueError as error:
        return _told(400, str(error))


class Answers:
    """Answers about the exhibits of a store; those that were given lately are kept, within `most_bytes`.

    Safe to ask from several threads.
    """

    def __init__(self, store: Store, most_bytes: int = 32 << 20) -> None:
        self.store, self.most_bytes = store, most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], Answer] = OrderedDict()
        self._size = 0

    def to(self, name: str, what: str, query: Query) -> Answer:
        """The answer to a question about the exhibit of an id: as `answer_about`, and 404 for an id that is none or
        unknown, 410 for one whose exhibit had to make room."""
        if not _ID.fullmatch(name):
            return _told(404, "an id of a capture has 32 hexadecimal digits")
        try:
            exhibit = self.store.get(name)
        except GoneError:
            return _told(410, GONE)
        except UnknownError:
            return _told(404, UNKNOWN)
        if any(len(text) > _LONGEST for text in query.values()):
            return _told(400, f"no text of a question is longer than {_LONGEST} characters")
        key = (name, what, *(f"{word}={query[word]}" for word in sorted(query)))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = answer_about(exhibit, what, query)
        if found.ok and what in ("map", "scores", "manifest", "reading"):
            self._keep(key, found)
        return found

    @property
    def kept_bytes(self) -> int:
        """Bytes of the answers that are kept."""
        return self._size

    def _keep(self, key: tuple[str, ...], found: Answer) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = found
            self._size += len(found.body)
            while self._size > self.most_bytes:
                _, old = self._kept.popitem(last=False)
                self._size -= len(old.body)


def _number(query: Query, name: str, default: int | None = None) -> int:
    text = query.get(name, "")
    if not text and default is not None:
        return default
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{name} is a whole number from 0 to 999999; got {text[:40]!r}")
    return int(text)


def _wanted(query: Query) -> Wanted:
    return Wanted(
        stream=_number(query, "stream", 0),
        kind=query.get("kind", "v2t"),
        layers=query.get("layers", "all"),
        steps=query.get("steps", "all"),
        head=_head(query),
        sinkless=_sinkless(query),
    )


def _sinkless(query: Query) -> bool:
    if (text := query.get("sinks", "")) not in ("", "out"):
        raise ValueError(f"sinks is 'out' where attention sinks are to be left out; got {text[:40]!r}")
    return bool(text)


def _head(query: Query) -> int | None:
    return _number(query, "head") if query.get("head") else None


def _maps(exhibit: Exhibit, query: Query) -> Answer:
    """Slices one behind the other, in the order in which the entities were asked for."""
    texts = query.get("entities", "").split(",")
    if not 0 < len(texts) <= _MOST_ENTITIES:
        raise ValueError(f"ask for the maps of 1 to {_MOST_ENTITIES} entities at once; got {len(texts)}")
    wanted = _wanted(query)
    entities = [_number({"entities": text}, "entities") for text in texts]
    body = b"".join(slice_of(exhibit.capture, wanted, entity) for entity in entities)
    return Answer(200, "application/octet-stream", body)


def _scores(exhibit: Exhibit, query: Query) -> Answer:
    entity = _number(query, "entity")
    stream, kind = _number(query, "stream", 0), query.get("kind", "v2t")
    return _json(scores_json(exhibit, stream, kind, entity, _head(query), _sinkless(query)))


def _frame(exhibit: Exhibit, query: Query) -> Answer:
    frames, number = exhibit.film.frames, _number(query, "number")
    if number >= len(frames):
        raise ValueError(f"there is no frame {number}: the clip has {len(frames)}")
    return Answer(200, "image/jpeg", frames[number])


def _page(exhibit: Exhibit, query: Query) -> Answer:
    return Answer(200, "text/html; charset=utf-8", page_html([exhibit]).encode())


_QUESTIONS: dict[str, Callable[[Exhibit, Query], Answer]] = {
    "manifest": lambda exhibit, query: _json(manifest(exhibit)),
    "map": _maps,
    "scores": _scores,
    "reading": lambda exhibit, query: _json(reading_json(exhibit, _wanted(query))),
    "frame": _frame,
    "page": _page,
}
