"""Mochi 1 natively: a diffusers folder with its pipeline's latents; LoRAs in both hosts, in the original's names and
with a mask condition, too; its text encoder; what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support_agreement import check_lora
from support_loras import noise
from support_mochi import read_sizes
from support_models import make_mochi, randomize
from support_sampling import CFG, STEPS, noise_like, relative, sample
from torch import Tensor

import matrix_lib
from matrix_lib.backbones.lora import AlignmentLoRA, Info
from matrix_lib.backbones.weight_names import VAES, to_native
from matrix_lib.core.tracks.tracks import MaskTracks

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = [(13, 64, 96), (7, 96, 64), (25, 32, 48)]
LENGTHS = (23, 9)  # tokens of the prompt and of the negative one


class Pair:
    """One folder in both hosts."""

    def __init__(self, folder: Path) -> None:
        import diffusers

        from matrix_lib.hosts.comfy.load import load_folder

        read_sizes()
        self.folder = make_mochi(folder, vae=False)
        self.model = load_folder(folder, torch.float32, text_encoder=False, vae=False).model
        parts = {
            "transformer": diffusers.MochiTransformer3DModel.from_pretrained(folder / "transformer"),
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        }
        self.pipe = diffusers.MochiPipeline(vae=None, tokenizer=None, text_encoder=None, **parts)
        self.pipe.set_progress_bar_config(disable=True)
        self.sigmas: Any = None

    def both(self, frames: int, height: int, width: int) -> tuple[Any, ...]:
        """(latents of the pipeline, positive, negative, noise)."""
        start = noise_like(1, 12, (frames - 1) // 6 + 1, height // 8, width // 8, seed=frames)
        conds, given = [], {}
        for name, seed, length in zip(("prompt", "negative_prompt"), (1, 2), LENGTHS):
            rows, keep = noise_like(1, 40, 64, seed=seed), torch.arange(40)[None] < length
            given |= {f"{name}_embeds": rows, f"{name}_attention_mask": keep}
            conds.append([[rows, {"attention_mask": keep.long()}]])
        made = self.pipe(
            height=height, width=width, num_frames=frames, num_inference_steps=STEPS, guidance_scale=CFG,
            latents=start, output_type="latent", **given,
        ).frames  # fmt: skip
        self.sigmas = 1.0 - self.pipe.scheduler.sigmas
        return made, *conds, start

    def sampled(self, model: Any, positive: list, negative: list, start: Tensor) -> Tensor:
        """What the host makes of it, scaled as the pipeline's."""
        return self.model.model.process_latent_in(sample(model, positive, negative, start, self.sigmas))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("mochi"))


def test_latents_are_the_pipelines(pair: Pair) -> None:
    """Whose steps are those of the host's scheduler "linear_quadratic"."""
    import comfy.samplers

    for grid in GRIDS:
        wanted, *given = pair.both(*grid)
        got = pair.sampled(pair.model, *given)
        assert relative(got, wanted) < 1e-3, grid
    sampling = pair.model.get_model_object("model_sampling")
    theirs = comfy.samplers.calculate_sigmas(sampling, "linear_quadratic", STEPS)
    torch.testing.assert_close(theirs, pair.sigmas, rtol=1e-5, atol=1e-6)


def test_a_lora_does_the_same_in_both_hosts(pair: Pair, tmp_path: Path) -> None:
    check_lora("mochi", pair.pipe, pair.model, pair, GRIDS[2], tmp_path)


def test_a_lora_of_the_original(pair: Pair, tmp_path: Path) -> None:
    """Its trainer's files have the original's names and no `.weight`, and of the last block's text a narrower module.
    What the host's own loader makes of one is what ours does."""
    import comfy.sd

    from matrix_lib.hosts.comfy.lora import apply_lora
    from matrix_lib.io.lora.read import load_lora

    state = pair.model.model.diffusion_model.state_dict()
    tensors = {}
    for at, name in enumerate(f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv_x", "attn.qkv_y", "mod_y")):
        rows, columns = state[f"{name}.weight"].shape
        tensors |= {f"{name}.lora_A": noise((4, columns), at), f"{name}.lora_B": noise((rows, 4), 50 + at)}
    save_file(tensors, tmp_path / "x.safetensors")
    lora = load_lora(tmp_path / "x.safetensors")
    assert lora.family == "mochi"
    words = {"transformer_blocks.0.norm1_context.linear", "transformer_blocks.1.norm1_context.linear_1"}
    assert words < set(lora.factors)
    plain, *given = pair.both(*GRIDS[2])
    theirs, _ = comfy.sd.load_lora_for_models(pair.model, None, tensors, 1.0, 0.0)
    wanted = pair.sampled(theirs, *given)
    assert relative(wanted, plain) > 1e-2
    assert relative(pair.sampled(apply_lora(pair.model, lora)[0], *given), wanted) < 1e-4
    with matrix_lib.apply_lora(pair.pipe, lora):
        assert relative(pair.both(*GRIDS[2])[0], wanted) < 1e-3


def test_a_lora_with_a_mask_condition(pair: Pair) -> None:
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.hosts.comfy.mask_condition import target_mask

    grid = GRIDS[0]
    place = pair.pipe.transformer.patch_embed.proj
    weight = torch.cat([place.weight.detach(), noise((len(place.weight), 1, 2, 2), 3, 0.3)], 1)
    lora = AlignmentLoRA(
        "mochi", {}, {"weight": weight, "bias": place.bias.detach() + 0.1}, info=Info("target_mask", trigger="target")
    )
    tracks = MaskTracks.from_boxes({"target": {0: (8, 8, 48, 56)}}, *grid, hold=True)
    plain, positive, negative, start = pair.both(*grid)
    with matrix_lib.apply_lora(pair.pipe, lora, tracks):
        wanted = pair.both(*grid)[0]
    assert relative(wanted, plain) > 1e-2
    patched, _ = apply_lora(pair.model, lora)
    mask = target_mask(tracks, ("target",), start).channels
    conds = [add_extra(each, mask) for each in (positive, negative)]
    assert relative(pair.sampled(patched, *conds, start), wanted) < 1e-3
    assert torch.equal(pair.both(*grid)[0], plain)


def test_prompts_of_a_folders_text_encoder(comfy: ModuleType, tmp_path: Path) -> None:
    """Its rows are the pipeline's, and the mask says how many of them attention reads; captions behind a prompt are
    refused."""
    import diffusers
    import transformers

    from matrix_lib.hosts.comfy.captions import add_captions
    from matrix_lib.hosts.comfy.load import load_text_encoder
    from matrix_lib.hosts.comfy.prompts import bind_prompt

    read_sizes()
    make_mochi(tmp_path, vae=False, text=True)
    clip, words = load_text_encoder(tmp_path, "mochi"), Path(comfy.__path__[0]) / "text_encoders" / "t5_tokenizer"
    pipe = diffusers.MochiPipeline(
        tokenizer=transformers.AutoTokenizer.from_pretrained(words),
        text_encoder=transformers.T5EncoderModel.from_pretrained(tmp_path / "text_encoder"),
        transformer=None, vae=None, scheduler=None,
    )  # fmt: skip
    prompt = "a red dog rides the van"
    read, binding = bind_prompt(clip, prompt, "d: a red dog\nv: the van")
    assert (binding.length, read.notes) == (256, ())
    with torch.inference_mode():
        ((rows, more),) = clip.encode_from_tokens_scheduled(read.encode)
        theirs, keep = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[:2]
    assert torch.equal(more["attention_mask"].bool(), keep)
    count = int(keep.sum())
    assert max(binding.phrase("v").rows) == count - 2  # in front of the end token
    assert relative(rows[:, :count], theirs[:, :count]) < 1e-3
    with pytest.raises(ValueError, match="Mochi 1: its pooling of the text mixes"):
        add_captions(clip, [[rows, {}]], [("d", "a dog")])
    long = bind_prompt(clip, "a red dog and " * 80, "d: a red dog#1", overlong="keep")[1]
    assert long.length > 256


def test_what_it_cannot_is_refused_by_name(pair: Pair) -> None:
    from matrix_lib.hosts.comfy.families import family
    from matrix_lib.hosts.comfy.first_frame import image_condition

    vae = SimpleNamespace(latent_channels=12, spacial_compression_encode=lambda: 8)
    with pytest.raises(ValueError, match="this Mochi 1 is a text-to-video model"):
        image_condition(pair.model, vae, torch.zeros(1, 32, 48, 3), 48, 32, 13)
    known = dict(pair.pipe.transformer.config)
    with pytest.raises(ValueError, match="has 4 heads; ComfyUI's Mochi 1 has 2"):
        family("mochi").adapt(pair.model, pair.folder, {**known, "num_attention_heads": 4}, None)


def test_the_vae_of_a_folder(comfy: ModuleType) -> None:
    """One frame of pixels, and latents through convolutions that do not mix frames: elsewhere both hosts' VAEs differ.
    Diffusers drops the frames in front of the first one at the end, ComfyUI after each step up; in encoding diffusers'
    attention looks back alone, ComfyUI's in both directions."""
    import comfy.ldm.genmo.vae.model as host
    from diffusers import AutoencoderKLMochi

    sides, layers = (32, 64, 96, 128), (3, 1, 1, 1, 3)
    theirs = AutoencoderKLMochi(
        encoder_block_out_channels=sides, decoder_block_out_channels=sides, layers_per_block=layers
    )
    randomize(theirs, 1, 0.03)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.startswith("decoder.") and name.endswith("conv.weight"):
                weight[:, :, :-1] = 0
    given: dict[str, Any] = {"base_channels": 32, "channel_multipliers": [1, 2, 3, 4], "latent_dim": 12}
    given["num_res_blocks"] = list(layers)
    own = torch.nn.Module()
    own.encoder = host.Encoder(
        in_channels=15, temporal_reductions=[1, 2, 3], spatial_reductions=[2, 2, 2], prune_bottlenecks=[False] * 5,
        has_attentions=[False, True, True, True, True], affine=True, bias=True, input_is_conv_1x1=True,
        padding_mode="replicate", **given,
    )  # fmt: skip
    own.decoder = host.Decoder(
        out_channels=3, temporal_expansions=[1, 2, 3], spatial_expansions=[2, 2, 2], has_attention=[False] * 5,
        padding_mode="replicate", output_norm=False, **given,
    )  # fmt: skip
    own.load_state_dict(to_native(theirs.state_dict(), VAES["mochi"]))
    with torch.no_grad():
        pixels, latents = noise_like(1, 3, 1, 16, 16), noise_like(1, 12, 2, 2, 2)
        assert relative(own.encoder(pixels).mode(), theirs.encode(pixels).latent_dist.mode()) < 1e-3
        assert relative(own.decoder(latents), theirs.decode(latents)[0]) < 1e-3
