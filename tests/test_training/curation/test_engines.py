"""The Ray engine: what its actors do with a row, and, in the soak, a real Ray with 1, 2 and 4 workers of which one is
killed; many clips through all stages in flat memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from support_counts import SOAK, count
from support_curation import Reader, Verifier, stages_for, write_raw
from support_soak import FOLDER

from training.curation.local import LocalEngine
from training.curation.on_ray import Step
from training.curation.raw import read_raw
from training.curation.run import Curation, Options
from training.curation.stage import Place
from training.curation.views import with_result

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_raw(folder, count(3, 40), 300, 64, 9, distractor_share=0.0)
    return folder


def curation_of(home: Path, name: str, until: str = "write", **more) -> Curation:
    place = Place(home / name, home / "raw")
    stages = stages_for(home, home / f"{name}_out", 64, 9, **more)
    return Curation(read_raw(home / "raw"), place, stages, Options(unreviewed="all", until=until), str)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def local(home: Path) -> Path:
    curation = curation_of(home, "local")
    curation.run(LocalEngine(curation.place))
    return home / "local_out"


def test_actors_pass_rows_on_and_leave_nothing_to_the_driver_alone(home: Path, local: Path) -> None:
    """Rows through the steps of the chain by hand; a driver that is gone finds what they wrote."""
    curation = curation_of(home, "steps", "clips", reader=Reader(home / "steps.log"))
    curation.run(LocalEngine(curation.place))
    items = [curation.load(name)[0] for name in curation.names]
    batch = {"row": [json.dumps({"item": item, "found": {}, "halt": ""}) for item in items]}
    for stage in curation.stages.chain:
        batch = Step(stage, curation.place)(batch)
    rows = [json.loads(row) for row in batch["row"]]
    assert [row["item"]["name"] for row in rows] == curation.names
    halted = [row for row in rows if row["halt"]]
    assert all(set(row["found"]) == {"triplets"} and row["halt"] == "dropped" for row in halted)
    assert all(list(row["found"]) == [s.name for s in curation.stages.chain] for row in rows if not row["halt"])
    assert not (curation.place.work / "2_triplets.jsonl").exists()

    after = curation_of(home, "steps", reader=Reader(home / "steps.log"))
    asked = (home / "steps.log").read_bytes()
    after.run(LocalEngine(after.place))
    assert (home / "steps.log").read_bytes() == asked, "nothing was asked for again"
    assert tree(home / "steps_out") == tree(local)
    assert not list((after.place.work / "parts").rglob("*.jsonl"))


def test_a_row_that_has_a_stage_already_is_passed_through(home: Path, local: Path) -> None:
    curation = curation_of(home, "passed", "clips")
    curation.run(LocalEngine(curation.place))
    item = curation.load(curation.names[0])[0]
    given = {"status": "dropped", "reason": "a person says so"}
    row = json.dumps({"item": with_result(item, "triplets", given), "found": {}, "halt": ""})
    assert Step(curation.stages.triplets, curation.place)({"row": [row]})["row"] == [row]


def test_a_stage_that_cannot_go_on_is_told_to_the_driver(home: Path, local: Path, tmp_path: Path) -> None:
    down = tmp_path / "down"
    down.touch()
    curation = curation_of(home, "gone", "clips", reader=Reader(down=down))
    curation.run(LocalEngine(curation.place))
    row = json.dumps({"item": curation.load(curation.names[0])[0], "found": {}, "halt": ""})
    (said,) = Step(curation.stages.triplets, curation.place)({"row": [row]})["row"]
    assert (json.loads(said)["halt"], json.loads(said)["why"]) == ("down", "the service is down")


if SOAK:  # a cluster takes minutes to start where cores are few

    @pytest.mark.soak
    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_ray_makes_the_same_set_with_any_number_of_workers(
        home: Path, local: Path, workers: int, monkeypatch
    ) -> None:
        from training.curation.on_ray import RayEngine

        here = Path(__file__).resolve().parents[2]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here)]))
        monkeypatch.setenv("RAY_raylet_start_wait_time_s", "600")
        curation = curation_of(home, f"ray{workers}")
        begun = time.monotonic()
        curation.run(RayEngine(curation.place, workers))
        print(f"{workers} workers: {time.monotonic() - begun:.1f} s")
        assert tree(home / f"ray{workers}_out") == tree(local)

    @pytest.mark.soak
    def test_a_ray_worker_that_is_killed_loses_nothing(home: Path, local: Path, tmp_path: Path, monkeypatch) -> None:
        from training.curation.on_ray import RayEngine

        here = Path(__file__).resolve().parents[2]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here)]))
        monkeypatch.setenv("RAY_raylet_start_wait_time_s", "600")
        curation = curation_of(home, "killed", verifier=Verifier(home / "truth", die=tmp_path / "died"))
        curation.run(RayEngine(curation.place, 2))
        assert (tmp_path / "died").exists()
        assert tree(home / "killed_out") == tree(local)

    if find_spec("nemo_curator"):

        @pytest.mark.soak
        def test_nemo_curator_makes_the_same_set(home: Path, local: Path, monkeypatch) -> None:
            from training.curation.on_nemo import NemoEngine

            here = Path(__file__).resolve().parents[2]
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here)]))
            curation = curation_of(home, "nemo")
            curation.run(NemoEngine(curation.place))
            assert tree(home / "nemo_out") == tree(local)

    @pytest.mark.soak
    def test_many_clips_in_flat_memory() -> None:
        """Through all stages with two workers; memory grows by names and keys alone, in this process and in workers.

        `CLIPS` says how many. It goes on where it was stopped; `output/soak/clips-N.memory.jsonl` has what was held.
        """
        clips = int(os.environ.get("CLIPS") or count(200, 10_000))
        folder = FOLDER / f"clips-{clips}"
        if not (folder / "raw" / "captions.jsonl").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            write_raw(folder, clips, 5000, 64, 9, distractor_share=0.0)
        memory: dict[str, list[list[int]]] = {}
        with open(FOLDER / f"clips-{clips}.memory.jsonl", "a", buffering=1) as log:

            def tick(stage: str) -> None:
                seen = memory.setdefault(stage, [])
                seen.append([_held(pid) for pid in (os.getpid(), *_children())])
                if len(seen) % 200 == 0:
                    log.write(json.dumps({"stage": stage, "clips": len(seen), "mb": seen[-1]}) + "\n")

            place = Place(folder / "work", folder / "raw")
            options = Options(unreviewed="all", doubles=6)
            stages = stages_for(folder, folder / "out", 64, 9)
            curation = Curation(read_raw(folder / "raw"), place, stages, options, str, tick)
            curation.run(LocalEngine(place, 2))
        print((place.work / "log.jsonl").read_text())
        assert sum(1 for _ in curation.ends()) == clips
        for stage, seen in memory.items():
            settled = seen[len(seen) // 5]
            for before, most in zip(settled, map(max, zip(*seen[len(seen) // 5 :]))):
                assert most - before < 30 + 3 * clips / 1000, (stage, settled)
        shutil.rmtree(folder)

    def _held(pid: int) -> int:
        """MB of a process, 0 where it has ended."""
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
        except (OSError, IndexError):
            return 0

    def _children() -> list[int]:
        return [each.pid for each in multiprocessing.active_children() if each.pid is not None]
