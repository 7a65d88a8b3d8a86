"""Raw clips to a set without any model: a scripted reader, blobs as detector, an exact verifier, and a tracker that
sees the pixels and the anchor alone. What comes out is the set that mini exports itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support_counts import count
from support_curation import Verifier, _Judge, stages_for, write_raw
from support_models import make_cogvideox
from support_tuning import tune

from matrix_lib.draw.svg import hexed
from matrix_lib.evaluation.judges.judge import Request
from training.cache import main as cache
from training.check_clips import main as check_clips
from training.curation.card import tell, write_card
from training.curation.local import LocalEngine
from training.curation.raw import read_raw
from training.curation.run import Curation, Options
from training.curation.sheets import fault_text, save_review_sheets
from training.curation.stage import Place
from training.curation.stages.verify import Verify
from training.fit import main as fit
from training.shards import main as shards

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, FRAMES = 160, 9
EVERY = Options(unreviewed="all")


def curated(home: Path, work: str, out: str, options: Options = EVERY, **more) -> Curation:
    place = Place(home / work, home / "raw")
    curation = Curation(read_raw(home / "raw"), place, stages_for(home, home / out, SIZE, FRAMES, **more), options, str)
    curation.run(LocalEngine(place))
    return curation


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curation")
    write_raw(folder, count(5, 60), 3, SIZE, FRAMES, single_motion_share=0.2, distractor_share=0.0)
    return folder


@pytest.fixture(scope="module")
def whole(home: Path) -> Curation:
    curation = curated(home, "work", "clips")
    write_card(curation, home / "clips")
    return curation


def rows(folder: Path) -> dict[str, dict]:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["video"]: row for row in map(json.loads, lines)}


def masks(folder: Path, name: str, k: int) -> np.ndarray:
    paths = sorted((folder / "mask_annotation" / name / f"<id{k}>").glob("*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def overlap(home: Path, out: str, name: str, k: int) -> float:
    made, true = masks(home / out, name, k), masks(home / "exported", name, k)
    assert set(np.unique(made)) <= {0, 255}
    assert made.shape == true.shape
    return float(((made > 0) & (true > 0)).sum() / ((made > 0) | (true > 0)).sum())


def test_the_set_is_the_one_that_mini_exports(home: Path, whole: Curation) -> None:
    given, made = rows(home / "exported"), rows(home / "clips")
    interactions = {video for video, row in given.items() if "->" in row["phrases"]}
    assert set(made) == interactions
    assert interactions < set(given), "single motions are left out by their grades"
    overlaps = []
    for video, row in made.items():
        for column in ("prompt", "caption", "verb", "phrases"):
            assert row[column] == given[video][column]
        stem = Path(video).stem
        assert (home / "clips" / "videos" / video).read_bytes() == (home / "raw" / video).read_bytes()
        each = [overlap(home, "clips", stem, int(k)) for k in row["ids"]]
        assert min(each) > 0.9
        overlaps.append(np.mean(each))
        merged = np.asarray(Image.open(home / "clips" / "mask_annotation" / stem / "merged" / "000.png"))
        colours = {hexed(tuple(colour)) for colour in np.unique(merged.reshape(-1, 3), axis=0).tolist()}
        assert colours <= {"#000000", "#ff0000", "#00ff00", "#0000ff"}
    assert np.mean(overlaps) >= 0.95


def test_the_set_is_checked_and_trains_as_it_is(home: Path, whole: Curation, capsys, tmp_path: Path) -> None:
    """`check_clips`, `shards`, `cache` and `fit`, on the folder and on its shards: the same losses at every step."""
    seen = [f"frames={FRAMES}", f"height={SIZE}", f"width={SIZE}", f"cache={home / 'cache'}"]
    check_clips([str(home / "clips"), "--no-sheet", *seen])
    assert f"{len(rows(home / 'clips'))} good clips" in capsys.readouterr().out
    shards([str(home / "clips"), str(home / "shards"), *seen, "--size", "0.03"])
    make_cogvideox(home / "model", sample=(9, 8, 8))
    ours = [each for each in tune(home, "") if each not in ("data.bystanders=true", "data.skip_bad=true")]
    small = [f"frames={FRAMES}", "height=64", "width=64"]  # of the model
    losses = {}
    for place in ("clips", "shards"):
        cache([str(home / place), str(home / "model"), *small, f"cache={tmp_path / place}"])
        assert " 0 parts were made" not in capsys.readouterr().out
        run = tmp_path / f"run_{place}"
        fit([*ours, f"run.out={run}", f"data.folder={home / place}", f"data.cache={tmp_path / place}"])
        assert (run / "lora.safetensors").is_file()
        table = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
        columns = [n for n, name in enumerate(table[0]) if "second" not in name and "memory" not in name]
        losses[place] = [[line[n] for n in columns] for line in table]
    assert len(losses["clips"]) == 3
    assert losses["clips"] == losses["shards"]


def test_the_card_and_the_chart_say_what_was_left_out(home: Path, whole: Curation) -> None:
    card = (home / "clips" / "card.md").read_text(encoding="utf-8")
    lost = len(rows(home / "exported")) - len(rows(home / "clips"))
    assert f"{lost} dropped" in card
    assert "no strong interaction" in card
    assert f"0 of {len(rows(home / 'clips'))} clips were looked at" in card
    assert "CC0" in card
    assert str(home) not in card
    assert "no strong interaction" in (home / "clips" / "funnel.svg").read_text(encoding="utf-8")
    assert f"{len(rows(home / 'clips'))} of {len(rows(home / 'exported'))}" in tell(whole)
    (sheet,) = save_review_sheets(whole, "all")[:1]
    assert Image.open(sheet).size[0] == 1400


def test_a_second_run_does_nothing_and_changes_nothing(home: Path, whole: Curation) -> None:
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (home / "work").glob("*.jsonl") if p.name != "log.jsonl"
    }
    files = {p: p.stat().st_mtime_ns for p in (home / "clips").rglob("*.png")}
    curated(home, "work", "clips")
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}
    assert files == {p: p.stat().st_mtime_ns for p in (home / "clips").rglob("*.png")}


def test_a_planted_wrong_anchor_gives_a_wrong_or_flagged_track(home: Path, whole: Curation) -> None:
    """The tracker does not know the truth: told that somebody else is whom it follows, it follows them."""
    names = [Path(video).stem for video in rows(home / "clips")]
    planted = tuple((name, 1, 2) for name in names) + tuple((name, 2, 1) for name in names)
    curation = curated(home, "wrong", "wrong_clips", verifier=Verifier(home / "truth", planted=planted))
    seen = 0
    for name in names:
        item, ended = curation.load(name)
        assert ended.status == "kept"
        for k in (1, 2):
            seen += 1
            flagged = any(k in fault["ids"] for fault in item["checks"]["faults"])
            assert flagged or overlap(home, "wrong_clips", name, k) < 0.5
    assert seen


@dataclass(frozen=True)
class Second:
    """Says of each tinted thing whether it is the one, as planted; "mumble" says nothing that can be read."""

    wrong: tuple[tuple[str, int], ...] = ()
    mumble: str = ""
    gpu = False
    identity = "second"

    def open(self, place: Place, stage: str) -> Any:
        return _Judge("second", None, None, self._said)

    def _said(self, request: Request) -> str:
        (picture,) = request.pictures
        assert Image.open(picture.path).size == (SIZE, SIZE)
        if request.id == self.mumble:
            return "who knows"
        ids = [int(n) for n in re.findall(r"^(\d+) \(\w+\): the", request.text, re.MULTILINE)]
        return json.dumps(
            {"answers": [{"id": n, "same": (request.id, n) not in self.wrong, "confidence": 0.9} for n in ids]}
        )


def test_a_second_look_brings_doubts_before_a_person(home: Path, whole: Curation) -> None:
    """In the work of the first run: nothing else is asked again, and the clips are written anew with what they have."""
    first, second, *_ = [Path(video).stem for video in rows(home / "clips")]
    place = Place(home / "work", home / "raw")
    stages = stages_for(home, home / "seen_again", SIZE, FRAMES)
    stages.verify = Verify(Second(((first, 2),), second), 2)
    curation = Curation(read_raw(home / "raw"), place, stages, Options(unreviewed="clean"), str)
    curation.run(LocalEngine(place))
    write_card(curation, home / "seen_again")
    doubts = [(fault["kind"], fault["ids"], fault["frames"]) for fault in curation.load(first)[0]["doubts"]["faults"]]
    assert doubts == [("doubt", [2], [2]), ("doubt", [2], [6])]
    assert "a model says that it is something else (frame 2)" in fault_text(
        curation.load(first)[0]["doubts"]["faults"][0]
    )
    assert {fault["kind"] for fault in curation.load(second)[0]["doubts"]["faults"]} == {"unread"}
    assert {first, second} & {Path(video).stem for video in rows(home / "seen_again")} == set()
    assert "| verify | a second look by a model |" in (home / "seen_again" / "card.md").read_text(encoding="utf-8")
    assert not list((home / "work" / "asked").iterdir())


def test_a_person_drops_fixes_and_accepts(home: Path, whole: Curation) -> None:
    """Nothing goes out without a look; a fix is followed from its box and wants a look again."""
    first, second, *_ = [Path(video).stem for video in rows(home / "clips")]
    review = home / "looked" / "7_review.jsonl"
    review.parent.mkdir()
    planted = ((first, 1, 2), (first, 2, 1))
    verifier = Verifier(home / "truth", planted=planted)
    curation = curated(home, "looked", "looked_clips", Options(), verifier=verifier)
    assert not rows(home / "looked_clips")
    assert curation.load(first)[1].status == "open"

    truth = list(json.loads((home / "truth" / f"{first}.json").read_text()).values())
    fixes = {str(k): {"frame": 0, "box": truth[k - 1][1][0]} for k in (1, 2)}
    lines = [
        {"name": first, "verdict": "fix", "by": "ann", "fixes": fixes},
        {"name": second, "verdict": "accept", "by": "ann"},
        {"name": second, "verdict": "drop", "by": "bob", "reason": "too dark"},
    ]
    review.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curation = curated(home, "looked", "looked_clips", Options(), verifier=verifier)
    assert "after the fix" in curation.load(first)[1].reason
    assert "disagree" in curation.load(second)[1].reason

    lines += [{"name": first, "verdict": "accept", "by": "ann"}, {"name": second, "verdict": "accept", "by": "bob"}]
    review.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curated(home, "looked", "looked_clips", Options(), verifier=verifier)
    assert [Path(video).stem for video in rows(home / "looked_clips")] == [first, second]
    assert min(overlap(home, "looked_clips", first, k) for k in (1, 2)) > 0.9

    lines.append({"name": first, "verdict": "drop", "by": "ann"})
    review.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curated(home, "looked", "looked_clips", Options(), verifier=verifier)
    assert [Path(video).stem for video in rows(home / "looked_clips")] == [second]
    assert not (home / "looked_clips" / "videos" / f"{first}.mp4").exists()


def test_a_set_grows_and_what_is_there_stays(home: Path, whole: Curation, tmp_path: Path) -> None:
    more = tmp_path / "more"
    write_raw(more, 2, 900, SIZE, FRAMES, single_motion_share=0.0, distractor_share=0.0)
    old = next(iter(rows(home / "clips")))
    (more / "raw" / "again.mp4").write_bytes((home / "raw" / old).read_bytes())
    for name in ("mini_00000", "mini_00001"):
        (more / "raw" / f"{name}.mp4").rename(more / "raw" / f"new_{name}.mp4")
        (more / "truth" / f"{name}.json").rename(more / "truth" / f"new_{name}.json")
    (more / "truth" / "again.json").write_bytes((home / "truth" / f"{Path(old).stem}.json").read_bytes())
    lines = [json.loads(line) for line in (more / "raw" / "captions.jsonl").read_text().splitlines()]
    lines = [{**line, "video": f"new_{line['video']}"} for line in lines]
    lines.append({"video": "again.mp4", "caption": rows(home / "clips")[old]["caption"]})
    (more / "raw" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def grown(add: bool) -> Curation:
        place = Place(more / "work", more / "raw")
        stages = stages_for(more, home / "clips", SIZE, FRAMES)
        options = Options(unreviewed="all", add=add)
        curation = Curation(read_raw(more / "raw"), place, stages, options, str)
        curation.run(LocalEngine(place))
        return curation

    before = rows(home / "clips")
    files = {p: p.read_bytes() for p in (home / "clips").rglob("*.png")}
    with pytest.raises(ValueError, match="--add"):
        grown(False)
    curation = grown(True)
    after = rows(home / "clips")
    assert list(after)[: len(before)] == list(before)
    assert set(after) - set(before) == {"new_mini_00000.mp4", "new_mini_00001.mp4"}
    assert all(p.read_bytes() == content for p, content in files.items())
    assert curation.load("again")[1].reason == f"the set has it already, as {Path(old).stem}"
    assert replace(curation.load("again")[1], reason="").status == "dropped"
