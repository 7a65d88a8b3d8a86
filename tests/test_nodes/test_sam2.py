"""SAM 2 in the real host: a real model of small widths, prompts of every kind, frames that are streamed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support_counts import seeds
from support_sam2 import write_tiny_sam2

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny_sam2(pack, tmp_path_factory):
    """A real SAM 2.1 with random weights and small widths: its config beside its checkpoint, in models/sam2."""
    import folder_paths

    folder = Path(folder_paths.models_dir, "sam2")
    folder_paths.add_model_folder_path("sam2", str(folder))
    path = write_tiny_sam2(folder)
    folder_paths.filename_list_cache.clear()
    return path


@pytest.mark.parametrize("prompts", ["cyclist (subject): 2: 40,20; van: [5,10,40,50]"])
def test_sam2_wants_one_line_each(pack, tiny_sam2, prompts):
    with pytest.raises(ValueError, match="line 1"):
        pack.run("MatrixSAM2Tracks", frames=torch.rand(4, 60, 80, 3), checkpoint="tiny.pt", prompts=prompts)


def test_sam2_follows_points_and_boxes_both_ways(pack, tiny_sam2):
    frames = torch.rand(4, 60, 80, 3, generator=torch.Generator().manual_seed(0))
    prompts = "cyclist (subject): 2: 40,20 -5,5\nvan (object): 1: [5,10,40,50]"
    out = pack.run("MatrixSAM2Tracks", frames=frames, checkpoint="tiny.pt", prompts=prompts, fps=12.0)
    tracks = out.result[0]
    assert tracks.names == ("cyclist", "van")
    assert tracks.roles == {"cyclist": "subject", "van": "object"}
    assert (tracks.frames, tracks.height, tracks.width, tracks.fps) == (4, 60, 80, 12.0)
    assert all(len(frames) for frames in tracks.visible.values())
    import folder_paths

    assert not list(Path(folder_paths.get_temp_directory()).glob("matrix_sam2_*"))


def test_sam2_takes_a_video(pack, tiny_sam2, tmp_path):
    from comfy_api.latest import InputImpl

    clip = np.random.default_rng(0).integers(0, 255, (3, 64, 80, 3), dtype=np.uint8)
    path = pack.lib("io.video").write_video(tmp_path / "clip.mp4", clip, 12)
    video = InputImpl.VideoFromFile(str(path))
    tracks = pack.run("MatrixSAM2Tracks", frames=video, checkpoint="tiny.pt", prompts="van: [5,10,40,50]").result[0]
    assert (tracks.frames, tracks.fps) == (3, 12.0)


def test_sam2_bad_input(pack, tiny_sam2, monkeypatch):
    frames = torch.rand(2, 60, 80, 3)
    run = {"frames": frames, "checkpoint": "tiny.pt"}
    for prompts, words in (
        ("a: 7: 4,4", "prompt in frame 7, but the video has frames 0 to 1"),
        ("a: 400,4", "outside the 80x60 frame"),
        ("a: [9,9,3,3]", "needs x1 > x0"),
        ("", "no points or boxes"),
    ):
        with pytest.raises(ValueError, match=words):
            pack.run("MatrixSAM2Tracks", prompts=prompts, **run)
    module = pack.lib("io.sam2_checkpoints")
    torch.save({"model": {"a": torch.zeros(1)}}, tiny_sam2.with_name("other.pt"))
    tiny_sam2.with_name("text.pt").write_bytes(b"no checkpoint")
    tiny_sam2.with_name("evil.yaml").write_text("model: {image_encoder: {_target_: os.system, command: ls}}")
    shutil.copy(tiny_sam2, tiny_sam2.with_name("evil.pt"))
    shutil.copy(tiny_sam2, tiny_sam2.with_name("alone.pt"))
    for name, words in (
        ("other.pt", "no SAM 2 checkpoint"),
        ("text.pt", "cannot be read|more than weights"),
        ("evil.pt", "would build 'os.system'"),
        ("alone.pt", "width 8 with 4 blocks"),
    ):
        with pytest.raises(ValueError, match=words):
            module.load_sam2(tiny_sam2.with_name(name))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-build-isolation sam2"):
        pack.run("MatrixSAM2Tracks", prompts="a: 4,4", **run)


def test_sam2_interrupted_leaves_nothing(pack, comfy, tiny_sam2):
    import comfy.model_management as management
    import folder_paths

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("MatrixSAM2Tracks", frames=torch.rand(2, 60, 80, 3), checkpoint="tiny.pt", prompts="a: 4,4")
    management.interrupt_current_processing(False)
    assert not list(Path(folder_paths.get_temp_directory()).glob("matrix_sam2_*"))


def test_released_sizes_are_known_by_their_weights(pack):
    """The four sizes of both releases, by the shapes that the package's own configs give them."""
    import sam2
    from omegaconf import OmegaConf

    module = pack.lib("io.sam2_checkpoints")
    for family, size in (("sam2.1", "t"), ("sam2.1", "b+"), ("sam2", "s"), ("sam2", "l")):
        config = OmegaConf.load(Path(sam2.__path__[0], f"configs/{family}/{family}_hiera_{size}.yaml"))
        trunk = config.model.image_encoder.trunk
        keys = [f"image_encoder.trunk.blocks.{i}.norm1.weight" for i in range(sum(trunk.get("stages", (2, 3, 16, 3))))]
        weights = dict.fromkeys(keys, torch.zeros(trunk.embed_dim))
        weights["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(trunk.embed_dim, 3, 7, 7)
        weights |= {"no_obj_embed_spatial": torch.zeros(1)} if family == "sam2.1" else {}
        expected = OmegaConf.to_container(config.model, resolve=True)
        assert module._config(Path("x.pt"), weights) == expected


# ------------------------------------------------------------------------------------------- one instance at a time

VIDEO = torch.rand(6, 60, 80, 3, generator=torch.Generator().manual_seed(3))


def follow(pack, prompts: str, **more):
    return pack.run("MatrixSAM2Tracks", frames=VIDEO, checkpoint="tiny.pt", prompts=prompts, **more).result


def test_an_instance_is_followed_as_if_there_were_no_other(pack, tiny_sam2):
    """A second instance that is prompted earlier or later changes nothing of the first."""
    lines = {"a": "a: 2: 40,20 -5,5", "b": "b: [5,10,40,50]", "c": "c: 4: 60,40; 5: 50,50"}
    alone = {name: follow(pack, line)[0] for name, line in lines.items()}
    for order in ("cba", "ba"):
        both = follow(pack, "\n".join(lines[name] for name in order))[0]
        assert both.names == tuple(order)
        for name in order:
            assert torch.equal(both.masks(name), alone[name].masks(name)), (name, order)


@pytest.mark.parametrize("seed", seeds(1, 30))
def test_any_prompts_in_any_order(pack, tiny_sam2, seed):
    """Points, boxes and `off` in any frames of two or three instances: each is as it is alone."""
    draw = random.Random(seed)
    lines = {}
    for name in ("a", "b", "c")[: draw.choice([2, 3])]:
        frames = draw.sample(range(6), draw.choice([1, 2]))
        boxed = draw.random() < 0.5
        said = "[{},{},{},{}]" if boxed else "{},{}"
        made = [f"{f}: {said.format(draw.randint(2, 30), draw.randint(2, 20), 60, 50)}" for f in frames]
        free = [f for f in range(6) if f not in frames]
        lines[name] = f"{name}: " + "; ".join(made + [f"{draw.choice(free)}: off"] * (draw.random() < 0.4))
    found = {}
    for name, line in lines.items():
        try:
            found[name] = follow(pack, line)[0]
        except ValueError as error:
            if "found nothing for" not in str(error):
                raise
    order = draw.sample(sorted(lines), len(lines))
    if not found:
        return
    both = follow(pack, "\n".join(lines[name] for name in order))[0]
    assert both.names == tuple(name for name in order if name in found)
    for name, alone in found.items():
        assert torch.equal(both.masks(name), alone.masks(name)), lines


def test_it_is_what_the_package_gives_for_one_prompt(pack, tiny_sam2, tmp_path):
    """Against the package's own loader and passes, over JPEG files that it reads whole."""
    from PIL import Image

    model = pack.lib("io.sam2_checkpoints").load_sam2(tiny_sam2)
    read = pack.lib("hosts.comfy.tracks").frame_reader(VIDEO)
    for i in range(len(VIDEO)):
        Image.fromarray(read(i)).save(tmp_path / f"{i:06d}.jpg", quality=97, subsampling=0)
    with torch.inference_mode():
        state = model.init_state(str(tmp_path))
        model.add_new_points_or_box(state, 3, 0, points=[[40, 20]], labels=[1])
        masks = {}
        for backwards in (False, True):
            for frame, _, logits in model.propagate_in_video(state, reverse=backwards):
                masks.setdefault(frame, logits[0, 0] > 0)
    ours = follow(pack, "a: 3: 40,20")[0]
    assert torch.equal(ours.masks("a"), torch.stack([masks[i] for i in range(len(VIDEO))]))


def test_off_and_start_frames(pack, tiny_sam2):
    gone = follow(pack, "a: 1: 40,20; 3: off; 5: 50,20")[0]
    assert set(gone.visible["a"]) <= {0, 1, 2, 5}
    assert {1, 5} <= set(gone.visible["a"])
    late = follow(pack, "a: 0: off; 4: 40,20")[0]
    assert set(late.visible["a"]) <= {4, 5}
    whole = follow(pack, "a: 4: 40,20")[0]
    assert min(whole.visible["a"]) < 4, "without it, it is followed backwards"
    assert torch.equal(late.masks("a", 4), whole.masks("a", 4)), "and forwards alike"
    with pytest.raises(ValueError, match="'a' is only told to be off"):
        follow(pack, "a: 2: off")


def test_masks_as_prompts(pack, tiny_sam2):
    mask = torch.zeros(1, 60, 80)
    mask[:, 10:40, 20:60] = 1
    given = pack.run("MatrixMaskTracks", names="Cup (object)", masks={"mask0": mask}).result[0]
    alone = follow(pack, "", masks=given, mask_frame=2)[0]
    assert alone.names == ("Cup",)
    assert alone.roles == {"Cup": "object"}
    own = alone.mask("Cup", 2)
    assert (own & (mask[0] > 0)).sum() / (own | (mask[0] > 0)).sum() > 0.9, "the prompted frame has the mask itself"
    both = follow(pack, "cup: 5: off\nvan: [5,10,40,50]", masks=given)[0]
    assert both.names == ("cup", "van"), "a name with another case is the same instance"
    assert max(both.visible["cup"]) < 5
    with pytest.raises(ValueError, match="'cup' has a mask and another prompt in frame 0"):
        follow(pack, "cup: 4,4", masks=given)
    small = pack.run("MatrixMaskTracks", names="cup", masks={"mask0": mask[:, :30]}).result[0]
    with pytest.raises(ValueError, match="is 30x80 pixels .* it needs the frame's 60x80"):
        follow(pack, "", masks=small)


def test_what_is_found_is_kept(pack, tiny_sam2, monkeypatch):
    """Nothing is found of the second instance: its logits are below 0 in every frame."""
    import sam2.sam2_video_predictor as package

    plain = package.SAM2VideoPredictor.propagate_in_video

    def blind(self, state, *args, **kwargs):
        box = 0 in state["point_inputs_per_obj"][0] and len(state["point_inputs_per_obj"][0][0]["point_labels"][0]) == 2
        for frame, ids, logits in plain(self, state, *args, **kwargs):
            yield frame, ids, logits * 0 - 1 if box else logits

    monkeypatch.setattr(package.SAM2VideoPredictor, "propagate_in_video", blind)
    tracks, report = follow(pack, "a (subject): 40,20\nb (object): [5,10,40,50]")
    assert (tracks.names, tracks.roles) == (("a",), {"a": "subject"})
    assert "! SAM 2 found nothing for 'b': it is left out" in report
    with pytest.raises(ValueError, match="found nothing for 'b'"):
        follow(pack, "b: [5,10,40,50]")


def test_frames_are_streamed(pack, tiny_sam2, monkeypatch):
    """However long the clip is, two frames at most are in memory as the model sees them."""
    module, alive, most = pack.lib("io.sam2"), [0], [0]
    plain = module._Frames.__getitem__

    def counted(self, index):
        import weakref

        tensor = plain(self, index)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(tensor, lambda: alive.__setitem__(0, alive[0] - 1))
        return tensor

    monkeypatch.setattr(module._Frames, "__getitem__", counted)
    long = VIDEO.repeat(2, 1, 1, 1)
    tracks = pack.run(
        "MatrixSAM2Tracks", frames=long, checkpoint="tiny.pt", prompts="a: 6: 40,20\nb: [5,10,40,50]"
    ).result[0]
    assert tracks.frames == 12
    assert most[0] <= 2


@pytest.mark.parametrize("turn", [0, 90])
def test_a_video_file_is_read_as_the_host_reads_it(pack, comfy, tmp_path, turn):
    """Whole, from a start time on and for a duration, turned or not; the frames are the host's own to a rounding."""
    from comfy_api.latest import InputImpl

    clip = (np.indices((12, 64, 96)).sum(0)[..., None] * np.array([1, 2, 3]) % 256).astype(np.uint8)
    path = pack.lib("io.video").write_video(tmp_path / "clip.mp4", clip, 12)
    if turn:  # the display matrix of the track header: a quarter turn instead of none
        data = bytearray(path.read_bytes())
        one, minus = bytes([0, 1, 0, 0]), bytes([255, 255, 0, 0])
        at = data.index(one + bytes(12) + one, data.index(b"tkhd"))
        data[at : at + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
        path.write_bytes(bytes(data))
    for start, duration in ((0, 0), (0.25, 0), (0.25, 0.5)):
        video = InputImpl.VideoFromFile(str(path), start_time=start, duration=duration)
        theirs = video.get_components().images
        found = pack.lib("hosts.comfy.video").video_frames(video)
        ours = torch.from_numpy(np.stack(list(found.read()))).float() / 255
        assert (found.height, found.width) == tuple(ours.shape[1:3]) == ((96, 64) if turn else (64, 96))
        assert ours.shape == theirs.shape
        assert abs(found.count - len(theirs)) <= 1
        assert (ours - theirs).abs().mean() < 0.01


def test_checkpoints_are_known_by_their_tensors(pack, tiny_sam2):
    """Renamed, with a prefix before every name, inside of what a trainer saves, or as safetensors."""
    from safetensors.torch import save_file

    module = pack.lib("io.sam2_checkpoints")
    weights = torch.load(tiny_sam2, weights_only=True)["model"]
    reference = module.load_sam2(tiny_sam2).state_dict()
    wrapped = {f"module.model.{name}": value for name, value in weights.items()}
    shapes = {
        "renamed": weights,
        "prefixed": wrapped | {"module.other": torch.zeros(1)},
        "trainer": {"epoch": 3, "state_dict": wrapped, "optimizer": {"lr": 0.1}},
        "deep": {"a": {"b": {"model": weights}}},
    }
    for name, saved in shapes.items():
        path = tiny_sam2.with_name(f"{name}.pt")
        torch.save(saved, path)
        shutil.copy(tiny_sam2.with_suffix(".yaml"), path.with_suffix(".yaml"))
        found = module.load_sam2(path).state_dict()
        assert all(torch.equal(found[key], value) for key, value in reference.items()), name
    path = tiny_sam2.with_name("tensors.safetensors")
    save_file({f"sam2.{name}": value.contiguous().clone() for name, value in weights.items()}, path)
    shutil.copy(tiny_sam2.with_suffix(".yaml"), path.with_suffix(".yaml"))
    found = module.load_sam2(path).state_dict()
    assert all(torch.equal(found[key], value) for key, value in reference.items())
    torch.save({"model": weights, "ema": weights}, tiny_sam2.with_name("two.pt"))
    with pytest.raises(ValueError, match="holds 2 SAM 2 models"):
        module.load_sam2(tiny_sam2.with_name("two.pt"))
    odd = {"vision_encoder.backbone.patch_embed.projection.weight": torch.zeros(1)}
    torch.save(odd, tiny_sam2.with_name("hub.pt"))
    with pytest.raises(ValueError, match=r"transformers library.*huggingface.co/facebook"):
        module.load_sam2(tiny_sam2.with_name("hub.pt"))


def test_where_checkpoints_come_from_is_said(pack, tiny_sam2):
    node = pack.classes["MatrixSAM2Tracks"]
    assert node.validate_inputs(checkpoint="tiny.pt") is True
    assert "huggingface.co/facebook" in node.validate_inputs(checkpoint="none.pt")
