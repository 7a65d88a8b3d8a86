"""One LoRA file, widened input included: clips that native ComfyUI samples and those of diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_loras import make_lora, noise
from support_models import make_cogvideox, make_hunyuan, make_wan
from support_sampling import (
    CFG,
    SEED,
    STEPS,
    cogvideox_pipeline,
    experts,
    hunyuan_sample,
    noise_like,
    relative,
    sample,
    words,
)
from torch import Tensor

import matrix_lib
from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones import lora as lora_module
from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.lora.read import load_lora, save_lora

pytestmark = pytest.mark.usefixtures("one_thread")
PALETTE = ((255, 0, 0), (0, 255, 0))


def tracks_of(frames: int, height: int, width: int) -> MaskTracks:
    boxes: Any = {"a": {0: (8, 8, width // 2, height - 8)}, "b": {0: (width // 2, 20, width - 4, height - 20)}}
    return MaskTracks.from_boxes(boxes, frames, height, width, {"b": "object"}, hold=True)


def lora_for(transformer: Any, family: str, condition: str, extra: int, seed: int = 0) -> AlignmentLoRA:
    """A random LoRA whose projection is the model's own, moved a little, with `extra` channels behind."""
    inner = transformer.get_submodule(REGISTRY[family].input_projection)
    weight, bias = inner.weight.detach(), inner.bias
    columns = extra * (weight.shape[1] // transformer.config.in_channels if weight.ndim == 2 else 1)
    wide = torch.cat([weight, noise((weight.shape[0], columns, *weight.shape[2:]), seed + 6, 0.3)], 1)
    projection = {"weight": wide + noise(tuple(wide.shape), seed + 7, 0.02)}
    if bias is not None:
        projection["bias"] = bias.detach() + 0.1
    lora = make_lora(lora_module, family, alpha=8.0, rank=4, seed=seed)
    info = replace(lora.info, condition=condition, palette=PALETTE if condition == "id_map" else ())
    return replace(lora, projection=projection, info=info)


def native(model: Any, path: Path, latent: Tensor, tracks: MaskTracks, vae: Any = None) -> tuple[Any, Tensor]:
    """(MODEL with the file on it, the extra channels that the node makes for a latent)."""
    from matrix_lib.core.tracks.conditions import find_targets
    from matrix_lib.hosts.comfy.lora import apply_lora, widened
    from matrix_lib.hosts.comfy.mask_condition import id_map, target_mask

    patched, report = apply_lora(model, load_lora(path), 0.8)
    assert report.matched == report.total
    wide = widened(patched)
    assert wide is not None
    if wide.condition == "target_mask":
        return patched, target_mask(tracks, find_targets(tracks), latent).channels
    return patched, id_map(patched, vae, tracks, latent, wide.info.palette).channels


def fed(conds: Sequence[Any], extra: Tensor) -> list[Any]:
    from matrix_lib.hosts.comfy.lora import add_extra

    return [add_extra([cond], extra) for cond in conds]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"size": "2b", "i2v": False}, (9, 64, 96)),
        ({"size": "5b", "i2v": True}, (9, 128, 192)),
        ({"version": "1.5", "i2v": False}, (13, 64, 96)),
        ({"version": "1.5", "i2v": True}, (9, 64, 96)),
    ],
)
def test_cogvideox(options: dict[str, Any], size: tuple[int, int, int], tmp_path: Path, comfy: ModuleType) -> None:
    """1.5 with 9 frames has one in front to fill its first temporal patch; with 13 it has none."""
    from matrix_lib.hosts.comfy.families.cogvideox_parts import prefix_noise
    from matrix_lib.hosts.comfy.load import load_folder

    make_cogvideox(tmp_path / "model", text_encoder=False, **options)
    model = load_folder(tmp_path / "model", text_encoder=False, vae=False).model
    pipe = cogvideox_pipeline(tmp_path / "model", options["i2v"])
    (file,) = save_lora(lora_for(pipe.transformer, "cogvideox", "target_mask", 1), tmp_path / "x.safetensors", "matrix")
    frames, height, width = size
    tracks = tracks_of(*size)
    latent = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
    front = -latent.shape[2] % (pipe.transformer.config.patch_size_t or 1)
    positive, negative = words(64)
    call: dict[str, Any] = dict(height=height, width=width, num_frames=frames, num_inference_steps=STEPS)
    values: dict[str, Any] = {}
    if options["i2v"]:
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            dist = pipe.vae.encode(2 * image[:, :, None] - 1).latent_dist
        first = dist.sample(torch.Generator().manual_seed(4))
        values["concat_latent_image"] = torch.cat([first, torch.zeros_like(latent[:, :, 1:])], dim=2)

    def run() -> Tensor:
        more = dict(image=image, generator=torch.Generator().manual_seed(4)) if options["i2v"] else {}
        start = torch.cat([prefix_noise(latent, front, SEED), latent], dim=2).transpose(1, 2)
        made = pipe(
            prompt_embeds=positive, negative_prompt_embeds=negative, latents=start.clone(), output_type="latent",
            guidance_scale=CFG, **call, **more,
        )  # fmt: skip
        return made.frames.transpose(1, 2)[:, :, front:]  # type: ignore[no-any-return]

    plain = run()
    with matrix_lib.apply_lora(pipe, file, tracks, strength=0.8) as applied:
        wanted = run()
        applied.strength = 0.0
        assert torch.equal(run(), plain)
    assert applied.matched == applied.total
    assert torch.equal(run(), plain)
    patched, extra = native(model, file, latent, tracks)
    got = sample(patched, *fed([[positive, values], [negative, values]], extra), latent)
    assert relative(got * pipe.vae.config.scaling_factor, wanted) < 1e-3
    assert relative(plain, wanted) > 0.05, "the LoRA does something"
    empty = sample(patched, *fed([[positive, values], [negative, values]], torch.zeros_like(extra)), latent)
    assert relative(empty * pipe.vae.config.scaling_factor, wanted) > 0.01, "and so does its mask"


@pytest.mark.parametrize(("i2v", "condition"), [(False, "target_mask"), (True, "id_map")])
def test_wan(i2v: bool, condition: str, tmp_path: Path, comfy: ModuleType) -> None:
    """Text to video, and both experts of 2.2 with a file each."""
    import diffusers

    from matrix_lib.hosts.comfy.first_frame import image_condition
    from matrix_lib.hosts.comfy.load import load_folder

    folder = make_wan(tmp_path / "model", i2v=i2v, version="2.2" if i2v else "2.1", text_encoder=False)
    parts = ("transformer", "transformer_2") if i2v else ("transformer",)
    made: dict[str, Any] = {p: diffusers.WanTransformer3DModel.from_pretrained(folder / p) for p in parts}
    made["vae"] = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    made["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    more = {"image_encoder": None, "image_processor": None, "boundary_ratio": 0.9} if i2v else {}
    kind: Any = diffusers.WanImageToVideoPipeline if i2v else diffusers.WanPipeline
    pipe = kind(tokenizer=None, text_encoder=None, **made, **more)
    pipe.set_progress_bar_config(disable=True)
    loaded = load_folder(folder, text_encoder=False)
    frames, height, width = size = (9, 64, 96)
    tracks, latent = tracks_of(*size), noise_like(1, 16, 3, 8, 12, seed=1)
    positive, negative = words(4096, 512)
    call: dict[str, Any] = dict(height=height, width=width, num_frames=frames, num_inference_steps=STEPS)
    values: dict[str, Any] = {}
    if i2v:
        call["image"] = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
        picture = call["image"].movedim(1, -1)
        values = image_condition(loaded.model, loaded.vae, picture, width, height, frames).values
        with pytest.raises(ValueError, match="two experts.*part='transformer'"):
            matrix_lib.apply_lora(pipe, lora_for(pipe.transformer, "wan", condition, 20), tracks)
    applied, channels = [], []
    for place, part in enumerate(parts):
        lora = lora_for(getattr(pipe, part), "wan", condition, 20 if condition == "id_map" else 1, seed=50 * place)
        (file,) = save_lora(lora, tmp_path / f"{part}.safetensors", "matrix")
        applied.append(matrix_lib.apply_lora(pipe, file, tracks, strength=0.8, part=part))
        name = ("model", "low_noise")[place]
        patched, extra = native(getattr(loaded, name), file, latent, tracks, loaded.vae)
        loaded = replace(loaded, **{name: patched})
        channels.append(extra)
    given = dict(prompt_embeds=positive, negative_prompt_embeds=negative, output_type="latent", guidance_scale=CFG)
    wanted = pipe(latents=latent.clone(), **given, **call).frames
    for each in applied:
        each.remove()
    plain = pipe(latents=latent.clone(), **given, **call).frames
    conds = fed([[positive, values], [negative, values]], channels[0])
    got = experts(loaded, *conds, latent, pipe.scheduler.sigmas.clone(), pipe.config.get("boundary_ratio"))
    got = loaded.model.get_model_object("latent_format").process_in(got)
    assert relative(got, wanted) < 1e-3
    assert relative(plain, wanted) > 0.05


def test_hunyuan_video(tmp_path: Path, comfy: ModuleType) -> None:
    import diffusers

    from matrix_lib.hosts.comfy.load import load_folder

    folder = make_hunyuan(tmp_path / "model", i2v="latent_concat")
    model = load_folder(folder, text_encoder=False, vae=False).model
    pipe = diffusers.HunyuanVideoImageToVideoPipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, image_processor=None,
        vae=diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        transformer=diffusers.HunyuanVideoTransformer3DModel.from_pretrained(folder / "transformer"),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    lora = lora_for(pipe.transformer, "hunyuan_video", "target_mask", 1)
    (file,) = save_lora(lora, tmp_path / "x.safetensors", "diffusers")[:1]
    size, latent = (9, 64, 96), noise_like(1, 16, 3, 8, 12, seed=1)
    tracks, image = tracks_of(*size), torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    positive, pooled = noise_like(1, 24, 64, seed=1), noise_like(1, 768, seed=2)
    call: dict[str, Any] = dict(
        image=image, height=64, width=96, num_frames=9, num_inference_steps=STEPS, prompt_embeds=positive,
        pooled_prompt_embeds=pooled, prompt_attention_mask=torch.ones(1, 24), output_type="latent", guidance_scale=6.0,
    )  # fmt: skip
    with matrix_lib.apply_lora(pipe, file, tracks, strength=0.8):
        wanted = pipe(latents=latent.clone(), **call).frames
    plain = pipe(latents=latent.clone(), **call).frames
    with torch.no_grad():
        first = pipe.vae.encode(2 * image[:, :, None] - 1).latent_dist.mode()
    mask = torch.ones(1, 1, 3, 8, 12)
    mask[:, :, :1] = 0
    values = {"pooled_output": pooled, "guidance": 6.0, "concat_latent_image": first, "concat_mask": mask}
    patched, extra = native(model, file, latent, tracks)
    start = 0.999 * latent + 0.001 * first * pipe.vae.config.scaling_factor
    got = hunyuan_sample(patched, *fed([[positive, values]], extra), start, None, mask, pipe)
    got = model.get_model_object("latent_format").process_in(got)[:, :, 1:]
    assert relative(got, wanted) < 1e-3
    assert relative(plain, wanted) > 0.05


def test_the_id_map_of_mini(comfy: ModuleType) -> None:
    """The file that comes with the pack, on mini: both hosts make one ID map."""
    from matrix_lib.hosts import bundle
    from matrix_lib.hosts.comfy.mini import load_mini
    from matrix_lib.hosts.diffusers.load import open_model

    loaded = load_mini(bundle.load())
    pipe = open_model("mini", torch.device("cpu"), torch.float32).pipeline
    tracks, file = tracks_of(1, 128, 128), bundle.example_loras()["mini_matrix.safetensors"]
    latent = torch.zeros(1, 16, 5, 16, 16)
    _, extra = native(loaded.model, file, latent, tracks, loaded.vae)
    seen: list[Tensor] = []
    with matrix_lib.apply_lora(pipe, file, tracks) as applied:
        spy = pipe.transformer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
        )
        pipe(
            image=torch.rand(1, 3, 128, 128), height=128, width=128, num_frames=17, num_inference_steps=1,
            prompt_embeds=torch.zeros(1, 226, 128), negative_prompt_embeds=torch.zeros(1, 226, 128),
            output_type="latent",
        )  # fmt: skip
        spy.remove()
    assert seen[0].shape == (2, 5, 48, 16, 16), "both branches of the guidance"
    for row in seen[0]:
        assert relative(row[:, 32:].transpose(0, 1)[None], extra) < 1e-3
    assert torch.equal(applied.pictures[0], tracks.with_palette(load_lora(file).info.palette[:2]).id_map(0))
