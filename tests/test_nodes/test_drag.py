"""Cut and drag, and dual-clock denoising, through their nodes in the real host."""

import pytest
import torch
from support_native import conditioning, latent, native_model, sample

FAMILY, SIZE = "wan_t2v", (2, 6, 8)
HEIGHT, WIDTH, FRAMES = 48, 64, 5


@pytest.fixture(scope="module")
def tracks(pack):
    keys = {"dog": {0: (4, 6, 20, 22), 4: (36, 20, 52, 36)}}
    return pack.lib("core.tracks.tracks").MaskTracks.from_boxes(keys, FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


def test_the_animation_is_the_librarys_own_and_fits_the_picture(pack, tracks, picture):
    clip = pack.run("MatrixCutAndDrag", image=picture, tracks=tracks).result[0]
    assert clip.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert torch.equal(clip, pack.lib("core.guidance.cut_and_drag").cut_and_drag(picture[0], tracks))
    assert torch.equal(clip[0], picture[0])
    assert torch.equal(clip[4, 20:36, 36:52], picture[0, 6:22, 4:20])
    large = torch.rand(2, 2 * HEIGHT, 2 * WIDTH, 4, generator=torch.Generator().manual_seed(1))
    wide = pack.run("MatrixCutAndDrag", image=large, tracks=tracks).result[0]
    assert wide.shape == (FRAMES, 2 * HEIGHT, 2 * WIDTH, 3)
    assert torch.equal(wide[4, 40:72, 72:104], large[0, 12:44, 8:40, :3]), "tracks of another size are framed"


def test_with_a_vae_it_comes_out_encoded_as_well(pack, tracks):
    """As the host's own VAE Encode has it; mini's VAE, whose model makes one size, which is known before it encodes."""
    import nodes

    small, tracks = tracks, tracks.take([0, 1, 2, 3, *[4] * 13])
    vae = pack.run("MatrixLoadVideoDiT", source={"source": "mini"}).result[2]
    large = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(2))
    frames, encoded, moved = pack.run("MatrixCutAndDrag", image=large, tracks=tracks, vae=vae).result
    assert (moved.frames, moved.height) == (17, 128)
    with torch.inference_mode():  # as the host runs its nodes
        (own,) = nodes.VAEEncode().encode(vae, frames)
    assert torch.equal(encoded["samples"], own["samples"])
    assert pack.run("MatrixCutAndDrag", image=large, tracks=tracks).result[1] is None
    for given in ({"image": large.repeat(1, 2, 2, 1), "tracks": tracks}, {"image": large, "tracks": small}):
        with pytest.raises(ValueError, match="mini model makes 17 frames of 128x128 pixels and no other size"):
            pack.run("MatrixCutAndDrag", **given, vae=vae)


def test_boxes_drawn_in_the_node(pack, tracks, picture):
    text = "dog: 0: 4 6 20 22; 4: 36 20 52 36"
    drawn, _, moved = pack.run("MatrixCutAndDrag", image=picture, boxes=text, length=FRAMES).result
    assert torch.equal(drawn, pack.run("MatrixCutAndDrag", image=picture, tracks=tracks).result[0])
    assert moved == tracks
    linked = pack.run("MatrixCutAndDrag", image=picture, boxes="cat: 1 1 9 9", tracks=tracks).result[0]
    assert torch.equal(linked, drawn), "tracks that are connected count"
    assert len(pack.run("MatrixCutAndDrag", image=picture, boxes=text).result[0]) == 49
    with pytest.raises(ValueError, match="connect tracks, or draw boxes"):
        pack.run("MatrixCutAndDrag", image=picture)
    node = pack.classes["MatrixCutAndDrag"]
    assert (node.validate_inputs(), node.validate_inputs(boxes=text)) == (True, True)
    assert "line 1" in node.validate_inputs(boxes="van: 1 2 3")


def test_masks_of_the_first_frame_alone_move_nothing(pack, tracks, picture):
    with pytest.raises(ValueError, match="masks of the first frame alone"):
        pack.run("MatrixCutAndDrag", image=picture, tracks=tracks.take([0]))


def test_sampling_is_held(pack, tracks):
    model, z = native_model(FAMILY), latent(FAMILY, 1, SIZE)
    reference = {"samples": torch.randn(z.shape, generator=torch.Generator().manual_seed(5))}
    given = conditioning(FAMILY, 1, SIZE), conditioning(FAMILY, 2, SIZE), z
    plain = sample(model, *given, steps=4)

    def held(inside=0.5, outside=0.25, **more):
        run = pack.run(
            "MatrixDualClockDenoising", model=model, reference=reference, inside=inside, outside=outside, **more
        )
        return sample(run.result[0], *given, steps=4)

    assert torch.equal(held(0.0, 0.0), plain)
    outs = [plain, held(tracks=tracks), held(1.0, 0.25, tracks=tracks), held(0.5, 0.0, tracks=tracks)]
    outs.append(held(cover=0.9, tracks=tracks))
    for place, out in enumerate(outs):
        assert out.isfinite().all()
        assert not any(torch.equal(out, other) for other in outs[:place])
    with pytest.raises(ValueError, match="Connect tracks to this node"):
        held()
    with pytest.raises(ValueError, match="outside <= inside"):
        held(0.1, 0.2, tracks=tracks)
    with pytest.raises(ValueError, match="encode all frames"):
        pack.run(
            "MatrixDualClockDenoising", model=model, reference={"samples": torch.zeros(1, 4, 8, 8)}, inside=0.5,
            outside=0.0,
        )  # fmt: skip


def test_a_later_clip_of_a_chain_goes_on_where_the_one_before_stopped(pack, picture):
    """Tracks of the whole chain: the second clip's animation is that of the tracks from its own first frame on."""
    keys = {"dog": {0: (4, 6, 20, 22), 8: (36, 20, 52, 36)}}
    chain = pack.lib("core.tracks.tracks").MaskTracks.from_boxes(keys, 9, HEIGHT, WIDTH)
    later = pack.run("MatrixCutAndDrag", image=picture, tracks=chain, start_frame=4).result[0]
    want = pack.run("MatrixCutAndDrag", image=picture, tracks=chain.take(range(4, 9))).result[0]
    assert torch.equal(later, want)
    first = pack.run("MatrixCutAndDrag", image=picture, tracks=chain, length=5).result[0]
    assert torch.equal(first, pack.run("MatrixCutAndDrag", image=picture, tracks=chain.take(range(5))).result[0])
    assert not torch.equal(first, later)
    with pytest.raises(ValueError, match="a clip cannot start with frame 9"):
        pack.run("MatrixCutAndDrag", image=picture, tracks=chain, start_frame=9)
    model, z = native_model(FAMILY), latent(FAMILY, 1, SIZE)
    rough = {"samples": torch.randn(z.shape, generator=torch.Generator().manual_seed(2))}
    given = conditioning(FAMILY, 1, SIZE), conditioning(FAMILY, 2, SIZE), z
    outs = []
    for tracks, start in ((chain, 4), (chain.take(range(4, 9)), 0), (chain, 0)):
        held = pack.run(
            "MatrixDualClockDenoising", model=model, reference=rough, inside=0.7, outside=0.0, tracks=tracks,
            start_frame=start,
        ).result[0]  # fmt: skip
        outs.append(sample(held, *given, cfg=1.0))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
