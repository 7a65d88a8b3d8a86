"""Words in time on tiny native models: beside the mechanism of Prompt Relay, and stacked with everything else."""

import math
import types
from itertools import pairwise

import pytest
import torch
from support_native import conditioning, latent, sample, text_rows
from support_steering import inputs, lib, models, recording

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
ROWS = {"waves": tuple(range(1, 14)), "sits": tuple(range(14, 28))}
SEGMENTS = (6, 7)  # latent frames
SIGMA = 1 / math.log(1e3)


def relay(model, penalty):
    """A clone as the mechanism of Prompt Relay makes it: every cross-attention runs with a dense penalty (queries,
    keys), by a `forward` of its own (Wan), or as a mask beside the model's own (LTX)."""
    clone, network = model.clone(), model.model.diffusion_model

    def wan(self, x, context, **kwargs):
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=-penalty)
        return self.o(out.transpose(1, 2).flatten(2))

    def ltx(plain):
        def forward(self, x, context=None, mask=None, **kwargs):
            return plain(x, context=context, mask=-penalty if mask is None else mask - penalty, **kwargs)

        return forward

    for name, module in network.named_modules():
        if name.endswith(".cross_attn"):
            clone.add_object_patch(f"diffusion_model.{name}.forward", types.MethodType(wan, module))
        elif name.endswith(".attn2"):
            clone.add_object_patch(f"diffusion_model.{name}.forward", types.MethodType(ltx(module.forward), module))
    return clone


@pytest.mark.parametrize(("family", "size"), [("wan_t2v", (13, 4, 4)), ("ltx", (13, 2, 2))])
def test_it_equals_prompt_relay(lib, models, family, size):
    """relu(|frame - midpoint| - window)^2 / (2 sigma^2), with its sigma and windows, in latent frames; as times,
    windows are the middles of their first and last frames."""
    model = models(family)
    grid, rows = lib.grid_of(model, size), text_rows(family)
    middles = [(first + stop - 1) / 2 / grid.fps for first, stop in grid.pixel_spans()]
    starts = [0, SEGMENTS[0], sum(SEGMENTS)]
    penalty, phrases = torch.zeros(grid.frames, rows, dtype=torch.float64), []
    for (name, at), (start, stop) in zip(ROWS.items(), pairwise(starts), strict=True):
        midpoint, window = (start + stop) // 2, max((stop - start) // 2 - 2, 0)
        far = ((torch.arange(grid.frames) - midpoint).abs() - window).clamp(min=0).double()
        penalty[:, list(at)] = (far**2 / (2 * SIGMA**2))[:, None]
        time = middles[midpoint - window], middles[midpoint + window]
        phrases.append(lib.binding.Phrase(name, name, "word", 0, 1, at, time=time))
    binding = lib.binding.PromptBinding("waves, then sits", rows, (), tuple(phrases))
    given = conditioning(family, 1, size, **{lib.BINDING: binding}), conditioning(family, 2, size)
    z = latent(family, 1, size)
    dense = relay(model, penalty.float().repeat_interleave(grid.frame_size, 0))
    want = sample(dense, *given, z, cfg=1.0)
    step = grid.temporal_stride / grid.fps
    ours = lib.TimedWords(down=100.0, fade=math.sqrt(200) * SIGMA * step)
    notes: list = []
    got = sample(lib.steer(model, ours, done=lambda run: notes.extend(run.notes)), *given, z, cfg=1.0)
    plain = sample(model, *given, z, cfg=1.0)
    off = (got - want).abs().max()
    assert off <= 1e-5 * want.abs().max()
    assert (want - plain).abs().max() > 200 * off, "what both do is more than rounding"
    assert len(notes) == (family == "wan_t2v")
    assert all("those of Wan; SkyReels V2, which ComfyUI takes for Wan 2.1, makes 24" in note for note in notes)
    if family == "ltx":  # its attention still runs through the host, so that both act: what is gone stays gone
        both = sample(lib.steer(dense, ours), *given, z, cfg=1.0)
        assert (both - want).abs().max() <= 1e-4 * want.abs().max()
        return
    with pytest.raises(ValueError, match="replaces its forward"):
        sample(lib.steer(dense, ours), *given, z, cfg=1.0)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v"])
def test_it_stacks_and_a_capture_shows_it(lib, models, family):
    """With region bias under a recorder, whichever is put on first: the verb is looked at in its time alone."""
    given = inputs(lib, family)
    bias, timed = lib.RegionBias(2.0, 1.0, 1.0, 1.0), lib.TimedWords(down=100.0, fade=0.0)

    def maps(*guides, cfg=6.0):
        model, runs = models(family), []
        for guide in guides:
            model = lib.steer(model, guide)
        want = sample(model, *given, steps=1, cfg=cfg)
        assert torch.equal(sample(recording(lib, model, runs), *given, steps=1, cfg=cfg), want)
        return runs[0].result().streams[0].v2t.float()[:, 0]  # (layers, words, F, h, w)

    both, turned, alone = maps(bias, timed), maps(timed, bias), maps(bias)
    assert torch.equal(both, turned)
    cyclist, passes = 0, 2
    assert both[:, passes, 0].abs().max() == 0
    assert (both[:, passes, 1:] > 0).all()
    torch.testing.assert_close(both[:1, passes, 1:], alone[:1, passes, 1:], rtol=2e-2, atol=1e-6)
    assert not torch.equal(both[:, cyclist], maps(timed)[:, cyclist])


def test_times_that_nothing_reads_are_named(lib, models):
    notes: list[list[str]] = [[], []]
    for place, guides in enumerate(([lib.RegionBias()], [lib.TimedWords(), lib.RegionBias()])):
        model = models("wan_t2v")
        for guide in guides:
            model = lib.steer(model, guide, done=lambda run, own=notes[place]: own.extend(run.notes))
        sample(model, *inputs(lib, "wan_t2v"), steps=1, cfg=1.0)
    found = [[note for note in own if "times of these words" in note] for own in notes]
    assert [len(each) for each in found] == [1, 0]
    assert found[0][0].startswith("'passes': nothing reads the times of these words, so they act in the whole clip")


def test_a_model_that_is_told_its_frame_rate_counts_by_it(lib, models):
    positive, *rest = inputs(lib, "ltx", frame_rate=100.0)
    with pytest.raises(ValueError, match=r"'passes' holds @0.15s-, but the clip ends after 0.09 s \(9 frames at 100 "):
        sample(lib.steer(models("ltx"), lib.TimedWords()), positive, *rest, steps=1)
    other = conditioning("ltx", 2, frame_rate=50.0)
    with pytest.raises(ValueError, match="its prompts say different rates"):
        sample(lib.steer(models("ltx"), lib.TimedWords()), positive, other, *rest[1:], steps=1)
