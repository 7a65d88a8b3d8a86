"""The page on which people review clips: accept, fix or drop, by keyboard. It is a site of `matrix_lib.pages.server`.

Verdicts go into 7_review.jsonl as they are given, so that a closed tab or a killed server loses none. What is fixed is
followed from the new boxes and points in the background, and comes again to be looked at.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matrix_lib.core.tracks.palette import FIXED_NAMES
from matrix_lib.core.tracks.text import Prompt, parse_prompts
from matrix_lib.pages.deck import Card, Choice, Media, Question, Scene, card_done, card_json, checked_mark
from matrix_lib.pages.marks import Mark, check_name

from .local import gpus, worked
from .review import keys_of, verdicts
from .review_pictures import Pictures
from .run import Curation, Ended
from .sheets import fault_text
from .stage import Item, Place, Stage, StageDownError
from .views import all_faults

__all__ = ["Follower", "ReviewSite", "to_look_at"]

_TASK = (
    "Is every mask the thing that its line says, in every frame, and nothing else?",
    "a accepts the clip, d drops it, f lets you fix it: draw a box around the thing, or click on it, in any frame.",
    "What you fix is followed anew, and comes again. An instance is followed from all that you leave in the editor.",
)
_STILLS = 10
_ACCEPT = Choice("accept", "accept", ("a",), tone="good")
_FIX = Choice("fix", "fix", ("f",))
_DROP = Choice("drop", "drop", ("d",), tone="bad")
_WHERE = Question("where", "Where is it? A box or points, from which it is followed.", kind="prompts",
                  when=("verdict", "fix"))  # fmt: skip
_WHY = Question("why", "Why not?", kind="text", optional=True, when=("verdict", "drop"))


def to_look_at(curation: Curation) -> list[str]:
    """Clips for people: those that have tracks, those with most faults first, and those that nobody could follow."""
    found = []
    for name in curation.names:
        item, ended = curation.load(name)
        if ended.stage in ("review", "write"):
            found.append((-len(all_faults(item)) if "checks" in item else -1000, name))
        elif (ended.stage, ended.status) == ("tracks", "open"):
            found.append((-1000, name))
    return [name for _, name in sorted(found)]


class ReviewSite:
    """Clips for one reviewer, as a `server.Site`.

    Args:
        names: of clips, in the order in which they are shown. by: the reviewer. pictures, follower: shared by sites.

    Raises ValueError for a name that cannot be one.
    """

    def __init__(
        self, curation: Curation, names: Sequence[str], by: str, pictures: Pictures, follower: Follower
    ) -> None:
        self.curation, self.names, self.by = curation, tuple(names), check_name(by)
        self.pictures, self.follower = pictures, follower
        self._places = {name: place for place, name in enumerate(self.names)}
        self._begun: set[str] = set()  # clips of which "fix" was said, and not where
        self._told: dict[str, bool] = {}

    # --- the page

    def state(self) -> Mapping[str, Any]:
        """See `server.Site`."""
        done = {name: self._done(name) for name in self.names}
        cards = [{"id": name, "title": name, "done": done[name]} for name in self.names]
        self._told = done
        return {"title": "Review", "by": self.by, "task": list(_TASK), "cards": cards, "busy": self.follower.busy}

    def card(self, name: str) -> Mapping[str, Any]:
        """See `server.Site`."""
        return card_json(self._card(name), str(self._places[name]), self._marks(name))

    def media(self, name: str) -> Path:
        """See `server.Site`."""
        place, _, part = name.partition("-")
        if not place.isdecimal() or len(place) > 9 or int(place) >= len(self.names):
            raise KeyError(name)
        source = self._card(self.names[int(place)]).media(part)
        return source if isinstance(source, Path) else source()

    def mark(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `server.Site`."""
        name = given.get("item")
        if not isinstance(name, str) or name not in self._places:
            raise ValueError("there is no such clip; load the page anew")
        card = self._card(name)
        question, mark = checked_mark(card, given)
        self._begun.discard(name)
        if question == "verdict" and mark.value == "fix":
            self._begun.add(name)
        elif question == "verdict":
            self._said(name, {"verdict": mark.value})
        elif question == "why":
            self._said(name, {"verdict": "drop", "reason": mark.value})
        else:
            self._said(name, {"verdict": "fix", "fixes": self._fixes(name, mark.value)})
            self.pictures.forget(name)
            self.follower.follow(name)
        changed = {each: done for each in self._told if (done := self._done(each)) != self._told[each]}
        self._told |= changed
        return {"done": self._done(name), "changed": changed, "busy": self.follower.busy}

    # --- a clip

    def _card(self, name: str) -> Card:
        if name not in self._places:
            raise KeyError(name)
        item, ended = self.curation.load(name)
        tracked = "tracks" in item and item["tracks"]["status"] == "kept"
        frames = item["clips"]["frames"]
        numbers = sorted({round(n * (frames - 1) / (_STILLS - 1)) for n in range(_STILLS)})
        stills = tuple(Media(f"frame {at}", self.pictures.still(item, tracked, at), at) for at in numbers)
        clips = (Media("film with masks", self.pictures.film(item, tracked)),)
        verdict = Question("verdict", "Are these masks right?" if tracked else "Nobody could follow this. What now?",
                           (_ACCEPT, _FIX, _DROP) if tracked else (_FIX, _DROP))  # fmt: skip
        return Card(name, name, (verdict, _WHERE, _WHY), self._about(item, ended), stills, clips, self._scene(item))

    def _about(self, item: Item, ended: Ended) -> str:
        lines = [item["triplets"]["prompt"], ""]
        for each in item["triplets"]["instances"]:
            lines.append(f"id{each['id']} ({FIXED_NAMES[each['id'] - 1]} mask): {each['descriptor']}")
        if self.follower.failed.get(item["name"]):
            lines += ["", f"It could not be followed: {self.follower.failed[item['name']]}"]
        elif ended.stage == "tracks":
            lines += ["", ended.reason]
        lines += [f"! {fault_text(fault)}" for fault in (all_faults(item) if "checks" in item else ())]
        return "\n".join(lines)

    def _scene(self, item: Item) -> Scene:
        facts = item["clips"]
        names = tuple(f"id{each['id']}" for each in item["triplets"]["instances"])
        return Scene(_text(item), names, facts["width"], facts["height"], facts["frames"], facts["fps"],
                     lambda n: self.pictures.frame(item, n))  # fmt: skip

    def _fixes(self, name: str, text: str) -> dict[str, Any]:
        """What was changed in the editor, by id. Raises ValueError where nothing was."""
        item, _ = self.curation.load(name)
        facts = item["clips"]
        given, _ = parse_prompts(text, facts["width"], facts["height"])
        before = _text(item)
        known = parse_prompts(before, facts["width"], facts["height"])[0] if before else {}
        ids = {f"id{each['id']}" for each in item["triplets"]["instances"]}
        if strangers := sorted(set(given) - ids):
            raise ValueError(f"there is no {strangers[0]!r}: the instances are {', '.join(sorted(ids))}")
        found = {}
        for track, keys in given.items():
            if keys == known.get(track):
                continue
            if None in keys.values():
                raise ValueError(f"{track}: a fix says where it is, not where it leaves: take the key away (Delete)")
            if late := [at for at in keys if at >= facts["frames"]]:
                raise ValueError(f"{track}: frame {late[0]} is behind the last one, {facts['frames'] - 1}")
            said = [_said(at, prompt) for at, prompt in sorted(keys.items()) if prompt is not None]
            found[track.removeprefix("id")] = said[0] if len(said) == 1 else said
        if not found:
            raise ValueError("nothing was changed: draw a box or click on the thing, or press Escape")
        return found

    # --- verdicts

    def _said(self, name: str, line: Mapping[str, Any]) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with self.follower.lock:
            self.curation.results["review"].give({"name": name, **line, "by": self.by, "when": when})

    def _marks(self, name: str) -> dict[str, Mark]:
        if name in self._begun:
            return {"verdict": Mark("fix")}
        line = verdicts(self.curation.reviews(name)).get(self.by)
        if line is None:
            return {}
        marks = {"verdict": Mark(line["verdict"])}
        return marks | ({"why": Mark(line["reason"])} if line.get("reason") else {})

    def _done(self, name: str) -> bool:
        """Said, or not to be said yet."""
        return name in self.follower.waiting or card_done(_ASKED, self._marks(name))


_ASKED = Card("", "", (Question("verdict", "", (_ACCEPT, _FIX, _DROP)), _WHERE, _WHY))


def _text(item: Item) -> str:
    """From where everybody is followed now, as the editor's text."""
    lines = []
    for each in item["triplets"]["instances"]:
        key = str(each["id"])
        given = item["fixes"].get(key) or item.get("anchors", {}).get("anchors", {}).get(key)
        if given:
            lines.append(f"id{key}: " + "; ".join(_key(said) for said in keys_of(given)))
    return "\n".join(lines)


def _key(said: Mapping[str, Any]) -> str:
    points = [f"{'' if inside else '-'}{x:g},{y:g}" for x, y, inside in said.get("points") or []]
    box = [f"[{','.join(f'{v:g}' for v in said['box'])}]"] if said.get("box") else []
    return f"{said['frame']}: {' '.join([*points, *box])}"


def _said(frame: int, prompt: Prompt) -> dict[str, Any]:
    found: dict[str, Any] = {"frame": frame}
    if prompt.box is not None:
        found["box"] = list(prompt.box)
    if prompt.points:
        found["points"] = [[x, y, int(inside)] for x, y, inside in prompt.points]
    return found


class Follower:
    """Follows clips anew, one after the other in a thread of its own, while its block is open.

    Attributes:
        waiting: clips that are not followed yet. failed: why a clip could not be, by name. lock: held by whoever writes
            results.
    """

    def __init__(self, curation: Curation) -> None:
        self.curation = curation
        self.waiting: set[str] = set()
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self._names: queue.Queue[str | None] = queue.Queue()
        self._stages: list[Stage] = []
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def busy(self) -> int:
        return len(self.waiting)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends behind the clip that is under way; the run that goes on does the rest."""
        with self._names.mutex:
            self._names.queue.clear()
        self._names.put(None)
        self._thread.join()

    def follow(self, name: str) -> None:
        """Asks for a clip."""
        self.failed.pop(name, None)
        self.waiting.add(name)
        self._names.put(name)

    def _work(self) -> None:
        while (name := self._names.get()) is not None:
            try:
                self._one(name)
            except Exception as error:  # whatever it was, the page goes on and says it
                self.failed[name] = f"{type(error).__name__}: {error}"
            self.waiting.discard(name)

    def _one(self, name: str) -> None:
        if not self._stages:
            self._stages = [copy.copy(stage) for stage in (self.curation.stages.tracks, self.curation.stages.checks)]
            place = self.curation.place
            for stage in self._stages:
                on_gpu = stage.resources.gpu and gpus() > 0
                stage.setup(Place(place.work, place.raw, "cuda:0" if on_gpu else "cpu"))
        for stage in self._stages:
            item, ended = self.curation.load(name)
            if (ended.stage, ended.status) != (stage.name, "waiting"):
                continue
            (result,) = worked(stage, [item])
            if "failed" in result:
                raise StageDownError(result["failed"])
            with self.lock:
                self.curation.keep(stage, item, result)
