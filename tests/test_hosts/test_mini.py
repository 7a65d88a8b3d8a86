"""The mini model in ComfyUI against the same bundle in diffusers: words, network, sampling."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

PROMPT = "the red diamond carries the orange square to the cyan circle"
STEPS, CFG = 2, 3.0


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def loaded(comfy: ModuleType) -> Any:
    from matrix_lib.hosts.bundle import load
    from matrix_lib.hosts.comfy.mini import load_mini

    with torch.inference_mode():
        return load_mini(load(), torch.float32)


@pytest.fixture(scope="module")
def pipe() -> Any:
    from matrix_lib.hosts.bundle import load
    from matrix_lib.hosts.diffusers.mini import Sizes, build_pipeline

    found = load()
    codec, text, transformer = (found.weights(part) for part in ("codec", "text", "transformer"))
    made = build_pipeline(Sizes(**found.sizes), codec, text, transformer, found.tokenizer)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def first() -> Tensor:
    """(1, 128, 128, 3) in [0, 1]: a first frame of the world."""
    from matrix_lib.mini.world import WorldConfig, make_clips

    return make_clips(5, 1, WorldConfig(height=128, width=128, frames=5)).video[0, :1].permute(0, 2, 3, 1) / 255


def noise_like(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    assert torch.isfinite(wanted).all()
    return float((got - wanted).abs().max() / wanted.abs().max())


def rows(pipe: Any, text: str) -> Tensor:
    from matrix_lib.hosts.diffusers.mini import token_ids

    with torch.no_grad():
        return pipe.text_encoder(token_ids(pipe.tokenizer, [text], 226))[0]


def encode(clip: Any, text: str) -> Tensor:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def test_words_are_the_same(loaded: Any, pipe: Any) -> None:
    for text in (PROMPT, ""):
        got = encode(loaded.clip, text)
        assert got.shape == (1, 226, 128)
        assert relative(got, rows(pipe, text)) < 1e-4


@pytest.mark.parametrize("timestep", [999, 20])
def test_the_network_is_the_same(loaded: Any, pipe: Any, timestep: int) -> None:
    from matrix_lib.hosts.diffusers.mini import Sizes, rotary

    latents, text, time = noise_like(1, 5, 32, 16, 16), noise_like(1, 226, 128, seed=1), torch.tensor([timestep])
    native = loaded.model.clone()
    with torch.inference_mode():
        native.patch_model()
        try:
            got = native.model.diffusion_model(latents.transpose(1, 2), time.float(), text)
        finally:
            native.unpatch_model()
        wanted = pipe.transformer(latents, text, time, image_rotary_emb=rotary(Sizes()), return_dict=False)[0]
    assert relative(got.transpose(1, 2), wanted) < 1e-4


def test_a_sampled_clip_is_the_pipelines(loaded: Any, pipe: Any, first: Tensor) -> None:
    import comfy.samplers

    from matrix_lib.hosts.comfy.first_frame import image_condition

    noise = noise_like(1, 16, 5, 16, 16, seed=2)
    wanted = pipe(
        image=first.movedim(-1, 1),
        prompt=PROMPT,
        latents=noise.transpose(1, 2).clone(),
        height=128,
        width=128,
        num_frames=17,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        output_type="latent",
    ).frames.transpose(1, 2)
    with torch.inference_mode():
        condition = image_condition(loaded.model, loaded.vae, first, 128, 128, 17)
        guider = comfy.samplers.CFGGuider(loaded.model)
        guider.set_conds(*([[encode(loaded.clip, text), dict(condition.values)]] for text in (PROMPT, "")))
        guider.set_cfg(CFG)
        sigmas = comfy.samplers.calculate_sigmas(loaded.model.get_model_object("model_sampling"), "simple", STEPS)
        got = guider.sample(noise, condition.latent["samples"], comfy.samplers.ksampler("euler"), sigmas, seed=7)
    got = loaded.model.get_model_object("latent_format").process_in(got)
    assert relative(got, wanted) < 1e-3


def test_attention_is_fused_on_a_cpu_and_a_capture_asks_for_no_second_one(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a capture costs here was a second attention in each layer."""
    import comfy.sample
    from comfy.cli_args import args as host_args
    from comfy.ldm.modules.attention import attention_pytorch, attention_sub_quad

    from benchmarks.native import Library
    from matrix_lib.hosts.comfy.mini import _fused_attention

    library, text = Library("matrix_lib"), encode(loaded.clip, PROMPT)
    latent = {"concat_latent_image": noise_like(1, 16, 5, 16, 16, seed=3)}
    told = latent | library.carried(17, 128, 128, text.shape[1])

    def sampled(model: Any, given: dict[str, Any]) -> tuple[Tensor, int, int]:
        """Beside the latent: how often fused attention and softmax ran."""
        start, noise = torch.zeros(1, 16, 5, 16, 16), noise_like(1, 16, 5, 16, 16, seed=4)
        with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
            out = comfy.sample.sample(
                model, noise, 1, 1.0, "euler", "simple", [[text, given]], [[text, latent]], start, disable_pbar=True
            )
        count = {event.key: event.count for event in seen.key_averages()}
        kernel = "aten::_scaled_dot_product_flash_attention_for_cpu"
        return out, count.get(kernel, 0), count.get("aten::_softmax", 0)

    plain, *ran = sampled(loaded.model, latent)
    assert ran == [12, 0], "one a layer"
    captured, *ran = sampled(library.recorded(loaded.model), told)
    assert ran == [12, 0]
    assert torch.equal(captured, plain)
    q, k, v = (noise_like(2, 40, 64, seed=seed) for seed in range(3))
    for own in (False, True):  # where somebody asks for the host's chunks, it takes them
        monkeypatch.setattr(host_args, "use_quad_cross_attention", own)
        wanted = (attention_sub_quad if own else attention_pytorch)(q, k, v, 2)
        for override in (None, lambda kernel, *given: kernel(*given)):
            assert torch.equal(_fused_attention(override, attention_sub_quad.__wrapped__, q, k, v, 2), wanted)
    assert torch.equal(_fused_attention(lambda kernel, *given: v, attention_sub_quad.__wrapped__, q, k, v, 2), v)


def test_other_sizes_are_refused_before_anything_runs(loaded: Any, first: Tensor) -> None:
    import comfy.samplers

    from matrix_lib.hosts.comfy.first_frame import image_condition

    with pytest.raises(ValueError, match="got 49 frames of 480x720: set width 128, height 128 and length 17"):
        image_condition(loaded.model, loaded.vae, first, 720, 480, 49)
    guider = comfy.samplers.CFGGuider(loaded.model.clone())
    guider.set_conds([[torch.zeros(1, 226, 128), {}]], [[torch.zeros(1, 226, 128), {}]])
    empty = torch.zeros(1, 16, 3, 8, 8)
    with torch.inference_mode(), pytest.raises(ValueError, match="got 9 frames of 64x64"):
        guider.sample(empty, empty, comfy.samplers.ksampler("euler"), torch.tensor([1.0, 0.0]))


def test_unknown_words_are_told_once_and_too_many_instances_refused(
    loaded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loaded.clip.tokenize("the dog pushes the red circle")
    told = [record.message for record in caplog.records if "never saw 'dog'" in record.message]
    assert len(told) == 1
    with pytest.raises(ValueError, match="at most 5 instances in a clip; got 6"):
        loaded.clip.tokenize(" and ".join(f"<id{i}>" for i in range(1, 7)))
