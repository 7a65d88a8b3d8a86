"""Tiny diffusers folders of LTX-Video and LTX-2, loaded natively: latents of their pipelines, LoRAs in both hosts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_loras import noise
from support_models import make_ltx
from support_pipelines import PLAIN_LTX2, ltx_vae, sound_vae
from support_sampling import CFG, SEED, STEPS, noise_like, relative
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = [(9, 64, 96), (17, 96, 64), (25, 32, 64)]
WORDS, KEPT = 1024, 20


class Pair:
    """One folder in both hosts."""

    def __init__(self, folder: Path, version: str) -> None:
        import diffusers
        from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

        from matrix_lib.hosts.comfy.load import load_transformer

        self.version = version
        make_ltx(folder, version)  # type: ignore[arg-type]
        self.model = load_transformer(folder, "transformer", torch.float32)[0]
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": scheduler}
        if version == "0.9":
            net: Any = diffusers.LTXVideoTransformer3DModel.from_pretrained(folder / "transformer")
            self.pipe: Any = diffusers.LTXPipeline(**parts, transformer=net)
        else:
            net = diffusers.LTX2VideoTransformer3DModel.from_pretrained(folder / "transformer")
            words = LTX2TextConnectors.from_pretrained(folder / "connectors")
            parts |= {"vae": ltx_vae(2, spread=False), "audio_vae": sound_vae(spread=False), "vocoder": None}
            self.pipe = diffusers.LTX2Pipeline(**parts, connectors=words, transformer=net)
        self.pipe.set_progress_bar_config(disable=True)

    def pipeline(self, frames: int, height: int, width: int) -> tuple[Tensor, Tensor | None, list]:
        """(clip, sound) that the pipeline samples, and the conditionings that it read, as the host has them."""
        clip, sound = self.noise(frames, height, width)
        given: dict[str, Any] = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": STEPS}
        given |= {"guidance_scale": CFG, "output_type": "latent", "latents": clip.flatten(2).transpose(1, 2)}
        if self.version == "0.9":
            rows = [noise_like(1, 128, 64, seed=at) for at in (1, 2)]
            keep = (torch.arange(128) < KEPT).long()[None]
            made = self.pipe(
                prompt_embeds=rows[0], negative_prompt_embeds=rows[1], prompt_attention_mask=keep,
                negative_prompt_attention_mask=keep, **given,
            ).frames  # fmt: skip
            shape = clip.shape[2:]
            return made.transpose(1, 2).unflatten(2, shape), None, [[[each, {"attention_mask": keep}]] for each in rows]
        width_of = self.pipe.connectors.config.caption_channels * 3
        rows = [noise_like(1, WORDS, width_of, seed=at) for at in (1, 2)]
        keep = (torch.arange(WORDS) >= WORDS - KEPT).long()[None]  # padding in front
        read: list[Tensor] = []
        hooks = [
            getattr(self.pipe.connectors, f"{side}_connector").register_forward_pre_hook(
                lambda _, args: read.append(args[0][:, -KEPT:])
            )
            for side in ("video", "audio")
        ]
        out = self.pipe(
            prompt_embeds=rows[0], negative_prompt_embeds=rows[1], prompt_attention_mask=keep, frame_rate=24.0,
            negative_prompt_attention_mask=keep, audio_guidance_scale=CFG,
            audio_latents=sound.transpose(1, 2).flatten(2), **PLAIN_LTX2, **given,
        )  # fmt: skip
        for hook in hooks:
            hook.remove()
        both = torch.cat(read, -1) if self.version == "2.3" else read[0]
        conds = [
            [[both[at : at + 1], {"unprocessed_ltxav_embeds": True, "frame_rate": 24.0}]] for at in (1, 0)
        ]  # the pipeline has the negative prompt first
        return out.frames, out.audio, conds

    def noise(self, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        size = ((frames - 1) // 8 + 1, height // 32, width // 32)
        return noise_like(1, 128, *size, seed=frames), noise_like(1, 8, round(frames / 24 * 25), 16, seed=5)

    def host(self, model: Any, conds: list, frames: int, height: int, width: int) -> Any:
        """What the host samples, on the pipeline's own sigmas."""
        import comfy.samplers
        from comfy.nested_tensor import NestedTensor

        clip, sound = self.noise(frames, height, width)
        start: Any = clip if self.version == "0.9" else NestedTensor([clip, sound])
        empty: Any = torch.zeros_like(clip) if self.version == "0.9" else NestedTensor([clip * 0, sound * 0])
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*conds)
        guider.set_cfg(CFG)
        sigmas = self.pipe.scheduler.sigmas.clone()
        with torch.inference_mode():
            return guider.sample(start, empty, comfy.samplers.ksampler("euler"), sigmas, seed=SEED)


@pytest.fixture(scope="module", params=["0.9", "2.0", "2.3"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("ltx"), request.param)


def test_latents_are_the_pipelines(pair: Pair) -> None:
    for grid in GRIDS:
        clip, sound, conds = pair.pipeline(*grid)
        got = pair.host(pair.model, conds, *grid)
        if sound is None:
            assert relative(got, clip) < 1e-3, grid
        else:
            both = got.unbind()
            assert relative(both[0], clip) < 1e-3, grid
            assert relative(both[1], sound) < 1e-3, grid


def test_a_mask_condition_does_the_same_in_both_hosts(pair: Pair) -> None:
    """A target mask as a further channel of the tokens, and a projection whose own columns have changed as well."""
    from matrix_lib.backbones.lora import AlignmentLoRA
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.hosts.comfy.mask_condition import behind_references, target_mask
    from matrix_lib.hosts.diffusers.apply_lora import apply

    frames, height, width = GRIDS[0]
    tracks = MaskTracks.from_boxes({"mug": {0: (16, 8, 70, 60)}}, frames, height, width)
    place = pair.pipe.transformer.proj_in
    weight = torch.cat([place.weight.detach(), torch.zeros(len(place.weight), 1)], 1)
    weight = weight + noise((len(weight), 129), 3, 0.3)
    lora = AlignmentLoRA("ltx" if pair.version == "0.9" else "ltx2", {}, {"weight": weight, "bias": place.bias + 0.1})
    plain, _, conds = pair.pipeline(*GRIDS[0])
    with apply(pair.pipe, lora, tracks) as applied:
        assert (applied.base, applied.extra, applied.condition) == (128, 1, "target_mask")
        wanted = pair.pipeline(*GRIDS[0])[0]
    assert torch.equal(pair.pipeline(*GRIDS[0])[0], plain)
    model, report = apply_lora(pair.model, lora)
    assert report.widened is not None
    made = behind_references(
        lambda clip: target_mask(tracks, ("mug",), clip, 32), model, conds, pair.noise(*GRIDS[0])[0]
    )
    clips = []
    for given in ([add_extra(each, made.channels) for each in conds], conds):  # the second have no mask
        got = pair.host(model, given, *GRIDS[0])
        clips.append(got if pair.version == "0.9" else got.unbind()[0])
    assert relative(clips[0], wanted) < 1e-3
    assert relative(clips[1], wanted) > 1e-2


def test_a_lora_does_the_same_in_both_hosts(pair: Pair, tmp_path: Path) -> None:
    """In every format that is written, and with the names that trainers of LTX write."""
    from safetensors.torch import load_file, save_file

    from matrix_lib.backbones import lora as lora_module
    from matrix_lib.hosts.comfy.lora import apply_lora
    from matrix_lib.io.lora.read import FORMATS, load_lora, save_lora

    family = "ltx" if pair.version == "0.9" else "ltx2"
    modules = [
        f"transformer_blocks.{i}.attn{n}.to_{p}" for i in (0, 1) for n in (1, 2) for p in ("q", "k", "v", "out.0")
    ]
    modules += ["transformer_blocks.0.ff.net.0.proj"]
    modules += ["transformer_blocks.1.audio_to_video_attn.to_q"] if family == "ltx2" else []
    net, factors = pair.pipe.transformer, {}
    for at, name in enumerate(modules):
        rows, columns = net.get_submodule(name).weight.shape
        factors[name] = lora_module.Factors(noise((4, columns), at), noise((rows, 4), 100 + at), 8.0)
    lora = lora_module.AlignmentLoRA(family, factors)
    plain, _, conds = pair.pipeline(*GRIDS[0])
    save_lora(lora, tmp_path / "x.safetensors", "diffusers")
    net.load_lora_adapter(str(tmp_path), weight_name="x.safetensors", adapter_name="x")
    try:
        wanted = pair.pipeline(*GRIDS[0])[0]
    finally:
        net.unload_lora()
    assert relative(wanted, plain) > 1e-2
    formats = [form for form in FORMATS if form != "tavid"]  # which has a widened projection
    for form in formats:
        save_lora(lora, tmp_path / form, form)
    (tmp_path / "trainer").mkdir()
    state = {key.removeprefix("transformer."): value for key, value in load_file(tmp_path / "x.safetensors").items()}
    save_file({f"diffusion_model.{key}": value for key, value in state.items()}, tmp_path / "trainer" / "x.safetensors")
    for place in (*formats, "trainer/x.safetensors"):
        read = load_lora(tmp_path / place, family=family)
        assert read.family == family
        scale = 1.0 if read.stored_scale else 2.0
        model = apply_lora(pair.model, read.with_scale(scale))
        model = model[0] if isinstance(model, tuple) else model
        got = pair.host(model, conds, *GRIDS[0])
        assert relative(got if pair.version == "0.9" else got.unbind()[0], wanted) < 1e-3, place
