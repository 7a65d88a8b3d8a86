"""Kandinsky 5 natively: a diffusers folder with its pipelines' latents, for text and for a picture; one LoRA in both
hosts; its text encoders; what tells it from the network that makes pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support_agreement import check_lora
from support_counts import SOAK
from support_kandinsky import kandinsky5_text
from support_models import make_kandinsky5
from support_sampling import CFG, STEPS, noise_like, relative, sample
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = {
    False: [(9, 64, 96), (5 if SOAK else 1, 480, 480), (13, 32, 64)],
    True: [(17, 64, 96), (21, 32, 64), (17, 96, 64)],
}
"""With a picture its pipeline ends by taking the first four latent frames to the looks of the next."""


class Pair:
    """One folder in both hosts."""

    def __init__(self, folder: Path) -> None:
        import diffusers

        from matrix_lib.hosts.comfy.load import load_folder

        make_kandinsky5(folder)
        self.model = load_folder(folder, torch.float32, text_encoder=False, vae=False).model
        parts = {
            "transformer": diffusers.Kandinsky5Transformer3DModel.from_pretrained(folder / "transformer"),
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
            "vae": diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        }
        parts |= dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        self.pipes = diffusers.Kandinsky5T2VPipeline(**parts), diffusers.Kandinsky5I2VPipeline(**parts)
        for pipe in self.pipes:
            pipe.set_progress_bar_config(disable=True)
        self.sigmas: Any = None

    def both(self, frames: int, height: int, width: int, first: Tensor | None = None) -> tuple[Any, ...]:
        """(latents of the pipeline (B, C, T, h, w), positive, negative, noise). first: latents of a picture."""
        start = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
        room = torch.zeros(1, 17, *start.shape[2:])
        latents = torch.cat([start, room], 1)
        if first is not None:
            latents[:, :16, :1], latents[:, -1, 0] = first, 1.0
        conds, given = [], {}
        for name, seed in (("prompt", 1), ("negative_prompt", 2)):
            rows, pooled = noise_like(1, 20 + seed, 3584, seed=seed), noise_like(1, 768, seed=10 + seed)
            conds.append([[rows, {"pooled_output": pooled}]])
            given |= {f"{name}_embeds_qwen": rows, f"{name}_embeds_clip": pooled}
            given[f"{name}_cu_seqlens"] = torch.tensor([0, rows.shape[1]])
        pipe, more = self.pipes[0], {}
        if first is not None:
            pipe, more = self.pipes[1], {"image": "is in the latents"}
        made = pipe(
            height=height, width=width, num_frames=frames, num_inference_steps=STEPS, guidance_scale=CFG,
            latents=latents.movedim(1, -1).contiguous(), output_type="latent", **given, **more,
        ).frames  # fmt: skip
        self.sigmas = pipe.scheduler.sigmas.clone()
        return made.movedim(-1, 1), *conds, start

    def sampled(self, model: Any, positive: list, negative: list, start: Tensor, first: Any = None) -> Tensor:
        """What the host makes of it, scaled as the pipeline's; first: what `first_frame` gives."""
        values, latent = first or ({}, {"samples": torch.zeros_like(start)})
        conds = ([[rows, {**more, **values}] for rows, more in each] for each in (positive, negative))
        made = sample(model, *conds, start, self.sigmas, latent=latent)
        return self.model.model.process_latent_in(made)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("kandinsky5"))


@pytest.fixture
def alike(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Any:
    """alike(grid): the host with what diffusers does else: it rounds q and k to bfloat16 with their positions, and
    spreads those more where a side is shorter than 480 or longer than 854."""
    import comfy.ldm.kandinsky5.model as host

    rope = host.apply_rope1
    monkeypatch.setattr(host, "apply_rope1", lambda x, freqs: rope(x, freqs).to(torch.bfloat16).to(x.dtype))

    def at(grid: tuple[int, int, int]) -> None:
        net = pair.model.model.diffusion_model
        monkeypatch.setattr(net, "rope_scale_factor", tuple(map(float, pair.pipes[0]._get_scale_factor(*grid[1:]))))

    return at


@pytest.mark.parametrize("picture", [False, True])
def test_latents_are_the_pipelines(pair: Pair, alike: Any, picture: bool) -> None:
    from matrix_lib.hosts.comfy.families import family

    for grid in GRIDS[picture]:
        alike(grid)
        size = (1, 16, 1, grid[1] // 8, grid[2] // 8)
        first = noise_like(*size, seed=4) if picture else None
        wanted, positive, negative, start = pair.both(*grid, first)
        given = None
        if first is not None:
            vae = SimpleNamespace(encode=lambda _, first=first: pair.model.model.process_latent_out(first))
            picture_of = torch.zeros(1, *grid[1:], 3)
            given = family("kandinsky5").first_frame(pair.model, vae, picture_of, torch.zeros_like(start), grid[0])
        got = pair.sampled(pair.model, positive, negative, start, given)
        if first is not None:
            torch.testing.assert_close(got[:, :, :1], first)
            got = pair.pipes[1].normalize_first_frame(got.movedim(1, -1)).movedim(-1, 1)
        assert relative(got, wanted) < 1e-3, grid


def test_a_lora_does_the_same_in_both_hosts(pair: Pair, alike: Any, tmp_path: Path) -> None:
    alike(GRIDS[False][0])
    check_lora("kandinsky5", pair.pipes[0], pair.model, pair, GRIDS[False][0], tmp_path)


@pytest.mark.soak
def test_text_encoders_of_a_folder(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both give what the pipeline has of them for the same tokens, Qwen's but for its last norm, which this host leaves
    out. The prompt's own words are on the same rows, though the templates differ in a letter."""
    from comfy.text_encoders import qwen_vl

    from matrix_lib.hosts.comfy.load import load_text_encoder

    # a tower that looks at pictures, of 600 million weights, which a prompt has no use for
    monkeypatch.setattr(qwen_vl, "Qwen2VLVisionTransformer", lambda **given: torch.nn.Identity())
    make_kandinsky5(tmp_path / "parts", text_dim=128)
    pipe = kandinsky5_text(tmp_path / "parts", comfy)
    for name in ("text_encoder", "text_encoder_2"):
        getattr(pipe, name).save_pretrained(tmp_path / name)
    clip = load_text_encoder(tmp_path, "kandinsky5")
    prompt = "a red dog rides the van"
    with torch.inference_mode():
        tokens = clip.tokenize(prompt)
        ((rows, more),) = clip.encode_from_tokens_scheduled(tokens)
        theirs, pooled, _ = pipe.encode_prompt(prompt)
        ids = torch.tensor([[token for token, _ in tokens["qwen25_7b"][0]]])
        hidden = pipe.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        normed = pipe.text_encoder.model.language_model.norm(rows)
    assert rows.shape == theirs.shape
    assert relative(more["pooled_output"], pooled) < 1e-3
    assert relative(normed, hidden[:, -rows.shape[1] :]) < 1e-3
    (tmp_path / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_text_encoder(tmp_path, "kandinsky5")


def test_networks_that_make_pictures_are_refused(comfy: ModuleType) -> None:
    import comfy.ops
    from comfy.ldm.kandinsky5.model import Kandinsky5

    from matrix_lib.hosts.comfy.families import family

    sizes = {"model_dim": 128, "time_dim": 32, "ff_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 1}
    ops = {"device": "meta", "operations": comfy.ops.disable_weight_init}
    family("kandinsky5").check(Kandinsky5(**sizes, **ops))
    with pytest.raises(ValueError, match="64 numbers a patch it makes pictures"):
        family("kandinsky5").check(Kandinsky5(visual_embed_dim=64, **sizes, **ops))
