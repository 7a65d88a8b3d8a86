"""Three codecs from one file: ours, diffusers' and ComfyUI's give the same numbers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import LATENT_SCALE, Sizes, codec_names, make_codec
from matrix_lib.mini.codec import Codec, CodecConfig
from matrix_lib.mini.world import WorldConfig, make_clips


def relative(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {name: value.float() for name, value in bundle.load().weights("codec").items()}


@pytest.fixture(scope="module")
def codec(weights: dict[str, Tensor]) -> Codec:
    made = Codec(CodecConfig(base=len(weights["decoder.head.0.gamma"]), latent=len(weights["conv2.weight"])))
    made.load_state_dict(weights)
    return made.eval()


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """(1, 3, 9, 64, 48) in [-1, 1]: no square, and two chunks of the hosts' way through time."""
    video = make_clips(9, 1, WorldConfig(height=64, width=64, frames=9)).video[..., :48]
    return video.transpose(1, 2).float().div(127.5).sub(1.0)


def test_equals_diffusers(codec: Codec, weights: dict[str, Tensor], clip: Tensor) -> None:
    other: Any = make_codec(Sizes(codec_base=codec.config.base))
    other.load_state_dict(codec_names(weights))
    with torch.no_grad():
        wanted = other.encode(clip).latent_dist.mode()
        latents = codec.encode(clip)
        assert relative(latents, wanted) < 1e-4
        assert relative(codec.decode(latents).clamp(-1, 1), other.decode(latents).sample) < 1e-4


def test_equals_the_native_vae(comfy: ModuleType, codec: Codec, weights: dict[str, Tensor], clip: Tensor) -> None:
    import comfy.sd

    with torch.inference_mode():
        vae = comfy.sd.VAE(sd=dict(weights))
        pixels = clip[0].permute(1, 2, 3, 0).add(1).div(2)
        latents = codec.encode(clip)
        assert relative(vae.encode(pixels).float(), latents) < 1e-4
        wanted = codec.decode(latents)[0].permute(1, 2, 3, 0).add(1).div(2).clamp(0, 1)
        assert relative(vae.decode(latents)[0].float(), wanted) < 1e-4


def test_the_past_does_not_see_the_future(codec: Codec, clip: Tensor) -> None:
    changed = clip.clone()
    changed[:, :, 5:] = 0.0
    with torch.no_grad():
        before, after = codec.encode(clip), codec.encode(changed)
        assert torch.allclose(before[:, :, :2], after[:, :, :2], atol=1e-5)
        assert not torch.allclose(before[:, :, 2], after[:, :, 2], atol=1e-2)


def test_latents_have_unit_variance_in_the_transformers_scale(codec: Codec) -> None:
    video = make_clips(11, 4, WorldConfig(height=128, width=128, frames=5)).video
    with torch.no_grad():
        latents = codec.encode(video.transpose(1, 2).float().div(127.5).sub(1.0)) * LATENT_SCALE
    assert 0.8 < float(latents.std()) < 1.25
    assert abs(float(latents.mean())) < 0.2


def test_standardising_changes_units_and_nothing_else() -> None:
    torch.manual_seed(0)
    small = Codec(CodecConfig(base=4)).eval()
    video = torch.randn(1, 3, 5, 16, 16)
    with torch.no_grad():
        latents, decoded = small.encode(video), small.decode(small.encode(video))
        mean, std = torch.randn(16), torch.rand(16) + 0.5
        small.standardise(mean, std, 2.0)
        wanted = (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1) * 2.0
        assert torch.allclose(small.encode(video), wanted, atol=1e-4)
        assert torch.allclose(small.decode(small.encode(video)), decoded, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 4, 16, 16), "4n\\+1 frames"), ((1, 3, 5, 20, 16), "multiples of 8"), ((3, 5, 16, 16), "video must be")],
)
def test_sizes_that_the_strides_do_not_divide(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Codec(CodecConfig(base=4)).encode(torch.zeros(shape))


def test_other_wrong_input() -> None:
    with pytest.raises(ValueError, match=r"latents must be \(batch, 16"):
        Codec(CodecConfig(base=4)).decode(torch.zeros(1, 8, 2, 2, 2))
    with pytest.raises(ValueError, match="at least 2; got 3"):
        CodecConfig(base=3)
