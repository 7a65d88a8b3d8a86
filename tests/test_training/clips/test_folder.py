"""Folders of clips for training: what is read, which frames and sizes are seen, and that every bad clip is named."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matrix_lib.io.video import check_video, read_video, write_video
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.check_clips import main as check_clips
from training.clips.buckets import Bucket, Order, Windows, aspect_sizes, choose_size
from training.clips.folder import FolderData, open_folder
from training.clips.prompts import write_prompt
from training.clips.store import Store

WORLD = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0)
SMALL = dict(frames=9, height=64, width=64, bystanders=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Fifteen clips of 9 frames of 64x64 in the layout of MATRIX-11K."""
    folder = tmp_path_factory.mktemp("exported") / "clips"
    export_clips(make_clips(3, 15, WORLD), folder)
    return folder


@pytest.fixture
def clips(exported, tmp_path):
    """A copy of them that may be damaged."""
    return shutil.copytree(exported, tmp_path / "clips")


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def write_rows(folder, rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(folder, **settings):
    said = []
    found = open_folder(FolderData(str(folder), **{**SMALL, **settings}), say=said.append, bar=False)
    return found, said


def person(folder, name, tagged, ids, frames=5, size=(32, 48)):
    """A clip with a mask of each id."""
    write_video(folder / "videos" / f"{name}.mp4", np.full((frames, *size, 3), 80, dtype=np.uint8), 8.0)
    for k in ids:
        home = folder / "mask_annotation" / name / f"<id{k}>"
        home.mkdir(parents=True)
        for f in range(frames):
            mask = np.zeros(size, dtype=np.uint8)
            mask[4:20, 4 * k : 4 * k + 8] = 255
            Image.fromarray(mask).save(home / f"{f:03d}.png")
    return {"video": f"{name}.mp4", "prompt": tagged}


# --- what is read


def test_csv_json_and_jsonl_say_the_same(exported, tmp_path):
    seen = []
    for kind in ("csv", "json", "jsonl"):
        folder = shutil.copytree(exported, tmp_path / kind)
        for other in {"csv", "json", "jsonl"} - {kind}:
            (folder / f"metadata.{other}").unlink()
        found, _ = opened(folder)
        seen.append([(s.name, s.prompt, s.written, s.numbers, s.tracks().digest) for s in found.samples])
    assert len(seen[0]) == 15
    assert seen[0] == seen[1] == seen[2]


def test_any_set_of_ids(tmp_path):
    rows = [
        person(tmp_path, "two_five", "the <id2> man pushes the <id5> cart", (2, 5)),
        person(tmp_path, "phrases", "the <id4> man pushes the <id1> cart", (1, 4)),
    ]
    rows[0]["verb"] = rows[1]["verb"] = "pushes"
    rows[1]["phrases"] = "who: the man\nwhat: the cart\npushes = verb(who -> what)"
    with open(tmp_path / "metadata.csv", "w", newline="") as sheet:
        writer = csv.DictWriter(sheet, ["video", "prompt", "phrases", "verb"])
        writer.writeheader()
        writer.writerows(rows)
    found, _ = opened(tmp_path, frames=5, height=32, width=48)
    said, bare = found.samples
    assert bare.clip.slots == {"id2": 2, "id5": 5}
    assert said.clip.slots == {"who": 4, "what": 1}
    tracks = said.tracks()
    assert tracks.boxes("who")[0].tolist() == [16, 4, 24, 20]
    assert tracks.palette == ((255, 255, 0), (255, 0, 0)), "colours go with the tags"
    assert bare.prompt == "the <id2> man pushes the <id5> cart", "as its author wrote it"
    spans = {p.name: bare.prompt[p.start : p.end] for p in bare.written.phrases}
    assert spans == {"id2": "<id2> man", "id5": "<id5> cart", "pushes": "pushes"}
    assert {p.name: said.prompt[p.start : p.end] for p in said.written.phrases}["who"] == "the <id4> man"


def test_one_target_mask_a_clip(tmp_path):
    rows = []
    for n, (name, prompt, target) in enumerate(
        [
            ("a", "A woman lifts the mug.", "the mug"),
            ("b", "A woman lifts the target mug.", ""),
            ("c", "A woman in a kitchen.", ""),
        ]
    ):
        rows.append({**person(tmp_path, name, prompt, ()), "target": target})
        mask = np.zeros((32, 48), dtype=np.uint8)
        mask[4:20, 4 : 12 + n] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    write_rows(tmp_path, rows)
    size = dict(frames=5, height=32, width=48, condition="target_mask", masks="first", verbs="optional")
    found, said = opened(tmp_path, **size, prompt_form="target_word")
    prompts = [s.prompt for s in found.samples]
    assert prompts == [
        "A woman lifts the target mug.",
        "A woman lifts the target mug.",
        "A woman in a kitchen. The person interacts with [TGT] object.",
    ]
    words = [[s.prompt[slice(*span)] for p in s.written.phrases for span in p.spans] for s in found.samples]
    assert words == [["target"], ["target"], ["[TGT]"]], "the word alone is aligned"
    assert [s.tracks().frames for s in found.samples] == [1, 1, 1]
    assert any("TAViD's sentence" in line for line in said)
    found, _ = opened(tmp_path, **size, prompt_form="target_sentence")
    assert found.samples[0].prompt == "A woman lifts the mug. The person interacts with [TGT] object."
    (tmp_path / "masks" / "b.png").unlink()
    Image.new("L", (48, 32)).save(tmp_path / "masks" / "c.png")
    with pytest.raises(ValueError, match=r"b: no mask of 'target'.*\n *c: the masks of 'target' are empty"):
        opened(tmp_path, **size, prompt_form="target_word")


def test_prompt_forms(exported):
    clip = opened(exported)[0].samples[0].clip
    assert write_prompt(clip, "plain").prompt == clip.prompt
    assert "<id1>" in write_prompt(clip, "tags").prompt
    plain = write_prompt(clip, "target_word")
    assert plain.prompt.count("target") == 1
    assert plain.target in clip.instances


# --- which frames, which size, which order


def test_windows():
    assert Windows(5).of(9, 8.0) == ((0, 1, 2, 3, 4),)
    assert Windows(5, count=3).of(9, 8.0) == ((0, 1, 2, 3, 4), (2, 3, 4, 5, 6), (4, 5, 6, 7, 8))
    assert Windows(5, fps=8).of(25, 24.0) == ((0, 3, 6, 9, 12),)
    assert Windows(5, fps=12).of(30, 30.0)[0] == (0, 2, 5, 7, 10)
    assert Windows(49, shortest=9).lengths == (49, 25, 13)
    assert len(Windows(49, shortest=9).of(30, 8.0)[0]) == 25
    with pytest.raises(ValueError, match="4 n \\+ 1"):
        Windows(8)
    with pytest.raises(ValueError, match=r"it has 30 frames, and 49 at 8 fps take 145"):
        Windows(49, fps=8).of(30, 24.0)


def test_buckets():
    sizes = aspect_sizes(480, 720, 16)
    assert (480, 720) in sizes
    assert all(h % 16 == w % 16 == 0 and h * w <= 480 * 720 for h, w in sizes)
    assert choose_size((1080, 1920), sizes)[1] > 720
    assert choose_size((1920, 1080), sizes)[0] > choose_size((1920, 1080), sizes)[1]
    assert choose_size((320, 480), sizes) == (480, 720)


def test_the_order_follows_from_seed_and_step():
    buckets = [Bucket(9, 64, 64)] * 5 + [Bucket(9, 48, 80)] * 7
    order = Order(buckets, 4, seed=1)
    assert order.steps == 2 + 2
    steps = [order.rows(s) for s in range(8)]
    again = Order(buckets, 4, seed=1)
    assert [again.rows(s) for s in reversed(range(8))] == steps[::-1], "in whatever order it is asked for"
    assert Order(buckets, 4, seed=2).rows(0) != steps[0] or Order(buckets, 4, seed=2).rows(1) != steps[1]
    for epoch in (steps[:4], steps[4:]):
        assert {row for rows in epoch for row in rows} == set(range(12)), "nobody is left out"
        assert all(len({buckets[row] for row in rows}) == 1 for rows in epoch)
    halves = [order.part(3, part, 2)[0] for part in (0, 1)]
    assert halves[0] + halves[1] == steps[3], "however many processes share it"
    with pytest.raises(ValueError, match="multiple"):
        order.part(0, 0, 3)


def test_clips_of_other_sizes_and_lengths(tmp_path):
    rows = [
        person(tmp_path, "wide", "the <id1> man waves", (1,), 9, (32, 64)),
        person(tmp_path, "tall", "the <id1> man waves", (1,), 5, (64, 32)),
        person(tmp_path, "short", "the <id1> man waves", (1,), 3, (64, 32)),
    ]
    write_rows(tmp_path, [{**row, "verb": "waves"} for row in rows])
    with pytest.raises(ValueError, match=r"2 of 3 clips(.|\n)*short: it has 3 frames, and 9 take 9"):
        opened(tmp_path)
    found, said = opened(tmp_path, shortest=5, buckets=True, skip_bad=True)
    assert {s.name: s.bucket for s in found.samples} == {"wide": (9, 48, 80), "tall": (5, 80, 48)}
    assert list(found.skipped) == ["short"]
    assert "short" in said[0]
    crop = opened(tmp_path, skip_bad=True)[0].samples[0]
    assert crop.framing.box() == (0, 16, 32, 32), "picture and masks get the same crop"


# --- bad clips


def damage(folder):
    """One fault a clip; what is said about each."""
    rows = rows_of(folder)
    names = [row["video"].removesuffix(".mp4") for row in rows]
    masks = {name: folder / "mask_annotation" / name for name in names}
    expected = {}

    def fault(name, *words):
        expected[name] = words
        return name

    def video(name):
        return folder / "videos" / f"{name}.mp4"

    shutil.rmtree(masks[fault(names[0], "no mask of", "<id2>")] / "<id2>")
    (masks[fault(names[1], "holes", "frame 3 to 4, 6 of 9 is missing")] / "<id1>" / "003.png").unlink()
    for number in (4, 6):
        (masks[names[1]] / "<id1>" / f"{number:03d}.png").unlink()
    small = masks[fault(names[2], "mask 005.png", "is 32x32", "the video 64x64")] / "<id1>" / "005.png"
    Image.new("L", (32, 32), 255).save(small)
    video(fault(names[3], "cannot be read as a video")).write_bytes(b"no video at all" * 50)
    video(fault(names[4], "is empty: 0 bytes")).write_bytes(b"")
    (masks[fault(names[5], "<id1>/002.png cannot be read", "0 bytes")] / "<id1>" / "002.png").write_bytes(b"")
    rows[6]["phrases"] = "\n".join(line for line in rows[6]["phrases"].splitlines() if "verb(" not in line)
    fault(names[6], "no verb")
    rows.append({**rows[7], "prompt": "another one of the same name"})
    fault(names[7], "2 rows have this name", "8, 16")
    whole = video(fault(names[8], f"{names[8]}.mp4' ")).read_bytes()  # breaks off, or cannot be read
    video(names[8]).write_bytes(whole[: int(len(whole) * 0.7)])
    video(fault(names[9], "is not in")).unlink()
    rows[10]["prompt"] += " past <id5> a wall"
    fault(names[10], "<id5> is in its prompt")
    rows[11]["phrases"] = rows[11]["phrases"].replace("the ", "the purple elephant ", 1)
    fault(names[11], "is not in the prompt")
    for path in (masks[fault(names[12], "empty: it is in no frame")] / "<id1>").iterdir():
        Image.new("L", (64, 64)).save(path)
    extra = masks[names[13]] / "<id1>" / "009.png"
    Image.new("L", (64, 64), 255).save(extra)
    Image.new("L", (8, 8), 255).save(masks[names[13]] / "<id2>" / "000.png")
    expected[names[13]] = ("frame 9, and the video has 9 frames", "mask 000.png", "is 8x8")
    write_rows(folder, [*rows, {"prompt": "no video"}])
    with open(folder / "metadata.jsonl", "a") as file:
        file.write("{not json\n")
    return {**expected, "row 17": ("has no video",), "row 18": ("no JSON",)}, names[14]


def test_every_bad_clip_is_listed_with_its_reason(clips, tmp_path):
    expected, good = damage(clips)
    with pytest.raises(ValueError, match=r"16 of 17 clips cannot be trained on") as told:
        opened(clips, bystanders=True)
    assert "data.skip_bad=true" in str(told.value)
    lines = {line.split(":")[0].strip(): line for line in str(told.value).splitlines()[1:-1]}
    assert set(lines) == set(expected)
    for name, words in expected.items():
        for word in words:
            assert word in lines[name], lines[name]
    found, said = opened(clips, skip_bad=True)
    assert [sample.name for sample in found.samples] == [good]
    assert set(found.skipped) == set(expected)
    assert "going on without" in said[0]
    store = Store(tmp_path / "store")
    data = FolderData(str(clips), **SMALL, skip_bad=True)
    first = open_folder(data, store=store, say=said.append, bar=False)
    second = open_folder(data, store=store, say=said.append, bar=False)
    assert first.skipped == second.skipped == found.skipped, "bad clips are looked at again"


def test_masks_that_nobody_names(exported):
    with pytest.raises(ValueError, match=r"there are masks in <id\d>.*bystanders=true"):
        opened(exported, bystanders=False)


def test_the_command(exported, clips, tmp_path, capsys):
    settings = ["data.frames=9", "height=64", "width=64", "bystanders=true", f"cache={tmp_path / 'store'}"]
    check_clips([str(exported), *settings])
    said = capsys.readouterr().out
    assert "15 good clips" in said
    sheet = Path(said.split("contact sheet: ")[1].strip())
    assert sheet == tmp_path / "store" / "sheets" / "clips.png"
    with Image.open(sheet) as picture:
        assert picture.width == 1400
        assert picture.height > 15 * 150, "a row for every clip"
    expected, _ = damage(clips)
    with pytest.raises(SystemExit) as told:
        check_clips([str(clips), *settings, "--sheet", str(tmp_path / "bad.png")])
    assert "16 bad clips" in str(told.value)
    assert all(f"  {name}: " in str(told.value) for name in expected)
    assert "1 good clips" in capsys.readouterr().out
    assert (tmp_path / "bad.png").is_file()
    with pytest.raises(SystemExit, match="16 bad clips"):
        check_clips([str(clips), *settings, "--no-sheet"])
    assert "contact sheet" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no folder"):
        check_clips([str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match="no setting"):
        check_clips([str(exported), "colour=red"])


def test_a_video_is_read_to_its_end(tmp_path):
    frames = torch.randint(0, 255, (20, 64, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    path = write_video(tmp_path / "a.mp4", frames, 12.0)
    assert check_video(path) == (20, 64, 48, 12.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"breaks off after \d+ of 20"):
        check_video(path)
    middle = len(whole) // 2
    noise = np.random.default_rng(0).bytes(2000)
    path.write_bytes(whole[:middle] + noise + whole[middle + 2000 :])
    with pytest.raises(ValueError, match="damaged|cannot be read"):
        check_video(path)
    assert len(read_video(write_video(path, frames, 12.0)).frames) == 20


def test_a_bad_window_leaves_the_others(tmp_path):
    """A target that leaves the picture: its clip is used as far as it goes."""
    row = {**person(tmp_path, "leaves", "the <id1> man waves", (1,), 9, (32, 32)), "verb": "waves"}
    for number in range(4, 9):
        path = tmp_path / "mask_annotation" / "leaves" / "<id1>" / f"{number:03d}.png"
        Image.new("L", (32, 32)).save(path)
    write_rows(tmp_path, [row])
    size = dict(frames=5, height=32, width=32, windows=2, condition="target_mask", prompt_form="target_word")
    found, said = opened(tmp_path, **size)
    assert [sample.name for sample in found.samples] == ["leaves@0"]
    assert not found.skipped
    assert any("only 1 of its windows" in line and "is not in frame 4" in line for line in said)


def test_settings_that_cannot_be():
    for wrong, said in (
        (dict(frames=48), "4 n \\+ 1"),
        (dict(batch=0), "at least 1"),
        (dict(masks="first", windows=2), "data.windows is 1"),
        (dict(fps=-1.0), "data.fps"),
    ):
        with pytest.raises(ValueError, match=said):
            FolderData("x", **wrong)
