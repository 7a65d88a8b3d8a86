"""A caption for each instance on tiny diffusers transformers and pipelines."""

from dataclasses import replace

import diffusers
import pytest
import torch
from PIL import Image
from support_attention import make_binding, make_tracks
from support_diffusers import FAMILIES, build, forward
from support_pipelines import FRAMES, H, W, text_to_video

from matrix_lib.core.guidance.instance_captions import InstanceCaptions
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.guidance.timed_words import TimedWords
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.core.words.binding import PromptBinding
from matrix_lib.core.words.captions import with_captions
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers import mini
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.captions import encode_captions
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.instrument.editing import EditRunner

APART = ["cogvideox", "cogvideox15", "wan_t2v", "ltx", "skyreels", "cosmos2"]
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
    reasons = {
        "wan_i2v": "the last 512 rows",
        "wan_animate": "the last 512 rows",
        "wan_vace": "vace_blocks.0.attn2 and the like",
    }
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


def worded(family):
    """(pipeline, run, frames and size) of a family whose pipeline encodes words; mini's own kind for CogVideoX."""
    tokenizer = mini.make_tokenizer(bundle.load().tokenizer)
    torch.manual_seed(0)
    if family == "cogvideox":
        sizes = mini.Sizes(2, 1, 32, 1, 64, 226, codec_base=4, frames=5, height=48, width=48)
        parts = dict(
            vae=mini.make_codec(sizes), text_encoder=mini.make_text_encoder(sizes), scheduler=mini.make_scheduler(),
            transformer=mini.make_transformer(sizes), tokenizer=tokenizer,
        )  # fmt: skip
        pipe = diffusers.CogVideoXImageToVideoPipeline(**parts)
        more = dict(image=Image.new("RGB", (48, 48), "red"), height=48, width=48, num_frames=5)
    else:
        made = text_to_video("wan" if family == "wan_t2v" else family, "flow")
        pipe, width = made.pipe, made.words.shape[-1]
        sizes = mini.Sizes(text_layers=1, text_dim=width)
        pipe.register_modules(tokenizer=tokenizer, text_encoder=mini.make_text_encoder(sizes))
        more = dict(height=H, width=W, num_frames=FRAMES)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.text_encoder, pipe.transformer):
        part.eval()

    def run(inputs):
        draw = torch.Generator().manual_seed(3)
        asked = dict(num_inference_steps=2, guidance_scale=6.0, generator=draw, output_type="latent")
        return pipe(**inputs, **more, **asked).frames

    return pipe, run, (more["num_frames"], more["height"], more["width"])


@pytest.mark.parametrize(("family", "rows"), [("cogvideox", 226), ("wan_t2v", 512), ("ltx", 128)])
def test_a_pipeline_takes_what_is_encoded(family, rows):
    pipe, run, size = worded(family)
    said = {"cyclist": "a man waves", "van": "a red car waits"}
    captions = encode_captions(pipe, "two in the rain", said, "van: two")
    assert [(each.name, each.start, each.end) for each in captions.binding.captions] == [
        ("cyclist", rows, 2 * rows),
        ("van", 2 * rows, 3 * rows),
    ]
    assert captions.binding.names == ("van", "caption of cyclist", "caption of van")
    given = captions.inputs
    encode = {"do_classifier_free_guidance": False, "max_sequence_length": rows}
    with torch.no_grad():
        alone = [pipe.encode_prompt(prompt=text, **encode)[0] for text in ("two in the rain", *said.values())]
    assert torch.equal(given["prompt_embeds"], torch.cat(alone, 1))
    tracks = make_tracks(tracks_module, *size)
    plain = run(given)
    with steer(pipe, InstanceCaptions(), captions.binding, tracks) as (acting,):
        out = run(given)
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert not acting.notes
    assert torch.equal(run(given), plain)
    text = encode_captions(pipe, "two in the rain", "cyclist: a man waves\nvan: a red car waits", negative_prompt=None)
    assert torch.equal(text.inputs["prompt_embeds"], given["prompt_embeds"])
    assert set(given) - set(text.inputs) == {name for name in given if name.startswith("negative")}
    with pytest.raises(ValueError, match="no captions given"):
        encode_captions(pipe, "two", {})
    with pytest.raises(ValueError, match="the caption of 'van' has no words"):
        encode_captions(pipe, "two", {"van": " "})
