"""What a mask file is: every kind that people's programs write is read as it was meant, or asked about."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_clips import DAVIS, FILE_KINDS, PICTURE_KINDS, one_instance, one_picture, packed_counts, rle
from support_counts import count

from matrix_lib.core.tracks import runs
from matrix_lib.io.clips.mask_files import BadMasksError, MaskFiles, fitted_masks, is_whole, read_mask
from matrix_lib.io.clips.rle import decode_rle


def shapes(frames, height, width, seed, absent=()):
    """(F, H, W) bool: a blob that moves, with a hole, and is away in some frames."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    masks = np.zeros((frames, height, width), bool)
    centre, step = draw.uniform(0.3, 0.6, 2), draw.uniform(-0.02, 0.02, 2)
    for f in range(frames):
        y, x = (centre + step * f) * (height, width)
        far = ((rows - y) / (height * 0.25)) ** 2 + ((columns - x) / (width * 0.2)) ** 2
        masks[f] = (far < 1) & ((rows + columns) % 7 > 0) & (f not in absent)
    return masks


def files_of(home, name="man"):
    found = sorted(home.iterdir()) if home.is_dir() else sorted(home.parent.glob(f"{home.name}.*"))
    return MaskFiles(name, tuple(found))


def dense(fitted):
    return np.stack([runs.unpack(edges, fitted.height, fitted.width) for edges in fitted.edges])


@pytest.mark.parametrize("kind", [*PICTURE_KINDS, *FILE_KINDS])
def test_every_kind_of_mask(tmp_path, kind):
    """The named kinds, with frames in which the thing is away: a series is read as one."""
    masks = shapes(5, 40, 56, 3, absent=(0, 3))
    one_instance(masks, tmp_path / "man", kind)
    fitted = fitted_masks(files_of(tmp_path / "man"), 5, (40, 56))
    wrong = (dense(fitted) != masks).mean()
    assert wrong < (0.02 if kind == "video" else 1e-9), kind
    assert fitted.notes == ()


@settings(max_examples=count(20, 1500))
@given(st.data())
def test_any_masks_in_any_kind_and_numbering(tmp_path_factory, data):
    kind = data.draw(st.sampled_from([*PICTURE_KINDS, *FILE_KINDS]))
    frames = data.draw(st.integers(2, 6))
    height, width = (2 * data.draw(st.integers(10, 40)) for _ in range(2))
    absent = data.draw(st.sets(st.integers(0, frames - 1), max_size=frames - 1))
    masks = shapes(frames, height, width, data.draw(st.integers(0, 999)), absent)
    names = data.draw(st.sampled_from(["{:03d}.png", "frame_{}.png", "{}_mask.png", "f {:02d} (1).png", "{:05d}.PNG"]))
    first = data.draw(st.sampled_from([0, 0, 1, 7]))
    scale = data.draw(st.sampled_from([1, 1, 2, 4]))
    home = tmp_path_factory.mktemp("masks") / "man"
    one_instance(masks, home, kind, names, first)
    fitted = fitted_masks(files_of(home), frames, (height * scale, width * scale))
    wanted = masks.repeat(scale, 1).repeat(scale, 2)
    assert (dense(fitted) != wanted).mean() < (0.05 if kind == "video" else 1e-9), kind
    assert any("are scaled to" in note for note in fitted.notes) == (scale > 1)
    assert any("numbered from" in note for note in fitted.notes) == (first > 0 and kind in PICTURE_KINDS)
    assert is_whole(files_of(home), frames)
    assert not is_whole(files_of(home), frames + 1)


@settings(max_examples=count(20, 2000))
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_run_lengths(height, width, data):
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    assert np.array_equal(decode_rle(rle(mask)), mask)
    assert np.array_equal(decode_rle(rle(mask, packed=True)), mask)


def test_a_string_of_cocos_own():
    """What `pycocotools.mask.encode` (2.0.11) gave for a 9x7 mask, its rows 2 to 5 of columns 1 to 3."""
    mask = np.zeros((9, 7), bool)
    mask[2:6, 1:4] = True
    assert np.array_equal(decode_rle({"size": [9, 7], "counts": COCO}), mask)
    assert packed_counts(rle(mask)["counts"]) == COCO


COCO = ";45000i0"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"size": [4, 4], "counts": [3, 4]}, "add up to 7 pixels"),
        ({"size": [4], "counts": [16]}, "height, width"),
        ({"size": [4, 4], "counts": "~~"}, "which COCO's strings do not|break off"),
        ({"size": [4, 4], "counts": "P"}, "break off|whole numbers"),
        ({"size": [1 << 20, 1 << 20], "counts": [1 << 40]}, "far larger"),
        ({"size": [4, 4], "counts": [-1, 17]}, "whole numbers from 0"),
    ],
)
def test_run_lengths_that_are_none(value, said):
    with pytest.raises(ValueError, match=said):
        decode_rle(value)


def test_inverted_and_nearly_full_masks_are_asked_about(tmp_path):
    masks = shapes(3, 40, 56, 5)
    one_instance(~masks, tmp_path / "inverted", "white")
    one_instance(np.ones_like(masks), tmp_path / "full", "0/1")
    for home, said in (("inverted", "all of its edge"), ("full", "cover 100 %")):
        files = files_of(tmp_path / home)
        with pytest.raises(BadMasksError, match=f"{said}.*masks_are=black.*masks_are=white"):
            fitted_masks(files, 3, (40, 56))
        assert dense(fitted_masks(files, 3, (40, 56), "white")).mean() > 0.5
    assert np.array_equal(dense(fitted_masks(files_of(tmp_path / "inverted"), 3, (40, 56), "black")), masks)
    with pytest.raises(BadMasksError, match="are empty"):
        fitted_masks(files_of(tmp_path / "full"), 3, (40, 56), "black")
    close_up = np.zeros((3, 40, 56), bool)
    close_up[:, 4:, 4:52] = True  # large, but its border is not
    one_instance(close_up, tmp_path / "near", "white")
    assert np.array_equal(dense(fitted_masks(files_of(tmp_path / "near"), 3, (40, 56))), close_up)


def pictures(tmp_path, *made):
    """Files of one instance from arrays (H, W) or (H, W, C)."""
    home = tmp_path / "man"
    home.mkdir()
    for n, values in enumerate(made):
        Image.fromarray(values).save(home / f"{n:03d}.png")
    return files_of(home)


def refused(files, said, frames=1, size=(40, 56)):
    with pytest.raises(BadMasksError, match=said):
        fitted_masks(files, frames, size)


def test_what_cannot_be_known_is_refused(tmp_path):
    block = np.zeros((40, 56), np.uint8)
    block[5:20, 5:20], block[25:35, 30:40] = 1, 2
    (tmp_path / "a").mkdir()
    refused(pictures(tmp_path / "a", block), "hold the values 0, 1, 2: a mask of one thing has two")
    davis = Image.fromarray(block)
    davis.putpalette(DAVIS)
    (tmp_path / "b" / "man").mkdir(parents=True)
    davis.save(tmp_path / "b" / "man" / "000.png")
    refused(files_of(tmp_path / "b" / "man"), "palette pictures of several things .0, 1, 2.")
    colours = np.zeros((40, 56, 3), np.uint8)
    colours[5:20, 5:20], colours[25:35, 30:40] = (255, 0, 0), (0, 255, 0)
    (tmp_path / "c").mkdir()
    refused(pictures(tmp_path / "c", colours), "several colours")
    dark = np.random.default_rng(0).integers(0, 60, (40, 56)).astype(np.uint8)
    (tmp_path / "d").mkdir()
    refused(pictures(tmp_path / "d", dark), "of 255 their brightest value is 59")
    both = np.zeros((40, 56, 4), np.uint8)
    both[:, 10:50, 3], both[10:20, 20:30, :3] = 255, 255
    (tmp_path / "e").mkdir()
    refused(pictures(tmp_path / "e", both), "alpha channel and another one in black and white")
    one_picture(block > 0, tmp_path / "mixed" / "000.png", "alpha")
    one_picture(block > 0, tmp_path / "mixed" / "001.png", "white")
    refused(
        files_of(tmp_path / "mixed"),
        "shape in their alpha channel .mask 000.png. and others have no such channel .mask 001.png",
        2,
    )
    np.save(tmp_path / "f.npy", np.linspace(-4, 9, 40 * 56).reshape(40, 56))
    refused(files_of(tmp_path / "f"), "values from -4 to 9; masks are 0 and above")
    np.save(tmp_path / "g.npy", np.full((1, 40, 56), np.nan))
    refused(files_of(tmp_path / "g"), "no numbers")
    np.save(tmp_path / "h.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(files_of(tmp_path / "h"), "cannot be read as masks")
    (tmp_path / "i.json").write_text(json.dumps([[[1, 2, 3, 4, 5, 6]]]))
    refused(files_of(tmp_path / "i"), "no run-length masks.*polygons are not read")


def test_sizes(tmp_path):
    masks = shapes(2, 40, 56, 1)
    one_instance(masks, tmp_path / "man", "white")
    refused(files_of(tmp_path / "man"), "mask 000.png of 'man' is 40x56 .and 1 more. .* video 56x56", 2, (56, 56))
    refused(files_of(tmp_path / "man"), "is 40x56", 2, (400, 560))  # ten times as fine
    one_picture(masks[1].repeat(2, 0).repeat(2, 1), tmp_path / "man" / "001.png", "white")
    refused(files_of(tmp_path / "man"), "mask 000.png of 'man' is 40x56 pixels.*video 80x112", 2, (80, 112))
    odd = shapes(2, 60, 90, 1)
    one_instance(odd, tmp_path / "odd", "white")  # 2.25 times and a rounded half pixel
    assert fitted_masks(files_of(tmp_path / "odd"), 2, (135, 203)).height == 135


def test_what_was_taken_is_said(tmp_path):
    masks = shapes(17, 40, 56, 1)
    one_instance(masks, tmp_path / "man", "white", "frame_{}.png")
    found = fitted_masks(files_of(tmp_path / "man"), 17, (40, 56))
    assert np.array_equal(dense(found), masks)
    said = "the masks of 'man' go by the number in their names: frame_0.png, frame_1.png, ... frame_16.png"
    assert found.notes == (said,)


def test_the_first_mask_alone(tmp_path):
    masks = shapes(4, 40, 56, 1)
    one_instance(masks, tmp_path / "all", "0/1", first=1)
    for kind in ("white", "npy bool"):
        one_instance(masks[:1], tmp_path / kind / "man", kind, names="mask.png")
        found = fitted_masks(files_of(tmp_path / kind / "man"), 9, (40, 56), first_alone=True)
        assert np.array_equal(dense(found), masks[:1])
    assert np.array_equal(dense(fitted_masks(files_of(tmp_path / "all"), 4, (40, 56), first_alone=True)), masks[:1])
    one_picture(masks[0], tmp_path / "late" / "003.png", "white")
    with pytest.raises(BadMasksError, match="no mask of 'man' in frame 0: the only one has number 3"):
        fitted_masks(files_of(tmp_path / "late"), 9, (40, 56), first_alone=True)
    assert read_mask(tmp_path / "late" / "003.png").shape == (40, 56)
