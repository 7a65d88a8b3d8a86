"""Suites, answers and results for tests of judging."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUITE: dict[str, Any] = {
    "format": "intergen",
    "version": 1,
    "stride": 5,
    "samples": [
        {
            "id": "000",
            "prompt": "a man opens a fridge",
            "type": "manipulation",
            "direction": "unidirectional",
            "instances": [
                {"name": "man", "class": "person", "appearance": "the man in a cap", "role": "subject"},
                {"name": "fridge", "class": "fridge", "appearance": "the white fridge", "role": "object"},
            ],
            "interactions": [{"name": "opens", "subject": "man", "object": "fridge", "phrase": "opens the door of"}],
        },
        {
            "id": "001",
            "prompt": "two girls hug",
            "type": "social_contact",
            "direction": "bidirectional",
            "instances": [
                {"name": "girl 1", "class": "person", "appearance": "the girl in red"},
                {"name": "girl 2", "class": "person", "appearance": "the girl in red"},
            ],
            "interactions": [
                {"name": "hugs", "subject": "girl 1", "object": "girl 2"},
                {"name": "hugs", "subject": "girl 2", "object": "girl 1"},
            ],
        },
    ],
}


def write_suite(folder: Path, content: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text(json.dumps(content if content is not None else SUITE), encoding="utf-8")
    return folder


def answers(yes: Mapping[int, bool] | None = None, frame: int = 5) -> list[dict[str, Any]]:
    """Ten answers as a judge writes them; yes to all but what `yes` says."""
    said = dict.fromkeys(range(1, 11), True) | dict(yes or {})
    return [
        {"question_id": q, "answer": "yes" if seen else "no", "frame_index": frame if seen else None}
        for q, seen in said.items()
    ]


def random_answers(rng: random.Random, frame: int = 5) -> list[dict[str, Any]]:
    return answers({q: rng.random() < 0.6 for q in range(1, 11)}, frame)


def write_clips(folder: Path, frames: int = 11, height: int = 48, width: int = 64, tracked: bool = True) -> Path:
    """A video of noise for each sample of `SUITE`, with tracks of boxes that stay where they are."""
    import numpy as np

    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.io.tracks import save_tracks
    from matrix_lib.io.video import write_video

    rng = np.random.default_rng(0)
    for sample in SUITE["samples"]:
        noise = rng.integers(0, 255, (frames, height // 8, width // 8, 3), dtype=np.uint8)
        write_video(folder / f"{sample['id']}.mp4", noise.repeat(8, 1).repeat(8, 2), 8)
        one, other = (each["name"] for each in sample["instances"])
        boxes = {one: {0: (4, 4, 20, 40)}, other: {0: (30, 8, 60, 44)}}
        tracks = MaskTracks.from_boxes(boxes, frames, height, width, hold=True)
        if tracked:
            save_tracks(tracks, folder / f"{sample['id']}.tracks.safetensors")
    return folder
