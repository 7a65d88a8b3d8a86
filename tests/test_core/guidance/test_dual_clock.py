"""Dual-clock denoising: its clocks, its formula, and the latents of one run."""

from types import SimpleNamespace

import pytest
import torch

from matrix_lib.core.guidance.dual_clock import DualClockDenoising, held
from matrix_lib.core.guidance.part import RunPart
from matrix_lib.core.noise import NoiseLevel
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.instrument.dual_clock import DualClockHook

SHAPE = (2, 4, 3, 6, 8)  # latents of 9 frames of 48 x 64 pixels
TRACKS = MaskTracks.from_boxes({"dog": {0: (0, 0, 16, 16), 8: (32, 16, 48, 32)}}, 9, 48, 64)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(x, level, step, steps, given=None):
    return SimpleNamespace(x=x, level=level, step=step, steps=steps, given_frames=given)


def test_clocks():
    paper = DualClockDenoising()
    assert paper.clocks(50) == (9, 4)
    assert [paper.at(step, 50) for step in (0, 9, 10)] == [1, 1, 0]
    assert [paper.everywhere(step, 50) for step in (0, 4, 5)] == [True, True, False]
    assert DualClockDenoising(0, 0).idle
    assert not any(DualClockDenoising(0, 0).at(step, 10) for step in range(10))
    alone = DualClockDenoising(0.5, 0)
    assert alone.at(0, 10)
    assert not alone.everywhere(0, 10)
    assert not any(DualClockDenoising(0.04, 0).at(step, 10) for step in range(10)), "less than half a step"
    for given in ((0.1, 0.2), (1.1, 0.2), (0.5, -0.1), (float("nan"), 0.0)):
        with pytest.raises(ValueError, match="outside <= inside"):
            DualClockDenoising(*given)
    for given in (("a", 0), (None, 0), (0.5, "b")):
        with pytest.raises(ValueError, match="outside <= inside.*'?(a|None|b)"):
            DualClockDenoising(*given)
    with pytest.raises(ValueError, match="cover"):
        DualClockDenoising(cover=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_held_is_the_noisy_reference(dtype):
    x, z, e = (noise(*SHAPE, seed=i) for i in range(3))
    inside = noise(2, 1, *SHAPE[2:], seed=4) > 0
    out = held(x.to(dtype), z, e, NoiseLevel(0.6, 0.8), inside)
    assert out.dtype == dtype
    want = torch.where(inside, 0.6 * z.double() + 0.8 * e.double(), x.to(dtype).double())
    torch.testing.assert_close(out.double(), want, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    everywhere = held(x, z, e, NoiseLevel(1.0, 2.0))
    torch.testing.assert_close(everywhere.double(), z.double() + 2 * e.double())


def test_a_run_holds_inside_longer_than_outside():
    z = [noise(*SHAPE[1:], seed=9)]
    run = DualClockHook(DualClockDenoising(0.6, 0.2), z, [[TRACKS]], (4, 8), seed=3)
    x, level = noise(*SHAPE), NoiseLevel(0.5, 0.5)
    _, inside, e = run.prepare(x)
    assert inside.shape == (2, 1, 3, 6, 8)
    assert inside[0, 0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert not torch.equal(e[0], e[1])
    noisy = 0.5 * z[0] + 0.5 * e
    torch.testing.assert_close(run(moment(x, level, 2, 10)), noisy)
    after = run(moment(x, level, 3, 10))
    torch.testing.assert_close(after, torch.where(inside, noisy, x))
    torch.testing.assert_close(run(moment(x, level, 6, 10)), after)
    assert run(moment(x, level, 7, 10)) is x
    again = DualClockHook(DualClockDenoising(0.6, 0.2), z, [[TRACKS]], (4, 8), seed=4)
    assert torch.equal(again.prepare(x[:1])[2][0], e[1]), "row i draws from seed + i"


def test_frames_in_front_and_frames_that_nobody_samples():
    z, x = [noise(4, 3, 6, 8, seed=9)], noise(1, 4, 4, 6, 8)
    plain = DualClockHook(DualClockDenoising(1, 1), z, [[TRACKS]], (4, 8))
    prefix_frames = DualClockHook(DualClockDenoising(1, 1), z, [[TRACKS]], (4, 8), prefix_frames=1)
    reference, inside, _ = prefix_frames.prepare(x)
    assert torch.equal(reference[0], torch.cat([z[0][:, :1], z[0]], 1))
    assert not inside[:, :, 0].any()
    assert torch.equal(inside[:, :, 1:], plain.prepare(x[:, :, 1:])[1])
    reference, inside, _ = plain.prepare(x[:, :, 2:], 1)
    assert torch.equal(reference[0], z[0][:, 1:])
    assert torch.equal(inside, plain.prepare(x[:, :, 1:])[1][:, :, 1:])
    level, first = NoiseLevel(0.5, 0.5), x[:, :, :1]
    out = plain(moment(x[:, :, 2:], level, 0, 4, first))
    torch.testing.assert_close(out, 0.5 * z[0][None, :, 1:] + 0.5 * plain.prepare(x[:, :, 2:], 1)[2])


def test_cover_asks_for_more_than_a_touch():
    z, x = [noise(4, 3, 6, 8)], noise(1, 4, 3, 6, 8)
    thin = MaskTracks.from_boxes({"dog": {0: (0, 0, 10, 8), 8: (0, 0, 10, 8)}}, 9, 48, 64)
    counts = [
        int(DualClockHook(DualClockDenoising(1, 0, cover), z, [[thin]], (4, 8)).prepare(x)[1].sum())
        for cover in (0, 0.5)
    ]
    assert counts == [6, 3]


def test_every_prompt_has_its_own_and_what_does_not_fit_is_said():
    z = [noise(4, 3, 6, 8, seed=i) for i in range(2)]
    other = MaskTracks.from_boxes({"cat": {0: (32, 16, 64, 48), 8: (32, 16, 64, 48)}}, 9, 48, 64)
    both = DualClockHook(DualClockDenoising(1, 0), z, [[TRACKS], [other]], (4, 8))
    reference, inside, _ = both.prepare(noise(4, 4, 3, 6, 8))
    assert torch.equal(reference[1], z[0])
    assert torch.equal(reference[2], z[1])
    assert not torch.equal(inside[1], inside[2])
    with pytest.raises(ValueError, match="3 samples do not divide into 2 reference clips"):
        both.prepare(noise(3, 4, 3, 6, 8))
    with pytest.raises(ValueError, match=r"latent of \[4, 3, 6, 8\].*\[4, 5, 6, 8\] is sampled"):
        both.prepare(noise(2, 4, 5, 6, 8))
    for wrong in (z[:1], [z[0][None], z[1]], [z[0].numpy(), z[1]]):
        with pytest.raises(ValueError, match="one for each of 2 prompts"):
            DualClockHook(DualClockDenoising(), wrong, [[TRACKS], [other]], (4, 8))
    with pytest.raises(ValueError, match="masks of the first frame alone.*all 9 frames"):
        DualClockHook(DualClockDenoising(), z[:1], [[TRACKS.take([0])]], (4, 8)).prepare(noise(1, 4, 3, 6, 8))
    together = DualClockHook(DualClockDenoising(1, 0), z[:1], [[TRACKS, other]], (4, 8))
    assert torch.equal(together.prepare(noise(1, 4, 3, 6, 8))[1][0], inside[1] | inside[2])
    far = DualClockHook(DualClockDenoising(1, 0), z[:1], [[TRACKS]], (4, 8), seed=2**64 - 1)
    assert far.prepare(noise(2, 4, 3, 6, 8))[2].isfinite().all()
    few = DualClockHook(DualClockDenoising(), z[:1], [[TRACKS]], (4, 8))
    few.begin(None, RunPart.all_of(2))
    assert not few.acts(0, 2)
    assert "less than half a step" in few.notes[0]
    never = MaskTracks.from_masks({"dog": torch.zeros(9, 48, 64)}, allow_empty=True)
    nobody = DualClockHook(DualClockDenoising(), z, [[never]] * 2, (4, 8))
    nobody.prepare(noise(2, 4, 3, 6, 8))
    assert [note for note in nobody.notes if "'dog' shows in no token frame" in note] == nobody.notes[:1]
