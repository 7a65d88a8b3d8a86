"""Clips, masks and tables on disk as people's programs write them, in every kind that is read."""

from __future__ import annotations

import csv
import io
import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.tracks import save_tracks
from matrix_lib.io.video import write_video

DAVIS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128]

# --- masks of one instance, F pictures (H, W) bool


def one_picture(mask, path, kind):
    """One mask as one picture of this kind."""
    grey = mask.astype(np.uint8) * 255
    if kind == "alpha":
        picture = Image.fromarray(np.dstack([np.full((*mask.shape, 3), 200, np.uint8), grey]))
    elif kind == "cut out":  # the thing itself, and nothing around it
        noise = np.random.default_rng(0).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        picture = Image.fromarray(np.dstack([noise, grey]))
    elif kind == "grey and alpha":
        picture = Image.fromarray(np.dstack([np.full(mask.shape, 255, np.uint8), grey]), "LA")
    elif kind in ("palette", "davis"):
        picture = Image.fromarray(mask.astype(np.uint8) * (1 if kind == "davis" else 3))
        picture.putpalette(DAVIS)
    elif kind == "grey palette":  # as programs that shrink PNGs write black and white: index 0 is white
        picture = Image.fromarray((~mask).astype(np.uint8))
        picture.putpalette([255, 255, 255, 0, 0, 0])
    elif kind == "0/1":
        picture = Image.fromarray(mask.astype(np.uint8))
    elif kind == "number":
        picture = Image.fromarray(mask.astype(np.uint8) * 38)
    elif kind == "16 bit":
        picture = Image.fromarray(mask.astype(np.uint16) * 65535)
    elif kind == "16 bit 0/1":
        picture = Image.fromarray(mask.astype(np.uint16))
    elif kind == "one bit":
        picture = Image.fromarray(mask)
    elif kind == "red":
        picture = Image.fromarray(np.dstack([grey, 0 * grey, 0 * grey]))
    elif kind == "opaque":
        picture = Image.fromarray(np.dstack([grey, grey, grey, np.full(mask.shape, 255, np.uint8)]))
    else:
        assert kind in ("white", "rgb", "soft"), kind
        grey = np.where(mask, 250, 4).astype(np.uint8) if kind == "soft" else grey
        picture = Image.fromarray(np.dstack([grey] * 3) if kind == "rgb" else grey)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


PICTURE_KINDS = (
    *("white", "rgb", "soft", "alpha", "cut out", "grey and alpha", "palette", "davis", "grey palette", "0/1"),
    *("number", "16 bit", "16 bit 0/1", "one bit", "red", "opaque"),
)
FILE_KINDS = ("npy bool", "npy uint8", "npy float", "npz", "rle", "rle packed", "rle by frame", "video")


def packed_counts(counts):
    """COCO's string of run lengths, written from its description (not from our reader)."""
    out = []
    for n, count in enumerate(counts):
        value = count - counts[n - 2] if n > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = not (value == 0 and not bits & 16) and not (value == -1 and bits & 16)
            out.append(chr(48 + (bits | (32 if more else 0))))
    return "".join(out)


def rle(mask, packed=False):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    counts = [0, *counts] if flat[0] else counts
    return {"size": list(mask.shape), "counts": packed_counts(counts) if packed else counts}


def one_file(masks, stem, kind):
    """All masks (F, H, W) in one file of this kind, called `stem` and its suffix."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if kind.startswith("npy"):
        dtype = {"npy bool": bool, "npy uint8": np.uint8, "npy float": np.float32}[kind]
        np.save(f"{stem}.npy", (masks * 255).astype(dtype) if dtype is np.uint8 else masks.astype(dtype))
    elif kind == "npz":
        np.savez_compressed(f"{stem}.npz", masks)
    elif kind == "video":
        write_video(f"{stem}.mp4", np.repeat(masks[..., None], 3, -1).astype(np.uint8) * 255, 8.0, crf=4)
    else:
        found = [rle(mask, kind == "rle packed") if mask.any() else None for mask in masks]
        found = {str(n): f or rle(m) for n, (f, m) in enumerate(zip(found, masks))} if kind == "rle by frame" else found
        Path(f"{stem}.json").write_text(json.dumps(found))


def one_instance(masks, home, kind, names="{:03d}.png", first=0):
    """The masks of one instance: a folder `home` of pictures, or the file `home` with a suffix."""
    if kind in FILE_KINDS:
        one_file(masks, home, kind)
        return
    for number, mask in enumerate(masks, first):
        one_picture(mask, home / names.format(number), kind)


# --- masks of everybody, {name: (F, H, W) bool}

EVERYBODY_KINDS = ("davis", "labels npy", "npz names", "rle names", "tracks")


def everybody(masks, root, kind, numbers):
    """Files of everybody in the layout of MATRIX-11K: `root` is mask_annotation/NAME, `numbers` the K of each name."""
    root.parent.mkdir(parents=True, exist_ok=True)
    some = next(iter(masks.values()))
    labels = np.zeros(some.shape, np.uint8)
    for name, mask in masks.items():
        labels[mask] = numbers[name]
    if kind == "davis":
        root.mkdir()
        for n, frame in enumerate(labels):
            picture = Image.fromarray(frame)
            picture.putpalette(DAVIS)
            picture.save(root / f"{n:05d}.png")
    elif kind == "labels npy":
        np.save(f"{root}.npy", labels)
    elif kind == "npz names":
        np.savez(f"{root}.npz", **{f"id{numbers[name]}": mask for name, mask in masks.items()})
    elif kind == "rle names":
        found = {
            f"<id{numbers[name]}>": [rle(m, True) if m.any() else None for m in mask] for name, mask in masks.items()
        }
        Path(f"{root}.json").write_text(json.dumps(found))
    else:
        save_tracks(
            MaskTracks.from_masks({n: torch.from_numpy(m) for n, m in masks.items()}),
            root.with_name(f"{root.name}.safetensors"),
        )


# --- videos


def timed_video(path, frames, times, rate=1000, cover=None, start=0.0):
    """A video whose frames are shown at these seconds; with a cover picture as first stream, and a later start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        if cover is not None:
            front = out.add_stream("mjpeg", rate=1)
            front.height, front.width, front.pix_fmt = *cover.shape[:2], "yuvj420p"
            front.disposition = av.stream.Disposition.attached_pic
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = {"crf": "4", "bf": "2"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        if cover is not None:
            picture = av.VideoFrame.from_ndarray(cover, format="rgb24")
            out.mux(front.encode(picture.reformat(format="yuvj420p")))
            out.mux(front.encode(None))
        for frame, time in zip(frames, times):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round((time + start) * rate), Fraction(1, rate)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


TURNS = {  # display matrix, and what it does to an array
    "none": ((1, 0, 0, 1), lambda x: x),
    "right": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "half": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "left": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "mirror": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "flip": ((1, 0, 0, -1), lambda x: x[::-1]),
}


def turn_video(path, turn):
    """Writes a display matrix into the header of an MP4, as telephones do."""
    (a, b, c, d), _ = TURNS[turn]
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44  # behind version, times, ids, length, layer and volume
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


# --- tables


def write_table(path, rows, delimiter=",", encoding="utf-8", hint=False):
    """Rows (dicts of one set of keys) as a table; `hint` writes Excel's line sep=;"""
    text = io.StringIO(newline="")
    if hint:
        text.write(f"sep={delimiter}\r\n")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
