"""The stages in NeMo Curator: each is a `ProcessingStage` over tasks of one clip, and `--engine nemo` runs them as one
pipeline of its Ray Data executor. A pipeline of your own may hold them beside stages of NeMo Curator.

It gives everything back at the end, in memory, and what its actors found lies in WORK/parts meanwhile: a run that was
stopped goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .local import gpus
from .on_ray import SOURCE, Step, found_in, row_of_clip
from .stage import Item, Place, Result, Stage, StageDownError

try:
    from nemo_curator.backends.ray_data import RayDataExecutor
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.base import ProcessingStage
    from nemo_curator.stages.resources import Resources
    from nemo_curator.tasks import Task
except ImportError as error:
    raise ValueError(f"--engine nemo needs NeMo Curator:  pip install nemo-curator ({error})") from error

__all__ = ["ClipTask", "CurationStage", "NemoEngine"]


class ClipTask(Task[str]):
    """One clip as a row (`on_ray.row_of_clip`)."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


class CurationStage(ProcessingStage[ClipTask, ClipTask]):
    """A stage of a curation. workers: how many it has; those with a GPU have as many as NeMo Curator sees fit.

    share: of a core that a worker asks for; actors of all stages live side by side.
    """

    def __init__(self, stage: Stage, place: Place, workers: int = 1, share: float = 1 / 16) -> None:
        on_gpu = stage.resources.gpu and gpus() > 0
        self.name = f"curation_{stage.name}"
        self.resources = Resources(cpus=share, gpus=1.0 if on_gpu else 0.0)
        self.batch_size = stage.resources.batch
        self._stage, self._place = stage, place
        self._count = 1 if stage.resources.alone else None if on_gpu else workers

    def num_workers(self) -> int | None:
        return self._count

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], []

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], []

    def setup(self, worker_metadata: Any = None) -> None:
        self._step = Step(self._stage, self._place)

    def process(self, task: ClipTask) -> ClipTask:
        return self.process_batch([task])[0]

    def process_batch(self, tasks: list[ClipTask]) -> list[ClipTask]:
        rows = self._step({"row": [task.data for task in tasks]})["row"]
        return [ClipTask(task.dataset_name, row) for task, row in zip(tasks, rows, strict=True)]


class NemoEngine:
    """See `local.Engine`. workers: actors of each stage without a GPU."""

    whole_chain = True

    def __init__(self, place: Place, workers: int = 1) -> None:
        self.place, self._workers = place, workers or os.cpu_count() or 1

    def run(self, stages: Sequence[Stage], items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Result]]]:
        """See `local.Engine`."""
        clips = list(items)
        if not clips:
            return
        (self.place.work / "parts").mkdir(parents=True, exist_ok=True)
        paths = filter(None, [SOURCE, os.environ.get("PYTHONPATH", "")])
        os.environ |= {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "RAY_USAGE_STATS_ENABLED": "0"}
        pipeline = Pipeline("curation", stages=[CurationStage(stage, self.place, self._workers) for stage in stages])
        try:
            tasks = pipeline.run(RayDataExecutor(), [ClipTask("curation", row_of_clip(item)) for item in clips])
        except Exception as error:  # of NeMo Curator, Ray, or an actor
            raise StageDownError(" ".join(str(error).split())[-600:]) from None
        order = {item["name"]: place for place, item in enumerate(clips)}
        found = [found_in(task.data) for task in tasks or []]
        yield from sorted(found, key=lambda each: order[each[0]["name"]])

    def close(self) -> None:
        """Nothing is left open."""
