"""A run that is killed, a full disk, a service that is gone, workers that die: the next run goes on, and what comes out
is what an undisturbed run makes. No clip is lost or doubled, and nobody is asked twice for one answer."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import support_curate_run
from support_counts import SEED, SOAK, count
from support_curation import stages_for, write_raw

from training.curation.local import LocalEngine
from training.curation.raw import read_raw
from training.curation.run import Curation, Options
from training.curation.stage import Failure, Place, Resources, StageDownError
from training.curation.store import Results

pytestmark = pytest.mark.usefixtures("one_thread")
TESTS = Path(__file__).resolve().parents[2]
CLIPS = count(4, 24)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopping")
    write_raw(folder, CLIPS, 40, 64, 9, distractor_share=0.0)
    return folder


def fresh(home: Path, folder: Path) -> Path:
    """A folder with the same raw clips and nothing done."""
    folder.mkdir()
    for name in ("raw", "truth"):
        (folder / name).symlink_to(home / name)
    return folder


def started(folder: Path, workers: int = 1, most: int = 0) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, str(TESTS / "support_curate_run.py"), str(folder), str(workers), str(most)]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(folder: Path, workers: int = 1) -> None:
    """The same in this process."""
    assert support_curate_run.main(folder, workers, 0) == 0


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def lines(folder: Path) -> dict[str, list[dict]]:
    """Every result, in any order; keys of written clips are of their folder."""
    found = {}
    for path in sorted((folder / "work").glob("[0-9]_*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({row.pop("key") for row in rows}) == len(rows)
        found[path.name] = sorted(rows, key=lambda row: row["name"])
    return found


def asked(folder: Path) -> Counter[str]:
    log = folder / "asked.log"
    return Counter(log.read_text().split() if log.exists() else [])


@pytest.fixture(scope="module")
def calm(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fresh(home, tmp_path_factory.mktemp("calm") / "run")
    run(folder)
    return folder


def same(folder: Path, calm: Path) -> None:
    assert tree(folder / "out") == tree(calm / "out")
    assert lines(folder) == lines(calm)
    tracks = [p.name for p in sorted((folder / "work" / "5_tracks").iterdir()) if not p.name.startswith(".")]
    assert tracks == [p.name for p in sorted((calm / "work" / "5_tracks").iterdir())]


def test_the_set_does_not_depend_on_the_workers(home: Path, calm: Path, tmp_path: Path) -> None:
    """Byte for byte the same with one, and with several."""
    for workers in (2, 4)[: count(1, 2)]:
        folder = fresh(home, tmp_path / str(workers))
        run(folder, workers)
        same(folder, calm)
        assert max(asked(folder).values()) == 1


@pytest.mark.soak
def test_runs_that_are_stopped_at_any_moment_lose_and_double_nothing(home: Path, calm: Path, tmp_path: Path) -> None:
    """kill -9, a full disk, a service that is gone. Only what was under way in a kill may be asked for again."""
    rng = random.Random(SEED)
    ways: Counter[str] = Counter()
    kills, rounds, answers, begun = 0, 0, asked(calm).total(), time.monotonic()
    folder = fresh(home, tmp_path / "0")
    stops = count(1, 100)
    for number in range(stops):
        way = rng.choice(("kill", "kill", "disk", "service")) if SOAK else "kill"
        stopped(folder, way, rng, answers)
        ways[way] += 1
        kills += way != "service"
        if asked(folder).total() >= answers and (folder / "out" / "metadata.jsonl").exists():
            whole(folder, calm, kills)
            kills, rounds = 0, rounds + 1
            folder = fresh(home, tmp_path / str(rounds))
        if SOAK:
            print(
                f"{number + 1} of {stops} stops, {dict(ways)}, {rounds} sets, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    run(folder)
    whole(folder, calm, kills)


def stopped(folder: Path, way: str, rng: random.Random, answers: int) -> None:
    """One run that does not come to its end, unless it is there already."""
    process = started(folder, rng.choice((1, 2)) if SOAK else 1, rng.randint(300, 12_000) if way == "disk" else 0)
    known = asked(folder).total()
    wanted = rng.randint(min(known, answers), answers)  # a kill may have had something asked again
    while process.poll() is None and asked(folder).total() < wanted:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1))
    if way == "kill":
        process.kill()
    if way == "service":
        (folder / "down").touch()
    said, _ = process.communicate()
    assert process.returncode in (0, 3, -9), said
    (folder / "down").unlink(missing_ok=True)


def whole(folder: Path, calm: Path, kills: int) -> None:
    """What is there after the last run is what an undisturbed one makes."""
    run(folder)
    same(folder, calm)
    again = (asked(folder) - asked(calm)).total()  # what cannot be read is asked for twice in a calm run, too
    assert again <= 2 * kills, "no more than were under way"


def test_a_full_disk_ends_the_run_by_name_and_the_next_goes_on(home: Path, calm: Path, tmp_path: Path, capsys) -> None:
    folder = fresh(home, tmp_path / "full")
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    try:
        assert support_curate_run.main(folder, 1, 1500) == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "too large" in capsys.readouterr().out
    run(folder)
    same(folder, calm)


def test_a_service_that_is_gone_ends_the_run_and_the_next_goes_on(
    home: Path, calm: Path, tmp_path: Path, capsys
) -> None:
    folder = fresh(home, tmp_path / "down")
    (folder / "down").touch()
    assert support_curate_run.main(folder, 1, 0) == 3
    assert capsys.readouterr().out.strip() == "the service is down"
    assert len(lines(folder)["1_clips.jsonl"]) == CLIPS
    (folder / "down").unlink()
    run(folder)
    same(folder, calm)
    assert max(asked(folder).values()) == 1


# --- workers


@dataclass
class Deadly:
    """A stage over numbers whose worker dies over some: always, or the first time."""

    folder: Path
    always: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    batch: int = 2
    name: str = field(default="deadly", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=(), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(batch=self.batch)

    def setup(self, place: Place) -> None:
        pass

    def process(self, batch: Any) -> list[Any]:
        for item in batch:
            mark = self.folder / item["name"]
            if item["name"] in self.always or (item["name"] in self.once and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), 9)
            if item["name"] == "bug":
                raise RuntimeError("a bug")
            if item["name"] == "full":
                raise OSError(28, "No space left on device")
        return [{"status": "kept", "reason": item["name"]} for item in batch]

    def taken(self, result: Any, item: Any) -> Any:
        return result


def test_a_worker_that_dies_costs_its_own_clip_alone(tmp_path: Path) -> None:
    """The clip is named; its neighbours are worked on; order stays."""
    engine = LocalEngine(Place(tmp_path, tmp_path), 2)
    names = [f"{n:02d}" for n in range(5)]
    stage = Deadly(tmp_path, always=("03",) if SOAK else (), once=("02",))
    found = list(engine.run([stage], iter([{"name": name} for name in names])))
    engine.close()
    assert [item["name"] for item, _ in found] == names
    results = {item["name"]: result["deadly"] for item, result in found}
    assert not SOAK or isinstance(results.pop("03"), Failure)
    assert {name: result["reason"] for name, result in results.items()} == {name: name for name in results}


def test_a_clip_that_raises_fails_by_itself_and_a_full_disk_ends_everything(tmp_path: Path) -> None:
    engine = LocalEngine(Place(tmp_path, tmp_path))
    stage = Deadly(tmp_path, batch=3)
    found = {
        item["name"]: result["deadly"] for item, result in engine.run([stage], [{"name": n} for n in ("a", "bug", "c")])
    }
    assert isinstance(found["bug"], Failure)
    assert "RuntimeError: a bug" in found["bug"]["failed"]
    assert found["a"]["status"] == found["c"]["status"] == "kept"
    with pytest.raises(StageDownError, match="No space left"):
        list(engine.run([stage], [{"name": "a"}, {"name": "full"}]))


# --- results on disk


def test_half_a_line_is_cut_off_and_half_of_another_tools_line_is_not(tmp_path: Path) -> None:
    path = tmp_path / "1_deadly.jsonl"
    results = Results(path)
    results.add({"name": "a", "key": "k1", "status": "kept"})
    results.add({"name": "a", "key": "k1", "status": "dropped"})
    results.close()
    whole = path.read_bytes()
    assert whole.count(b"\n") == 1, "a key has one result"
    path.write_bytes(whole + b'{"name": "b", "key": "k2", "sta')
    assert len(Results(path)) == 1
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"name": "b", "status": "kept"}')
    again = Results(path)
    again.add({"name": "c", "key": "k3"})
    again.close()
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    path.write_bytes(b'no json\n{"name": 3}\n' + whole)
    assert [note.split(" is")[0] for note in Results(path).notes] == [f"line {n} of {path.name}" for n in (1, 2)]
    path.write_bytes(b'{"name": "b"}\n{"name": "b"}\n')
    with pytest.raises(ValueError, match="two lines without a key about 'b'"):
        Results(path)


def test_settings_make_results_anew_and_others_stay(home: Path, tmp_path: Path) -> None:
    """What a result does not depend on leaves it alone."""
    place = Place(tmp_path / "work", home / "raw")

    def some(**settings: Any) -> dict[str, int]:
        stages = stages_for(home, tmp_path / "out", 64, 9)
        for name, value in settings.items():
            stage, _, field_ = name.partition("_")
            setattr(getattr(stages, stage), field_, value)
        Curation(read_raw(home / "raw"), place, stages, Options(unreviewed="all", until="candidates"), str).run(
            LocalEngine(place)
        )
        return {p.name: len(p.read_text().splitlines()) for p in sorted(place.work.glob("[0-9]_*.jsonl"))}

    first = some()
    assert some() == first
    changed = some(candidates_score=0.4)
    assert changed["3_candidates.jsonl"] == 2 * first["3_candidates.jsonl"]
    assert {k: v for k, v in changed.items() if k[0] != "3"} == {k: v for k, v in first.items() if k[0] != "3"}
