"""What nodes send to the page: warnings of the run, each time, and files by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image


def test_a_word_that_mini_never_saw_is_told_on_every_node_that_reads_it(pack: Any) -> None:
    clip = pack.run("MatrixLoadVideoDiT", source={"source": "mini"}).result[1]
    given = {"clip": clip, "form": "as written", "length": "cut to the model's length"}
    for _ in range(2):  # the log has it once
        told = pack.run("MatrixBindPrompt", prompt="the dog pushes the red circle", phrases="dog", **given).ui
        (sentence,) = told["matrix_warnings"]
        assert sentence.startswith("the mini model never saw 'dog'")
    known = pack.run("MatrixBindPrompt", prompt="the red circle pushes the blue square", phrases="red circle", **given)
    assert known.ui["matrix_warnings"] == ()


def test_the_host_joins_warnings_over_a_list_of_values(pack: Any) -> None:
    """One node, two prompts: the host takes the keys of the first, so a warning of the second needs its place there."""
    import execution

    clip = pack.run("MatrixLoadVideoDiT", source={"source": "mini"}).result[1]
    given = {"clip": clip, "form": "as written", "length": "cut to the model's length", "phrases": "circle"}
    node = pack.classes["MatrixBindPrompt"]
    prompts = ("the red circle turns", "the circle and a zebra")
    outputs = [pack.run("MatrixBindPrompt", prompt=prompt, **given) for prompt in prompts]
    _, joined, _ = execution.get_output_from_returns(outputs, node)
    assert any("'zebra'" in sentence for sentence in joined["matrix_warnings"])
    assert len(joined["text"]) == 2


def test_a_warning_that_the_report_holds_is_not_said_twice(pack: Any) -> None:
    warn, shown = pack.lib("hosts.comfy.warn"), __import__(pack.module.__name__ + ".nodes.shown", fromlist=["x"])
    from comfy_api.latest import io

    class Node(io.ComfyNode):
        @classmethod
        def execute(cls, text: str) -> io.NodeOutput:
            warn.warn("look here")
            warn.warn("and there")
            warn.warn("and there")
            return io.NodeOutput(ui={"text": (text,)})

    told = shown.warning(Node).execute
    assert told("fine").ui["matrix_warnings"] == ("look here", "and there")
    assert told("one\nlook here\ntwo").ui["matrix_warnings"] == ("and there",)


def test_files_that_nodes_write_are_listed_by_name(pack: Any) -> None:
    import folder_paths

    given = {"boxes": "cup: 1 1 9 9", "width": 16, "height": 16, "frames": 5, "fps": 8.0, "hold": True}
    tracks = pack.run("MatrixBoxTracks", **given).result[0]
    (file,) = pack.run("MatrixSaveTracks", tracks=tracks, filename_prefix="deep/er/cup").ui["files"]
    assert file["subfolder"] == "deep/er"
    assert Path(folder_paths.get_directory_by_type(file["type"]), file["subfolder"], file["filename"]).is_file()
    (flat,) = pack.run("MatrixSaveTracks", tracks=tracks, filename_prefix="cup").ui["files"]
    assert flat["subfolder"] == ""


def test_frames_and_tokens_go_to_the_page(pack: Any) -> None:
    """What the track editor draws on: every frame that came in, as a cell of one picture, and the model's tokens."""
    import folder_paths
    import numpy as np

    clip = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 16, 24, 3)
    size = {"boxes": "a: 2 2 9 9", "width": 1, "height": 1, "frames": 3}
    out = pack.run("MatrixBoxTracks", images=clip, **size)
    (sheet,) = out.ui["matrix_frames"]
    assert {key: sheet[key] for key in ("columns", "count", "every", "frames", "size")} == {
        "columns": 3,
        "count": 5,
        "every": 1,
        "frames": 5,
        "size": (24, 16),
    }
    picture = np.asarray(Image.open(Path(folder_paths.get_temp_directory(), sheet["file"]["filename"])))
    assert picture.shape == (32, 72, 3)
    assert [int(picture[8 + 16 * (i // 3), 12 + 24 * (i % 3), 0]) for i in range(5)] == pytest.approx(
        [0, 64, 128, 191, 255], abs=3
    )
    assert "matrix_frames" not in pack.run("MatrixBoxTracks", **size | {"width": 64, "height": 64}).ui
    shown = pack.run("MatrixPreviewTracks", tracks=out.result[0], width=48, height=32).ui
    assert shown["matrix_grid"] == ({"token": (16, 16), "frame": (48, 32), "fit": "center"},)


def test_a_long_clip_becomes_a_small_picture() -> None:
    import numpy as np

    from matrix_lib.draw.frame_sheet import frame_sheet

    frames = (np.full((270, 480, 3), i % 256, np.uint8) for i in range(700))
    sheet = frame_sheet(frames, 700, 270, 480)
    assert (sheet.every, sheet.count, sheet.frames, sheet.size) == (6, 117, 700, (480, 270))
    assert sheet.picture.width * sheet.picture.height <= 4_000_000
    cell = sheet.picture.width // sheet.columns, sheet.picture.height // -(-sheet.count // sheet.columns)
    assert abs(cell[0] / cell[1] - 480 / 270) < 0.02
    at = 57 % sheet.columns * cell[0] + 3, 57 // sheet.columns * cell[1] + 3
    assert sheet.picture.getpixel(at) == (57 * 6 % 256,) * 3
    with pytest.raises(ValueError, match="without frames"):
        frame_sheet(iter(()), 5, 8, 8)
