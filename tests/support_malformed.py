"""A small graph that has every node of the pack, on mini, and ways to spoil one node of it."""

from __future__ import annotations

import copy
import random
from typing import Any

from support_fuzz import odd
from support_graphs import only

__all__ = ["ESCAPES", "KEPT", "malformed", "whole"]

Graph = dict[str, Any]
KEPT = "kept.safetensors"
ESCAPES = (
    "../outside/kept.safetensors", "../../outside/kept.safetensors", "way/kept.safetensors", "/etc/passwd",
    "..\\outside\\kept.safetensors", "../outside/kept.safetensors [output]", "way/kept.safetensors [input]",
    "a/../../outside/kept.safetensors", "~/kept.safetensors", "\0", "file:///etc/passwd", "way", "way/new",
    "../outside/new",
)  # fmt: skip
"""Names that lead to files outside of the folders of a server whose base folder lies beside `outside`, with a link
`way` to it in every folder."""
_SIZE = 128  # what mini makes, as its 17 frames


def whole() -> Graph:
    """Every node; the number is the node's name in `malformed`. Nodes without a picture of their own are shown by a
    PreviewAny called NUMBER + 'v'."""
    graph: Graph = {}

    def add(number: str, kind: str, /, **inputs: Any) -> None:
        graph[number] = {
            "class_type": kind,
            "inputs": {name.replace("__", "."): value for name, value in inputs.items()},
        }

    add("load", "MatrixLoadVideoDiT", source="mini", weight_dtype="default")
    add("repair", "MatrixRepairModel", model=["load", 0], variant="automatic", dynamic_cfg="off")
    boxes = "a (subject): 0: 8 8 60 60; 16: 60 8 120 60\nb (object): 72 72 120 120"
    add(
        "boxes", "MatrixBoxTracks", boxes=boxes, width=_SIZE, height=_SIZE, frames=17, fps=8.0, hold=True, bbox_names=""
    )
    phrases = "a: red circle [subject]\nb: blue square [object]\nmoves to = verb(a -> b)"
    add(
        "bind", "MatrixBindPrompt", clip=["load", 1], prompt="a red circle moves to a blue square", phrases=phrases,
        form="as written", length="cut to the model's length", tracks=["boxes", 0], image_interleave=2,
    )  # fmt: skip
    add(
        "own", "MatrixInstanceCaptions", clip=["load", 1], conditioning=["bind", 0], captions="a: a circle\nb: a square"
    )
    add("no", "CLIPTextEncode", clip=["load", 1], text="")
    add("picture", "EmptyImage", width=_SIZE, height=_SIZE, batch_size=1, color=255)
    add(
        "first", "MatrixImageCondition", model=["load", 0], positive=["bind", 0], negative=["no", 0], vae=["load", 2],
        image=["picture", 0], width=_SIZE, height=_SIZE, length=17, batch_size=1,
    )  # fmt: skip
    add("noise", "RandomNoise", noise_seed=1)
    add("euler", "KSamplerSelect", sampler_name="euler")
    add("sigmas", "BasicScheduler", model=["load", 0], scheduler="simple", steps=1, denoise=1.0)
    add("guider", "CFGGuider", model=["load", 0], positive=["first", 0], negative=["first", 1], cfg=1.0)
    add(
        "sample", "MatrixSampleAttention", noise=["noise", 0], guider=["guider", 0], sampler=["euler", 0],
        sigmas=["sigmas", 0], latent_image=["first", 2], layers="0", step_bins=0, budget_mb=64.0, words=True,
        instances=True, words_look=True,
    )  # fmt: skip
    add(
        "shares", "MatrixChartShares", capture=["sample", 2], kind="words among each other (text to text)", names="all",
        layers="all", steps="all", stream=0,
    )  # fmt: skip
    add(
        "watch", "MatrixWatchAttention", model=["load", 0], layers="0", step_bins=0, budget_mb=64.0, words=True,
        instances=True, expert="",
    )  # fmt: skip
    add(
        "watched", "KSampler", model=["watch", 0], seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="simple",
        positive=["first", 0], negative=["first", 1], latent_image=["first", 2], denoise=1.0,
    )  # fmt: skip
    add("collect", "MatrixCollectCapture", latent=["watched", 0], watch=["watch", 1])
    add(
        "segments", "MatrixJoinSegments", parts__capture0=["collect", 0], parts__capture1=["collect", 0],
        shared_frames=1,
    )  # fmt: skip
    add(
        "scores",
        "MatrixScoreTracks",
        given=["boxes", 0],
        seen=["boxes", 0],
        pair="a, b",
        measure="trajectory_iou",
        stride=4,
    )
    add("clip", "EmptyImage", width=_SIZE, height=_SIZE, batch_size=17, color=255)
    add(
        "judge", "MatrixEvaluate", frames=["clip", 0], entry=phrases, judge="files", tracks=["boxes", 0],
        folder="matrix/malformed", measure="fidelity", stride=8, repeats=1, ask_for_new=True,
    )  # fmt: skip
    add(
        "read", "MatrixReadCapture", capture=["sample", 2], tracks=["boxes", 0], kind="words (video to text)",
        names="all", layers="sharpest", steps="all", threshold=0.5, stream=0, fps=8.0, without_sinks=True,
    )  # fmt: skip
    add("two", "BasicScheduler", model=["load", 0], scheduler="simple", steps=2, denoise=1.0)
    add(
        "pick", "MatrixPickSeeds", guider=["guider", 0], sampler=["euler", 0], sigmas=["two", 0],
        latent_image=["first", 2], seed=1, count=2, keep=1, steps=1, layers="0", rule="",
    )  # fmt: skip
    add("analyse", "MatrixAnalyseLayers", capture=["sample", 2], tracks=["boxes", 0], keep=1, prompt=0)
    add(
        "show", "MatrixAttentionPreview", capture=["sample", 2], tracks=["boxes", 0], kind="words (video to text)",
        names="all", layers="all", steps="all", stream=0, fps=8.0, heat="smooth", colour_scale="one for the clip",
        colours="ember", strength=0.85, width=0,
    )  # fmt: skip
    add("keep", "MatrixSaveCapture", capture=["sample", 2], filename_prefix="matrix/capture")
    add(
        "curve",
        "MatrixScheduleCurve",
        shape="ramp",
        shape__first=1.0,
        shape__last=0.0,
        shape__easing="linear",
        start=0.0,
        end=1.0,
    )
    add(
        "points",
        "MatrixScheduleCurve",
        shape="key points",
        shape__points="0: 1, 1: 0",
        shape__easing="linear",
        start=0.0,
        end=1.0,
    )
    bias = {
        "words_up": 0.5,
        "words_down": 0.5,
        "track_up": 0.25,
        "track_down": 0.25,
        "layers": "0",
        "soft_edges": False,
    }
    bias |= {"weights": "a: 2", "predictions": "with the prompt only"}
    split = {"frozen_steps": 1, "normalisation": "per channel", "words": True, "layers": "0"}
    split |= {"predictions": "with and without the prompt"}
    away = {"target": "both", "scale": 1.0, "only_bound": False, "layers": "0"}
    slope = {"strength": 0.1, "iterations": 1, "grounding": 1.0, "propagation": 1.0, "maps": "probabilities"}
    slope |= {"layers": "0", "save_memory": True}
    modes = {"region bias": bias, "masked attention (IVG-DA)": split, "perturbation (CMG, CAG)": away}
    for number, (mode, values) in enumerate({**modes, "gradient (SGA, SPA)": slope}.items()):
        given = {f"mode__{name}": value for name, value in values.items()}
        add(f"steer{number}", "MatrixAttentionGuidance", model=["load", 0], mode=mode, schedule=["curve", 0], **given)
    add(
        "push", "MatrixIntrinsicDenoising", model=["load", 0], iterations=1, scale="fixed (c_g)", scale__strength=100.0,
        scale__normalise=False, rate=0.05, noise=1.0, on="noisy latent", region="boxes",
        channels="all channels together", tracks=["boxes", 0], schedule=["curve", 0],
    )  # fmt: skip
    add("drag", "MatrixCutAndDrag", image=["picture", 0], tracks=["boxes", 0], vae=["load", 2], boxes="a: 1 1 9 9")
    add("example", "MatrixExampleClip", clip="push")
    add("rough", "VAEEncode", pixels=["drag", 0], vae=["load", 2])
    add(
        "hold", "MatrixDualClockDenoising", model=["load", 0], reference=["rough", 0], inside=0.9, outside=0.5,
        cover=0.0, tracks=["boxes", 0],
    )  # fmt: skip
    add("live", "MatrixLivePreview", model=["load", 0], layers="0", kind="words (video to text)", frames=2, width=256)
    add("lora", "MatrixApplyLoRA", model=["load", 0], lora="mini_matrix.safetensors", strength=1.0, scale=0.0)
    add(
        "mask", "MatrixMaskCondition", model=["lora", 0], positive=["first", 0], negative=["first", 1],
        tracks=["boxes", 0], latent=["first", 2], kind="automatic", target="", vae=["load", 2],
    )  # fmt: skip
    add(
        "unpack",
        "MatrixTracksToMask",
        tracks=["boxes", 0],
        names="",
        several="joined",
        width=0,
        height=0,
        crop="center",
    )
    add(
        "named", "MatrixMaskTracks", names="a", masks__mask0=["unpack", 0], threshold=0.5, fps=8.0, sam3_objects="",
        batch_is="frames", invert=False, painted="b: mask 2x2 AE",
    )  # fmt: skip
    add("edit", "MatrixEditTracks", tracks=["boxes", 0], instances="a -> c (object)", others="keep", fit="pad")
    add(
        "join", "MatrixJoinTracks", parts__tracks0=["boxes", 0], parts__tracks1=["boxes", 0], how="one after the other",
        same_name="refuse", overlap=1,
    )  # fmt: skip
    add(
        "retime", "MatrixRetimeTracks", tracks=["boxes", 0], how="hold", frames=21, fps=8.0, start=0,
        model=["load", 0],
    )  # fmt: skip
    add(
        "look", "MatrixPreviewTracks", tracks=["boxes", 0], images=["picture", 0], width=0, height=0, crop="center",
        length=0, model="mini", show="every frame", resize="nearest", strength=0.4,
    )  # fmt: skip
    add("save", "MatrixSaveTracks", tracks=["boxes", 0], filename_prefix="tracks/tracks")
    add("open", "MatrixLoadTracks", file=KEPT)
    add("reopen", "MatrixLoadCapture", file=f"capture-{KEPT} [input]")
    add("sam2", "MatrixSAM2Tracks", frames=["picture", 0], checkpoint="none.pt", prompts="a: 3,3", fps=8.0)
    for number in [n for n, node in graph.items() if node["class_type"].startswith("Matrix")]:
        add(f"{number}v", "PreviewAny", source=[number, 0])
        if number[:5] in ("steer", "push", "hold", "live", "lora"):  # and what a MODEL does when it runs
            add(
                f"{number}r", "KSampler", model=[number, 0], seed=1, steps=1, cfg=1.0, sampler_name="euler",
                scheduler="simple", positive=["first", 0], negative=["first", 1], latent_image=["first", 2],
                denoise=1.0,
            )  # fmt: skip
            add(f"{number}v", "PreviewAny", source=[f"{number}r", 0])
    return graph


def malformed(rng: random.Random, graph: Graph) -> tuple[str, Graph]:
    """(number of the spoilt node, what is left of the graph to show it)."""
    number = rng.choice([n for n, node in graph.items() if node["class_type"].startswith("Matrix")])
    spoilt = copy.deepcopy(only(graph, f"{number}v"))
    inputs = spoilt[number]["inputs"]
    for name in rng.sample(list(inputs), min(len(inputs), rng.choice((1, 1, 1, 2, 3)))):
        way = rng.random()
        if way < 0.08:
            del inputs[name]
        elif way < 0.3:
            inputs[name] = _link(rng, graph, spoilt, number)
        elif way < 0.45 and isinstance(inputs[name], str):
            inputs[name] = _text(rng, inputs[name])
        elif way < 0.55 and (isinstance(inputs[name], str)):
            inputs[name] = rng.choice(ESCAPES)
        else:
            inputs[name] = odd(rng)
    return number, spoilt


def _link(rng: random.Random, whole: Graph, spoilt: Graph, number: str) -> list[Any]:
    """To an output of any node that does not read this one, which then belongs to the graph. A link to a node that is
    not there stops the host itself."""
    source = rng.choice([n for n in whole if n != number and number not in only(whole, n)])
    spoilt.update({n: copy.deepcopy(node) for n, node in only(whole, source).items() if n not in spoilt})
    return [source, rng.choice((0, 0, 1, 2, 3, 9, -1))]


def _text(rng: random.Random, text: str) -> str:
    """The text with some of its characters lost, doubled or replaced."""
    out = list(text)
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        out[at : at + rng.choice((0, 1, 3))] = rng.choice(
            (":", ";", "\n", ",", "%", "(", "->", "1e38", "nan", "9" * 30, "", "é")
        )
    return "".join(out) * rng.choice((1, 1, 1, 1, 200))
