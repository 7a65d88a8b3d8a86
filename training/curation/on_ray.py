"""The Ray engine: stages as actor pools of one Ray Data pipeline, on this machine or a cluster.

Clips stream through all stages at once; a stage that is slower than the ones before it holds them back. What an actor
has found it also writes into a file of its own, so that nothing is lost with the driver. Every machine sees the folders
of the curation under the same paths.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .local import worked
from .stage import Failure, Item, Place, Result, Stage, StageDownError, key_of
from .views import with_result

__all__ = ["SOURCE", "RayEngine", "Step", "found_in", "need_ray", "row_of_clip"]

_BLOCK = 16  # clips of a block at most: what goes from actor to actor
_TURNS = 4  # blocks a worker at least, where there are few clips
SOURCE = str(Path(__file__).resolve().parents[2])


def need_ray() -> Any:
    """The package. Raises ValueError with the install line where it is missing."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError('--engine ray needs Ray Data:  pip install "ray[data]"') from None
    return ray


class RayEngine:
    """See `local.Engine`.

    Args:
        place: of the curation. workers: actors of each stage without a GPU; those with one have an actor a GPU of the
            cluster. address: of a cluster; None starts one on this machine and ends it with the run.
    """

    whole_chain = True

    def __init__(self, place: Place, workers: int = 1, address: str | None = None) -> None:
        self.place, self._ray = place, need_ray()
        self._workers = workers or os.cpu_count() or 1
        # Actors of all stages live side by side; on one machine they share its cores.
        self._share = 1.0 if address else 1 / 16
        self._mine = not self._ray.is_initialized()
        if self._mine:
            local: dict[str, Any] = {} if address else {"num_cpus": self._workers + 1, "include_dashboard": False}
            paths = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH", "")]))
            env = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
            runtime = {"env_vars": env}
            self._ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=runtime, **local)
        context = self._ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False

    def run(self, stages: Sequence[Stage], items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Result]]]:
        """See `Engine`. A clip that a later stage knows already is not given to it again."""
        rows = [{"row": row_of_clip(item)} for item in items]
        if not rows:
            return
        ray = self._ray
        (self.place.work / "parts").mkdir(parents=True, exist_ok=True)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        block = max(1, min(_BLOCK, len(rows) // (_TURNS * self._workers)))
        data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block))
        for stage in stages:
            on_gpu = stage.resources.gpu and gpus > 0
            size = 1 if stage.resources.alone else gpus if on_gpu else self._workers
            data = data.map_batches(
                Step,
                fn_constructor_kwargs={"stage": stage, "place": self.place},
                batch_size=stage.resources.batch,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=size),
                num_cpus=0 if on_gpu else self._share,
                num_gpus=1 if on_gpu else 0,
            )
        try:
            for row in data.iter_rows():
                yield found_in(row["row"])
        except ray.exceptions.RayError as error:
            raise StageDownError(" ".join(str(error).split())[-600:]) from None

    def close(self) -> None:
        """Ends the cluster that was started here."""
        if self._mine:
            self._ray.shutdown()


def row_of_clip(item: Item) -> str:
    """A clip as a row for `Step`."""
    return json.dumps({"item": item, "found": {}, "halt": ""})


def found_in(row: str) -> tuple[Item, dict[str, Result]]:
    """The clip of a row as it came, and what the steps found. Raises StageDownError where one could not go on."""
    told = json.loads(row)
    if told["halt"] == "down":
        raise StageDownError(told["why"])
    found = {name: _read(said) for name, said in told["found"].items()}
    return _before(told["item"], found), found


def _read(said: dict[str, Any]) -> Result:
    return Failure(said["name"], said["reason"]) if said.get("failed") else said


def _before(item: Item, found: dict[str, Result]) -> Item:
    """The clip as it came: without what was found now."""
    return {name: value for name, value in item.items() if name not in found}


class Step:
    """A stage in an actor. A row holds a clip, what was found of it on the way, and why it goes no further."""

    def __init__(self, stage: Stage, place: Place) -> None:
        import torch

        torch.set_num_threads(1)
        device = "cuda:0" if stage.resources.gpu and torch.cuda.is_available() else "cpu"
        self.stage, self.place = stage, Place(place.work, place.raw, device)
        self.ready = False
        self.journal = place.work / "parts" / stage.name / f"{uuid.uuid4().hex}.jsonl"

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        rows = [json.loads(str(row)) for row in batch["row"]]
        todo = [row for row in rows if not row["halt"] and self.stage.name not in row["item"]]
        if todo:
            try:
                self._work(todo)
            except StageDownError as error:
                for row in todo:
                    row |= {"halt": "down", "why": str(error)}
        return {"row": [json.dumps(row) for row in rows]}

    def _work(self, rows: list[dict[str, Any]]) -> None:
        if not self.ready:
            try:
                self.stage.setup(self.place)
            except ValueError as error:
                raise StageDownError(str(error)) from None
            self.ready = True
        for row, result in zip(rows, worked(self.stage, [row["item"] for row in rows])):
            row["found"][self.stage.name] = result
            if isinstance(result, Failure):
                row["found"][self.stage.name] = {"name": result["name"], "reason": result["failed"], "failed": True}
                row["halt"] = "failed"
                continue
            self._note({"name": row["item"]["name"], "key": key_of(self.stage, row["item"]), **result})
            row["item"] = with_result(row["item"], self.stage.name, result)
            row["halt"] = "" if result["status"] == "kept" else result["status"]

    def _note(self, entry: dict[str, Any]) -> None:
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        with open(self.journal, "ab", buffering=0) as file:
            file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
