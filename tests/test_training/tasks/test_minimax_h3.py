"""MiniMax H3 in training: the sequence is the pipeline's, words stand where they are looked for, alignment rises."""

import csv

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.modular_pipelines.minimax_h3.before_denoise import patchify_video_latents
from diffusers.modular_pipelines.minimax_h3.decoders import MiniMaxH3VideoDecodeStep
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from PIL import Image
from support_attention import Watcher
from support_minimax import minimax_pipeline

from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.hosts.diffusers.apply_lora import apply
from matrix_lib.hosts.diffusers.attach import attach, watch
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.latents import decode_clip
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.instrument.scores import AlignmentRecorder
from matrix_lib.instrument.session import Session
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.clips.batches import open_clips
from training.clips.encoders import ModelFiles
from training.fit import Trainer
from training.models.video_model import VideoModel
from training.run.config import override
from training.run.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, H, W = 124, 64, 96  # the fewest that its pipeline makes
PROMPT = "a red circle pushes a blue square"
TRACKS = MaskTracks.from_boxes({"square": {0: (40, 8, 90, 60)}}, FRAMES, H, W)


@pytest.fixture(scope="module")
def home(tmp_path_factory, comfy):
    """A model's folder, and clips."""
    folder = tmp_path_factory.mktemp("h3")
    minimax_pipeline(comfy).save_pretrained(str(folder / "model"), overwrite_modular_index=True)
    world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=80)
    export_clips(make_clips(2, 4, world), folder / "clips")
    return folder


def fed(pipe, picture):
    """What the pipeline calls its transformer with in its second step, with the mode of the VAE's distribution."""
    seen, encode = [], pipe.vae.encode

    def mode(*given, **named):
        (found,) = encode(*given, **named)
        found.sample = lambda generator=None: found.mode()
        return (found,)

    pipe.vae.encode = mode
    handle = pipe.transformer.register_forward_pre_hook(lambda net, args, given: seen.append(given), with_kwargs=True)
    try:
        pipe(
            prompt=PROMPT, image=Image.fromarray(picture.numpy()), height=H, width=W, num_frames=FRAMES,
            num_inference_steps=3, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    finally:
        handle.remove()
        pipe.vae.encode = encode
    return seen[1]


@pytest.fixture(scope="module")
def encoded(home):
    """What a clip and its prompt are made to."""
    frames = torch.randint(0, 255, (22, H, W, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    with ModelFiles(str(home / "model")).open() as encoders:
        made = encoders.video(frames)
        text = {name: value[None] for name, value in encoders.text(PROMPT, frames[0]).items()}
        empty = encoders.text("", frames[0])["rows"]
        other = encoders.text(PROMPT.replace("square", "hat"), frames[0])["rows"]
        sound = family("minimax_h3").beside_clip(encoders.pipeline, FRAMES)["sound"][None]
    return frames, made, text, empty, other, sound


def test_the_sequence_is_the_one_that_the_pipeline_makes(encoded, comfy):
    """Text, places, tags and times to the bit; the first frame but for its noise; a mask beside the clip's tokens as a
    LoRA on the pipeline puts it there."""
    frames, made, text, *_, sound = encoded
    of, pipe = family("minimax_h3"), minimax_pipeline(comfy)
    theirs = fed(pipe, frames[0])
    count = 2 * 3 * 37
    shown = theirs["hidden_states"].shape[1] - count
    assert (shown, len(made["latents"]), made["image"].shape[1]) == (2 * 3, 7, 24)
    time = float(theirs["timestep"][theirs["timestep_indices"][-1]])
    t = torch.tensor([1000.0 * (1.0 - time)])
    clip = of.packed(theirs).clip(theirs["hidden_states"]).transpose(1, 2)
    assert clip.shape == (1, 37, 24, 4, 6)
    picture = torch.nn.functional.pad(made["image"][None, :1], (0, 0, 0, 0, 0, 0, 0, 36))
    hidden = torch.cat([clip, picture], dim=2)
    ours = of.inputs(pipe.transformer.config, hidden, t, text | {"sound": sound})
    assert set(theirs) - set(ours) <= {"attention_kwargs"}
    exact = [name for name, value in ours.items() if name.endswith(("indices", "tags", "ids", "hidden_states"))]
    for name in exact:
        if name not in ("audio_hidden_states", "hidden_states"):
            torch.testing.assert_close(ours[name], theirs[name].to(ours[name].dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours["timestep"], theirs["timestep"], rtol=0, atol=1e-6)
    assert ours["audio_hidden_states"].shape == theirs["audio_hidden_states"].shape
    assert torch.equal(ours["hidden_states"][:, shown:], theirs["hidden_states"][:, shown:])
    difference = ours["hidden_states"][:, :shown] - theirs["hidden_states"][:, :shown]
    assert 0 < float(difference.abs().max()) < 0.02  # 0.001 of noise, and their latents are rounded to half precision
    net = pipe.transformer
    with torch.no_grad():
        made_of = net(**ours)[0]
    stepped = patchify_video_latents(-of.output(made_of, clip).transpose(1, 2), (1, 2, 2))
    assert torch.equal(stepped, made_of[0, shown:])
    state = PipelineState(values={"latents": made["latents"][None].transpose(1, 2), "output_type": "pt"})
    MiniMaxH3VideoDecodeStep()(pipe, state)
    with torch.no_grad():
        pixels = decode_clip(pipe.vae, made["latents"][None].transpose(1, 2), "minimax_h3")
    torch.testing.assert_close(pixels.add(1.0).div(2.0)[0].transpose(0, 1), state.get("videos")[0])

    wide = torch.cat([net.proj_in.weight.detach(), torch.ones(64, 4)], 1)
    lora, read = AlignmentLoRA("minimax_h3", {}, {"weight": wide, "bias": net.proj_in.bias.detach()}), []
    net.proj_in.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with apply(pipe, lora, TRACKS, target="square"), torch.no_grad():
        net(**theirs)
    mask = torch.zeros(1, 37, 1, 4, 6)
    mask[:, 0, 0] = torch.nn.functional.interpolate(TRACKS.mask("square", 0)[None, None].float(), (4, 6))[0]
    assert mask.sum() > 2
    config = FrozenDict({**net.config, "in_channels": 25})
    trained = of.inputs(config, torch.cat([hidden, mask], 2), t, text | {"sound": sound})
    assert torch.equal(read[0][..., 96:], trained["hidden_states"][..., 96:])
    assert not bool(read[0][:, :shown, 96:].any())


@pytest.mark.parametrize("heard", [True, False])
def test_words_stand_where_they_are_looked_for(encoded, home, comfy, heard):
    """Rows of a causal text encoder change from a word that is exchanged on: that is the row it is bound to, behind
    those of the picture. What is seen of attention is words and clip, with silence between them and without sound."""
    _, made, text, empty, other, _ = encoded
    files = ModelFiles(str(home / "model"))
    words = files.bind(PROMPT, "circle: a red circle\nsquare: a blue square\npushes = verb(circle -> square)")
    task = override(PRESETS["matrix_hunyuan_i2v"](), settings(home, "")).task
    net, of = VideoModel(task).transformer, family("minimax_h3")
    lead = len(empty)
    assert text["rows"].shape[1] == lead + words.length
    assert int((text["tags"] == 0).sum()) > 2
    changed = (text["rows"][0, : len(other)] - other[: text["rows"].shape[1]]).abs().amax(1) > 0
    square = next(token for token in words.tokens if "square" in token.text)
    assert int(changed.int().argmax()) == lead + square.row
    assert bind_prompt(files.tokenizer, PROMPT, "square: square", family="qwen3vl").length == words.length

    class Calls(Watcher):
        def __init__(self):
            self.seen = []

        def observe(self, call, lse):
            self.seen.append(call)

    latents, calls = made["latents"][None].float(), Calls()
    given = text | ({"sound": made["sound"][None]} if heard else {})
    hidden = torch.cat([latents, made["image"][None]], dim=2)
    inputs = of.inputs(net.config, hidden, torch.tensor([600.0]), given)
    with attach(net, Session([calls]), lambda forward: None), torch.no_grad():
        made_of = of.output(net(**inputs)[0], latents)
    assert made_of.shape == latents.shape
    sound = len(made["sound"]) if heard else 0
    assert inputs["audio_hidden_states"].shape[1] == sound == (74 if heard else 0)
    (span,) = {(call.text_k, call.video_q, call.sound_q) for call in calls.seen}
    begin = lead + words.length + 6 + sound
    assert span == ((lead, words.length), (begin, 42), (begin - 74, 74) if heard else None)
    assert {call.grid for call in calls.seen} == {files.shape.grid(22, H, W)}
    assert calls.seen[0].grid.shape == (7, 2, 3)
    two = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in given.items()}
    with pytest.raises(ValueError, match="one sequence for its whole batch.*data.batch=1"):
        of.inputs(net.config, hidden.repeat(2, 1, 1, 1, 1), torch.tensor([600.0, 300.0]), two)


def settings(home, out, *more):
    return [
        "data.frames=5", "data.height=128", "data.width=128", "data.bystanders=true", "data.skip_bad=true",
        "task.v2t=0,1", "task.v2v=1", "task.rank=8", "task.weights=fp32", "task.decoder=8", "task.shift=12",
        "optim.warmup=1", "run.log_every=1", "run.preview_every=0", "run.tensorboard=false",
        f"task.model={home / 'model'}", f"data.folder={home / 'clips'}", f"data.cache={home / 'cache'}",
        f"run.out={out}", *more,
    ]  # fmt: skip


def shares(trainer, batch):
    """Which share of what words look at, and instances, lies on their masks, by kind of map."""
    model, (binding,), (tracks,) = trainer.task.model, batch.bindings, batch.tracks
    inputs = model.inputs(batch.latents.float(), batch, batch.text, torch.tensor([600.0]))
    with torch.no_grad(), watch(model.transformer, binding, tracks, recorder=AlignmentRecorder) as seen:
        model.transformer.eval()(**inputs)
    ((kinds),) = seen.recorder.alignments().values()
    return {each.kind: float(each.scores().nanmean()) for each in kinds}


def test_losses_fall_and_attention_comes_to_its_masks(home, tmp_path):
    """A short run, whose losses read the token grid and whose input has an ID map beside the clip."""
    more = ("task.decoder=0", "task.sga=1", "task.spa=1", "task.scores=probabilities", "task.checkpointing=false")
    more += ("task.rank=32", "task.dropout=0", "optim.lr=1e-2", "optim.schedule=constant", "run.steps=70")
    trainer = Trainer(override(PRESETS["matrix_hunyuan_i2v"](), settings(home, tmp_path, *more)))
    clips = open_clips(trainer.config.data, trainer.task.files, say=str, bar=False)
    trainer.task.source.fill()
    batch = clips.batch(0)
    clips.close()
    before = shares(trainer, batch)
    trainer.run()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    for name in ("diffusion", "sga", "spa"):
        values = [float(row[name]) for row in rows]
        assert sum(values[-10:]) < 0.9 * sum(values[:10]), name
    after = shares(trainer, batch)
    assert after["v2t"] > 1.5 * before["v2t"]
    assert after["v2v"] > 3 * before["v2v"]


def test_one_clip_at_a_time(home, tmp_path):
    with pytest.raises(ValueError, match="one clip at a time.*set data.batch=1, and optim.accumulate=2"):
        Trainer(override(PRESETS["matrix_hunyuan_i2v"](), settings(home, tmp_path, "data.batch=2")))
    with pytest.raises(ValueError, match=r"17 n \+ 5 frames.*got 9 frames"):
        Trainer(override(PRESETS["matrix_hunyuan_i2v"](), settings(home, tmp_path, "data.frames=9")))
