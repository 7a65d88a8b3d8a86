"""Data sets as people make them: layouts, names, encodings, kinds of files at random; faults, and what mends them.

Every set knows its truth: the frames and masks of each clip. A fault is a change of the files, words that its message
has to have, and `mend`: what a reader does who takes the message at its word.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from support_clips import (
    DAVIS,
    EVERYBODY_KINDS,
    FILE_KINDS,
    PICTURE_KINDS,
    TURNS,
    everybody,
    one_instance,
    one_picture,
    timed_video,
    turn_video,
    write_table,
)

from matrix_lib.io.video import write_video

FRAMES, HEIGHT, WIDTH = 9, 32, 48
NAMES = ("man", "cart")
PHRASES = "man: the man\ncart: the cart\npushes = verb(man -> cart)"


@dataclass
class Fault:
    """`said`: a pattern that the message has to match. `mend(message)` does what the message says."""

    kind: str
    said: str
    mend: Callable[[str], None]
    whole: bool = False  # the folder is refused, not a clip


@dataclass
class Clip:
    name: str
    frames: np.ndarray
    masks: dict[str, np.ndarray]
    times: list[float]
    kind: str = ""
    fault: Fault | None = None
    tolerance: float = 1e-9


@dataclass
class DataSet:
    folder: Path
    layout: str
    draw: random.Random
    clips: list[Clip] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    table: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    fault: Fault | None = None

    def home(self, clip):
        return self.folder / clip.name

    def video(self, clip):
        """The video file, whatever its suffix."""
        place = self.home(clip) if self.layout == "places" else self.folder / "videos"
        stem = "video" if self.layout == "places" else clip.name
        return next(p for p in sorted(place.iterdir()) if p.stem == stem and not p.name.startswith("."))

    def write_rows(self):
        """The metadata file as this set has it."""
        for path in self.folder.glob("[mM]etadata.*"):
            path.unlink()
        rows = [{self.columns.get(key, key): value for key, value in row.items()} for row in self.rows]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        rows = [{key: row.get(key, "") for key in keys} for row in rows]
        path = self.folder / f"metadata.{self.table['kind']}"
        if self.table["kind"] in ("csv", "tsv"):
            write_table(path, rows, self.table["delimiter"], self.table["encoding"], self.table["hint"])
            return
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = "\n".join(lines) if self.table["kind"] == "jsonl" else f"[{', '.join(lines)}]"
        path.write_bytes(text.encode(self.table["encoding"]))


def make_set(folder: Path, seed: int) -> DataSet:
    """A data set of 2 to 4 clips, some of them with a fault."""
    draw = random.Random(seed)
    made = DataSet(folder, draw.choice(["tags", "tags", "places", "target"]), draw)
    made.settings = {"fps": draw.choice([0.0, 0.0, 8.0, 5.0])}
    made.table = {
        "kind": draw.choice(["csv", "csv", "tsv", "jsonl", "json"]),
        "delimiter": draw.choice(",;\t|"),
        "encoding": draw.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
        "hint": draw.random() < 0.3,
    }
    video, prompt = (
        draw.choice(["video", "file_name", "Video", "path"]),
        draw.choice(["prompt", "text", "caption", "Prompt"]),
    )
    made.columns = {"video": video, "prompt": prompt}
    for n in range(draw.randint(2, 4)):
        name = draw.choice(["clip_{}", "take {} é", "v1.{}", "{}"]).format(n)
        made.clips.append(_clip(made, name, draw.randrange(10**6)))
    if made.layout != "places":
        made.write_rows()
    _litter(made)
    chosen = [(clip, _some_fault(made, clip)) for clip in made.clips if draw.random() < 0.45]
    unquoted = [pair for pair in chosen if pair[1] is _unquoted][:1]  # typed by hand: nothing may write the table again
    for clip, maker in [pair for pair in chosen if pair[1] is not _unquoted] + unquoted:
        clip.fault = maker(made, clip)
    if draw.random() < 0.1 and not any(clip.fault for clip in made.clips):
        made.fault = _whole_fault(made)
    return made


def _clip(made: DataSet, name: str, seed: int) -> Clip:
    draw = made.draw
    turn = draw.choice(["none"] * 4 + list(TURNS))
    numbers = np.random.default_rng(seed)
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = (np.arange(FRAMES) * 24)[:, None, None, None]
    frames[:, :8, :8] = 255
    shown = np.stack([TURNS[turn][1](frame) for frame in frames])
    height, width = shown.shape[1:3]
    masks = {}
    for k, who in enumerate(NAMES if made.layout != "target" else NAMES[1:]):
        masks[who] = np.zeros((FRAMES, height, width), bool)
        for f in range(FRAMES):
            top, left = numbers.integers(0, height // 2), k * (width // 2) + numbers.integers(0, 4)
            masks[who][f, top : top + height // 3, left : left + width // 3] = f != 4 or k == 0
    uneven = draw.random() < 0.3
    times = [0.0, *np.cumsum(draw.choices([0.05, 0.125, 0.3], k=FRAMES - 1)).round(3).tolist()] if uneven else []
    clip = Clip(name, shown, masks, times or [n / 8 for n in range(FRAMES)])
    place = made.home(clip) if made.layout == "places" else made.folder / "videos"
    stem = "video" if made.layout == "places" else name
    path = place / f"{stem}.mp4"
    if uneven or draw.random() < 0.3:
        cover = np.full((64, 64, 3), 200, np.uint8) if draw.random() < 0.3 else None
        timed_video(path, frames, clip.times, cover=cover, start=draw.choice([0.0, 0.7]))
    else:
        write_video(path, frames, 8.0, crf=4)
    if turn != "none":
        turn_video(path, turn)
    _write_masks(made, clip)
    _write_words(made, clip)
    return clip


def _write_masks(made: DataSet, clip: Clip) -> None:
    draw = made.draw
    clip.kind = draw.choice([*PICTURE_KINDS, *FILE_KINDS])
    clip.tolerance = 0.06 if clip.kind == "video" else 1e-9
    small = draw.random() < 0.15
    stored = {who: mask[:, ::2, ::2] if small else mask for who, mask in clip.masks.items()}
    if small:
        for who, mask in stored.items():
            clip.masks[who] = mask.repeat(2, 1).repeat(2, 2)
    names = draw.choice(["{:03d}.png", "frame_{}.png", "{}_mask.png", "{:05d}.PNG"])
    first = draw.choice([0, 0, 1])
    if made.layout == "places":
        for who, mask in stored.items():
            one_instance(mask, made.home(clip) / "masks" / who, clip.kind, names, first)
    elif made.layout == "target":
        one_instance(stored["cart"], made.folder / "masks" / clip.name, clip.kind, names, first)
    elif draw.random() < 0.3:
        clip.kind, clip.tolerance = draw.choice([k for k in EVERYBODY_KINDS if not (small and k == "tracks")]), 1e-9
        everybody(stored, made.folder / "mask_annotation" / clip.name, clip.kind, {"man": 1, "cart": 2})
    else:
        tag = draw.choice(["<id{}>", "<id{}>", "id{}", "ID{}"])
        for k, mask in enumerate(stored.values(), 1):
            home = made.folder / "mask_annotation" / clip.name / tag.format(k)
            one_instance(mask, home, clip.kind, names, first)


def _write_words(made: DataSet, clip: Clip) -> None:
    if made.layout == "places":
        encoding = made.draw.choice(["utf-8", "utf-8-sig", "utf-16"])
        (made.home(clip) / "prompt.txt").write_text("the man pushes the cart", encoding=encoding)
        (made.home(clip) / "entities.txt").write_text(PHRASES, encoding=encoding)
        return
    said = made.draw.choice(
        [f"{clip.name}.mp4", f"{clip.name}.mp4", f"videos/{clip.name}.mp4", f"videos\\{clip.name}.mp4"]
    )
    row = {"video": said}
    end = made.draw.choice(["", ", and stops; then\u2028goes", ' "slowly"'])
    if made.layout == "tags":
        row |= {"prompt": f"the <id1> man pushes the <id2> cart{end}", "phrases": PHRASES}
    else:
        row |= {"prompt": f"the man pushes the cart{end}", "phrases": "cart: the cart [object]", "mask": ""}
    made.rows.append(row)


def _litter(made: DataSet) -> None:
    """What systems and programs leave behind, and nobody means."""
    draw = made.draw
    for clip in made.clips:
        if draw.random() < 0.3:
            video = made.video(clip)
            video.with_name(f"._{video.name}").write_bytes(b"x")
        if made.layout == "places" and draw.random() < 0.3:
            write_video(made.home(clip) / "preview.mp4", clip.frames[:3], 8.0)
        masks = made.home(clip) / "masks" if made.layout == "places" else made.folder / "mask_annotation" / clip.name
        if masks.is_dir() and draw.random() < 0.3:
            (masks / ".DS_Store").write_bytes(b"x")
            for home in masks.iterdir():
                if home.is_dir():
                    (home / "._000.png").write_bytes(b"x")
    if draw.random() < 0.3:
        (made.folder / "__MACOSX").mkdir()
        (made.folder / "README.txt").write_text("my clips")


# --- faults


def _pictures(made: DataSet, clip: Clip) -> list[Path]:
    """Mask pictures of one instance, where they are pictures in a folder of its own."""
    root = {
        "places": made.home(clip) / "masks" / "cart",
        "target": made.folder / "masks" / clip.name,
        "tags": made.folder / "mask_annotation" / clip.name / "<id2>",
    }[made.layout]
    if clip.kind not in PICTURE_KINDS or not root.is_dir():
        return []
    found = [p for p in root.iterdir() if not p.name.startswith(".")]
    return sorted(found, key=lambda p: int(re.findall(r"\d+", p.stem)[0]))


def _replaced(path: Path, write: Callable[[], object]) -> Callable[[str], None]:
    """Changes a file by `write`; the way back puts it as it was."""
    whole = path.read_bytes() if path.is_file() else None
    write()

    def back(message: str) -> None:
        path.unlink(missing_ok=True)
        if whole is not None:
            path.write_bytes(whole)

    return back


def _some_fault(made: DataSet, clip: Clip) -> Callable[[DataSet, Clip], Fault]:
    makers = [_broken_video, _no_video, _linked_video, _other_words]
    makers += [_hole, _doubled, _odd_size, _inverted, _several, _colours, _no_numbers, _two_shapes] * bool(
        _pictures(made, clip)
    )
    if made.layout == "places":
        makers += [_two_videos, _no_entities]
    else:
        makers += [_row_twice]
        makers += [_unquoted] * (made.table["kind"] in ("csv", "tsv"))
    return made.draw.choice(makers)


def _hole(made, clip):
    path = _pictures(made, clip)[made.draw.randint(1, FRAMES - 2)]
    number = int(re.findall(r"\d+", path.stem)[0])
    return Fault("hole", rf"masks of '\w+'.* have holes: frame {number} of 9 is missing", _replaced(path, path.unlink))


def _doubled(made, clip):
    path = _pictures(made, clip)[3]
    copy = path.with_suffix(".webp")
    back = _replaced(copy, lambda: Image.open(path).convert("L").save(copy))
    return Fault("doubled", rf"several files for frame \d.*{re.escape(copy.name)}.*leave one", back)


def _odd_size(made, clip):
    path = _pictures(made, clip)[2]
    odd = np.zeros((20, 50), bool)
    odd[5:10, 5:10] = True
    back = _replaced(path, lambda: one_picture(odd, path, "white"))
    return Fault(
        "odd size", rf"{re.escape(path.name)} of '\w+' is 20x50 .*the video {clip.frames.shape[1]}x.*save it anew", back
    )


def _inverted(made, clip):
    """All masks of one instance with white where it is not."""
    paths = _pictures(made, clip)
    who = "cart" if made.layout != "tags" else list(clip.masks)[1]
    for path, mask in zip(paths, clip.masks[who]):
        small = Image.open(path).size[::-1] != mask.shape
        path.unlink()
        one_picture(~(mask[::2, ::2] if small else mask), path, "white")

    def mend(message):
        """A setting, a column and a file are offered, for all masks of a clip; here one instance alone is inverted."""
        assert "masks_are=black" in message
        for path, mask in zip(paths, clip.masks[who]):
            one_picture(mask, path, "white")

    clip.kind = "white"
    return Fault("inverted", r"cover \d+ % of the frame.*as inverted masks do.*masks_are=black", mend)


def _several(made, clip):
    path = _pictures(made, clip)[1]
    labels = np.zeros(Image.open(path).size[::-1], np.uint8)
    labels[:5, :5], labels[10:15, 10:15] = 1, 2
    picture = Image.fromarray(labels)
    picture.putpalette(DAVIS)
    back = _replaced(path, lambda: picture.save(path))
    return Fault(
        "several things", "palette pictures of several things|hold the values|several colours|no such channel", back
    )


def _colours(made, clip):
    path = _pictures(made, clip)[1]
    seen = np.zeros((*Image.open(path).size[::-1], 3), np.uint8)
    seen[:5, :5], seen[10:15, 10:15] = (255, 0, 0), (0, 0, 255)
    return Fault(
        "colours", "several colours: a mask shows one thing", _replaced(path, lambda: Image.fromarray(seen).save(path))
    )


def _two_shapes(made, clip):
    path = _pictures(made, clip)[1]
    seen = np.zeros((*Image.open(path).size[::-1], 4), np.uint8)
    seen[2:14, 2:14, 3], seen[2:8, 2:14, :3] = 255, 255
    back = _replaced(path, lambda: Image.fromarray(seen).save(path))
    return Fault(
        "two shapes",
        "shape in their alpha channel (and another one in black and white|.*no such channel.*or all in black)",
        back,
    )


def _no_numbers(made, clip):
    path = _pictures(made, clip)[5]
    other = path.with_name("cover.png")
    path.rename(other)
    return Fault("no number", r"no common number says the order.*cover\.png", lambda message: other.rename(path))


def _broken_video(made, clip):
    path = made.video(clip)
    whole = path.read_bytes()
    back = _replaced(path, lambda: path.write_bytes(whole[: made.draw.choice([0, 40, len(whole) // 2])]))
    return Fault(
        "broken video", r"(empty: 0 bytes|cannot be read as a video|breaks off|damaged|no frames|no video stream)", back
    )


def _no_video(made, clip):
    path = made.video(clip)
    back = _replaced(path, path.unlink)
    for beside in path.parent.glob("preview.mp4"):
        beside.unlink()
    return Fault("no video", r"its video .* is not in|neither an image .* nor a video", back)


def _linked_video(made, clip):
    path, disk = made.video(clip), made.folder.parent / f"disk {made.folder.name}"
    disk.mkdir(exist_ok=True)
    path.rename(disk / f"{clip.name}.mp4")
    path.symlink_to(disk / f"{clip.name}.mp4")

    def mend(message):
        made.settings["roots"] = shlex.split(re.search(r"roots=(.*)$", message)[1])[0]

    return Fault("link", r"is a link to .*outside of the folder: allow that place by name, roots=", mend)


def _two_videos(made, clip):
    home = made.home(clip)
    (home / "preview.mp4").unlink(missing_ok=True)
    path = made.video(clip)
    path.rename(home / "take1.mp4")
    shutil.copy(home / "take1.mp4", home / "take2.mp4")

    def mend(message):
        wanted = re.search(r"call the right one (\S+)", message)[1]
        (home / "take1.mp4").rename(home / wanted)

    return Fault(
        "two videos", r"2 videos, and which is the clip\? take1.mp4, take2.mp4: call the right one video.mp4", mend
    )


def _no_entities(made, clip):
    path = made.home(clip) / "entities.txt"
    return Fault("no entities", "entities.txt is missing: .*as `man: the man`", _replaced(path, path.unlink))


def _other_words(made, clip):
    said = r"'the elephant' is not in the prompt; write the words as they stand in the prompt"
    if made.layout == "places":
        path = made.home(clip) / "entities.txt"
        return Fault(
            "words", said, _replaced(path, lambda: path.write_text(PHRASES.replace("the cart", "the elephant")))
        )
    row = made.rows[made.clips.index(clip)]
    before = row["phrases"]
    row["phrases"] = before.replace("the cart", "the elephant")
    made.write_rows()

    def mend(message):
        row["phrases"] = before
        made.write_rows()

    return Fault("words", said, mend)


def _row_twice(made, clip):
    row = made.rows[made.clips.index(clip)]
    made.rows.append(dict(row))
    made.write_rows()

    def mend(message):
        made.rows.pop(max(n for n, other in enumerate(made.rows) if other == row))
        made.write_rows()

    return Fault("row twice", r"2 rows have this name \(rows \d+, \d+, from 1.*they say the same, so remove", mend)


def _unquoted(made, clip):
    """A prompt with the delimiter, in a row that somebody typed without quotes."""
    made.table |= {"delimiter": ",", "encoding": "utf-8", "hint": False}
    row = made.rows[made.clips.index(clip)]
    row["prompt"] = row["prompt"].split(",")[0].split('"')[0].strip() + ", and rests"
    made.write_rows()
    path = next(made.folder.glob("metadata.*"))
    whole = path.read_bytes()
    quoted = f'"{row["prompt"]}"'.encode()
    assert whole.count(quoted) >= 1
    at = [m.start() for m in re.finditer(re.escape(quoted), whole)]
    line = whole.find(row["video"].encode())
    place = next(n for n in at if n > line)
    path.write_bytes(whole[:place] + quoted[1:-1] + whole[place + len(quoted) :])
    return Fault(
        "unquoted",
        r"cells and the header \d: put texts that hold the delimiter into quotes",
        lambda m: made.write_rows(),
    )


def _whole_fault(made: DataSet) -> Fault:
    if made.layout == "places":
        for clip in made.clips:
            (made.home(clip) / "prompt.txt").rename(made.home(clip) / "caption.txt")

        def name_prompts(message):
            assert "prompt.txt" in message
            for clip in made.clips:
                (made.home(clip) / "caption.txt").rename(made.home(clip) / "prompt.txt")

        return Fault(
            "no prompts",
            r"a folder for each clip with prompt.txt.* has no prompt.txt; it holds 'caption.txt'",
            name_prompts,
            whole=True,
        )
    before = dict(made.columns)
    made.columns["prompt"] = "words"
    made.write_rows()

    def name_columns(message):
        assert "'words'" in message
        made.columns = before
        made.write_rows()

    return Fault("columns", "`video` and `prompt`; its columns are .*'words'", name_columns, whole=True)
