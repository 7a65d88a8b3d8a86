"""SkyReels I2V, on HunyuanVideo's network with a picture beside the noise: how the host tells it, its first frame
through the node, its words, and its diffusers pipeline's latents. Maps and steering are with all families."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support_hunyuan import hunyuan_text
from support_models import make_hunyuan
from support_sampling import CFG, STEPS, noise_like, relative, sample
from support_words import letters, make_clip
from torch import Tensor

from matrix_lib.backbones.lora import AlignmentLoRA, Factors
from matrix_lib.backbones.weight_names import FAMILIES, to_native
from matrix_lib.io.lora.read import load_lora, save_lora

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = [(9, 48, 64), (13, 32, 32), (5, 64, 112)]


class Encoder:
    """diffusers' VAE, asked as the host's is (which makes HunyuanVideo's in one size only), and drawn from as the
    pipeline draws."""

    latent_channels = 16

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, picture: Tensor) -> Tensor:
        with torch.no_grad():
            found = self.vae.encode(2 * picture.movedim(-1, 1)[:, :, None] - 1).latent_dist
        return found.sample(torch.Generator().manual_seed(5))

    def decode(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent).sample


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Any:
    """(MODEL of a native file, diffusers' pipeline around the same weights, encoder of pictures)."""
    import diffusers

    from matrix_lib.hosts.comfy.load import load_folder, load_native
    from matrix_lib.hosts.comfy.model import backbone_of, grid_of

    root = tmp_path_factory.mktemp("skyreels")
    folder = make_hunyuan(root / "folder", i2v="skyreels")
    parts = {
        "vae": diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        "transformer": diffusers.HunyuanVideoTransformer3DModel.from_pretrained(folder / "transformer"),
    }
    save_file(to_native(parts["transformer"].state_dict(), FAMILIES["hunyuan_video"]), root / "native.safetensors")
    model = load_native(str(root / "native.safetensors"), torch.float32).model
    other = load_folder(folder, torch.float32, text_encoder=False, vae=False).model
    for each in (model, other):  # told by its 32 channels
        assert (type(each.model).__name__, backbone_of(each).name) == ("HunyuanVideoSkyreelsI2V", "hunyuan_video")
        assert grid_of(each, (3, 4, 6)).fps == 24
    pipe = diffusers.HunyuanSkyreelsImageToVideoPipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return SimpleNamespace(model=model, pipe=pipe, vae=Encoder(parts["vae"]))


def both(pair: Any, pack: Any, frames: int, height: int, width: int) -> tuple[Any, ...]:
    """(latents of the pipeline, conditionings and noise of ComfyUI), with a negative prompt and, as its authors have
    it, a guidance input of 1."""
    noise = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    words, pooled = noise_like(2, 24, 64, seed=1), noise_like(2, 768, seed=2)
    keep = torch.ones(1, 24)
    wanted = pair.pipe(
        image=picture, height=height, width=width, num_frames=frames, num_inference_steps=STEPS,
        latents=noise.clone(), prompt_embeds=words[:1], pooled_prompt_embeds=pooled[:1], prompt_attention_mask=keep,
        negative_prompt_embeds=words[1:], negative_pooled_prompt_embeds=pooled[1:],
        negative_prompt_attention_mask=keep, true_cfg_scale=CFG, guidance_scale=1.0, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).frames  # fmt: skip
    conds = [[[words[i : i + 1], {"pooled_output": pooled[i : i + 1], "guidance": 1.0}]] for i in (0, 1)]
    positive, negative, latent = pack.run(
        "MatrixImageCondition", model=pair.model, positive=conds[0], negative=conds[1], vae=pair.vae,
        image=picture.movedim(1, -1), width=width, height=height, length=frames,
    ).result  # fmt: skip
    assert latent["samples"].shape == noise.shape
    assert set(positive[0][1]) - set(conds[0][0][1]) == {"concat_latent_image"}
    return wanted, positive, negative, noise


def made(pair: Any, model: Any, *given: Any) -> Tensor:
    return pair.model.model.process_latent_in(sample(model, *given, pair.pipe.scheduler.sigmas.clone()))  # type: ignore[no-any-return]


def test_latents_are_the_pipelines_from_a_picture_through_the_node(pair: Any, pack: Any) -> None:
    for grid in GRIDS:
        wanted, *given = both(pair, pack, *grid)
        assert relative(made(pair, pair.model, *given), wanted) < 1e-4, grid


def test_a_lora_does_the_same_in_both_hosts(pair: Any, pack: Any, tmp_path: Path) -> None:
    """Of both kinds of blocks, on a diffusers pipeline and, in its names and natively named, in ComfyUI."""
    from matrix_lib import apply_lora as apply_to_pipeline
    from matrix_lib.hosts.comfy.lora import apply_lora

    double = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    names = [f"transformer_blocks.0.attn.{name}" for name in double]
    names += [f"single_transformer_blocks.0.attn.{name}" for name in double[:3]]
    shapes = [pair.pipe.transformer.get_submodule(name).weight.shape for name in names]
    factors = {
        name: Factors(0.1 * noise_like(4, columns, seed=at), 0.1 * noise_like(rows, 4, seed=50 + at), 8.0)
        for at, (name, (rows, columns)) in enumerate(zip(names, shapes))
    }
    plain, *given = both(pair, pack, *GRIDS[0])
    with apply_to_pipeline(pair.pipe, AlignmentLoRA("hunyuan_video", factors)):
        wanted = both(pair, pack, *GRIDS[0])[0]
    assert relative(wanted, plain) > 1e-2
    for form in ("diffusers", "comfyui"):
        save_lora(AlignmentLoRA("hunyuan_video", factors), tmp_path / form, form)  # type: ignore[arg-type]
        patched, report = apply_lora(pair.model, load_lora(tmp_path / form))
        assert report.matched == report.total
        assert relative(made(pair, patched, *given), wanted) < 1e-3, form


def test_words_are_bound_in_both_hosts(comfy: ModuleType, pack: Any, tmp_path: Path) -> None:
    """On the same characters: natively by HunyuanVideo's CLIP, in diffusers by the template of the pipeline's own
    module."""
    import diffusers

    from matrix_lib.hosts.diffusers.prompts import bind_prompt

    prompt = "FPS-24, a tall man pulls a red cart"
    phrases = "man: a tall man\ncart: a red cart\npulls = verb(man -> cart)"
    how = {"form": "as written", "length": "cut to the model's length"}
    _, bound, *_ = pack.run("MatrixBindPrompt", clip=make_clip("llama"), prompt=prompt, phrases=phrases, **how).result
    make_hunyuan(tmp_path, i2v="skyreels")
    parts = dict(hunyuan_text(tmp_path, comfy, False).components)
    pipe = diffusers.HunyuanSkyreelsImageToVideoPipeline(**parts)
    ours = bind_prompt(pipe, prompt, phrases)
    for here, there in zip(bound.phrases, ours.phrases, strict=True):
        assert (here.name, here.spans) == (there.name, there.spans)
        for binding, phrase in ((bound, here), (ours, there)):
            text = "".join(token.text for token in binding.tokens if token.row in phrase.rows)
            assert text.replace("\u0120", "") == letters(phrase.text)  # a space, as the tokenizer's file has it
