"""A caption for each instance on tiny diffusers transformers and pipelines."""

from dataclasses import replace

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_diffusers import FAMILIES, build, forward

from matrix_lib.core.guidance.instance_captions import InstanceCaptions
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.guidance.timed_words import TimedWords
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.core.words.binding import PromptBinding
from matrix_lib.core.words.captions import with_captions
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.instrument.editing import EditRunner

APART = ["cogvideox", "cogvideox15", "wan_t2v", "ltx", "skyreels"]
OWN = 7  # rows of a caption
TEXT = {"encoder_hidden_states": 1, "encoder_attention_mask": 1}  # the axis of its rows


def scene(family):
    """A model, its arguments with two captions behind the prompt, their binding and tracks; row 0 is uncond, whose text
    is repeated as far as it reaches."""
    model, args, grid, length = build(family)
    if family == "cogvideox":  # mini's kind: positions by rotation
        model.config.use_rotary_positional_embeddings = True
        model.patch_embed.use_positional_embeddings = False
    shared = make_binding(binding_module, length, verb_time=(0.15, None))
    own = [(name, PromptBinding(name, OWN, (), (), shared.model)) for name in ("cyclist", "van")]
    g, rows = torch.Generator().manual_seed(7), args["encoder_hidden_states"]
    said = torch.randn(2, 2 * OWN, rows.shape[-1], generator=g)
    said[0] = rows[0, : 2 * OWN]
    args = {**args, "encoder_hidden_states": torch.cat([rows, said], 1)}
    if "encoder_attention_mask" in args:
        mask = args["encoder_attention_mask"]
        args["encoder_attention_mask"] = torch.cat([mask, mask.new_ones(2, 2 * OWN)], 1)
    height, width = (n * p for n, p in zip(grid.shape[1:], grid.token_pixels))
    tracks = make_tracks(tracks_module, grid.pixel_frames, height, width)
    return model, args, with_captions(shared, own), tracks, length


@pytest.mark.parametrize("family", APART)
def test_every_call_equals_a_dense_mask(family, monkeypatch):
    model, args, words, tracks, length = scene(family)
    plain, errors, run = forward(model, args), [], EditRunner.run

    def checked(self, call, edits, host_rows):
        edited = run(self, call, edits, host_rows)
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            logits = logits.masked_fill(~call.mask, -torch.inf) if call.mask.dtype == torch.bool else logits + call.mask
        for row, edit in ((row, edit) for given in edits for row, edit in enumerate(given) if edit is not None):
            logits[row] += edit.layout.bias[edit.layout.query][:, edit.layout.key]
        want = logits.softmax(-1) @ call.v.double()
        errors.append(float((edited.out - want).abs().max() / want.abs().max()))
        return edited

    monkeypatch.setattr(EditRunner, "run", checked)
    guides = [InstanceCaptions(), RegionBias(), TimedWords()]
    with steer(model, guides[0], words, tracks):
        alone = forward(model, args)
    with steer(model, guides, words, tracks):
        stacked = forward(model, args)
    assert len(errors) >= 4
    assert max(errors) <= 1e-5
    assert len({out.sum().item() for out in (plain, alone, stacked)}) == 3
    off = [InstanceCaptions(0.0), InstanceCaptions(schedule=Schedule(((0.0, 0.0),)))]
    with steer(model, off, words, tracks):
        assert torch.equal(forward(model, args), plain)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v", "ltx"])
def test_an_instance_alone_in_the_clip_sees_what_it_would_see_alone(family):
    """One instance that fills the clip, with the other nowhere: the model predicts what it predicts of the prompt with
    that one caption. The text without captions counts as if it had not been repeated."""
    model, args, words, tracks, length = scene(family)
    full = torch.ones(tracks.frames, tracks.height, tracks.width)
    masks = {"cyclist": full, "van": torch.zeros_like(full)}
    everywhere = tracks_module.MaskTracks.from_masks(masks, allow_empty=True)
    with steer(model, InstanceCaptions(), words, everywhere) as (acting,):
        got = forward(model, args)
    assert "the caption of 'van' is seen by nobody: its track shows in no token frame" in acting.notes

    def cut(rows, row):
        return {**args, **{n: v[:, :rows] for n, v in args.items() if n in TEXT and v.ndim > 1}}, row

    for rows, row in ((length + OWN, 1), (length, 0)):
        short, at = cut(rows, row)
        want = forward(model, short)[at]
        if row == 0 and family != "cogvideox":  # of text alone the host's own length counts
            want = forward(model, args)[0]
        if family == "cogvideox" and row == 1:
            # the shared text does not see the caption, so what it tells the clip is another thing than in one text
            assert (got[at] - want).abs().max() < 0.5 * want.abs().max()
            continue
        assert (got[at] - want).abs().max() <= 2e-5 * want.abs().max()


def test_a_capture_beside_it_sees_a_caption_in_its_instance_alone():
    model, args, words, tracks, length = scene("wan_t2v")
    rows = tuple(range(length, length + OWN))
    words = replace(words, phrases=(*words.phrases, binding_module.Phrase("own", "own", "word", 0, 1, rows)))
    with steer(model, InstanceCaptions(), words, tracks):
        with watch(model, words, tracks) as seen:
            forward(model, args)
    stream = seen.capture().streams[0]
    own = stream.v2t.float()[:, 0, list(words.names).index("own")]  # (layers, F, h, w)
    inside = tracks.to_grid(stream.grid, "area").maps[0] >= 0.5
    assert own[:, ~inside].abs().max() == 0
    assert (own[:, inside] > 0).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in APART])
def test_models_that_mix_their_texts_are_refused_by_name(family):
    model, _, words, tracks, _ = scene(family)
    reasons = {"wan_i2v": "the last 512 rows", "wan_vace": "vace_blocks.0.attn2 and the like"}
    why = reasons.get(family, "mixes the rows")
    with pytest.raises(ValueError, match=f"captions of instances cannot be kept apart in .*: .*{why}"):
        with steer(model, InstanceCaptions(), words, tracks):
            pass


def test_positions_of_the_text_are_refused_by_name():
    model, _, grid, length = build("cogvideox")
    shared = make_binding(binding_module, length)
    words = with_captions(shared, [("cyclist", PromptBinding("x", OWN, (), (), shared.model))])
    tracks = make_tracks(tracks_module, grid.pixel_frames, 64, 96)
    with pytest.raises(ValueError, match="its table of positions is for 226 rows of text"):
        with steer(model, InstanceCaptions(), words, tracks):
            pass
