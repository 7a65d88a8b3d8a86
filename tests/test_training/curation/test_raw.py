"""Bad input is listed by name and reason, and the rest goes on only where a person said so."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from support_curation import read_caption, stages_for, write_raw

from matrix_lib.io.clips import writing
from matrix_lib.io.video import write_video
from training.check_clips import main as check_clips
from training.curate import main as curate
from training.curation.local import LocalEngine
from training.curation.raw import file_name, read_raw
from training.curation.run import BadInputError, Curation, Options
from training.curation.stage import Place

pytestmark = pytest.mark.usefixtures("one_thread")


def table(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(video: str, caption: str = "a dog chases a cat") -> dict[str, str]:
    return {"video": video, "caption": caption}


def test_every_bad_row_is_named_with_its_reason(tmp_path: Path) -> None:
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere.mp4"
    raw.mkdir()
    elsewhere.write_bytes(b"1")
    for name in ("good.mp4", "two words <1>.mp4", "new\nline.mp4", "same.mp4"):
        (raw / name).write_bytes(b"1")
    (raw / "empty.mp4").touch()
    (raw / "silent.mp4").write_bytes(b"1")
    (raw / "notes.txt").write_text("x")
    (raw / "out.mp4").symlink_to(elsewhere)
    (raw / "dead.mp4").symlink_to(raw / "nowhere.mp4")
    table(
        raw,
        row("good.mp4"),
        row("two words <1>.mp4"),
        row("new\nline.mp4"),
        row("same.mp4"),
        row("same.mp4"),
        row("empty.mp4"),
        row("gone.mp4"),
        row("out.mp4"),
        row("dead.mp4"),
        row("notes.txt"),
        row("../elsewhere.mp4"),
        row("mute.mp4", ""),
        row("chinese.mp4", "一只狗追一只猫"),
        {"caption": "nobody"},
        "{half",
        ["a"],
        row("long.mp4", "a " * 2000),
        row("nul\0.mp4"),
    )
    (raw / "chinese.mp4").write_bytes(b"1")
    found = read_raw(raw)
    assert [item["name"] for item in found.items] == ["good", "new_line", "same", "two_words_1"]
    reasons = {
        "same.mp4": "another row about its video",
        "empty.mp4": "0 bytes",
        "gone.mp4": "there is no video",
        "out.mp4": "a link to",
        "dead.mp4": "there is no video|a link to",
        "notes.txt": "none of .mp4",
        "../elsewhere.mp4": "outside of the folder",
        "mute.mp4": "no caption",
        "chinese.mp4": "another script (Cjk)",
        "row 14 of captions.jsonl": "names no video",
        "row 15 of captions.jsonl": "no row",
        "row 16 of captions.jsonl": "no row",
        "long.mp4": "characters",
        "nul\\x00.mp4": "zero byte",
    }
    assert set(found.bad) == set(reasons)
    for name, why in reasons.items():
        assert any(each in found.bad[name] for each in why.split("|")), (name, found.bad[name])
    assert any("two words" in note for note in found.notes)
    assert any("silent.mp4" in note for note in found.notes)
    assert "chinese" in [item["name"] for item in read_raw(raw, any_script=True).items]
    assert "out" in [item["name"] for item in read_raw(raw, (tmp_path,)).items]


def test_tables_in_other_forms_and_folders_without_any(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"1")
    for name, text in (
        ("captions.csv", "file_name;text\na.mp4;a dog, running\n"),
        ("captions.json", json.dumps([{"path": "a.mp4", "prompt": "a dog, running", "license": "CC0"}])),
    ):
        (tmp_path / name).write_text(text)
        (item,) = read_raw(tmp_path).items
        assert item["raw"]["caption"] == "a dog, running"
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"captions\.jsonl"):
        read_raw(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        read_raw(tmp_path / "absent")
    table(tmp_path, "")
    with pytest.raises(ValueError, match="no rows"):
        read_raw(tmp_path)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a b", "a_b"),
        ("<id1>", "id1"),
        ("a/b", "a_b"),
        (".hidden", "hidden"),
        ("été", "été"),
        ("::", "clip"),
        ("a" * 300, "a" * 120),
    ],
)
def test_names_that_every_system_takes(given: str, name: str) -> None:
    assert file_name(given) == name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_raw(folder, 2, 70, 64, 9, single_motion_share=0.0, distractor_share=0.0)
    return folder


def test_bad_videos_stop_the_run_unless_a_person_says_so(home: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(home / "raw", raw)
    video = (raw / "mini_00000.mp4").read_bytes()
    (raw / "torn.mp4").write_bytes(video[: len(video) // 2])
    (raw / "noise.mp4").write_bytes(b"no video at all" * 50)
    grey = np.full((9, 64, 64, 3), 80, dtype=np.uint8)
    write_video(raw / "still.mp4", grey, 8)
    write_video(raw / "short.mp4", grey[:3], 8)
    (raw / "zdouble.mp4").write_bytes(video)
    with open(raw / "captions.jsonl", "a") as file:
        for name in ("torn", "noise", "still", "short", "zdouble"):
            file.write(json.dumps(row(f"{name}.mp4", "the red circle pushes the blue square")) + "\n")
    place = Place(tmp_path / "work", raw)
    stages = stages_for(home, tmp_path / "out", 64, 9)
    with pytest.raises(BadInputError, match="--skip-bad") as caught:
        Curation(read_raw(raw), place, stages, Options(), str).run(LocalEngine(place))
    assert set(caught.value.bad) == {"torn.mp4", "noise.mp4"}
    assert not (tmp_path / "out").exists()
    curation = Curation(read_raw(raw), place, stages, Options(skip_bad=True, until="triplets"), str)
    curation.run(LocalEngine(place))
    ends = {end.name: (end.stage, end.status, end.reason) for end in curation.ends()}
    assert ends["torn"][:2] == ends["noise"][:2] == ("clips", "bad")
    assert ends["still"][1] == "dropped"
    assert "still" in ends["still"][2]
    assert "too short: 3 frames" in ends["short"][2]
    assert ends["zdouble"] == ("clips", "dropped", "it doubles mini_00000")
    assert ends["mini_00000"][1] == "waiting"


def refuse_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders with < or > in their names cannot be made."""
    mkdir = Path.mkdir

    def refusing(self: Path, *args: Any, **more: Any) -> None:
        if set(self.name) & set("<>"):
            raise OSError(errno.EINVAL, "Invalid argument", str(self))
        mkdir(self, *args, **more)

    monkeypatch.setattr(Path, "mkdir", refusing)


def test_a_disk_that_refuses_angle_brackets_gets_plain_names(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows does; both are read."""
    refuse_brackets(monkeypatch)
    assert writing.tag_folders(tmp_path / "out") == "id{}"
    place = Place(tmp_path / "work", home / "raw")
    Curation(
        read_raw(home / "raw"), place, stages_for(home, tmp_path / "out", 64, 9), Options(unreviewed="all"), str
    ).run(LocalEngine(place))
    assert (tmp_path / "out" / "mask_annotation" / "mini_00000" / "id1").is_dir()
    check_clips(
        [str(tmp_path / "out"), "frames=9", "height=64", "width=64", "--no-sheet", f"cache={tmp_path / 'cache'}"]
    )


def test_the_command_asks_another_program_and_says_what_is_missing(home: Path, tmp_path: Path, capsys) -> None:
    """Without a model named: questions go to a file, and answers come from one."""
    work, out = tmp_path / "work", tmp_path / "out"
    common = [
        str(home / "raw"),
        str(work),
        str(out),
        "clips.frames=9",
        "clips.height=64",
        "clips.width=64",
        "checks.frames=9",
        "--mini-tracker",
        "--unreviewed",
        "all",
        "--quiet",
    ]
    assert curate(common) == 2
    said = capsys.readouterr().out
    assert "answers-triplets.jsonl" in said
    asked = [json.loads(line) for line in (work / "requests-triplets.jsonl").read_text().splitlines()]
    assert len(asked) == 2
    answers = [
        {
            "key": each["key"],
            "judge": "me",
            "model": "me",
            "raw": json.dumps(read_caption(each["text"].removeprefix("Caption: "))),
        }
        for each in asked
    ]
    (work / "answers-triplets.jsonl").write_text("".join(json.dumps(each) + "\n" for each in answers))
    truth = {p.stem: list(json.loads(p.read_text()).values()) for p in (home / "truth").iterdir()}
    boxes = [
        {
            "name": name,
            "frames": {"0": [{"class": "shape", "score": 0.9, "box": each[1][0]} for each in who if each[0]]},
        }
        for name, who in truth.items()
    ]
    anchors = [
        {"name": name, "anchors": {str(n): {"frame": 0, "box": each[1][0]} for n, each in enumerate(who, 1) if each[0]}}
        for name, who in truth.items()
    ]
    for file, rows in (("3_candidates", boxes), ("4_anchors", anchors)):
        (work / f"{file}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert curate(common) == 0
    assert "2 of 2 clips are in the set" in capsys.readouterr().out
    assert (out / "card.md").is_file()
    assert curate([*common, "--reader", "model@https://example.org/v1"]) == 1
    assert "--yes" in capsys.readouterr().err
    assert curate([*common, "clips.frame=3"]) == 1
    assert "clips has" in capsys.readouterr().err.lower()


NAMES = {  # as a person has them: as they are called in the set, or why they are left out
    "two words.mp4": "two_words",
    "<id1> [a] (b).mp4": "id1_[a]_(b)",
    "new\nline\tand\rtab.mp4": "new_line_and_tab",
    "\u732b.mp4": "\u732b",
    "e\u0301te\u0301 100%.mp4": "\u00e9t\u00e9_100%",
    "caption.mp4": "another script (Cyrillic)",
    "nothing.mp4": "0 bytes",
    "out.mp4": "a link to",
    "dead.mp4": "there is no video|a link to",
    "folder.mp4": "is no file",
}


def test_bad_names_and_files_go_through_the_command_by_name(home: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """From a raw folder to a set that is checked, on a disk that refuses `<id1>`: each that cannot be used is told by
    name and reason, nothing is done before a person says so, and the rest comes out whole."""
    raw, work, out = tmp_path / "raw", tmp_path / "work", tmp_path / "out"
    raw.mkdir()
    given = next(json.loads(line) for line in (home / "raw" / "captions.jsonl").read_text().splitlines())
    good = [name for name, said in NAMES.items() if " " not in said]
    for name in NAMES:
        shutil.copyfile(home / "raw" / given["video"], raw / name)
    (raw / "nothing.mp4").write_bytes(b"")
    (tmp_path / "elsewhere.mp4").write_bytes(b"secret")
    for name, target in (("out.mp4", tmp_path / "elsewhere.mp4"), ("dead.mp4", raw / "nowhere.mp4")):
        (raw / name).unlink()
        (raw / name).symlink_to(target)
    (raw / "folder.mp4").unlink()
    (raw / "folder.mp4").mkdir()
    captions = {**dict.fromkeys(NAMES, given["caption"]), "caption.mp4": "\u0441\u043e\u0431\u0430\u043a\u0430"}
    table(raw, *(row(name, caption) for name, caption in captions.items()))
    refuse_brackets(monkeypatch)
    truth = list(json.loads((home / "truth" / f"{Path(given['video']).stem}.json").read_text()).values())
    boxes = [[{"class": "shape", "score": 0.9, "box": each[1][0]} for each in truth if each[0]]]
    who = {str(n): {"frame": 0, "box": each["box"]} for n, each in enumerate(boxes[0], 1)}
    work.mkdir()
    lines: dict[str, list[Any]] = {"2_triplets": [], "3_candidates": [], "4_anchors": []}
    for name in good:
        lines["2_triplets"].append({"name": NAMES[name], **read_caption(given["caption"])})
        lines["3_candidates"].append({"name": NAMES[name], "frames": {"0": boxes[0]}})
        lines["4_anchors"].append({"name": NAMES[name], "anchors": who})
    for file, some in lines.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in some)
        (work / f"{file}.jsonl").write_text(text, encoding="utf-8")
    sizes = ["clips.frames=9", "clips.height=64", "clips.width=64", "checks.frames=9"]
    command = [
        str(raw),
        str(work),
        str(out),
        *sizes,
        "--mini-tracker",
        "--unreviewed",
        "all",
        "--doubles",
        "-1",
        "--sheets",
        "all",
        "--quiet",
    ]
    assert curate(command) == 1
    said = capsys.readouterr().err
    for name, why in NAMES.items():
        if " " in why:
            assert any(f"{name}: " in line and part in line for line in said.splitlines() for part in why.split("|"))
    assert "5 of 10 clips cannot be used" in said
    assert not out.exists()
    assert curate([*command, "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "new\\nline" in said
    assert sorted(p.stem for p in (out / "videos").iterdir()) == sorted(NAMES[name] for name in good)
    assert all((out / "mask_annotation" / NAMES[name] / "id2").is_dir() for name in good)
    seen = ["frames=9", "height=64", "width=64", "--no-sheet", f"cache={tmp_path / 'cache'}"]
    check_clips([str(out), *seen])
    assert f"{len(good)} good clips" in capsys.readouterr().out
    assert b"secret" not in b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())


def test_two_runs_in_one_folder_do_not_mix(home: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "work", home / "raw")
    stages, options = stages_for(home, tmp_path / "out", 64, 9), Options(until="clips")
    curation = Curation(read_raw(home / "raw"), place, stages, options, str)
    place.work.mkdir()
    with FileLock(place.work / "lock"), pytest.raises(ValueError, match="another run is at"):
        curation.run(LocalEngine(place))
    curation.run(LocalEngine(place))
    curation.run(LocalEngine(place))
    assert curation.names == ["mini_00000", "mini_00001"]


def test_lines_of_other_tools_that_say_nothing_are_named(home: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "work", home / "raw")
    place.work.mkdir()
    lines = [
        {"name": "mini_00000", "frames": {"0": [{"class": "shape", "box": [1, 2, 3, 4]}]}},
        {"name": "mini_00001", "frames": {"0": [{"class": "shape", "score": 1, "box": [9, 9, 3, 4]}]}},
    ]
    (place.work / "3_candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curation = Curation(
        read_raw(home / "raw"), place, stages_for(home, tmp_path / "out", 64, 9), Options(unreviewed="all"), str
    )
    curation.run(LocalEngine(place))
    ends = {end.name: end for end in curation.ends()}
    assert "its line in 3_candidates.jsonl: a line of candidates is" in ends["mini_00000"].reason
    assert "without an area" in ends["mini_00001"].reason
    late = {"name": "mini_00001", "frames": {"9": [{"class": "shape", "score": 1, "box": [1, 2, 3, 4]}]}}
    (place.work / "3_candidates.jsonl").write_text(json.dumps(late) + "\n")
    curation.run(LocalEngine(place))
    assert "frames 0 to 8" in {end.name: end for end in curation.ends()}["mini_00001"].reason
