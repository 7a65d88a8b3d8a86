"""A curation from raw clips to a set: which clip goes to which stage, what is kept of it, and what the set then holds.

    WORK/1_clips.jsonl 2_triplets.jsonl 3_candidates.jsonl 4_anchors.jsonl 5_tracks.jsonl 6_checks.jsonl 7_review.jsonl
         8_write.jsonl, 5_tracks/, answers/, log.jsonl

Everything may be stopped at any time: what was found is on the disk, and the next run goes on behind it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from matrix_lib.io.clips.writing import clear_drafts, remove_clip, write_rows

from .existing import Holdings, rows_in
from .local import Engine
from .raw import Raw
from .review import Unreviewed, check_review, decided, fixes_of
from .runtime import alone, most_memory
from .stage import Failure, Item, Place, Result, Stage, StageDownError, key_of
from .stages.anchors import Anchors
from .stages.candidates import Candidates
from .stages.checks import Checks
from .stages.clips import Clips, doubles
from .stages.tracks import Tracks
from .stages.triplets import Triplets
from .stages.verify import Verify
from .stages.write import Write
from .store import Results
from .views import all_faults, clip_item, with_result

__all__ = ["FILES", "BadInputError", "Curation", "Ended", "Options", "Stages"]

FILES = {  # written out: a stage that comes between two others must not rename what people have
    "clips": "1_clips.jsonl",
    "triplets": "2_triplets.jsonl",
    "candidates": "3_candidates.jsonl",
    "anchors": "4_anchors.jsonl",
    "tracks": "5_tracks.jsonl",
    "checks": "6_checks.jsonl",
    "verify": "6b_verify.jsonl",
    "review": "7_review.jsonl",
    "write": "8_write.jsonl",
}
LICENCES = "LICENSES.jsonl"
_MOST_TOLD = 1000


class BadInputError(ValueError):
    """Clips that cannot be used, and nobody said that the rest goes on. bad: why, by name."""

    def __init__(self, bad: dict[str, str], of: int) -> None:
        lines = "\n".join(f"  {name}: {why}" for name, why in list(bad.items())[:100])
        more = f"\n  and {len(bad) - 100} more" if len(bad) > 100 else ""
        super().__init__(f"{len(bad)} of {of} clips cannot be used:\n{lines}{more}\nGo on without them: --skip-bad")
        self.bad = bad


@dataclass
class Stages:
    """The stages with their settings, `stage.setting=value` on the command line."""

    clips: Clips
    triplets: Triplets
    candidates: Candidates
    anchors: Anchors
    tracks: Tracks
    checks: Checks
    write: Write
    verify: Verify | None = None

    @property
    def chain(self) -> tuple[Stage, ...]:
        """Those between the clips and a person."""
        chain = (self.triplets, self.candidates, self.anchors, self.tracks, self.checks)
        return chain if self.verify is None else (*chain, self.verify)


@dataclass(frozen=True)
class Options:
    """Of a run.

    Args:
        skip_bad: clips that cannot be used are told, and the rest goes on.
        unreviewed: clips that go into the set although nobody looked at them.
        doubles: bits of 64 by which clips differ on average and are still one; below 0 nobody compares.
        add: the set may hold clips of others, which stay as they are.
        until: the last stage that runs.
    """

    skip_bad: bool = False
    unreviewed: Unreviewed = "none"
    doubles: float = 6.0
    add: bool = False
    until: str = "write"


@dataclass(frozen=True)
class Ended:
    """Where a clip has come to: its stage, and what that said. status: of a result, or "waiting" for a stage to run."""

    name: str
    stage: str
    status: str
    reason: str


class Curation:
    """One folder of raw clips on its way to a set. Results of every stage are in `place.work`."""

    def __init__(
        self,
        raw: Raw,
        place: Place,
        stages: Stages,
        options: Options = Options(),
        say: Callable[[str], object] = print,
        tick: Callable[[str], object] = lambda stage: None,
    ) -> None:
        self.raw, self.place, self.stages, self.options = raw, place, stages, options
        self.say, self.tick, self.out = say, tick, stages.write.out
        self.failed: dict[str, tuple[str, str]] = {}
        self.failures = 0
        self.results: dict[str, Results] = {}
        self._parts: dict[str, int] = {}  # of a clip, the place of its file in `raw.items`
        self._doubles: dict[str, str] = {}
        self._taken: dict[str, str] = {}  # clips that the set had before, and why ours stays out

    # --- the run

    def run(self, engine: Engine, look: Callable[[Curation], object] | None = None) -> None:
        """Goes on to `options.until`, or as far as can be. look: called before the set is written, so that people can
        say their verdicts (`review_page`).

        Raises BadInputError where clips cannot be used and nobody said that the rest goes on; StageDownError where a
        stage cannot go on; ValueError where another run is at it, and for a set that holds clips of others.
        """
        try:
            self._run(engine, look)
        except OSError as error:  # a full disk, most of the time
            raise StageDownError(str(error)) from None

    def _run(self, engine: Engine, look: Callable[[Curation], object] | None) -> None:
        self.place.work.mkdir(parents=True, exist_ok=True)
        with alone(self.place.work / "lock", self.place.work), closing(engine), self._opened():
            self._check_bad(dict(self.raw.bad))
            self._stage(engine, [self.stages.clips], self._raw_items())
            self._check_bad({**self.raw.bad, **self._bad_files()})
            self.find_parts()
            for stages in self._segments(engine):
                self._stage(engine, stages, self._waiting(stages))
            if look is not None and self._wanted("review"):
                look(self)
            if self._wanted("write"):
                self._write(engine)

    def open(self) -> None:
        """Opens what is there. Raises ValueError for files that say two things about one clip."""
        self.results = {
            name: Results(self.place.work / file, many=name == "review", parts=self.place.work / "parts" / name)
            for name, file in FILES.items()
        }
        for name, results in self.results.items():
            for note in results.notes:
                self.say(f"note ({name}): {note}")

    @contextmanager
    def _opened(self) -> Iterator[None]:
        self.open()
        try:
            yield
        finally:
            for results in self.results.values():
                results.close()

    def _segments(self, engine: Engine) -> Iterator[list[Stage]]:
        """Stages that run together, as the engine wants them."""
        chain = [stage for stage in self.stages.chain if self._wanted(stage.name)]
        if getattr(engine, "whole_chain", False):
            if chain:
                yield chain
        else:
            for stage in chain:
                yield [stage]

    def _wanted(self, stage: str) -> bool:
        order = list(FILES)
        return order.index(stage) <= order.index(self.options.until)

    def _check_bad(self, bad: dict[str, str]) -> None:
        if bad and not self.options.skip_bad:
            raise BadInputError(bad, len(self.raw.items) + len(self.raw.bad))

    def _stage(self, engine: Engine, stages: Sequence[Stage], items: Iterator[Item]) -> None:
        """Runs stages over clips and keeps what comes, in order."""
        started, done = time.monotonic(), 0
        names = {stage.name: stage for stage in stages}
        try:
            for item, found in engine.run(stages, items):
                for name, result in found.items():
                    self.keep(names[name], item, result)
                    item = item if isinstance(result, Failure) else with_result(item, name, result)
                done += 1
                self.tick(stages[0].name)
        finally:
            for stage in stages:
                self.results[stage.name].sync()
            self._log("+".join(names), done, time.monotonic() - started)

    def keep(self, stage: Stage, item: Item, result: Result) -> None:
        """Keeps what a stage made of a clip. Raises StageDownError where the disk does not take it."""
        if isinstance(result, Failure):
            self._fail(item["name"], stage.name, result["failed"])
            return
        try:
            self.results[stage.name].add({"name": item["name"], "key": key_of(stage, item), **result})
        except OSError as error:
            raise StageDownError(f"{self.results[stage.name].path}: {error}") from None

    def _fail(self, name: str, stage: str, why: str) -> None:
        self.failures += 1
        if len(self.failed) < _MOST_TOLD:
            self.failed[name] = (stage, why)

    def _log(self, stage: str, clips: int, seconds: float) -> None:
        if not clips:
            return
        entry = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "stage": stage,
            "clips": clips,
            "seconds": round(seconds, 3),
            "clips_a_second": round(clips / max(seconds, 1e-9), 3),
            "most_memory_mb": most_memory(),
        }
        with open(self.place.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    # --- which clips there are

    def _raw_items(self) -> Iterator[Item]:
        for item in self.raw.items:
            if self._found(self.stages.clips, item) is None:
                yield item

    def _found(self, stage: Stage, item: Item) -> Result | None:
        """What is known; a line of another tool that says nothing makes the clip bad, by its reason."""
        try:
            return self.results[stage.name].find(stage, item)
        except ValueError as error:
            return {"status": "bad", "reason": f"its line in {FILES[stage.name]}: {error}", "parts": []}

    def _bad_files(self) -> dict[str, str]:
        found = {}
        for item in self.raw.items:
            result = self._found(self.stages.clips, item)
            if result is not None and result["status"] == "bad":
                found[item["raw"]["video"]] = result["reason"]
        return found

    def find_parts(self) -> None:
        """Which clips came out of the files, which of them double others, and which the set has already."""
        self._parts, looks = {}, []
        for place, item in enumerate(self.raw.items):
            result = self._found(self.stages.clips, item)
            for part in result["parts"] if result is not None else ():
                if part["name"] in self._parts:
                    raise ValueError(f"two clips are called {part['name']!r}: rename one of the files")
                self._parts[part["name"]] = place
                if part["status"] == "kept" and part.get("looks"):
                    looks.append((part["name"], part["looks"]))
        self._doubles = doubles(looks, self.options.doubles) if self.options.doubles >= 0 else {}

    @property
    def names(self) -> list[str]:
        """Clips, in the order of their names."""
        return sorted(self._parts)

    def load(self, name: str) -> tuple[Item, Ended]:
        """A clip with all that is known of it, and where it has come to."""
        raw = self.raw.items[self._parts[name]]
        result = self._found(self.stages.clips, raw)
        assert result is not None
        part = next(part for part in result["parts"] if part["name"] == name)
        item = clip_item(raw, part)
        if part["status"] != "kept":
            return item, Ended(name, "clips", part["status"], part["reason"])
        if name in self._doubles:
            return item, Ended(name, "clips", "dropped", f"it doubles {self._doubles[name]}")
        try:
            lines = self.reviews(name)
        except ValueError as error:
            return item, Ended(name, "review", "bad", f"its line in {FILES['review']}: {error}")
        item["fixes"] = fixes_of(lines)
        for stage in self.stages.chain:
            found = self._found(stage, item)
            if found is None:
                return item, Ended(name, stage.name, "waiting", self.failed.get(name, ("", ""))[1])
            item = with_result(item, stage.name, found)
            if found["status"] == "open" and (said := decided(lines, [], "none"))["status"] == "dropped":
                return item, Ended(name, "review", "dropped", said["reason"])
            if found["status"] != "kept":
                return item, Ended(name, stage.name, found["status"], found["reason"])
        item["review"] = decided(lines, all_faults(item), self.options.unreviewed)
        if item["review"]["status"] != "kept":
            return item, Ended(name, "review", item["review"]["status"], item["review"]["reason"])
        if name in self._taken:
            return item, Ended(name, "write", "dropped", self._taken[name])
        found = self._found(self.stages.write, item)
        if found is None or not (self.out / "videos" / f"{name}.mp4").is_file():
            return item, Ended(name, "write", "waiting", self.failed.get(name, ("", ""))[1])
        item["write"] = found
        return item, Ended(name, "write", found["status"], found["reason"])

    def reviews(self, name: str) -> list[Result]:
        """What people said of a clip, in order. Raises ValueError for a line that is no verdict."""
        lines = self.results["review"].given(name)
        for line in lines:
            check_review(line)
        return lines

    def _waiting(self, stages: Sequence[Stage]) -> Iterator[Item]:
        names = {stage.name for stage in stages}
        for name in self.names:
            item, ended = self.load(name)
            if ended.status == "waiting" and ended.stage in names:
                yield item

    # --- the set

    def _write(self, engine: Engine) -> None:
        beside = self.out.with_name(f".{self.out.name}.lock")  # a set may grow out of several curations
        beside.parent.mkdir(parents=True, exist_ok=True)
        with alone(beside, self.out):
            clear_drafts(self.out)
            self._write_set(engine)

    def _write_set(self, engine: Engine) -> None:
        before = rows_in(self.out)
        ours = {result["name"] for result in self._written()}
        foreign = {stem: row for stem, row in before.items() if stem not in ours}
        if foreign and not self.options.add:
            raise ValueError(
                f"{self.out} holds {len(foreign)} clips that are not of {self.place.work}: choose an empty folder, or "
                "grow that set with --add"
            )
        self._taken = self._clashes(foreign)
        self._stage(engine, [self.stages.write], self._waiting([self.stages.write]))
        kept = [name for name in self.names if self.load(name)[1] == Ended(name, "write", "kept", "")]
        for name in sorted(ours - set(kept) - foreign.keys()):
            remove_clip(self.out, name)  # it was in the set, and somebody or something has dropped it since
        write_rows(self.out, self._rows(foreign, kept))
        facts = ("video", "source", "licence", "sha256")
        write_rows(self.out, ({key: row.get(key) for key in facts} for row in self._rows(foreign, kept)), LICENCES)

    def _rows(self, foreign: dict[str, Any], kept: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of the set: those that were there, then ours by name."""
        yield from foreign.values()
        for name in kept:
            yield self.load(name)[0]["write"]["row"]

    def _written(self) -> Iterator[Result]:
        """Clips that this curation has written, now or before."""
        return (result for result in self.results["write"].own() if result["status"] == "kept")

    def _clashes(self, foreign: dict[str, Any]) -> dict[str, str]:
        """Clips that stay out of a set that has them, or their name, already."""
        holdings = Holdings(foreign)
        found = {}
        for name in self.names:
            if name in foreign:
                found[name] = "the set has a clip of that name already"
            elif holdings and (same := holdings.same(self.load(name)[0]["clips"])):
                found[name] = f"the set has it already, as {same}"
        return found

    def ends(self) -> Iterator[Ended]:
        """Where every clip has come to, files that are bad included."""
        for name, why in self.raw.bad.items():
            yield Ended(name, "raw", "bad", why)
        for item in self.raw.items:
            result = self._found(self.stages.clips, item)
            if result is None:
                yield Ended(item["name"], "clips", "waiting", self.failed.get(item["name"], ("", ""))[1])
            elif not result["parts"]:
                yield Ended(item["name"], "clips", result["status"], result["reason"])
        for name in self.names:
            yield self.load(name)[1]
