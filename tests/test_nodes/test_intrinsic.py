"""Intrinsic denoising through its node, in the real host."""

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_native import conditioning, latent, native_model, sample, text_rows

FAMILY, SIZE = "wan_t2v", (2, 6, 8)
FIXED = {"scale": "fixed (c_g)", "strength": 10000.0, "normalise": False}
SHARE = {"scale": "share of the score", "share": 0.2}
REST = dict(rate=0.05, noise=1.0, on="noisy latent", region="boxes", channels="all channels together")


@pytest.fixture(scope="module")
def scene(pack):
    """(model, positive, negative, latent) of a tiny Wan with two tracked instances."""
    host = pack.lib("hosts.comfy.run")
    keys = {
        host.BINDING: make_binding(pack.lib("core.words.binding"), text_rows(FAMILY)),
        host.TRACKS: make_tracks(pack.lib("core.tracks.tracks"), 5, 48, 64),
    }
    given = conditioning(FAMILY, 1, SIZE, **keys), conditioning(FAMILY, 2, SIZE), latent(FAMILY, 1, SIZE)
    return native_model(FAMILY), *given


def refine(pack, model, iterations=2, scale=FIXED, **more):
    return pack.run("MatrixIntrinsicDenoising", model=model, iterations=iterations, scale=scale, **{**REST, **more})


def test_it_acts_and_none_is_bit_identical(pack, scene):
    model, *given = scene
    plain = sample(model, *given)
    assert torch.equal(sample(refine(pack, model, 0).result[0], *given), plain)
    outs = [plain]
    for more in (
        {}, {"scale": SHARE}, {"scale": {**FIXED, "normalise": True}}, {"scale": {**FIXED, "strength": 0.0}},
        {"on": "predicted clean latent"}, {"region": "masks"}, {"channels": "each channel"}, {"noise": 0.0},
        {"rate": 0.2}, {"iterations": 1},
    ):  # fmt: skip
        out = sample(refine(pack, model, **more).result[0], *given)
        assert out.isfinite().all()
        assert not any(torch.equal(out, other) for other in outs) or more == {"region": "masks"}
        outs.append(out)
    assert torch.equal(sample(model, *given), plain)


def test_tracks_and_schedule_of_its_own_and_steering_beside_it(pack, scene):
    model, positive, negative, z = scene
    tracks = positive[0][1][pack.lib("hosts.comfy.run").TRACKS]
    bare = conditioning(FAMILY, 1, SIZE)
    want = sample(refine(pack, model).result[0], positive, negative, z)
    assert torch.equal(sample(refine(pack, model, tracks=tracks).result[0], bare, negative, z), want)
    off = pack.run("MatrixScheduleCurve", shape={"shape": "constant", "strength": 0.0}, start=0.0, end=1.0).result[0]
    plain = sample(model, positive, negative, z)
    assert torch.equal(sample(refine(pack, model, schedule=off).result[0], positive, negative, z), plain)
    masked = {
        "mode": "masked attention (IVG-DA)", "frozen_steps": 1, "normalisation": "per channel", "words": True,
        "layers": "all", "predictions": "with and without the prompt",
    }  # fmt: skip
    steered = pack.run("MatrixAttentionGuidance", model=model, mode=masked).result[0]
    first = sample(refine(pack, steered).result[0], positive, negative, z)
    then = pack.run("MatrixAttentionGuidance", model=refine(pack, model).result[0], mode=masked).result[0]
    assert torch.equal(sample(then, positive, negative, z), first), "in either order"
    assert not torch.equal(first, want)


def test_what_is_wrong_is_said(pack, scene):
    model, _, negative, z = scene
    with pytest.raises(ValueError, match="Connect tracks to this node"):
        sample(refine(pack, model).result[0], negative, negative, z)
    with pytest.raises(ValueError, match="already"):
        refine(pack, refine(pack, model).result[0])
