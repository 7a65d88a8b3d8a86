"""Tracks follow the picture: what each pipeline makes of a first frame of another shape, asked of its own processor."""

from __future__ import annotations

import logging
from typing import Any

import diffusers
import pytest
import torch
from diffusers.video_processor import VideoProcessor
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from support_attention import make_binding
from support_diffusers import build
from support_models import randomize
from torch import Tensor

import matrix_lib
from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.core.grid import Framing, Grid
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.framing import fit_of, why_unknown

pytestmark = pytest.mark.usefixtures("one_thread")


class Other(VideoProcessor):
    """Diffusers' own processor in another of its modes, as pipelines of other people call it."""

    mode = "crop"

    def preprocess(self, image: Any, height: Any = None, width: Any = None, **more: Any) -> Tensor:
        return super().preprocess(image, height, width, resize_mode=self.mode)


class Odd(VideoProcessor):
    """Keeps the upper left corner, which is none of the ways that are known."""

    def preprocess(self, image: Any, height: Any = None, width: Any = None, **more: Any) -> Tensor:
        return super().preprocess(image.crop((0, 0, width, height)), height, width)


def pipeline(kind: str, processor: Any = None) -> Any:
    """The stock pipeline, without its networks: only its processor is asked."""
    made: Any = {
        "cogvideox": diffusers.CogVideoXImageToVideoPipeline,
        "wan": diffusers.WanImageToVideoPipeline,
        "hunyuan": diffusers.HunyuanVideoImageToVideoPipeline,
        "hunyuan15": diffusers.HunyuanVideo15ImageToVideoPipeline,
        "text": diffusers.WanPipeline,
    }[kind]
    pipe = made.__new__(made)
    if kind != "text" or processor is not None:
        pipe.video_processor = processor or VideoProcessor(vae_scale_factor=8)
    return pipe


@pytest.mark.parametrize("kind", ["cogvideox", "wan", "hunyuan"])
def test_what_pipelines_do_is_found_by_asking(kind: str) -> None:
    assert fit_of(pipeline(kind)) == "stretch"
    other = Other(vae_scale_factor=8)
    assert fit_of(pipeline(kind, other)) == "center"
    other.mode = "fill"
    assert fit_of(pipeline(kind, other)) == "pad"
    odd = pipeline(kind, Odd(vae_scale_factor=8))
    assert fit_of(odd) is None
    assert "neither crops about the centre nor stretches nor pads" in why_unknown(odd)
    assert "does not resize" in why_unknown(pipeline(kind, VideoProcessor(do_resize=False)))
    assert why_unknown(pipeline(kind)) == ""


def test_a_pipeline_that_crops_before_it_asks_its_processor_is_known() -> None:
    """Its processor alone would stretch. What the pipeline does with it is seen in `test_hunyuan_video15.py`."""
    from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor

    assert fit_of(pipeline("hunyuan15", HunyuanVideo15ImageProcessor())) == "center"
    assert fit_of(pipeline("hunyuan", HunyuanVideo15ImageProcessor())) == "stretch"


def test_those_that_take_no_picture_leave_tracks_alone() -> None:
    tracks = MaskTracks.from_boxes({"a": {0: (10, 10, 60, 60)}}, 1, 90, 160)
    for model in (pipeline("text"), build("cogvideox")[0]):
        assert fit_of(model) is None
        assert why_unknown(model) == ""
        assert matrix_lib.frame_tracks(model, tracks) == tracks
    assert matrix_lib.frame_tracks(pipeline("cogvideox"), tracks).fit == "stretch"
    assert matrix_lib.frame_tracks(pipeline("cogvideox"), tracks, "center") == tracks


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["default", "crop", "fill"]),
    st.tuples(st.integers(40, 200), st.integers(40, 200)),
    st.sampled_from([(64, 96), (96, 64), (64, 64)]),
    st.tuples(*[st.floats(0, 1)] * 4),
)
@example("default", (90, 160), (64, 96), (0.0, 0.1, 0.2, 0.7))
@example("crop", (90, 160), (64, 96), (0.0, 0.1, 0.2, 0.7))
def test_a_token_is_covered_as_the_picture_covers_it(
    mode: str, source: tuple[int, int], target: tuple[int, int], corners: tuple[float, ...]
) -> None:
    """A white box in a picture of any shape, through the pipeline's processor, against the tracks of the same box."""
    (height, width), processor = source, Other(vae_scale_factor=8)
    processor.mode = mode
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    x0, x1 = int(x0 * (width - 20)), int(x1 * (width - 20)) + 20
    y0, y1 = int(y0 * (height - 20)), int(y1 * (height - 20)) + 20
    picture = Image.new("RGB", (width, height))
    ImageDraw.Draw(picture).rectangle((x0, y0, x1 - 1, y1 - 1), fill="white")
    pipe = pipeline("cogvideox", processor)
    seen = (pipe.video_processor.preprocess(picture, *target)[0, 0] / 2 + 0.5)[None, None]
    wanted = torch.nn.functional.avg_pool2d(seen, 16)[0, 0]
    tracks = MaskTracks.from_boxes({"a": {0: (x0, y0, x1, y1)}}, 1, height, width)
    fitted = matrix_lib.frame_tracks(pipe, tracks)
    grid = Grid.from_pixels(1, *target)
    got = fitted.to_grid(grid, "area").maps[0, 0]
    top, left, high, wide = (0, 0, *target)
    if mode == "fill":  # bars are filled with the picture's edge there; masks have nothing in them
        top, left, high, wide = Framing(source, target, "pad").window()
    rows, columns = slice(-(-top // 16), (top + high) // 16), slice(-(-left // 16), (left + wide) // 16)
    inside = (got - wanted)[rows, columns].abs()
    assert not inside.numel() or float(inside.max()) < 0.15
    assert not inside.numel() or float(inside.mean()) < 0.03


def image_pipeline() -> Any:
    """CogVideoX image to video, whole but for its text encoder."""
    net = build("cogvideox")[0]
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=16, layers_per_block=1, norm_num_groups=2
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    pipe = diffusers.CogVideoXImageToVideoPipeline(None, None, randomize(vae, 5, 0.1), net, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sampled(pipe: Any, picture: Image.Image) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    words = torch.randn(2, 226, 64, generator=draw)
    return pipe(
        image=picture, height=64, width=96, num_frames=9, num_inference_steps=1, guidance_scale=6.0, generator=draw,
        prompt_embeds=words[1:], negative_prompt_embeds=words[:1], output_type="latent",
    ).frames  # fmt: skip


def tracks_of(frames: int = 1) -> MaskTracks:
    boxes: Any = {"cyclist": {0: (10, 10, 60, 80)}, "van": {0: (90, 5, 120, 60)}}
    return MaskTracks.from_boxes(boxes, frames, 90, 160, {"van": "object"}, hold=True)


def test_watch_steer_and_lora_share_the_pictures_framing() -> None:
    """160x90 into 96x64: what stretched tracks give in a run is what tracks that were stretched before give."""
    pipe, picture = image_pipeline(), Image.effect_noise((160, 90), 60).convert("RGB")
    binding, given = make_binding(binding_module, 226), tracks_of(9)
    before = given.framed(Framing((90, 160), (64, 96), "stretch"))
    with matrix_lib.watch(pipe, binding, given) as seen:
        sampled(pipe, picture)
    assert [tracks.fit for tracks in seen.tracks if tracks] == ["stretch"]
    guidance = matrix_lib.RegionBias(1.5, layers=matrix_lib.Layers((0, 1), (0, 1)))
    results = {}
    for name, tracks, fit in (("asked", given, None), ("before", before, None), ("cropped", given, "center")):
        with matrix_lib.steer(pipe, [guidance], binding, tracks, fit=fit):  # type: ignore[arg-type]
            results[name] = sampled(pipe, picture)
    assert float((results["asked"] - results["before"]).abs().mean()) < 0.5 * float(
        (results["cropped"] - results["before"]).abs().mean()
    )
    weight = pipe.transformer.patch_embed.proj.weight.detach()
    wide = torch.cat([weight, torch.ones(len(weight), 1, 2, 2)], 1)
    lora = AlignmentLoRA("cogvideox", {}, {"weight": wide})
    with matrix_lib.apply_lora(pipe, lora, given) as applied:
        sampled(pipe, picture)
    van = before.mask("van", 0).numpy()
    assert float(((applied.pictures[0][..., 0].numpy() > 0) != van).mean()) < 0.01
    with matrix_lib.apply_lora(pipe, lora, given, fit="center") as applied:
        sampled(pipe, picture)
    assert float(((applied.pictures[0][..., 0].numpy() > 0) != van).mean()) > 0.02


def test_what_cannot_be_known_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe, picture = image_pipeline(), Image.effect_noise((160, 90), 60).convert("RGB")
    pipe.video_processor = Odd(vae_scale_factor=8)
    binding = make_binding(binding_module, 226)
    with caplog.at_level(logging.WARNING), matrix_lib.watch(pipe, binding, tracks_of()):
        sampled(pipe, picture)
    (said,) = [record.getMessage() for record in caplog.records if "MATRIX" in record.getMessage()]
    assert "tracks of 160x90 pixels (width x height) are brought to a clip of 96x64 by 'center'" in said
    assert "say how with fit=" in said
    caplog.clear()
    with caplog.at_level(logging.WARNING), matrix_lib.watch(pipe, binding, tracks_of(), fit="stretch"):
        sampled(pipe, picture)
    assert not [record for record in caplog.records if "MATRIX" in record.getMessage()]
