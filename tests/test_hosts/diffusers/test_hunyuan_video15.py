"""HunyuanVideo 1.5 in diffusers: words behind picture and glyphs, each row of a batch with its own; its guider;
pictures that the pipeline crops by itself."""

import pytest
import torch
from PIL import Image
from support_attention import Watcher, make_binding
from support_diffusers import GLYPHS, build, forward
from support_hunyuan import hunyuan15_text
from support_models import make_hunyuan15
from support_pipelines import TRACKS, text_to_video

from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.sites import BatchRow
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import attach, watch
from matrix_lib.hosts.diffusers.load import Model, ModelSource
from matrix_lib.hosts.diffusers.prompts import bind_prompt, prompt_tokens
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.instrument.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT, PHRASES = 'a red dog rides the van with the sign "go"', "d: a red dog\nv: the van\nrides = verb(d -> v)"


@pytest.fixture(scope="module")
def home(tmp_path_factory, comfy):
    """(pipeline for text, pipeline for a picture, the folder of the first without its text encoders)."""
    folder = tmp_path_factory.mktemp("hunyuan15")
    make_hunyuan15(folder / "parts", text_dim=128)
    text = hunyuan15_text(folder / "parts", comfy, False)
    pipes = text, hunyuan15_text(folder / "parts", comfy, True, like=text)
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    text.tokenizer.save_pretrained(folder / "parts" / "tokenizer")
    return *pipes, folder / "parts"


class Keeps(Watcher):
    def __init__(self):
        self.calls = []

    def observe(self, call, lse):
        self.calls.append(call)


def keys_of(call, place, rows):
    start, _ = call.at(place).text_k
    return call.k[place][:, [start + row for row in rows]]


def test_each_row_has_its_words_behind_its_own_glyphs():
    model, args, grid, _ = build("hunyuan15")
    picture = args["image_embeds"].shape[1]
    both, alone = Keeps(), [Keeps(), Keeps()]

    def begin(forward):
        forward.rows = tuple(BatchRow("cond", place) for place in range(forward.batch))

    with attach(model, Session([both]), begin):
        forward(model, args)
    for place, keeps in enumerate(alone):
        with attach(model, Session([keeps]), begin):
            forward(model, {name: value[place : place + 1] for name, value in args.items()})
    assert both.calls[0].text_starts == tuple(grid.size + picture + count for count in GLYPHS)
    assert all(call.mask.shape[-2] == 1 for call in both.calls)
    for place, keeps in enumerate(alone):
        for together, single in zip(both.calls, keeps.calls, strict=True):
            assert single.part(slice(0, 1)).text_k == together.part(slice(place, place + 1)).text_k
            wanted = keys_of(single, 0, range(20))
            torch.testing.assert_close(keys_of(together, place, range(20)), wanted, rtol=1e-4, atol=1e-5)
    # without a picture nothing stands there
    bare = Keeps()
    with attach(model, Session([bare]), begin):
        forward(model, {**args, "image_embeds": torch.zeros_like(args["image_embeds"])})
    assert bare.calls[0].text_starts == tuple(grid.size + count for count in GLYPHS)


def test_a_mask_with_gaps_is_refused():
    model, args, *_ = build("hunyuan15")
    args["encoder_attention_mask"][0, 5] = 0
    with pytest.raises(ValueError, match="has gaps"), watch(model, make_binding(binding_module, 40)):
        forward(model, args)


def test_the_guider_predicts_the_prompt_first():
    made = text_to_video("hunyuan15", "flow", 6.0)
    words = make_binding(binding_module, made.words.shape[1])
    plain = made(2)
    with watch(made.pipe, words, TRACKS) as seen:
        assert torch.equal(made(2), plain)
    assert [step.calls for step in seen.capture().steps] == [1, 1]
    first = []
    made.transformer.register_forward_pre_hook(
        lambda _, args, given: first.append(given["encoder_hidden_states"]), with_kwargs=True
    )
    with steer(made.pipe, RegionBias(), words, TRACKS):
        assert not torch.equal(made(2), plain)
    assert torch.equal(first[0], made.words[1:])


def test_words_are_on_the_rows_that_the_pipeline_encodes(home):
    """Padded in front as well as behind, cut at the pipeline's length, and with the tokenizer alone."""
    pipe, _, folder = home
    tokenizer = pipe.tokenizer
    for side in ("right", "left"):
        tokenizer.padding_side = side
        try:
            words = bind_prompt(pipe, PROMPT, PHRASES)
            rows, mask, _, glyph_mask = pipe.encode_prompt(prompt=PROMPT)
            other = pipe.encode_prompt(prompt=PROMPT.replace("red", "old"))[0]
        finally:
            tokenizer.padding_side = "right"
        assert words.length == 1000 == rows.shape[1]
        assert glyph_mask.sum() == len('Text "go". ') + 1
        changed = (rows - other).abs().amax(-1)[0].nonzero().flatten().tolist()
        assert changed[0] == words.phrase("d").rows[1]
        assert all(mask[0, token.row] == 1 for token in words.tokens)
        spelled = tokenizer.decode([t.id for t in words.tokens if t.row in words.phrase("v").rows])
        assert spelled == " the van"
    long, length, _ = prompt_tokens(pipe, "a dog and " * 600 + "the van")
    assert (length, max(token.row for token in long), long[-1].row) == (1000, 999, -1)
    source = ModelSource(str(folder))
    assert source.bind(PROMPT, PHRASES) == bind_prompt(pipe, PROMPT, PHRASES)
    with pytest.raises(ValueError, match="a tokenizer alone does not tell the chat template"):
        bind_prompt(tokenizer, PROMPT, PHRASES, family="qwen25")


def test_the_run_of_a_pipeline_with_a_picture(home):
    """The words of the maps are those that were encoded, whatever stands in front of them, and tracks are cropped as
    the picture is."""
    pipe, pictured, _ = home
    size = Model(pipe, "hunyuan_video15", (0, 0, 0)).spec.spatial_stride
    assert size == 16
    words, calls = bind_prompt(pictured, PROMPT, PHRASES), Keeps()
    tracks = MaskTracks.from_boxes({"d": {0: (0, 0, 60, 40)}, "v": {0: (60, 0, 120, 40)}}, 9, 40, 120)
    picture = Image.new("RGB", (120, 40), (200, 30, 60))
    more = dict(num_frames=9, num_inference_steps=1, output_type="latent")
    keys = {}
    with watch(pictured, words, tracks) as seen, attach(pictured.transformer, Session([calls]), lambda forward: None):
        pictured.transformer.context_embedder.register_forward_hook(lambda _, args, out: keys.setdefault("words", out))
        pictured(image=picture, prompt=PROMPT, generator=torch.Generator().manual_seed(0), **more)
    grid = seen.capture().streams[0].grid
    height, width = grid.frame_pixels
    assert (height, width) == (16 * grid.height, 16 * grid.width)
    assert seen.tracks[0].fit == "center"
    first = next(call for call in calls.calls if call.site.layer == 0)
    net = pictured.transformer.transformer_blocks[0]
    row = words.phrase("v").rows[0]
    assert first.text_k[0] == grid.size + 4 + len('Text "go". ') + 1, "four tokens of the picture, then the glyphs"
    assert net.attn.heads == first.k.shape[1]
    assert keys["words"].shape[1] == words.length > row


def test_the_usual_size_is_that_of_the_training(home):
    from matrix_lib.hosts.diffusers.families import family

    for pipe in home[:2]:
        frames, height, width = family("hunyuan_video15").usual_size(pipe)
        assert frames == 121
        assert width > height
        assert abs(height * width - 64 * 64) <= 16 * 64
