"""A caption for each instance on tiny native models, inside the real host."""

import pytest
import torch
from support_native import FAMILIES, conditioning, sample, text_rows
from support_steering import inputs, lib, models, pixels, recording, size_of

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
APART = ("cogvideox", "cogvideox15", "wan_t2v", "wan_i2v", "ltx", "cosmos2")


def captioned(lib, family, tracks=None, copies=3):
    """(positive, negative, latent): a shared prompt with a caption of as many rows for the cyclist, and one for the
    van; `copies` texts of them are there."""
    (entry,), negative, z = inputs(lib, family, tracks=tracks)
    rows, more = text_rows(family), dict(entry[1])
    own = [
        (name, lib.binding.PromptBinding(name, rows, (), (), more[lib.BINDING].model)) for name in ("cyclist", "van")
    ]
    more[lib.BINDING] = lib.captions.with_captions(more[lib.BINDING], own)
    texts = [entry[0], *(conditioning(family, seed, size_of(family))[0][0] for seed in (11, 12))]
    if "attention_mask" in more:
        more["attention_mask"] = more["attention_mask"].repeat(1, copies)
    return [[torch.cat(texts[:copies], 1), more]], negative, z


def short(lib, positive):
    """The same without bound words."""
    return [[rows, {k: v for k, v in more.items() if k not in (lib.BINDING, lib.TRACKS)}] for rows, more in positive]


@pytest.mark.parametrize("family", APART)
def test_every_edited_call_equals_a_dense_mask(lib, models, family, monkeypatch):
    errors, run = [], lib.host.EditRunner.run

    def checked(self, call, edits, host_rows):
        edited = run(self, call, edits, host_rows)
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            logits = logits + (call.mask if call.mask.ndim == 4 else call.mask.unsqueeze(1)).double()
        for row, edit in ((row, edit) for given in edits for row, edit in enumerate(given) if edit is not None):
            logits[row] += edit.layout.bias[edit.layout.query][:, edit.layout.key]
        want = logits.softmax(-1) @ call.v.double()
        errors.append(float((edited.out - want).abs().max() / want.abs().max()))
        return edited

    given = captioned(lib, family)
    plain = sample(models(family), *given, steps=1)
    off = (lib.Captions(0.0), lib.Captions(schedule=lib.Schedule(((0.0, 0.0),))))
    for idle in off:
        assert torch.equal(sample(lib.steer(models(family), idle), *given, steps=1), plain)
    monkeypatch.setattr(lib.host.EditRunner, "run", checked)
    notes: list = []
    model = lib.steer(models(family), lib.Captions(), done=lambda run: notes.extend(run.notes))
    alone = sample(model, *given, steps=1)
    stacked = sample(lib.steer(lib.steer(model, lib.RegionBias()), lib.TimedWords()), *given, steps=1)
    assert len(errors) >= 4
    assert max(errors) <= 1e-5
    assert not torch.equal(alone, plain)
    assert not torch.equal(alone, stacked)
    assert all("times of these words" in note for note in notes)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v", "ltx"])
def test_who_has_the_clip_to_itself_and_who_has_no_caption_see_what_they_would_alone(lib, models, family):
    """The van is nowhere, so its caption is not there. The text without captions, which the host repeats to batch it
    with them, counts once."""
    frames, height, width = pixels(size_of(family)) if family != "ltx" else (9, 96, 128)
    masks = {"cyclist": torch.ones(frames, height, width), "van": torch.zeros(frames, height, width)}
    everywhere = lib.tracks.MaskTracks.from_masks(masks, allow_empty=True)
    given = captioned(lib, family, everywhere)
    steered, fewer = lib.steer(models(family), lib.Captions()), captioned(lib, family, everywhere, 2)
    for cfg in (0.0, 1.0) if family != "cogvideox" else (0.0,):
        got = sample(steered, *given, steps=1, cfg=cfg)
        short_one = short(lib, fewer[0]) if cfg else short(lib, inputs(lib, family)[0])
        want = sample(models(family), short_one, *given[1:], steps=1, cfg=cfg)
        assert (got - want).abs().max() <= 2e-5 * want.abs().max(), cfg


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v"])
def test_it_stacks_with_a_capture_in_either_order(lib, models, family):
    given = captioned(lib, family)
    guide = lib.Captions()
    want = sample(lib.steer(models(family), guide), *given, steps=1)
    runs: list = []
    assert torch.equal(sample(recording(lib, lib.steer(models(family), guide), runs), *given, steps=1), want)
    assert torch.equal(sample(lib.steer(recording(lib, models(family), runs), guide), *given, steps=1), want)
    first, second = (run.result().streams[0].v2t for run in runs)
    assert torch.equal(first, second)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in APART])
def test_models_that_mix_their_texts_are_refused_by_name(lib, models, family):
    with pytest.raises(ValueError, match=r"captions of instances cannot be kept apart in .*: its .* mixes the rows"):
        lib.steer(models(family), lib.Captions())


def test_what_a_run_lacks_is_said(lib, models):
    notes: list = []
    model = lib.steer(models("wan_t2v"), lib.RegionBias(), done=lambda run: notes.extend(run.notes))
    sample(model, *captioned(lib, "wan_t2v"), steps=1)
    assert [note for note in notes if "everybody sees every caption" in note]
    steered = lib.steer(models("wan_t2v"), lib.Captions())
    with pytest.raises(ValueError, match="no instance has a caption of its own.*MATRIX Instance Captions"):
        sample(steered, *inputs(lib, "wan_t2v"), steps=1)
    with pytest.raises(ValueError, match="this MODEL has InstanceCaptions already: .* one is enough"):
        lib.steer(steered, lib.Captions())
    (entry,), negative, z = captioned(lib, "wan_t2v")
    bare = [[entry[0], {k: v for k, v in entry[1].items() if k != lib.TRACKS}]]
    with pytest.raises(ValueError, match="carries no words and mask tracks"):
        sample(steered, bare, negative, z, steps=1)
