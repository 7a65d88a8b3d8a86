"""The source that comes with the pack, through the nodes: two steps from a first frame to pixels in the real host."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mini(pack: Any) -> Any:
    """(model, clip, vae) of a loader as a new user finds it."""
    model, clip, vae, low_noise = pack.run("MatrixLoadVideoDiT", source={"source": "mini"}).result
    assert low_noise is model
    return model, clip, vae


def first_frame(pack: Any, mini: Any, **size: int) -> Any:
    model, clip, vae = mini
    with torch.inference_mode():
        texts = ("the red circle pushes the blue square", "")
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts)
    picture = pack.lib("mini.world").make_clips(2, 1).video[0, :1].permute(0, 2, 3, 1) / 255
    given = {"model": model, "positive": positive, "negative": negative, "vae": vae, "image": picture, **size}
    return pack.run("MatrixImageCondition", **given).result


def test_mini_comes_first_and_asks_for_nothing(pack: Any) -> None:
    source = pack.classes["MatrixLoadVideoDiT"].INPUT_TYPES()["required"]["source"][1]["options"][0]
    assert source["key"] == "mini"
    assert not any(source["inputs"].values())


def test_two_steps_from_a_first_frame_to_pixels(pack: Any, mini: Any) -> None:
    import nodes

    model, _, vae = mini
    assert pack.lib("hosts.comfy.repair").needs_repair(model) == []
    assert pack.lib("hosts.comfy.model").grid_of(model, (5, 16, 16)).shape == (5, 16, 16)
    positive, negative, latent = first_frame(pack, mini, width=128, height=128, length=17)
    with torch.inference_mode():
        samples = nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", positive, negative, latent)[0]["samples"]
        frames = vae.decode(samples)
    assert frames.shape == (1, 17, 128, 128, 3)
    assert torch.isfinite(frames).all()
    assert float(frames.std()) > 0.02


def test_the_nodes_own_default_size_is_refused(pack: Any, mini: Any) -> None:
    with pytest.raises(ValueError, match="set width 128, height 128 and length 17"):
        first_frame(pack, mini, width=720, height=480, length=49)
