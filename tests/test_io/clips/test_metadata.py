"""Metadata files of clips: what they may hold, and what is said where they hold something else."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_clips import EVERYBODY_KINDS, everybody, one_instance, write_table
from support_counts import count

from matrix_lib.io.clips.folder import scan_clips
from matrix_lib.io.clips.mask_files import read_mask
from matrix_lib.io.clips.mask_places import numbered_pictures
from matrix_lib.io.clips.metadata import read_rows
from matrix_lib.io.clips.order import in_order
from matrix_lib.io.video import write_video


def clip(folder, name, prompt, **more):
    write_video(folder / "videos" / f"{name}.mp4", np.zeros((3, 32, 32, 3), dtype=np.uint8))
    home = folder / "mask_annotation" / name / "<id3>"
    home.mkdir(parents=True)
    for number in (10, 2, 1):
        Image.new("L", (32, 32), 255).save(home / f"{number}.png")
    return {"video": f"{name}.mp4", "prompt": prompt, **more}


def test_masks_are_in_the_order_of_their_numbers(tmp_path):
    row = clip(tmp_path, "a", "a <id3> man waves")
    (tmp_path / "metadata.json").write_text(json.dumps([row]))
    paths = scan_clips(tmp_path).clips[0].masks["id3"]
    assert in_order(paths).numbers == (1, 2, 10)
    assert numbered_pictures(tmp_path / "absent", ()) == ()


def test_the_words_of_the_verb(tmp_path):
    rows = [
        clip(tmp_path, "good", "a <id3> man picks his hat up", verb="picks ... up"),
        clip(tmp_path, "name", "a <id3> man picks his hat up", verb="pick_up"),
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, name = scan_clips(tmp_path).clips
    assert [(spec.name, spec.subject, spec.object) for spec in good.phrases[1:]] == [("picks ... up", "id3", None)]
    assert name.verbs == ()
    assert name.notes == ("no verb: the words 'pick_up' of the column `verb` are not in the prompt",)


def test_rows_that_are_none(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"video": "a.mp4", "prompt": "a <id1> man"}\n[1]\n{"video": null, "prompt": 3}\n{"prompt')
    found = scan_clips(tmp_path)
    assert found.clips == ()
    assert set(found.problems) == {"a", "row 2", "row 3", "row 4"}
    assert "not in" in found.problems["a"]
    assert "no JSON object" in found.problems["row 2"]
    assert "has no video" in found.problems["row 3"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("metadata.json", b'{"video": 1}', "list of objects"),
        ("metadata.json", b"[" * 100_000, "cannot be read"),
        ("metadata.json", b"\xff\xfe\x00", "no text in UTF-8"),
        ("metadata.csv", b"video,prompt\na.mp4," + b"x" * 200_000, "field larger"),
        ("metadata.csv", b"name,text\na,b\n", "`video` and `prompt`"),
    ],
)
def test_files_that_are_no_metadata(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        read_rows(tmp_path)


def test_masks_that_are_no_pictures(tmp_path, monkeypatch):
    path = tmp_path / "<id1>" / "000.png"
    path.parent.mkdir()
    for data, said in ((b"", "0 bytes"), (b"\x89PNG\r\n\x1a\n junk", "cannot be read as a mask")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=said):
            read_mask(path)
    Image.new("1", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="exceeds limit"):
        read_mask(path)


# --- how tables are written

WORDS = st.text(st.sampled_from("ab é世,;\t|\"'\n\u2028\u0085=<>"), max_size=12).map(str.strip)
COLUMNS = st.tuples(
    st.sampled_from(["video", "Video", "file_name", "File Name", "filename", "video_path", "path"]),
    st.sampled_from(["prompt", "PROMPT", "text", "caption", "Caption ", "description"]),
)


@settings(max_examples=count(30, 3000))
@given(st.data())
def test_any_table_is_read_as_it_was_written(tmp_path_factory, data):
    """Delimiters, encodings, quotes, names and order of columns; texts with delimiters and odd ends of lines."""
    folder = tmp_path_factory.mktemp("table")
    video, prompt = data.draw(COLUMNS)
    more = data.draw(st.sampled_from([[], ["verb"], ["score", "Phrases"]]))
    names = data.draw(st.permutations([video, prompt, *more]))
    rows = [
        {name: f"{n}.mp4" if name == video else f"the man {data.draw(WORDS)} end" for name in names}
        for n in range(data.draw(st.integers(1, 4)))
    ]
    kind = data.draw(st.sampled_from(["csv", "tsv", "jsonl", "json"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]))
    path = folder / f"{data.draw(st.sampled_from(['metadata', 'Metadata']))}.{kind}"
    if kind in ("csv", "tsv"):
        hint = data.draw(st.booleans())
        delimiter = data.draw(st.sampled_from(",;\t|"))
        write_table(path, rows, delimiter, encoding, hint)
    else:
        ascii_only = data.draw(st.booleans())
        lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
        text = "\r\n".join(lines) if kind == "jsonl" else f"[{', '.join(lines)}]"
        path.write_bytes(text.encode(encoding))
    found = read_rows(folder)
    assert [row.wrong for row in found] == [""] * len(rows)
    assert [row.values["video"] for row in found] == [row[video] for row in rows]
    assert [row.values["prompt"] for row in found] == [row[prompt] for row in rows]
    if "Phrases" in names:
        assert [row.values["phrases"] for row in found] == [row["Phrases"] for row in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,words\na,b\n", "`video` and `prompt`; its columns are 'name', 'words'.*file_name"),
        ("video,text,caption\na,b,c\n", "which of its columns 'text', 'caption' is the prompt. Call it prompt"),
        ("video,prompt,prompt\na,b,c\n", "several columns 'prompt'"),
        ("", "it has no row"),
    ],
)
def test_columns_that_are_not_there(tmp_path, text, said):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_rows(tmp_path)


def test_a_row_with_unquoted_delimiters(tmp_path):
    (tmp_path / "metadata.csv").write_text("video,prompt\na.mp4,the man waves, and leaves\nb.mp4,fine\n,,\n")
    bad, good = read_rows(tmp_path)
    assert "3 cells and the header 2: put texts that hold the delimiter into quotes" in bad.wrong
    assert (bad.name, good.name, good.wrong) == ("a", "b", "")


def test_names_of_clips(tmp_path):
    rows = [clip(tmp_path, "v1.0", "the <id3> man"), clip(tmp_path, "v1.1", "the <id3> man")]
    rows[0]["video"], rows[1]["video"] = "v1.0", "videos\\v1.1.mp4"
    (tmp_path / "metadata.json").write_text(json.dumps(rows))
    assert [c.name for c in scan_clips(tmp_path).clips] == ["v1.0", "v1.1"]
    rows[0] |= {"prompt": ["one", "two"]}
    (tmp_path / "metadata.json").write_text(json.dumps(rows))
    assert '\'prompt\' is ["one", "two"], and one text is wanted' in scan_clips(tmp_path).problems["v1.0"]
    write_video(tmp_path / "videos" / "v1.0.mov.mp4", np.zeros((1, 32, 32, 3), dtype=np.uint8)).rename(
        tmp_path / "videos" / "v1.0.mov"
    )
    rows[0] |= {"prompt": "the <id3> man"}
    (tmp_path / "metadata.json").write_text(json.dumps(rows))
    assert "could be v1.0.mp4 or v1.0.mov: write the suffix" in scan_clips(tmp_path).problems["v1.0"]


def test_other_metadata_beside_it(tmp_path):
    row = clip(tmp_path, "a", "the <id3> man")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    write_table(tmp_path / "metadata.csv", [row, row | {"video": "b.mp4"}])
    assert any("metadata.csv beside it has other clips: 2, not 1" in note for note in scan_clips(tmp_path).notes)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").rename(tmp_path / "captions.csv")
    with pytest.raises(ValueError, match="if captions.csv is the list of clips, call it metadata.csv"):
        scan_clips(tmp_path)


# --- masks of everybody


@settings(max_examples=count(10, 500))
@given(
    kind=st.sampled_from(EVERYBODY_KINDS),
    numbers=st.sampled_from([(1, 2), (2, 1), (2, 5), (3, 1)]),
    seed=st.integers(0, 99),
)
def test_masks_of_everybody(tmp_path_factory, kind, numbers, seed):
    folder = tmp_path_factory.mktemp("everybody")
    draw = np.random.default_rng(seed)
    masks = {name: np.zeros((3, 32, 48), bool) for name in ("man", "cart")}
    for f in range(3):
        top = draw.integers(0, 8)
        masks["man"][f, top : top + 10, 2 + f : 20] = True
        masks["cart"][f, top + 12 : top + 20, 20 : 40 - f] = True
    own = dict(zip(masks, numbers))
    everybody(masks, folder / "mask_annotation" / "a", kind, own)
    write_video(folder / "videos" / "a.mp4", np.zeros((3, 32, 48, 3), np.uint8))
    row = {"video": "a.mp4", "prompt": f"the <id{own['man']}> man pushes the <id{own['cart']}> cart"}
    row["phrases"] = "man: the man\ncart: the cart\npushes = verb(man -> cart)"
    (folder / "metadata.json").write_text(json.dumps([row]))
    found = scan_clips(folder)
    assert found.problems == {}
    tracks = found.clips[0].tracks()
    for name, mask in masks.items():
        assert np.array_equal(tracks.masks(name).numpy(), mask), kind


def test_inverted_tracks_are_asked_about_too(tmp_path):
    mask = np.zeros((3, 32, 48), bool)
    mask[:, 2:12, 2:20] = True
    everybody({"man": ~mask}, tmp_path / "a" / "masks", "tracks", {"man": 1})
    home = tmp_path / "a"
    (home / "masks.safetensors").rename(home / "tracks.safetensors")
    (home / "prompt.txt").write_text("the man waves")
    (home / "entities.txt").write_text("man: the man\n")
    write_video(home / "video.mp4", np.zeros((3, 32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="as inverted masks do"):
        scan_clips(tmp_path).clips[0].tracks()
    assert np.array_equal(scan_clips(tmp_path, masks_are="black").clips[0].tracks().masks("man").numpy(), mask)


def test_palette_pictures_in_a_folder_of_one_clip(tmp_path):
    home = tmp_path / "a"
    masks = {"man": np.zeros((3, 32, 48), bool), "cart": np.zeros((3, 32, 48), bool)}
    masks["man"][:, 2:12, 2:20], masks["cart"][:, 20:30, 20:40] = True, True
    everybody(masks, home / "masks", "davis", {"man": 2, "cart": 1})
    (home / "prompt.txt").write_text("the man pushes the cart")
    (home / "entities.txt").write_text("man: the man\ncart: the cart\n")
    write_video(home / "video.mp4", np.zeros((3, 32, 48, 3), np.uint8))
    assert "whose number is which in masks/labels.txt, a line each: man: 1" in scan_clips(tmp_path).problems["a"]
    (home / "masks" / "labels.txt").write_text("man: 2\ncart: 1\n")
    tracks = scan_clips(tmp_path).clips[0].tracks()
    assert all(np.array_equal(tracks.masks(name).numpy(), mask) for name, mask in masks.items())
    (home / "masks" / "labels.txt").write_text("man: 2\ncart: 2\n")
    assert "one number to two instances" in scan_clips(tmp_path).problems["a"]


def test_a_person_answers_what_masks_are(tmp_path):
    home = tmp_path / "a"
    mask = np.zeros((3, 32, 48), bool)
    mask[:, 2:12, 2:20] = True
    one_instance(~mask, home / "masks" / "man", "white")
    (home / "prompt.txt").write_text("the man waves")
    (home / "entities.txt").write_text("man: the man\n")
    write_video(home / "video.mp4", np.zeros((3, 32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="as inverted masks do. Say masks_are=black"):
        scan_clips(tmp_path).clips[0].tracks()
    assert np.array_equal(scan_clips(tmp_path, masks_are="black").clips[0].tracks().masks("man").numpy(), mask)
    (home / "masks_are.txt").write_text("black\n")
    assert np.array_equal(scan_clips(tmp_path).clips[0].tracks().masks("man").numpy(), mask)
    (home / "masks_are.txt").write_text("yes")
    assert "masks_are is ask or white or black; got 'yes'" in scan_clips(tmp_path).problems["a"]


def test_refusals_say_what_to_do(tmp_path):
    """A video that is called a little otherwise, rows that say the same, words with the prompt that they are not in."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "clip_01.mp4").write_bytes(b"")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"")
    rows = [
        {"video": "clip_1.mov", "prompt": "a <id1> cup"},
        {"video": "a.mp4", "prompt": "a <id1> cup"},
        {"video": "a.mp4", "prompt": "a <id1> cup"},
        {"video": "b.mp4", "prompt": "a <id1> cup " + "and more " * 40, "phrases": "cup: a mug"},
    ]
    write_table(tmp_path / "metadata.csv", [{"phrases": "", **row} for row in rows])
    told = scan_clips(tmp_path).problems
    assert "did you mean 'clip_01.mp4'? Or put it there, or correct or remove its row" in told["clip_1"]
    assert "(rows 2, 3, from 1 behind any header): they say the same, so remove all but one" in told["a"]
    assert "'a mug' is not in the prompt" in told["b"]
    assert "(the prompt is 'a <id1> cup and more" in told["b"]
    assert len(told["b"]) < 400
