"""Kandinsky 5 in diffusers: words of a prompt that its pipeline tidies and shortens, a first frame that it does not
step, block-sparse attention, prompts of several lengths."""

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from support_attention import make_binding
from support_counts import SOAK
from support_diffusers import build, forward
from support_kandinsky import kandinsky5_text
from support_models import make_kandinsky5

from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.evaluation.layers.probe import Recipe, fit_clip, probe
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.latents import encode_clip
from matrix_lib.hosts.diffusers.load import Model, ModelSource
from matrix_lib.hosts.diffusers.prompts import bind_prompt, prompt_tokens
from matrix_lib.hosts.diffusers.steer import steer

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT, PHRASES = "a red  dog rides &amp; pulls the van", "d: a red  dog\nv: the van\nrides = verb(d -> v)"
FRAMES, H, W = 17, 32, 64  # with a picture its pipeline makes no shorter clip: it would divide by nothing


@pytest.fixture(scope="module")
def home(tmp_path_factory, comfy):
    """(pipeline for text, pipeline for a picture, the folder of the second)."""
    folder = tmp_path_factory.mktemp("kandinsky5")
    make_kandinsky5(folder, i2v=True, text_dim=128)
    text = kandinsky5_text(folder, comfy)
    text.tokenizer.save_pretrained(folder / "tokenizer")
    return text, kandinsky5_text(folder, comfy, True, like=text), folder


def test_words_are_on_the_rows_that_the_pipeline_encodes(home):
    """Tidied, cut at the pipeline's length, and with the tokenizer alone."""
    pipe, _, folder = home
    words = bind_prompt(pipe, PROMPT, PHRASES)
    rows = pipe.encode_prompt(PROMPT)[0]
    other = pipe.encode_prompt(PROMPT.replace("red", "old"))[0]
    assert words.length == rows.shape[1] < 20
    changed = (rows - other).abs().amax(-1)[0].nonzero().flatten().tolist()
    assert changed[0] == words.phrase("d").rows[1]
    decode = pipe.tokenizer.tokenizer.decode
    assert decode([t.id for t in words.tokens if t.row in words.phrase("v").rows]) == " the van"
    assert decode([t.id for t in words.tokens if t.row in words.phrase("d").rows]) == "a red dog"
    for tail in (
        ("the van", "x" * 40) if SOAK else ("the van",)
    ):  # of which the last takes more or fewer tokens than the mark at the end
        prompt = "a dog and " * 300 + tail
        tokens, length, _ = prompt_tokens(pipe, prompt)
        assert length == pipe.encode_prompt(prompt)[0].shape[1] <= 512
        kept = [token for token in tokens if token.row >= 0]
        assert [token.row for token in kept] == list(range(len(kept)))
        assert length - 1 <= len(kept) <= length
        assert tokens[-1].row == -1
        assert "".join(prompt[token.start : token.end] for token in tokens) == prompt
    assert ModelSource(str(folder)).bind(PROMPT, PHRASES) == words


def test_block_sparse_attention_is_refused_by_name():
    model, args, *_ = build("kandinsky5")
    words = make_binding(binding_module, 40)
    with pytest.raises(ValueError, match=r"NABLA.*attention_type='regular'"), watch(model, words):
        forward(model, {**args, "sparse_params": {"to_fractal": True}})
    asked = FrozenDict(in_visual_dim=16, visual_cond=True, patch_size=(1, 2, 2), attention_type="nabla")
    text = {"rows": torch.zeros(2, 9, 8), "mask": torch.ones(2, 9), "pooled": torch.zeros(2, 8)}
    hidden = torch.zeros(2, 3, 16, 4, 4)
    with pytest.raises(ValueError, match="'nabla'"):
        family("kandinsky5").inputs(asked, hidden, torch.zeros(2), text)
    text["mask"][1, 5:] = 0
    plain = FrozenDict({**asked, "attention_type": "regular"})
    with pytest.raises(ValueError, match=r"\[5, 9\] tokens are in one batch.*data.batch=1"):
        family("kandinsky5").inputs(plain, hidden, torch.zeros(2), text)


def test_a_run_with_a_picture(home):
    """Its first latent frame is given: maps have it, and steering leaves it to the model."""
    pipe = home[1]
    words = bind_prompt(pipe, PROMPT, PHRASES)
    tracks = MaskTracks.from_boxes({"d": {0: (0, 0, 32, 32)}, "v": {0: (32, 0, 64, 32)}}, FRAMES, H, W, hold=True)
    picture, seen_first = Image.new("RGB", (W, H), (200, 30, 60)), []

    def run():
        draw = torch.Generator().manual_seed(0)
        given = dict(image=picture, prompt=PROMPT, negative_prompt="bad", generator=draw, output_type="latent")
        return pipe(height=H, width=W, num_frames=FRAMES, num_inference_steps=2, **given).frames

    def called(_, args, given):
        seen_first.append(given["hidden_states"][:, :1].clone())
        calls.append({**given, "hidden_states": given["hidden_states"].clone()})

    calls, hook = [], pipe.transformer.register_forward_pre_hook(called, with_kwargs=True)
    plain = run()
    _check_training_calls_it_alike(pipe, calls[0])
    with watch(pipe, words, tracks) as seen:
        assert torch.equal(run(), plain)
    capture = seen.capture()
    (stream,) = capture.streams
    assert stream.grid.shape == (5, 2, 4)
    assert [step.calls for step in capture.steps] == [1, 1]
    for guide in (RegionBias(), IntrinsicDenoising(1)):
        with steer(pipe, guide, words if isinstance(guide, RegionBias) else None, tracks=tracks):
            out = run()
        assert out.isfinite().all()
        assert not torch.equal(out, plain)
    hook.remove()
    assert all(torch.equal(each, seen_first[0]) for each in seen_first)
    assert torch.equal(run(), plain)


def _check_training_calls_it_alike(pipe, theirs):
    """What `inputs` makes of latents, words and noise level is what the pipeline calls its transformer with."""
    of, tokens = family("kandinsky5"), 512
    hidden = theirs["hidden_states"][..., :16].movedim(-1, 2)
    text = of.text(pipe, PROMPT, tokens, "replace", torch.zeros(H, W, 3, dtype=torch.uint8))
    assert text["rows"].shape[0] == text["mask"].shape[0] == tokens
    batch = {name: value[None] for name, value in text.items()}
    ours = of.inputs(pipe.transformer.config, hidden, theirs["timestep"], batch, given_frames=1)
    assert ours["scale_factor"] == theirs["scale_factor"]
    assert all(map(torch.equal, ours["visual_rope_pos"], theirs["visual_rope_pos"]))
    same = ("hidden_states", "encoder_hidden_states", "pooled_projections", "text_rope_pos", "timestep")
    assert [name for name in same if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("picture", [False, True])
def test_a_real_clip_under_noise(home, picture):
    """Mode "noise" of the layer analysis: what the transformer sees is the clip under the noise that was asked for."""
    pipe = home[picture]
    model = Model(pipe, "kandinsky5", (FRAMES, H, W), 512)
    recipe = Recipe("noise", FRAMES, H, W, timesteps=(900, 100))
    frames = torch.randint(0, 256, (FRAMES, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = {"d": {0: (0, 0, 32, 32)}, "v": {0: (32, 0, 64, 32)}}
    frames, tracks = fit_clip(frames, MaskTracks.from_boxes(boxes, FRAMES, H, W, hold=True), recipe)
    fed = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: fed.append((given["hidden_states"].clone(), float(given["timestep"]))), with_kwargs=True
    )
    made = probe(model, recipe, bind_prompt(pipe, PROMPT, PHRASES), tracks, frames, seed=3)
    hook.remove()
    assert set(made.kinds) == {"v2t", "v2v"}
    (first, early), (second, late) = fed
    assert (early, late) == (900.0, 100.0)
    clean = (second * 0.9 - first * 0.1) / 0.8  # of (1 - s) clean + s noise at .9 and .1
    wanted, start = encode_clip(pipe, frames)[None].movedim(1, -1), int(picture)
    torch.testing.assert_close(clean[:, start:, ..., :16], wanted[:, start:], rtol=1e-3, atol=1e-3)
    assert torch.equal(first[..., 32], torch.zeros_like(first[..., 32]).index_fill_(1, torch.tensor([0]), picture))
    if picture:
        assert torch.equal(first[:, 0], second[:, 0])
        torch.testing.assert_close(first[:, 0, ..., :16], encode_clip(pipe, frames[:1])[None].movedim(1, -1)[:, 0])
