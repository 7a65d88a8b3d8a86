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
from matrix_lib.instrument.scores import AlignmentRecorder
from matrix_lib.instrument.session import Session
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.clips.batches import open_clips
from training.clips.encoders import ModelFiles
from training.fit import Trainer
from training.run.config import override
from training.run.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, H, W = 124, 64, 96  # the fewest that its pipeline makes
PROMPT = "a red circle pushes a blue square"
OF = family("minimax_h3")


@pytest.fixture(scope="module")
def pipe(comfy):
    return minimax_pipeline(comfy)


@pytest.fixture(scope="module")
def home(tmp_path_factory, pipe):
    folder = tmp_path_factory.mktemp("h3")
    pipe.save_pretrained(str(folder / "model"), overwrite_modular_index=True)
    world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=80)
    export_clips(make_clips(2, 4, world), folder / "clips")
    return folder


@pytest.fixture(scope="module")
def encoded(home):
    """(frames, what is made of them, the text, how many rows stand in front of the words, rows of other words)."""
    frames = torch.randint(0, 255, (22, H, W, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    with ModelFiles(str(home / "model")).open() as encoders:
        text = {name: value[None] for name, value in encoders.text(PROMPT, frames[0]).items()}
        lead, other = (encoders.text(words, frames[0])["rows"] for words in ("", PROMPT.replace("square", "hat")))
        return frames, encoders.video(frames), text, len(lead), other


def fed(pipe, picture):
    """What the pipeline calls its transformer with in its second step, with the mode of the VAE's distribution."""
    seen, encode = [], pipe.vae.encode

    def mode(*given, **named):
        (found,) = encode(*given, **named)
        found.sample = lambda generator=None: found.mode()
        return (found,)

    pipe.vae.encode = mode
    handle = pipe.transformer.register_forward_pre_hook(lambda net, args, given: seen.append(given), with_kwargs=True)
    size = dict(height=H, width=W, num_frames=FRAMES, num_inference_steps=3)
    pipe(prompt=PROMPT, image=Image.fromarray(picture.numpy()), generator=torch.Generator().manual_seed(0), **size)
    handle.remove()
    return seen[1]


def test_the_sequence_is_the_one_that_the_pipeline_makes(encoded, pipe):
    """Text, places, tags and times; the first frame but for its noise; clips on the way back; a mask beside the clip as
    a LoRA on the pipeline puts it there."""
    frames, made, text, *_ = encoded
    net, theirs, shown = pipe.transformer, fed(pipe, frames[0]), 2 * 3
    text = text | {"sound": OF.beside_clip(pipe, FRAMES)["sound"][None]}
    t = 1000.0 * (1.0 - theirs["timestep"][theirs["timestep_indices"][-1]])[None]
    clip = OF.packed(theirs).clip(theirs["hidden_states"]).transpose(1, 2)
    hidden = torch.cat([clip, torch.nn.functional.pad(made["image"][None, :1], (0,) * 7 + (36,))], dim=2)
    ours = OF.inputs(net.config, hidden, t, text)
    same = [name for name in ours if name.endswith(("indices", "tags", "ids", "timestep")) or name.startswith("enc")]
    assert len(same) == 8
    for name in same:
        torch.testing.assert_close(ours[name], theirs[name].to(ours[name].dtype), rtol=0, atol=1e-6)
    assert ours["audio_hidden_states"].shape == theirs["audio_hidden_states"].shape
    assert torch.equal(ours["hidden_states"][:, shown:], theirs["hidden_states"][:, shown:])
    difference = (ours["hidden_states"] - theirs["hidden_states"])[:, :shown].abs().max()
    assert 0 < float(difference) < 0.02  # 0.001 of noise, and their latents are rounded to half precision
    with torch.no_grad():
        out = net(**ours)[0]
    assert torch.equal(patchify_video_latents(-OF.output(out, clip).transpose(1, 2), (1, 2, 2)), out[0, shown:])
    latents = made["latents"][None].transpose(1, 2)
    state = PipelineState(values={"latents": latents, "output_type": "pt"})
    MiniMaxH3VideoDecodeStep()(pipe, state)
    with torch.no_grad():
        pixels = decode_clip(pipe.vae, latents, "minimax_h3")[0].transpose(0, 1)
    torch.testing.assert_close(pixels.add(1.0).div(2.0), state.get("videos")[0])

    tracks, read = MaskTracks.from_boxes({"square": {0: (40, 8, 90, 60)}}, FRAMES, H, W), []
    wide = torch.cat([net.proj_in.weight.detach(), torch.ones(64, 4)], 1)
    lora = AlignmentLoRA("minimax_h3", {}, {"weight": wide, "bias": net.proj_in.bias.detach()})
    net.proj_in.register_forward_pre_hook(lambda module, args: read.append(args[0][..., 96:]))
    with apply(pipe, lora, tracks), torch.no_grad():
        net(**theirs)
    mask = torch.zeros(1, 37, 1, 4, 6)
    mask[:, 0, 0] = torch.nn.functional.interpolate(tracks.mask("square", 0)[None, None].float(), (4, 6))[0]
    config = FrozenDict({**net.config, "in_channels": 25})
    trained = OF.inputs(config, torch.cat([hidden, mask], 2), t, text)["hidden_states"][..., 96:]
    assert torch.equal(read[0], trained)
    assert trained.sum() == mask.sum() > 2
    assert not bool(trained[:, :shown].any())


@pytest.mark.parametrize("heard", [True, False])
def test_words_stand_where_they_are_looked_for(encoded, home, pipe, heard):
    """Rows of a causal text encoder change from a word that is exchanged on: that is the row it is bound to, behind
    those of the picture. What is seen of attention is words and clip, with silence between them and without sound."""
    _, made, text, lead, other = encoded
    files, calls = ModelFiles(str(home / "model")), []
    words = files.bind(PROMPT, "circle: a red circle\nsquare: a blue square\npushes = verb(circle -> square)")
    rows = text["rows"][0]
    assert len(rows) == lead + words.length
    changed = (rows[: len(other)] - other[: len(rows)]).abs().amax(1) > 0
    square = next(token for token in words.tokens if "square" in token.text)
    assert int(changed.int().argmax()) == lead + square.row

    class Calls(Watcher):
        def observe(self, call, lse):
            calls.append(call)

    net, latents = pipe.transformer, made["latents"][None]
    given = text | ({"sound": made["sound"][None]} if heard else {})
    hidden, t = torch.cat([latents, made["image"][None]], dim=2), torch.tensor([600.0])
    inputs, sound = OF.inputs(net.config, hidden, t, given), 74 if heard else 0
    with attach(net, Session([Calls()]), lambda forward: None), torch.no_grad():
        assert OF.output(net(**inputs)[0], latents).shape == latents.shape
    assert inputs["audio_hidden_states"].shape[1] == sound
    begin = lead + words.length + 6 + sound
    (span,) = {(call.text_k, call.video_q, call.sound_q) for call in calls}
    assert span == ((lead, words.length), (begin, 42), (begin - 74, 74) if heard else None)
    assert {call.grid for call in calls} == {files.shape.grid(22, H, W)}
    two = {name: torch.cat([value, value]) for name, value in given.items()}
    with pytest.raises(ValueError, match="one sequence for its whole batch.*data.batch=1"):
        OF.inputs(net.config, torch.cat([hidden, hidden]), torch.tensor([600.0, 300.0]), two)


def trainer(home, out, *more):
    given = [
        "data.frames=5", "data.height=128", "data.width=128", "data.bystanders=true", "data.skip_bad=true",
        "task.v2t=0,1", "task.v2v=1", "task.rank=32", "task.weights=fp32", "task.decoder=0", "task.shift=12",
        "task.sga=1", "task.spa=1", "task.scores=probabilities", "task.checkpointing=false", "task.dropout=0",
        "optim.warmup=1", "optim.lr=1e-2", "optim.schedule=constant", "run.steps=70", "run.log_every=1",
        "run.preview_every=0", "run.tensorboard=false", f"task.model={home / 'model'}",
        f"data.folder={home / 'clips'}", f"data.cache={home / 'cache'}", f"run.out={out}", *more,
    ]  # fmt: skip
    return Trainer(override(PRESETS["matrix_hunyuan_i2v"](), given))


def shares(model, batch):
    """Which share of what words look at, and instances, lies on their masks, by kind of map."""
    inputs, recorder = model.inputs(batch.latents, batch, batch.text, torch.tensor([600.0])), AlignmentRecorder
    with torch.no_grad(), watch(model.transformer, batch.bindings[0], batch.tracks[0], recorder=recorder) as seen:
        model.transformer.eval()(**inputs)
    ((kinds),) = seen.recorder.alignments().values()
    return {each.kind: float(each.scores().nanmean()) for each in kinds}


def test_losses_fall_and_attention_comes_to_its_masks(home, tmp_path):
    """A short run, whose losses read the token grid and whose input has an ID map beside the clip."""
    for wrong, told in (("data.batch=2", "data.batch=1, and optim.accumulate=2"), ("data.frames=9", r"17 n \+ 5")):
        with pytest.raises(ValueError, match=told):
            trainer(home, tmp_path, wrong)
    run = trainer(home, tmp_path)
    clips = open_clips(run.config.data, run.task.files, say=str, bar=False)
    batch = clips.batch(0)
    clips.close()
    before = shares(run.task.model, batch)
    run.run()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    for name in ("diffusion", "sga", "spa"):
        values = [float(row[name]) for row in rows]
        assert sum(values[-10:]) < 0.9 * sum(values[:10]), name
    after = shares(run.task.model, batch)
    assert after["v2t"] > 1.5 * before["v2t"]
    assert after["v2v"] > 3 * before["v2v"]
