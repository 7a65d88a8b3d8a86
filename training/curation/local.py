"""The local engine: stages in processes of this machine, one worker a GPU, with a bounded number of clips under way.

Results come in the order of the clips, whoever was faster. A worker that dies (out of memory, a crash inside of a
decoder) is started anew; the clips that it was given are tried once more, one by one, and then named.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from .stage import Failure, Item, Place, Result, Stage, StageDownError

__all__ = ["Engine", "LocalEngine", "gpus", "worked"]

_AHEAD = 4  # batches a worker that may wait for a slower one in front of them
_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Engine(Protocol):
    """Runs stages over clips."""

    def run(self, stages: Sequence[Stage], items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Result]]]:
        """Each clip with what the stages made of it, in the order of the clips. A clip goes on from stage to stage
        while it is kept. Raises StageDownError where nobody can go on."""

    def close(self) -> None:
        """Ends workers."""


def gpus() -> int:
    """How many GPUs this machine has."""
    import torch

    return torch.cuda.device_count()


def worked(stage: Stage, batch: Sequence[Item]) -> list[Result]:
    """What a stage makes of a batch. A clip that raises is a `Failure`, and the others are worked on without it.

    Raises StageDownError for a full disk and for what the stage says is everybody's.
    """
    try:
        found = stage.process(batch)
        assert len(found) == len(batch), f"{stage.name} gave {len(found)} results for {len(batch)} clips"
        return found
    except StageDownError:
        raise
    except Exception as error:
        if _disk_is_full(error):
            raise StageDownError(f"{stage.name}: {error}") from None
        if len(batch) > 1:
            return [result for item in batch for result in worked(stage, [item])]
        said = " ".join(str(error).split())[:400]
        return [Failure(batch[0]["name"], f"{type(error).__name__}: {said}")]


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False


class LocalEngine:
    """See `Engine`.

    Args:
        place: of the curation. workers: processes for stages without a GPU; 1 works in this process, where no GPU
            wants workers of its own; 0 takes as many as there are cores.
    """

    def __init__(self, place: Place, workers: int = 1) -> None:
        count = workers or os.cpu_count() or 1
        self.place, self._gpus = place, gpus()
        self._here = count == 1 and self._gpus < 2
        device = "cuda:0" if self._gpus else "cpu"
        self._mine = replace(place, device=device)
        self._cpu = [_Lane(place) for _ in range(0 if self._here else count)]
        self._gpu = [_Lane(replace(place, device=f"cuda:{n}")) for n in range(0 if self._here else self._gpus)]

    def run(self, stages: Sequence[Stage], items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Result]]]:
        """See `Engine`. Of several stages the later ones begin when the first has seen all."""
        if len(stages) != 1:
            raise ValueError("the local engine runs one stage after the other")
        (stage,) = stages
        pairs = self._alone(stage, items) if self._here else self._spread(stage, items)
        for item, result in pairs:
            yield item, {stage.name: result}

    def close(self) -> None:
        """Ends the workers, in the middle of what they do."""
        for lane in (*self._cpu, *self._gpu):
            lane.kill()

    def _alone(self, stage: Stage, items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        opened = None
        for batch in _batches(items, stage.resources.batch):
            if opened is None:
                opened = stage
                opened.setup(self._mine if stage.resources.gpu else self.place)
            yield from zip(batch, worked(opened, batch))

    def _spread(self, stage: Stage, items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        lanes = self._gpu if stage.resources.gpu and self._gpu else self._cpu
        lanes = lanes[:1] if stage.resources.alone else lanes
        return _spread(lanes, pickle.dumps(stage), _batches(items, stage.resources.batch))


@dataclass
class _Job:
    """A batch under way. tries: how often a worker has died over it."""

    number: int
    batch: list[Item]
    tries: int = 0


def _spread(lanes: Sequence[_Lane], stage: bytes, batches: Iterator[list[Item]]) -> Iterator[tuple[Item, Result]]:
    """Gives batches to lanes, one each, and yields what they made in the order of the batches."""
    running: dict[_Lane, _Job] = {}
    done: dict[int, list[tuple[Item, Result]]] = {}
    again: list[_Job] = []
    given = shown = 0
    free, more = list(lanes), True
    while more or running or again:
        while free and (again or (more and given - shown < _AHEAD * len(lanes))):
            if again:
                job = again.pop()
            elif (batch := next(batches, None)) is not None:
                job, given = _Job(given, batch), given + 1
            else:
                more = False
                break
            lane = free.pop()
            lane.give(stage, job.batch)
            running[lane] = job
        for lane in _ready(running):
            job = running.pop(lane)
            free.append(lane)
            if (found := lane.take()) is not None:
                done[job.number] = list(zip(job.batch, found))
            elif job.tries:
                done[job.number] = [(item, _after_death(lane, stage, item)) for item in job.batch]
            else:
                job.tries += 1
                again.append(job)
        while shown in done:
            yield from done.pop(shown)
            shown += 1


def _ready(lanes: Iterable[_Lane]) -> list[_Lane]:
    """Those that have something to say, once there is one; none where nobody works."""
    lines: dict[Any, _Lane] = {lane.line: lane for lane in lanes}
    return [lines[line] for line in wait(list(lines))] if lines else []


def _after_death(lane: _Lane, stage: bytes, item: Item) -> Result:
    """A clip of a batch over which workers have died twice, by itself."""
    lane.give(stage, [item])
    if (found := lane.take()) is not None:
        return found[0]
    return Failure(item["name"], "its worker died over it (out of memory, or a crash inside of a library)")


class _Lane:
    """One worker process, started when it is first needed and started anew when it has died."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: Any = None
        self.line: Connection | None = None

    def give(self, stage: bytes, batch: list[Item]) -> None:
        """Sends a batch. Nothing is said where the worker is dead: `take` will."""
        if self._process is None or not self._process.is_alive():
            self.kill()
            context = multiprocessing.get_context("spawn")
            self.line, other = context.Pipe()
            self._process = context.Process(target=_worker, args=(other, self._place), daemon=True)
            self._process.start()
            other.close()
        assert self.line is not None
        with suppress(OSError):
            self.line.send((stage, batch))

    def take(self) -> list[Result] | None:
        """What the worker made of its batch, None where it died. Raises what the stage raised."""
        assert self.line is not None
        try:
            found = self.line.recv()
        except (EOFError, OSError):
            self.kill()
            return None
        if isinstance(found, BaseException):
            raise found
        results: list[Result] = found
        return results

    def kill(self) -> None:
        """Ends the worker, in the middle of what it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self.line is not None:
            self.line.close()
        self._process = self.line = None


def _worker(line: Connection, place: Place) -> None:
    """A worker: it opens stages as they come, one at a time, and ends when its parent does, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TQDM_DISABLE"] = "1"  # SAM 2 draws a bar for every instance
    import torch

    torch.set_num_threads(1)  # the cores belong to the other workers, too
    opened: dict[str, Stage] = {}
    while True:
        try:
            given, batch = line.recv()
        except EOFError:
            return
        name = hashlib.sha256(given).hexdigest()
        try:
            if name not in opened:
                opened.clear()
                stage: Stage = pickle.loads(given)
                stage.setup(place)
                opened[name] = stage
            line.send(worked(opened[name], batch))
        except (StageDownError, ValueError) as error:
            line.send(error)


def _end_with_parent() -> None:
    above = multiprocessing.parent_process()
    if above is not None:
        above.join()
        os._exit(1)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
