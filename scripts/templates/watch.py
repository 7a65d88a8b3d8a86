"""The workflows that watch attention, as drafts for `scripts.workflows`.

They run with mini and the pack's own clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..draft import BLUE, GREEN, GREY, RED, SHOWN, Draft, Node
from .squares import FPS, FRAMES, HEIGHT, STEPS, WIDTH

__all__ = ["DRAFTS", "LIFT", "PULL", "PUSH", "Scene"]

CFG = 4.0
FIRST = 6  # of STEPS: the first pass's
LOOK = 850  # pixels of the viewer, and of the video below it


@dataclass(frozen=True)
class Scene:
    """An example clip, its instances as key-framed boxes in pixels, and its words."""

    clip: str
    boxes: str
    prompt: str
    phrases: str


PUSH = Scene(
    "push",
    "green circle (subject): 0: 30 7 58 35; 16: 73 49 100 77\n"
    "pink circle (object): 0: 71 48 99 76; 8: 71 48 99 76; 16: 92 68 120 96",
    "the green circle pushes the pink circle",
    "green circle: the green circle [subject]\npink circle: the pink circle [object]\n"
    "pushes = verb(green circle -> pink circle)",
)
LIFT = Scene(
    "lift",
    "orange triangle (subject): 0: 49 88 83 116; 8: 70 62 104 92; 16: 70 26 104 56\n"
    "cyan diamond (object): 0: 86 51 116 81; 8: 86 51 116 81; 16: 86 15 116 45",
    "the orange triangle lifts the cyan diamond",
    "orange triangle: the orange triangle [subject]\ncyan diamond: the cyan diamond [object]\n"
    "lifts = verb(orange triangle -> cyan diamond)",
)
PULL = Scene(
    "pull",
    "green diamond (subject): 0: 38 57 68 87; 8: 25 38 55 68; 16: 38 57 68 87\n"
    "cyan square (object): 0: 12 19 37 44; 8: 12 19 37 44; 16: 25 38 51 63",
    "the green diamond pulls the cyan square",
    "green diamond: the green diamond [subject]\ncyan square: the cyan square [object]\n"
    "pulls = verb(green diamond -> cyan square)",
)
OWN = """\
**Your own:** put *Load Video* in place of *Example Clip* and say in *Trim Video* which part of it you mean. Choose a
model, set the size in *First Frame*, write boxes (`name: frame: left top right bottom; ...`, a few key frames are
enough) and the prompt, and say which of its words mean which instance. Names join boxes and words.

Models lie in `ComfyUI/models/diffusers` (a diffusers folder) or `ComfyUI/models/diffusion_models` (a single file)."""
WELCOME = f"""\
### Watch a video model attend
**Press Run.** The first frame of a clip, boxes for two instances and a sentence go in. Out come a video, where every
place of it looked for each word, and a chart of the layers that did so.

**Look:** hover the words in *Preview Attention* (`pushes` is who does what to whom), click a layer and step in its
chart, click a place of the picture. *Instances* shows where one thing looks for itself in other frames. Nothing runs
again for that, and the fields follow what you choose. *Pin*, beside a place that you clicked, lets the next run record
where that place looks.

It runs with *mini*, a small model of ours that knows coloured shapes, on a clip of its world that its training never
had.

{OWN}"""


def _clip(d: Draft, scene: Scene) -> Node:
    """The clip's frames."""
    clip = d.add("MatrixExampleClip", SHOWN, clip=scene.clip)
    part = d.add("Video Slice", 0, video=clip[0], start_time=0.0, duration=FRAMES / FPS, strict_duration=False)
    return d.add("GetVideoComponents", video=part[0])


def _tracks(d: Draft, scene: Scene, frames: Node, height: int = 190) -> Node:
    return d.add("MatrixBoxTracks", height, boxes=scene.boxes, images=frames[0], fps=FPS, frames=FRAMES)


def _words(
    d: Draft, scene: Scene, model: Node, tracks: Node, negative: str = "", height: int = SHOWN + 210
) -> tuple[Node, Node]:
    """The bound prompt and an empty negative one, which a group `negative` in the third column may hold."""
    bound = d.add("MatrixBindPrompt", height, clip=model[1], tracks=tracks[0])
    bound.inputs.update(prompt=scene.prompt, phrases=scene.phrases, form="as written")
    if negative:
        d.group(negative, 3, BLUE)
    return bound, d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")


def _start(d: Draft, model: Node, words: tuple[Node, Node], frames: Node) -> Node:
    start = d.add("MatrixImageCondition", model=model[0], positive=words[0][0], negative=words[1][0], vae=model[2])
    start.inputs.update(image=frames[0], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    return start


def _sampled(d: Draft, model: Node, start: Node) -> Node:
    """The sampler, with every layer watched."""
    noise = d.add("RandomNoise", noise_seed=7)
    guider = d.add("CFGGuider", model=model[0], positive=start[0], negative=start[1], cfg=CFG)
    sampler = d.add("KSamplerSelect", sampler_name="euler")
    sigmas = d.add("BasicScheduler", model=model[0], scheduler="simple", steps=STEPS, denoise=1.0)
    sample = d.add("MatrixSampleAttention", 60, noise=noise[0], guider=guider[0], sampler=sampler[0], sigmas=sigmas[0])
    sample.inputs.update(latent_image=start[2], layers="all")
    return sample


def _begun(d: Draft, scene: Scene, note: str, height: int) -> tuple[Node, Node, Node, tuple[Node, Node], Node]:
    """What these workflows begin with: model, frames, tracks, words and first frame."""
    d.group("Start here", 0, GREY)
    d.note(note, height)
    d.group("Your clip and model", 1, BLUE)
    frames = _clip(d, scene)
    model = d.add("MatrixLoadVideoDiT", source="mini")
    d.group("Who is where", 2, GREEN)
    tracks = _tracks(d, scene, frames)
    seen = d.add("MatrixPreviewTracks", 300, tracks=tracks[0], images=frames[0])
    seen.inputs.update(width=WIDTH, height=HEIGHT, length=FRAMES, model="mini")
    d.group("Words", 3, RED)
    words = _words(d, scene, model, tracks)
    return model, frames, tracks, words, _start(d, model, words, frames)


def watch_attention() -> Draft:
    """01: first frame, tracks and a prompt in; video, attention video, layer chart and capture out."""
    d = Draft("01_watch_attention")
    model, _, tracks, _, start = _begun(d, PUSH, WELCOME, 900)

    d.group("Sample and watch", 4)
    sample = _sampled(d, model, start)
    d.group("The layers", 4, BLUE)
    chart = d.add("SaveImage", SHOWN, "Save layer chart", filename_prefix="matrix/layers")

    d.group("Look", 5, BLUE)
    decoded = d.add("VAEDecode", samples=sample[0], vae=model[2])
    look = d.add("MatrixAttentionPreview", LOOK, capture=sample[2], frames=decoded[0])
    look.inputs.update(tracks=tracks[0], kind="words (video to text)", fps=FPS)
    chart.inputs.update(images=look[2])
    d.group("Keep", 6, BLUE)
    attention = d.add("SaveVideo", 260, "Save attention", video=look[1])
    attention.inputs.update(filename_prefix="matrix/attention")
    video = d.add("CreateVideo", images=decoded[0], fps=FPS)
    d.add("SaveVideo", SHOWN, "Save video", video=video[0], filename_prefix="matrix/video")
    d.add("MatrixSaveCapture", 110, capture=sample[2], filename_prefix="matrix/capture")
    d.add("MatrixSaveTracks", 80, tracks=tracks[0], filename_prefix="matrix/tracks")
    return d


FIND_LAYERS = f"""\
### Find the layers that carry the interaction
A clip is sampled while every layer is watched. *Analyse Layers* then says how much of each layer's attention lies on
the masks of the instances, beside chance, and names the best layers.

**Use them:** `layers` goes into every node that takes layers; `text` ("7, 11, 12") into every *layers* field, here into
the preview, which shows the chosen layers only.

One clip shows where *this* clip's words are attended to. Which layers *decide* whether an interaction succeeds takes
many clips, some of which fail: `python -m training.analyse` (docs/analysis.md).

As it is, it runs with *mini* on a clip of its world.

{OWN}"""


def find_layers() -> Draft:
    """06: first frame, tracks and a prompt in; the layers that attend to the masks, their charts and a table out."""
    d = Draft("06_find_layers")
    model, _, tracks, _, start = _begun(d, LIFT, FIND_LAYERS, 940)

    d.group("Sample and watch every layer", 4)
    sample = _sampled(d, model, start)
    d.group("Keep", 1, BLUE)
    attention = d.add("SaveVideo", 260, "Save attention", filename_prefix="matrix/best_layers")

    d.group("Which layers", 5, BLUE)
    best = d.add("MatrixAnalyseLayers", SHOWN, capture=sample[2], tracks=tracks[0], keep=3)
    d.add("PreviewAny", 150, "Table", source=best[2])
    d.add("SaveImage", SHOWN, "Words by layer", images=best[3], filename_prefix="matrix/words")
    d.add("SaveImage", SHOWN, "Instances by layer", images=best[4], filename_prefix="matrix/instances")
    d.group("The best layers", 6, BLUE)
    decoded = d.add("VAEDecode", samples=sample[0], vae=model[2])
    look = d.add("MatrixAttentionPreview", LOOK, "Attention of the best layers", capture=sample[2])
    look.inputs.update(frames=decoded[0], tracks=tracks[0], layers=best[1], fps=FPS)
    attention.inputs.update(video=look[1])
    return d


READ_CAPTURE = f"""\
### Read a capture: who is where, and was anybody mistaken?
A clip is sampled while every layer is watched. *Read Capture* then makes masks of the words, without a segmenter, says
who was swapped with whom or doubled (frames and steps), and names places that everybody looks at.

**Look:** the node's viewer shows the masks as dashes; a click on a finding goes there. `masks` are tracks like any
others: into *Bind Prompt* of a second run, into *Tracks to Mask*, into a file.

**Beside truth:** here the boxes of the real clip are given, so that masks get a score (J&F). With words alone nothing
needs to be connected to `tracks`.

As it is, it runs with *mini* on a clip of its world. How often it is right there: docs/reading-captures.md.

{OWN}"""


def read_capture() -> Draft:
    """10: first frame, tracks and a prompt in; masks of the words, and a report of swaps, doublings and sinks, out."""
    d = Draft("10_read_capture")
    model, _, tracks, _, start = _begun(d, PULL, READ_CAPTURE, 940)

    d.group("Sample and watch every layer", 4)
    sample = _sampled(d, model, start)
    d.group("What it knows", 5, BLUE)
    decoded = d.add("VAEDecode", samples=sample[0], vae=model[2])
    read = d.add("MatrixReadCapture", LOOK, capture=sample[2], tracks=tracks[0], frames=decoded[0], fps=FPS)
    d.group("Keep", 6, BLUE)
    d.add("PreviewAny", 250, "Report", source=read[1])
    video = d.add("CreateVideo", images=read[2], fps=FPS)
    d.add("SaveVideo", 260, "Save masks over the clip", video=video[0], filename_prefix="matrix/read")
    d.add("MatrixSaveTracks", 80, tracks=read[0], filename_prefix="matrix/read_masks")
    return d


TWO_EXPERTS = """\
### Two models take turns in one run
Wan 2.2 has two experts: one takes the noisy steps, the other goes on. Each MODEL goes through *Watch Attention*, then
into a KSamplerAdvanced of its own; the first hands on what is left of the noise. *Collect Capture* behind the second
one finds both runs by the latent that one made and the other took, and gives one capture.

**Experts apart:** *Analyse Layers* has a table for each. `expert` chooses one ("high noise"), and `steps` of the
preview takes the same names.

**As it is** both experts are *mini*, loaded twice, so that it runs on any machine. For Wan 2.2 open
the two models in place of the loaders (*Load Diffusion Model* once for each, with their CLIP and VAE), and
let the first take the steps that its authors say, in both samplers.

**Any sampler:** *Watch Attention* works under KSampler and every other sampler as well."""
SPLIT = 12  # of STEPS: the steps of the first expert


def two_experts() -> Draft:
    """08: two models take the steps of one run in turns, watched under the host's own samplers; one capture comes out,
    and what each expert's layers attend to."""
    d = Draft("08_two_experts")
    d.group("Start here", 0, GREY)
    d.note(TWO_EXPERTS, 900)
    d.group("Your clip", 1, GREEN)
    frames = _clip(d, PULL)
    d.group("Models", 1, BLUE)
    high = d.add("MatrixLoadVideoDiT", 0, "High-noise expert", source="mini")
    low = d.add("MatrixLoadVideoDiT", 0, "Low-noise expert", source="mini")
    d.group("Who is where, and in which words", 2, RED)
    tracks = _tracks(d, PULL, frames, 40)
    words = _words(d, PULL, high, tracks, "First frame", SHOWN)
    start = _start(d, high, words, frames)

    halves: list[tuple[Node, Node]] = []
    for i, (model, name) in enumerate(((high, "high noise"), (low, "low noise"))):
        d.group("Watch both", 3)
        watch = d.add("MatrixWatchAttention", 0, f"Watch: {name}", model=model[0])
        watch.inputs.update(layers="all", expert=name)
        d.group("Sample, one after the other", 4)
        sampler = d.add("KSamplerAdvanced", 0, f"Sample: {name}", model=watch[0])
        sampler.inputs.update(positive=start[0], negative=start[1], steps=STEPS, cfg=CFG, sampler_name="euler")
        sampler.inputs.update(scheduler="simple", noise_seed=7, latent_image=halves[0][1][0] if i else start[2])
        sampler.inputs.update(add_noise="disable" if i else "enable", start_at_step=SPLIT * i)
        sampler.inputs.update(end_at_step=10000 if i else SPLIT)
        sampler.inputs.update(return_with_leftover_noise="disable" if i else "enable")
        halves.append((watch, sampler))
    watch, sampler = halves[1]
    capture = d.add("MatrixCollectCapture", latent=sampler[0], watch=watch[1])
    decoded = d.add("VAEDecode", samples=sampler[0], vae=high[2])
    d.group("Keep", 4, BLUE)
    attention = d.add("SaveVideo", 260, "Save attention", filename_prefix="matrix/experts")

    d.group("Which layers, for each expert", 5, BLUE)
    best = d.add("MatrixAnalyseLayers", SHOWN, capture=capture[0], tracks=tracks[0], keep=3)
    d.add("PreviewAny", 250, "Tables", source=best[2])
    d.add("SaveImage", SHOWN, "Words by layer", images=best[3], filename_prefix="matrix/experts")
    d.add("MatrixSaveCapture", capture=capture[0], filename_prefix="matrix/experts")
    d.group("Look", 6, BLUE)
    look = d.add("MatrixAttentionPreview", LOOK, "The low-noise expert", capture=capture[0])
    look.inputs.update(frames=decoded[0], tracks=tracks[0], steps="low noise", fps=FPS)
    attention.inputs.update(video=look[1])
    return d


TIMED = """\
### Words in time
*Bind Prompt* says when a phrase holds, in seconds of the clip: `pushes = verb(...) @1s-`. Under *Steer Attention* in
the mode *timed words* it is looked at from then on, and hardly before. *Preview Attention* shows it: no heat of
`pushes` in the first half of the clip. Bypass *Steer Attention* (Ctrl+B) to see it all along.

**Change it:** `@0-1s` holds until then, `@0.5-1.5s` in between; any line may have a time. A clip of mini lasts 2.1 s;
four of its frames, half a second, are one token frame, and times are no finer.

**What to expect:** attention is exactly what was asked for. What that makes of a clip is the model's business: mini,
which shows one event a clip, hardly changes. To keep events apart, encode each with a *Bind Prompt* of its own, with
its whole sentence as a phrase, and join them with *Conditioning (Concat)*. More: docs/timed-words.md.

**Your own:** any model of the pack, text-to-video or image-to-video. No tracks are needed; with tracks, other *Steer
Attention* nodes stack with this one."""
IN_TIME = PUSH.phrases + " @1s-"


def words_in_time() -> Draft:
    """11: a first frame and a sentence whose verb has a time in; a clip and where it looked for the verb out."""
    d = Draft("11_words_in_time")
    d.group("Start here", 0, GREY)
    d.note(TIMED, 760)
    d.group("Your picture and model", 1, BLUE)
    frames = _clip(d, PUSH)
    model = d.add("MatrixLoadVideoDiT", source="mini")
    d.group("What happens, and when", 2, GREEN)
    bound = d.add("MatrixBindPrompt", SHOWN + 210, clip=model[1], prompt=PUSH.prompt, phrases=IN_TIME)
    bound.inputs.update(form="as written")
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")
    d.group("Words in time", 3, RED)
    timed = d.add("MatrixAttentionGuidance", model=model[0], mode="timed words")
    start = _start(d, model, (bound, nothing), frames)
    d.group("Sample and watch", 4)
    sample = _sampled(d, timed, start)
    d.group("Look", 5, BLUE)
    decoded = d.add("VAEDecode", samples=sample[0], vae=model[2])
    look = d.add("MatrixAttentionPreview", LOOK, capture=sample[2], frames=decoded[0], names="pushes")
    look.inputs.update(kind="words (video to text)", fps=FPS)
    d.group("Keep", 6, BLUE)
    attention = d.add("SaveVideo", 260, "Save attention", video=look[1])
    attention.inputs.update(filename_prefix="matrix/attention")
    video = d.add("CreateVideo", images=decoded[0], fps=FPS)
    d.add("SaveVideo", SHOWN, "Save video", video=video[0], filename_prefix="matrix/video")
    d.add("MatrixSaveCapture", 110, capture=sample[2], filename_prefix="matrix/capture")
    return d


PASSES = f"""\
### Two passes, no masks
**First** the clip is sampled in {FIRST} steps, watched. *Read Capture* makes masks of where its words looked, and mends
them: who was swapped at the end gets the other's mask, who was doubled keeps the largest piece.

**Then** it is sampled again from the same noise, in {STEPS - FIRST} steps. The second *Bind Prompt* joins masks and
words, and *Steer Attention* keeps each instance to its own. Both passes take as many steps as one plain run.

**Look** at the masks before you trust them: the report of *Read Capture* says what was mended, and what said nothing.
If they are wrong, choose *layers* there, give the first pass more steps, or draw boxes instead (*05*).

**What to expect:** the second pass holds to what the first one made. A model that gets it right by itself, as *mini*
does here, gains nothing. What was measured: docs/two-passes.md.

**Your own:** any model of the pack; text-to-video needs no *First Frame*. Both samplers need the same seed, size,
prompt and CFG."""


def two_passes() -> Draft:
    """12: a first frame and a sentence in; masks of a short first pass steer a second one."""
    d = Draft("12_two_passes")
    d.group("Start here", 0, GREY)
    d.note(PASSES, 900)
    d.group("Your picture and model", 1, BLUE)
    first = d.add("MatrixExampleClip", SHOWN, "First frame", clip=PUSH.clip)
    model = d.add("MatrixLoadVideoDiT", source="mini")
    said = {"prompt": PUSH.prompt, "phrases": PUSH.phrases, "form": "as written"}
    common = {"cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "seed": 7}

    def sampled(words: Node, given: Node, steps: int) -> Node:
        start = d.add("MatrixImageCondition", model=model[0], positive=words[0], negative=nothing[0], vae=model[2])
        start.inputs.update(image=first[1], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
        sample = d.add("KSampler", model=given[0], positive=start[0], negative=start[1], latent_image=start[2])
        sample.inputs.update(steps=steps, **common)
        return sample

    d.group("Who does what", 2, GREEN)
    bound = d.add("MatrixBindPrompt", SHOWN + 100, clip=model[1], **said)
    nothing = d.add("CLIPTextEncode", 0, "Negative prompt", clip=model[1], text="")
    d.group("First pass, watched", 3)
    watch = d.add("MatrixWatchAttention", model=model[0], layers="all")
    sample = sampled(bound, watch, FIRST)
    capture = d.add("MatrixCollectCapture", latent=sample[0], watch=watch[1])
    d.group("Who is where", 4, GREEN)
    rough = d.add("VAEDecode", samples=sample[0], vae=model[2])
    read = d.add("MatrixReadCapture", LOOK, capture=capture[0], frames=rough[0], fps=FPS, mended=True)
    d.group("Steer by it", 5, RED)
    joined = d.add("MatrixBindPrompt", SHOWN + 100, "The same words, with masks", clip=model[1], tracks=read[0], **said)
    steered = d.add("MatrixAttentionGuidance", model=model[0], mode="region bias")
    d.group("Second pass, same noise", 6)
    decoded = d.add("VAEDecode", samples=sampled(joined, steered, STEPS - FIRST)[0], vae=model[2])
    d.group("Keep", 1, BLUE)
    video = d.add("CreateVideo", images=decoded[0], fps=FPS)
    d.add("SaveVideo", SHOWN, "Save video", video=video[0], filename_prefix="matrix/second_pass")
    d.add("MatrixSaveTracks", 80, tracks=read[0], filename_prefix="matrix/first_pass_masks")
    return d


SEEDS = 4
SEED_RULE = ""  # no fitted rule comes with the pack; its JSON text would stand here
PICK = f"""\
### Which seed will work?
*Pick Seeds* stands where a sampler stands. It samples {SEEDS} seeds for {FIRST} of {STEPS} steps, looks at their
attention, and samples the best one to the end, from where it is; the others are dropped. What comes out is, bit for
bit, what that seed alone would have given.

**Look:** the report lists every seed with its score and what was seen of it, and how many predictions it all
took. *Read Capture* shows the best seed's first steps: where its words looked, and who was swapped or doubled.

**What to expect:** without a rule of your own model the score orders seeds by what can be asked of any: words that
have a place, nobody swapped, nobody in two places, no sink. It promises no success, and nobody has measured that it
helps. A rule fitted on judged runs gives a probability and says how good it is: docs/picking-seeds.md. Paste its
JSON text into *rule*.

**Your own:** any model of the pack with *CFG Guider* or *Basic Guider*, and any sampler whose noise follows from the
seed. Try more seeds, keep more of them; *latents* are then a batch, the best first. Tracks are not needed, but a fitted
rule asks for them."""


def pick_seeds() -> Draft:
    """13: a first frame and a sentence in; the seed whose first steps look best, sampled to the end."""
    d = Draft("13_pick_seeds")
    d.group("Start here", 0, GREY)
    d.note(PICK, 960)
    d.group("Your picture and model", 1, BLUE)
    first = d.add("MatrixExampleClip", SHOWN, "First frame", clip=LIFT.clip)
    model = d.add("MatrixLoadVideoDiT", source="mini")
    d.group("Who is where", 1, GREEN)
    tracks = d.add("MatrixBoxTracks", 60, boxes=LIFT.boxes, images=first[1], fps=FPS, frames=FRAMES)
    d.group("Who does what", 2, GREEN)
    words = _words(d, LIFT, model, tracks, height=SHOWN)
    d.group("Try seeds, keep the best", 3, RED)
    start = d.add("MatrixImageCondition", model=model[0], positive=words[0][0], negative=words[1][0], vae=model[2])
    start.inputs.update(image=first[1], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    guider = d.add("CFGGuider", model=model[0], positive=start[0], negative=start[1], cfg=CFG)
    sampler = d.add("KSamplerSelect", sampler_name="euler")
    sigmas = d.add("BasicScheduler", model=model[0], scheduler="simple", steps=STEPS, denoise=1.0)
    pick = d.add("MatrixPickSeeds", guider=guider[0], sampler=sampler[0], sigmas=sigmas[0], latent_image=start[2])
    pick.inputs.update(seed=7, count=SEEDS, keep=1, layers="all", rule=SEED_RULE)
    d.group("What came of it", 4, BLUE)
    decoded = d.add("VAEDecode", samples=pick[0], vae=model[2])
    video = d.add("CreateVideo", images=decoded[0], fps=FPS)
    d.add("SaveVideo", SHOWN, "Save the best seed's clip", video=video[0], filename_prefix="matrix/picked")
    d.add("PreviewAny", 300, "Every seed", source=pick[2])
    d.group("What its first steps knew", 5, BLUE)
    read = d.add("MatrixReadCapture", LOOK - 150, capture=pick[3], frames=decoded[0], fps=FPS)
    d.add("MatrixSaveTracks", 80, tracks=read[0], filename_prefix="matrix/picked_masks")
    return d


APART = """\
### To each their own words
**Press Run.** Two red squares look alike, so *the red square moves down* does not say which of them. Here each has a
caption of its own, and the left one moves. Exchange the two names in *Instance Captions*, and the right one does.

**Where:** a box for each, here a side of the picture. Boxes that move, or masks of *SAM 2 Tracks*, work as well. Where
boxes overlap, both captions are seen.

**Words:** *Bind Prompt* has what all share: the place, who is there. *Instance Captions* has the rest, one line for
each name. *Steer Attention*, mode *instance captions*, keeps them apart: without it every caption is seen everywhere.

**Your own:** CogVideoX, Wan, LTX-Video or Cosmos Predict 2; four people as well as two. Models that mix
their texts are refused by name. *mini* moves one thing at a
time: its world has no more. docs/instance-captions.md says how it works."""
SIDES = "left: 0: 0 0 50 128\nright: 0: 78 0 128 128"
SHARED = "the red square"
CAPTIONS = "left: the red square moves down\nright: the red square"


def instance_captions() -> Draft:
    """14: a first frame, a box and a caption for each of two look-alikes in; a clip in which each does its own out."""
    d = Draft("14_instance_captions")
    d.group("Start here", 0, GREY)
    d.note(APART, 620)
    d.group("Picture and model", 1, BLUE)
    picture = d.add("MatrixExampleClip", SHOWN, "Picture", clip="look-alikes-above")
    model = d.add("MatrixLoadVideoDiT", source="mini")
    d.group("Who is where", 2, GREEN)
    boxes = d.add("MatrixBoxTracks", 190, boxes=SIDES, images=picture[1], fps=FPS, frames=FRAMES, hold=True)
    d.group("What all share", 3, GREEN)
    bound = d.add("MatrixBindPrompt", SHOWN, clip=model[1], tracks=boxes[0])
    bound.inputs.update(prompt=SHARED, phrases=SHARED, form="as written")
    d.group("Own words", 4, RED)
    own = d.add("MatrixInstanceCaptions", SHOWN, clip=model[1], conditioning=bound[0], captions=CAPTIONS)
    steered = d.add("MatrixAttentionGuidance", model=model[0], mode="instance captions")
    d.group("Your clip", 5, BLUE)
    start = d.add("MatrixImageCondition", model=model[0], positive=own[0], negative=bound[0], vae=model[2])
    start.inputs.update(image=picture[1], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    sample = d.add("KSampler", model=steered[0], positive=start[0], negative=start[1], latent_image=start[2], seed=7)
    sample.inputs.update(steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0)
    frames = d.add("VAEDecode", samples=sample[0], vae=model[2])
    shown = d.add("SaveAnimatedWEBP", 320, "Your clip", images=frames[0], filename_prefix="matrix/apart", fps=FPS)
    shown.inputs.update(lossless=False, quality=90, method="default")
    return d


DRAFTS = [
    watch_attention, find_layers, two_experts, read_capture, words_in_time, two_passes, pick_seeds, instance_captions,
]  # fmt: skip
