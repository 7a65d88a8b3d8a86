"""Edit, Join and Retime Tracks in the real host, and one fit for everything that sees the tracks."""

from __future__ import annotations

import pytest
import torch


def boxes(pack, text: str, **more):
    size = {"width": 64, "height": 48, "frames": 9} | more
    return pack.run("MatrixBoxTracks", boxes=text, **size).result[0]


def test_edit(pack):
    tracks = boxes(pack, "instance 1: 4 4 20 20\nCup: 30 4 40 20\ndog: 40 20 60 40")
    out = pack.run("MatrixEditTracks", tracks=tracks, instances="instance 1 -> person (subject)\ncup (object)")
    assert out.result[0].names == ("person", "Cup", "dog")
    assert "person (subject)" in out.result[1]
    some = pack.run("MatrixEditTracks", tracks=tracks, instances="dog, cup", others="leave out", fit="pad").result
    assert (some[0].names, some[0].fit) == (("dog", "Cup"), "pad")
    assert "frames fitted by pad" in some[1]
    assert pack.run("MatrixEditTracks", tracks=tracks).result[0] == tracks
    with pytest.raises(ValueError, match=r"no role; write cup \(object\)"):
        pack.run("MatrixEditTracks", tracks=tracks, instances="cup (objct)")


def test_join(pack):
    one, two = boxes(pack, "a: 4 4 20 20"), boxes(pack, "b: 30 4 40 20")
    both = pack.run("MatrixJoinTracks", parts={"tracks0": one, "tracks1": two}).result[0]
    assert both.names == ("a", "b")
    better = boxes(pack, "A (subject): 5 5 25 25")
    parts = {"tracks0": both, "tracks1": better}
    with pytest.raises(ValueError, match="several tracks have an instance 'a'"):
        pack.run("MatrixJoinTracks", parts=parts)
    fixed = pack.run("MatrixJoinTracks", parts=parts, same_name="replace").result[0]
    assert fixed.roles == {"a": "subject", "b": "instance"}
    assert torch.equal(fixed.masks("a"), better.masks("A"))
    long = pack.run(
        "MatrixJoinTracks", parts={"tracks0": one, "tracks1": both}, how="one after the other", overlap=1
    ).result[0]
    assert (long.frames, long.visible["b"]) == (17, tuple(range(9, 17)))


def test_the_host_grows_the_sockets_of_join(pack, comfy):
    from comfy_api.latest._io import get_finalized_class_inputs

    node = pack.classes["MatrixJoinTracks"]
    inputs, _, paths = get_finalized_class_inputs(node.INPUT_TYPES(), {"parts.tracks0": ["1", 0]})
    assert {"parts.tracks0", "parts.tracks1"} <= set(inputs["required"])
    assert paths["dynamic_paths"]["parts.tracks0"] == "parts.tracks0"


def test_retime(pack, wan):
    """With the model's own rate: 121 frames at 24 fps for 81 at 16."""
    tracks = boxes(pack, "a: 0: 0 0 8 8; 120: 56 40 64 48", frames=121, fps=24.0)
    out = pack.run("MatrixRetimeTracks", tracks=tracks, frames=81, model=wan)
    made = out.result[0]
    assert (made.frames, made.fps) == (81, 16)
    assert made.boxes("a")[-1].tolist() == [56, 40, 64, 48]
    assert "121 frames at 24 fps (5.00 s) became 81 frames at 16 fps (5.00 s)" in out.result[1]
    assert "SkyReels V2, which ComfyUI takes for Wan 2.1, makes 24: give the frame rate there" in out.result[1]
    given = pack.run("MatrixRetimeTracks", tracks=tracks, frames=81, fps=24.0, model=wan)
    assert "SkyReels" not in given.result[1]
    held = pack.run("MatrixRetimeTracks", tracks=made, how="hold", frames=85).result[0]
    assert held.frames == 85
    with pytest.raises(ValueError, match="more than 81: cut, or resample"):
        pack.run("MatrixRetimeTracks", tracks=tracks, how="hold", frames=81)


@pytest.fixture(scope="module")
def wan(pack):
    from support_native import native_model

    return native_model("wan_t2v")


def test_objects_of_one_batch(pack):
    """SAM3 Detect's individual masks: three objects of a picture, which are no three frames."""
    batch = torch.zeros(3, 40, 60)
    batch[0, 2:12, 2:12], batch[1, 20:32, 30:42], batch[2, 3:12, 45:54] = 1, 1, 1
    taken = pack.run("MatrixMaskTracks", names="", masks={"mask0": batch})
    assert "set 'batch_is' to objects" in taken.result[1]
    apart = pack.run("MatrixMaskTracks", names="a, b, c", masks={"mask0": batch}, batch_is="objects").result
    assert (apart[0].names, apart[0].frames) == (("a", "b", "c"), 1)
    assert torch.equal(apart[0].mask("b"), batch[1] > 0)
    assert "!" not in apart[1]
    with pytest.raises(ValueError, match="3 masks are connected .* 1 names: a"):
        pack.run("MatrixMaskTracks", names="a", masks={"mask0": batch}, batch_is="objects")


def test_inverted_masks_and_pictures_without_transparency(pack, comfy, tmp_path):
    """What Load Image itself gives: of a picture with a hole in its alpha, and of one without alpha."""
    import folder_paths
    import numpy as np
    from PIL import Image

    import nodes

    opaque = np.full((80, 100, 4), 255, dtype=np.uint8)
    opaque[..., 3] = 0
    opaque[20:60, 30:70, 3] = 255  # the object is what is not transparent
    folder = folder_paths.get_input_directory()
    Image.fromarray(opaque).save(f"{folder}/cut.png")
    Image.fromarray(opaque[..., :3]).save(f"{folder}/plain.png")
    mask = nodes.LoadImage().load_image("cut.png")[1]
    out = pack.run("MatrixMaskTracks", names="cup", masks={"mask0": mask})
    assert "'cup' covers 80 % of the frame and nearly all of its edge" in out.result[1]
    right = pack.run("MatrixMaskTracks", names="cup", masks={"mask0": mask}, invert=True)
    assert right.result[0].boxes("cup")[0].tolist() == [30, 20, 70, 60]
    assert "!" not in right.result[1]
    nothing = nodes.LoadImage().load_image("plain.png")[1]
    for more in ({}, {"invert": True}, {"batch_is": "objects"}):
        with pytest.raises(ValueError, match="mask 2 is empty and 64x64 .* without transparency"):
            pack.run("MatrixMaskTracks", names="", masks={"mask0": mask, "mask1": nothing}, **more)


def test_mistyped_roles_and_spellings(pack):
    masks = {"mask0": torch.ones(2, 8, 8), "mask1": torch.ones(2, 8, 8)}
    with pytest.raises(ValueError, match=r"\(objekt\) is no role; write cup \(object\)"):
        pack.run("MatrixMaskTracks", names="cup (objekt)\nman", masks=masks)
    with pytest.raises(ValueError, match="two instances are called 'Cup' and 'cup', which are one name"):
        pack.run("MatrixMaskTracks", names="Cup, cup", masks=masks)
    kept = pack.run("MatrixMaskTracks", names="man (left)\ncup \uff08object\uff09", masks=masks).result[0]
    assert kept.roles == {"man (left)": "instance", "cup": "object"}
    assert pack.run("MatrixTracksToMask", tracks=kept, names="CUP").result[0].shape == (2, 8, 8)


@pytest.mark.parametrize("fit", ["center", "stretch", "pad"])
def test_one_fit_for_preview_masks_and_steering(pack, fit):
    """The preview, Tracks to Mask and the steered grid show the instance in the same tokens."""
    tracks = boxes(pack, "a: 100 10 140 60", width=160, height=90, frames=1)
    tracks = pack.run("MatrixEditTracks", tracks=tracks, fit=fit).result[0]
    seen = pack.run("MatrixTracksToMask", tracks=tracks, width=96, height=64).result[0][0]
    grid = pack.lib("core.grid").Grid(1, 4, 6)
    cover = tracks.to_grid(grid, "area").maps[0, 0]
    dense = seen.reshape(4, 16, 6, 16).mean((1, 3))
    assert (cover - dense).abs().max() < 0.13
    report = pack.run("MatrixPreviewTracks", tracks=tracks, width=96, height=64).result[1]
    assert "! drawn with" not in report
    other = "stretch" if fit != "stretch" else "pad"
    report = pack.run("MatrixPreviewTracks", tracks=tracks, width=96, height=64, crop=other).result[1]
    assert f"! drawn with {other!r}; steering goes by the tracks, which say {fit!r}" in report
