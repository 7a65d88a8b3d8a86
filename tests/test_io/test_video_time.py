"""Videos as telephones and recorders write them: uneven rates, late starts, turned pictures, covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_clips import TURNS, timed_video, turn_video
from support_counts import count

from matrix_lib.io.clips.source import ClipSource
from matrix_lib.io.video import check_video, each_frame, frame_times, is_even, read_video, write_video
from training.clips.buckets import Windows


def numbered(frames, height=32, width=48):
    """Frames that are as bright as their number says, with a white corner at the top left."""
    made = np.zeros((frames, height, width, 3), np.uint8)
    made[:] = (np.arange(frames) * 200 // max(frames, 1))[:, None, None, None]
    made[:, :10, :10] = 255
    return made


def numbers_of(frames, total):
    """Which numbers frames show."""
    return [round(float(f[-8:, -8:].mean()) * total / 200) for f in np.asarray(frames)]


GAPS = st.lists(st.sampled_from([0.02, 0.04, 0.04, 0.04, 0.1, 0.25, 0.5]), min_size=3, max_size=20)


@settings(max_examples=count(15, 600))
@given(GAPS, st.sampled_from([0.0, 0.5, 3.2]), st.sampled_from([".mp4", ".mkv", ".mov"]), st.integers(2, 12))
def test_uneven_frames_are_sampled_by_their_times(tmp_path_factory, gaps, start, suffix, rate):
    """Of every moment the frame that is shown then: no later one, and none that another has replaced."""
    times = [0.0, *np.cumsum(gaps).round(3)]
    path = timed_video(tmp_path_factory.mktemp("v") / f"a{suffix}", numbered(len(times)), times, start=start)
    found = frame_times(path)
    assert found == pytest.approx(times, abs=2e-3)
    facts = check_video(path)
    assert facts.frames == len(times)
    for windows in (1, 3):
        seen = Windows(5, fps=rate, count=windows, shortest=1).of(facts.frames, facts.fps, found)
        for numbers in seen:
            first = found[numbers[0]]
            for i, number in enumerate(numbers):
                moment = first + i / rate
                assert found[number] <= moment + 2.1e-3, "no later than the moment, but for rounding"
                assert number + 1 == len(found) or found[number + 1] > moment
        assert seen[0][0] == 0 or windows > 1 or len(seen[0]) == 1
    clip = ClipSource("a", "", (), path)
    assert numbers_of(clip.window(seen[0]), len(times)) == list(seen[0])


def test_half_a_second_late(tmp_path):
    """One second of 25 a second, then one of 5 a second: by number, the frame of 1.5 s would be that of 1.0 s."""
    times = [*(n / 25 for n in range(25)), *(1 + n / 5 for n in range(6))]
    path = timed_video(tmp_path / "a.mp4", numbered(31), times)
    found = frame_times(path)
    assert not is_even(found)
    assert Windows(5, fps=2).of(31, 15.0, found) == ((0, 12, 25, 27, 30),)
    with pytest.raises(ValueError, match=r"it has 2.07 s, and 9 at 2 fps take 4 s"):
        Windows(9, fps=2).of(31, 15.0, found)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_even_frames_are_even(tmp_path, suffix):
    for rate in (24, 30000 / 1001, 8):
        path = timed_video(tmp_path / f"a{suffix}", numbered(20), [n / rate for n in range(20)], start=1.25)
        assert is_even(frame_times(path)), "rounded to milliseconds"
    assert is_even(frame_times(write_video(tmp_path / "b.mp4", numbered(9), 12)))


@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored_videos(tmp_path, turn):
    path = write_video(tmp_path / "a.mp4", numbered(4), crf=4)
    turn_video(path, turn)
    wanted = TURNS[turn][1](numbered(4)[2])
    facts = check_video(path)
    assert (facts.height, facts.width) == wanted.shape[:2]
    for seen in (read_video(path).frames[2].numpy(), list(each_frame(path))[2]):
        assert np.abs(seen.astype(int) - wanted).mean() < 8


@settings(max_examples=count(6, 200))
@given(st.sampled_from([".mp4", ".mkv"]), st.integers(2, 6), st.sampled_from([(64, 64), (32, 48)]))
def test_a_cover_is_no_film(tmp_path_factory, suffix, frames, size):
    cover = np.full((*size, 3), 230, np.uint8)
    path = tmp_path_factory.mktemp("cover") / f"a{suffix}"
    timed_video(path, numbered(frames), [n / 10 for n in range(frames)], cover=cover)
    assert check_video(path)[:3] == (frames, 32, 48)
    assert numbers_of(read_video(path).frames, frames) == list(range(frames))
    assert len(frame_times(path)) == frames


def test_two_films_in_one_file(tmp_path):
    import av

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=10) for _ in range(2)]
        for stream, height in zip(streams, (32, 64)):
            stream.width, stream.height, stream.pix_fmt = 48, height, "yuv420p"
        for stream, height in zip(streams, (32, 64)):
            for frame in numbered(5, height):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"has 2 films .48x32, 48x64.: keep one of them, as `ffmpeg"):
        check_video(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_as_cameras_hold_them(tmp_path, orientation):
    """EXIF's eight orientations: the picture that a viewer shows."""
    shown = numbered(1)[0]
    shown[20:, 30:] = (0, 0, 255)
    back = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.swapaxes(0, 1),
        6: np.rot90(shown, 1),
        7: np.rot90(shown, 2).swapaxes(0, 1),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(back)).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(ClipSource("a", "", (), tmp_path / "image.png").frames(1)[0].numpy(), shown)
