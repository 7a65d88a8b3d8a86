"""Latent frames in front of the clip, Wan Animate's reference and VACE's: tracks, maps and steering are of the clip's
own frames. Animate's segments, and what they cannot do."""

import itertools

import diffusers
import pytest
import torch
from PIL import Image
from support_attention import make_binding, make_tracks
from support_diffusers import FACE, LAT, build, forward
from support_models import make_wan, randomize, spiece_model
from support_pipelines import FRAMES, TRACKS, H, Pipe, W, picture, video

from matrix_lib import apply_lora
from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.gradient import GradientGuidance
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.timed_words import TimedWords
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.framing import fit_of
from matrix_lib.hosts.diffusers.latents import encode_clip
from matrix_lib.hosts.diffusers.load import ModelSource, check_model, open_model
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.hosts.diffusers.schedules import noise_at
from matrix_lib.hosts.diffusers.steer import steer

pytestmark = pytest.mark.usefixtures("one_thread")
FRONT = {"wan_animate": 1, "wan_vace": 2}  # latent frames
GRID = (LAT[0], LAT[1] // 2, LAT[2] // 2)
LATENT = torch.randn(16, *LAT, generator=torch.Generator().manual_seed(8))
WORDS = make_binding(binding_module, 512)


@pytest.fixture(scope="module")
def pipes():
    made = {}
    return lambda family: made.setdefault(family, Pipe(family, "flow", 1.0))


@pytest.mark.parametrize("family", FRONT)
def test_words_and_bias_are_of_the_clips_own_frames(pipes, family):
    """Maps of words are an explicit softmax of what goes into a cross-attention; biased self-attention gives the
    references what it gave them."""
    pipe, seen = pipes(family), {"looks": [], "self": []}
    blocks, front = pipe.transformer.blocks, FRONT[family] * GRID[1] * GRID[2]
    hooks = [
        blocks[1].attn2.register_forward_pre_hook(lambda _, args: seen["looks"].append(args[:2])),
        blocks[0].attn1.register_forward_hook(lambda _, args, out: seen["self"].append(out)),
    ]
    plain = pipe(1)
    with watch(pipe.pipe, WORDS, TRACKS) as watching:
        assert torch.equal(pipe(1), plain)
    with steer(pipe.pipe, RegionBias(), WORDS, TRACKS):
        assert not torch.equal(pipe(1), plain)
    for hook in hooks:
        hook.remove()
    if family == "wan_animate":
        assert fit_of(pipe.pipe) == "stretch", "as it brings the pose video to the clip, not the picture"
    stream = watching.capture().streams[0]
    assert stream.grid.shape == GRID
    assert stream.grid.fps == (30 if family == "wan_animate" else 16)
    attn, (x, text) = blocks[1].attn2, seen["looks"][0]
    with torch.no_grad():
        q, k = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(text[:, -512:]))
    q, k = (each[0].double().unflatten(-1, (attn.heads, -1)).transpose(0, 1) for each in (q, k))
    p = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)[:, front:]
    for place, phrase in enumerate(WORDS.phrases):
        want = p[..., list(phrase.rows)].mean((0, 2)).view(GRID)
        got = stream.get("v2t").values[stream.layers_v2t.index(1), 0, place]
        assert (got - want).abs().max() <= 6e-4 * want.max(), phrase.name
    before, *_, after = seen["self"]
    torch.testing.assert_close(after[:, :front], before[:, :front], rtol=1e-4, atol=1e-5)
    assert (after - before)[:, front:].abs().max() > 1e-3


WAYS = {
    "dual clock": (DualClockDenoising(0.6, 0.3), None, LATENT),
    "intrinsic": (IntrinsicDenoising(1), None, None),
    "gradient": (GradientGuidance(), WORDS, None),
}


@pytest.mark.parametrize("family", FRONT)
@pytest.mark.parametrize("way", WAYS)
def test_references_are_left_to_the_sampler(pipes, family, way):
    """Between two steps the references have moved by an Euler step, and the clip by more."""
    pipe, (guidance, words, reference), calls = pipes(family), WAYS[way], {}

    def note(_, args, given, out):
        calls.setdefault(float(given["timestep"][0]), []).append((given["hidden_states"][:, :16].clone(), out[0]))

    plain, hook = pipe(3), pipe.transformer.register_forward_hook(note, with_kwargs=True)
    with steer(pipe.pipe, guidance, words, TRACKS, reference=reference):
        assert not torch.equal(pipe(3), plain)
    hook.remove()
    sigmas, steps, moved = pipe.pipe.scheduler.sigmas, [*calls.values()], []
    assert len(steps) == 3
    for at, (now, then) in enumerate(itertools.pairwise(steps)):
        (x, out), first = now[-1], now[0][0]
        went = x + (sigmas[at + 1] - sigmas[at]) * out
        off = (then[-1][0] - went).detach()
        front = FRONT[family]
        assert torch.equal(x[:, :, :front], first[:, :, :front])
        torch.testing.assert_close(off[:, :, :front], torch.zeros_like(off[:, :, :front]), rtol=0, atol=1e-4)
        moved.append(float(off[:, :, front:].abs().max()))
    assert max(moved) > 1e-2
    if way == "dual clock":
        x, sigma = steps[1][-1][0][:, :, FRONT[family] :], float(sigmas[1])
        assert 0.8 < float(((x - (1 - sigma) * LATENT) / sigma).std()) < 1.2


def test_a_latent_element_of_wan_22_5b_is_16_pixels_wide():
    net = diffusers.WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, in_channels=48, out_channels=48, text_dim=16, freq_dim=16,
        ffn_dim=16, num_layers=1,
    )  # fmt: skip
    latents, times = torch.randn(1, 48, 2, 4, 6), torch.tensor([500])
    with torch.no_grad(), watch(net, WORDS, points="95,60") as seen:
        net(hidden_states=latents, timestep=times, encoder_hidden_states=torch.randn(1, 512, 16))
    (stream,) = seen.capture().streams
    assert (stream.grid.shape, stream.grid.frame_pixels, stream.grid.fps) == ((2, 2, 3), (64, 96), 24)
    assert list(stream.get("v2v").points.values()) == [(0, 1, 2)]


def test_the_first_frame_of_wan_22_5b_is_left_to_its_pipeline(tmp_path):
    """Its tokens go in clean, whatever moves the rest of the latent before a step."""
    folder = make_wan(tmp_path, i2v=True, version="5b", text_encoder=False)
    net, vae = (kind.from_pretrained(folder / part) for kind, part in (
        (diffusers.WanTransformer3DModel, "transformer"), (diffusers.AutoencoderKLWan, "vae")))  # fmt: skip
    pipe = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=net, expand_timesteps=True,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    rows = torch.randn(1, 64, 4096, generator=torch.Generator().manual_seed(2))
    words, tracks, fed = make_binding(binding_module, 64), make_tracks(tracks_module, FRAMES, H, W), []
    net.register_forward_pre_hook(lambda _, args, given: fed.append(given["hidden_states"][:, :, 0]), with_kwargs=True)

    def run():
        return pipe(
            image=picture(1), prompt_embeds=rows, height=H, width=W, num_frames=FRAMES, num_inference_steps=3,
            guidance_scale=1.0, output_type="latent", generator=torch.Generator().manual_seed(3),
        ).frames.detach()  # fmt: skip

    plain, clip = run(), torch.randn(48, 3, H // 16, W // 16, generator=torch.Generator().manual_seed(8))
    for guidance in (DualClockDenoising(0.6, 0.3), IntrinsicDenoising(1), GradientGuidance(), RegionBias()):
        held = isinstance(guidance, DualClockDenoising)
        binding = words if isinstance(guidance, (GradientGuidance, RegionBias)) else None
        with steer(pipe, guidance, binding, tracks, reference=clip if held else None):
            moved = run()
        assert torch.equal(moved[:, :, 0], plain[:, :, 0])
        assert (moved - plain)[:, :, 1:].abs().max() > 1e-4, guidance
    assert all(torch.equal(each, fed[0]) for each in fed)


@pytest.mark.parametrize("family", FRONT)
def test_mask_channels_begin_with_the_clip(family):
    net, args, *_ = build(family)
    front, base, seen = FRONT[family], net.config.in_channels, []
    if family == "wan_vace":
        args = {
            name: torch.cat([each[:, :, :front], each], 2) if each.ndim == 5 else each for name, each in args.items()
        }
        args["control_hidden_states"][:, 16:, :front] = 0
    weight = net.patch_embedding.weight.detach()
    wide = {"weight": torch.cat([weight, weight[:, :1]], 1), "bias": net.patch_embedding.bias.detach()}
    net.patch_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    mug = MaskTracks.from_boxes({"mug": {0: (8, 8, 40, 56)}}, 1, H, W)
    with apply_lora(net, AlignmentLoRA("wan", {}, wide), mug):
        forward(net, args)
    (mask,) = seen[0][:1, base:]
    assert mask.flatten(2).any(2).tolist() == [[place == front for place in range(front + LAT[0])]]
    assert torch.equal(mask[0, front, 1:7, 1:5], torch.ones(6, 4))


LONG = 21  # frames of a clip in segments of 13, each of which takes 5 from the one before: they begin with 0 and 8
HALF = (32, 48)
SEGMENTS = dict(
    segment_frame_length=13, prev_segment_conditioning_frames=5, pose_video=video(LONG, HALF[::-1]),
    face_video=video(LONG, (FACE, FACE)), height=HALF[0], width=HALF[1],
)  # fmt: skip


def test_segments_of_a_long_clip_read_their_own_part_of_the_tracks(pipes):
    """Each as a clip of its own would be watched with what the tracks show from its first frame on; together they are
    one capture of the whole clip, without the frames that were taken over."""
    pipe, tracks, calls = pipes("wan_animate"), make_tracks(tracks_module, LONG, *HALF), []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, args, given: calls.append(given), with_kwargs=True)
    plain = pipe(2, **SEGMENTS)
    hook.remove()
    assert len(calls) == 4
    with watch(pipe.pipe, WORDS, tracks) as seen:
        assert torch.equal(pipe(2, **SEGMENTS), plain)
    capture = seen.capture()
    whole = capture.streams[0]
    assert (whole.grid.shape, whole.grid.pixel_frames) == ((6, 2, 3), LONG)
    assert capture.meta["segments"] == [0, 8]
    assert [step.calls for step in capture.steps] == [1, 1]
    for place, (start, own) in enumerate(((0, slice(0, 4)), (8, slice(4, 6)))):
        with watch(pipe.transformer, WORDS, tracks.starting(start), steps=2) as alone:
            for given in calls[2 * place : 2 * place + 2]:
                pipe.transformer(**given)
        (part,) = alone.capture().streams
        for kind in ("v2t", "v2v"):
            got = whole.get(kind).values[:, :, :, own]
            want = part.get(kind).values[:, :, :, 2 * bool(start) :]
            assert whole.get(kind).entities == part.get(kind).entities
            assert torch.equal(got, want), (kind, start)
            assert torch.isfinite(got).all()
    later = tracks.starting(8).to_grid(part.grid, "nearest")
    assert not torch.equal(later.maps[0], tracks.to_grid(part.grid, "nearest").maps[0]), "tracks move"
    with watch(pipe.pipe, WORDS, tracks.take([0])) as short:
        pipe(2, **SEGMENTS)
    found = short.capture()
    assert (found.streams[0].get("v2v").counts.amax((0, 1, 2)) > 0).tolist() == [True] * 4 + [False] * 2
    assert any("the tracks end before frame 8" in note for note in found.meta["notes"])


def test_tracks_of_a_clip_that_ends_within_a_segment(pipes):
    """Its pipeline makes whole segments, of videos that run backwards behind their end, and cuts off what is too much:
    so run tracks that are as long as the clip, and a capture says what is cut off. Shorter ones are refused."""
    pipe, length = pipes("wan_animate"), 15
    tracks = make_tracks(tracks_module, LONG, *HALF).take(range(length))
    runs = dict(SEGMENTS, **{name: SEGMENTS[name][:length] for name in ("pose_video", "face_video")})
    filled = tracks.take([*range(length), *range(length - 2, length - 8, -1)])
    assert pipe.pipe.pad_video_frames([*range(length)], LONG) == [*range(length), *range(length - 2, length - 8, -1)]
    captures = []
    for each in (tracks, filled):
        with watch(pipe.pipe, WORDS, each) as seen:
            with pytest.raises(IndexError):  # between its videos; it leaves no length to the next run
                pipe(1, **dict(runs, pose_video=runs["pose_video"][:12], face_video=runs["face_video"][:1]))
            pipe(1, **runs)
        captures.append(seen.capture())
    for kind in ("v2t", "v2v"):
        assert torch.equal(*(capture.streams[0].get(kind).values for capture in captures)), kind
    assert any(
        "the clip has 15 frames: what is made behind them, up to frame 20" in n for n in captures[0].meta["notes"]
    )
    outs = []
    for each in (tracks, filled):
        with steer(pipe.pipe, [RegionBias(), IntrinsicDenoising(1)], WORDS, each):
            outs.append(pipe(2, **runs))
    assert torch.equal(*outs)
    with pytest.raises(ValueError, match="the tracks have 4 frames, but the video has 13"):
        with steer(pipe.pipe, RegionBias(), WORDS, tracks.take(range(12))):
            pipe(1, **runs)
    assert not {"pad_video_frames", "prepare_prev_segment_cond_latents"} & set(vars(pipe.pipe))


def test_segments_are_steered_by_their_own_part(pipes):
    """The second segment, which is called with what the first one made, is steered as a clip of its own with that part
    of the tracks, or at that part's seconds."""
    pipe, tracks = pipes("wan_animate"), make_tracks(tracks_module, LONG, *HALF)
    at = lambda *time: make_binding(binding_module, 512, None, time)  # noqa: E731
    ways = [(RegionBias(), WORDS, WORDS), (TimedWords(), at(14 / 30, None), at(6 / 30, None))]
    for guidance, words, shifted in ways:
        calls = []
        note = lambda _, args, given, out: calls.append((given, out[0]))  # noqa: E731
        hook = pipe.transformer.register_forward_hook(note, with_kwargs=True)
        with steer(pipe.pipe, guidance, words, tracks):
            pipe(1, **SEGMENTS)
        hook.remove()
        (given, got), own = calls[1], tracks.starting(8)
        with steer(pipe.transformer, guidance, shifted, own, steps=1):
            want = pipe.transformer(**given)[0]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert (got - pipe.transformer(**given)[0]).abs().max() > 3e-4
    for guidance, words in ((IntrinsicDenoising(1), None), (GradientGuidance(), WORDS)):
        plain = pipe(2, **SEGMENTS)
        with steer(pipe.pipe, guidance, words, tracks) as (actor,):
            assert not torch.equal(pipe(2, **SEGMENTS), plain)
        assert not actor.notes or "end before" not in " ".join(actor.notes)


MASKS = [Image.new("L", HALF[::-1], 255 * (at < 15)) for at in range(LONG)]
GREY = [Image.new("L", HALF[::-1], 90 + 8 * at) for at in range(LONG)]
REPLACED = dict(mode="replace", background_video=SEGMENTS["pose_video"], mask_video=MASKS)


@pytest.mark.parametrize("masks", [MASKS, GREY], ids=["hidden", "grey"])
def test_the_mode_that_replaces_a_character_says_itself_where_segments_begin(pipes, masks):
    """Its masks hide it: of whole frames that are background, and grey. Maps, steering and masks of a LoRA are those of
    each segment's own part; a clip that comes after is another one."""
    pipe, tracks, calls = pipes("wan_animate"), make_tracks(tracks_module, LONG, *HALF), []
    how = {**SEGMENTS, **REPLACED, "mask_video": masks}
    note = lambda _, args, given, out: calls.append((given, out[0]))  # noqa: E731
    hook = pipe.transformer.register_forward_hook(note, with_kwargs=True)
    plain = pipe(1, **how)
    with watch(pipe.pipe, WORDS, tracks) as seen:
        assert torch.equal(pipe(1, **how), plain)
    with steer(pipe.pipe, RegionBias(), WORDS, tracks):
        pipe(1, **how)
    hook.remove()
    capture = seen.capture()
    assert capture.meta["segments"] == [0, 8]
    assert capture.streams[0].grid.shape == (6, 2, 3)
    own = tracks.starting(8)
    with watch(pipe.transformer, WORDS, own, steps=1) as alone:
        pipe.transformer(**calls[1][0])
    for kind in ("v2t", "v2v"):
        got = capture.streams[0].get(kind).values[:, :, :, 4:]
        assert torch.equal(got, alone.capture().streams[0].get(kind).values[:, :, :, 2:]), kind
    with steer(pipe.transformer, RegionBias(), WORDS, own, steps=1):
        want = pipe.transformer(**calls[5][0])[0]
    torch.testing.assert_close(calls[5][1], want, rtol=1e-4, atol=1e-5)
    with watch(pipe.pipe, WORDS, tracks):
        pipe(1, **how)
        with pytest.raises(ValueError, match="begun another clip"):
            pipe(1, **{**how, "mask_video": masks[::-1]})
    assert "prepare_prev_segment_cond_latents" not in vars(pipe.pipe)


def test_a_further_segment_has_the_mask_of_its_own_first_frame(pipes):
    pipe, seen = pipes("wan_animate"), []
    place = pipe.transformer.patch_embedding
    weight = place.weight.detach()
    wide = AlignmentLoRA("wan", {}, {"weight": torch.cat([weight, weight[:, :1]], 1), "bias": place.bias.detach()})
    mug = MaskTracks.from_boxes({"mug": {0: (8, 8, 24, 24), 20: (28, 8, 44, 24)}}, LONG, *HALF)
    hook = place.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, weight.shape[1] :]))
    with apply_lora(pipe.pipe, wide, mug):
        pipe(1, **SEGMENTS)
    with pytest.raises(ValueError, match="begins with frame 8, whose masks this LoRA reads, and the tracks have 1"):
        with apply_lora(pipe.pipe, wide, mug.take([0])):
            pipe(1, **SEGMENTS)
    for mask, frame in zip(seen, (0, 8)):
        assert torch.equal(mask[0, 1], mug.mask("mug", frame)[::8, ::8].float())
        assert not mask[0, [0, 2, 3, 4]].any()
    seen.clear()
    greys = torch.rand(LONG, *HALF, generator=torch.Generator().manual_seed(4))
    with apply_lora(pipe.pipe, wide, mug, mask=greys):
        pipe(1, **SEGMENTS)
    for mask, frame in zip(seen, (0, 8), strict=True):
        torch.testing.assert_close(mask[0, 1], greys[frame, ::8, ::8])
    hook.remove()


def test_a_further_segment_is_held_to_its_own_part_of_a_clip(pipes):
    """Given as frames: each segment's latents are those of its own frames and noise of its own, up to where it is free;
    as a clip of its own would be held to that part."""
    pipe, tracks, seen = pipes("wan_animate"), make_tracks(tracks_module, LONG, *HALF), []
    clip = torch.randint(0, 256, (LONG, *HALF, 3), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    note = lambda _, args, given: seen.append(given)  # noqa: E731
    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    with steer(pipe.pipe, DualClockDenoising(0.75, 0.75), None, tracks, reference=clip) as (clocks,):
        pipe(4, **SEGMENTS)
    hook.remove()
    assert clocks.notes == []
    noises = []
    for begins, calls in ((0, seen[:4]), (8, seen[4:])):
        latent = encode_clip(pipe.pipe, clip[begins : begins + 13])
        for given in calls[1:3]:
            sigma = noise_at(pipe.pipe.scheduler, given["timestep"][0]).level.sigma
            noises.append((given["hidden_states"][0, :16, 1:] - (1 - sigma) * latent) / sigma)
    for first, second in (noises[:2], noises[2:]):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    assert 0.8 < float(noises[2].std()) < 1.2
    assert (noises[0] - noises[2]).abs().max() > 1
    with pytest.raises(ValueError, match="begins with frame 8, and the reference clip has 8 frames"):
        with steer(pipe.pipe, DualClockDenoising(0.5, 0.5), None, tracks, reference=clip[:8]):
            pipe(2, **SEGMENTS)
    ways = (tracks.take(range(12)), clip, "nothing is held longer"), (tracks, clip[:17], "ends with frame 16, which is")
    for given, frames, said in ways:
        with steer(pipe.pipe, DualClockDenoising(0.5, 0.5), None, given, reference=frames) as (clocks,):
            pipe(2, **{**SEGMENTS, "prev_segment_conditioning_frames": 1})  # the second one begins with frame 12
        assert said in " ".join(clocks.notes)


def test_what_a_further_segment_cannot_have_is_refused(pipes):
    """Dual-clock denoising to a latent; a grey mask of the first frame alone; other clips in one `watch`; of a
    transformer without its pipeline masks that hide what was taken over."""
    pipe = pipes("wan_animate")
    with pytest.raises(ValueError, match="further segment of the clip begins with frame 8, and the reference is the"):
        with steer(pipe.pipe, DualClockDenoising(1, 1), None, TRACKS, reference=torch.zeros(16, 4, 4, 6)):
            pipe(1, **SEGMENTS)
    with watch(pipe.pipe, WORDS):
        pipe(1)
        with pytest.raises(ValueError, match="begun another clip"):
            pipe(1, pose_video=video(FRAMES, (W, H))[::-1])
    with pytest.raises(ValueError, match="the mode that replaces a character"), watch(pipe.transformer, WORDS):
        pipe(1, **SEGMENTS, **REPLACED)
    place = pipe.transformer.patch_embedding
    wide = torch.cat([place.weight.detach(), place.weight.detach()[:, :1]], 1)
    lora, mug = (
        AlignmentLoRA("wan", {}, {"weight": wide}),
        MaskTracks.from_boxes({"mug": {0: (8, 8, 24, 24)}}, LONG, *HALF),
    )
    with pytest.raises(ValueError, match="begins with frame 8, and `mask` has 1"):
        with apply_lora(pipe.pipe, lora, mug, mask=torch.full(HALF, 0.5)):
            pipe(1, **SEGMENTS)
    assert not pipe.transformer._forward_pre_hooks
    assert "prepare_prev_segment_cond_latents" not in vars(pipe.pipe)


def test_a_folder_of_animate(pipes, tmp_path, comfy):
    """Its words are bound as Wan's. What makes clips of words alone, and what trains, refuses it by name; and so does
    ComfyUI, which reads its native file."""
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    from matrix_lib.hosts.comfy.load import load_folder

    folder = tmp_path / "animate"
    spiece_model(tmp_path / "tokenizer")
    sizes = dict(vocab_size=384, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    parts = pipes("wan_animate").pipe.components
    parts |= dict(text_encoder=randomize(UMT5EncoderModel(UMT5Config(**sizes))))
    parts |= dict(tokenizer=T5Tokenizer.from_pretrained(tmp_path / "tokenizer"))
    diffusers.WanAnimatePipeline(**parts).save_pretrained(folder)
    assert check_model(str(folder)) == "wan"
    with pytest.raises(ValueError, match="a pose video and a face video"):
        open_model(str(folder), torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="Wan Animate, which reads videos of poses and of a face"):
        ModelSource(str(folder))
    with pytest.raises(ValueError, match="load Wan Animate's native file"):
        load_folder(folder, torch.float32, text_encoder=False, vae=False)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    prompt = "the  cyclist overtakes the white van"
    words = bind_prompt(pipe, prompt, "c: the  cyclist\nv: the white van")
    assert words.length == 512
    ids = pipe.tokenizer(prompt.replace("  ", " "))["input_ids"]
    for name, text in (("c", "thecyclist"), ("v", "thewhitevan")):
        assert "".join(pipe.tokenizer.decode([ids[row] for row in words.phrase(name).rows]).split()) == text
    with watch(pipe, words) as seen:
        pipe(
            image=picture(1), pose_video=video(FRAMES, (W, H)), face_video=video(FRAMES, (FACE, FACE)), prompt=prompt,
            height=H, width=W, segment_frame_length=FRAMES, num_inference_steps=1,
        )  # fmt: skip
    stream = seen.capture().streams[0]
    assert (stream.entities, stream.grid.shape) == (("c", "v"), GRID)
