"""`make demo`: the main job, end to end, in a real headless ComfyUI, on a real clip.

The graph is `workflows/api/01_watch_attention.json`, posted over HTTP as a person's browser would post it. In go the
first frame of the clip, tracks drawn by hand and a prompt; the results lie in `output/demo/`.
`MATRIX_DEMO_MODEL=<folder>` runs it with weights of your own (a diffusers-format image-to-video folder).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .comfyui import ROOT, Server, comfyui_path, serve
from .follow import follow
from .street import BIKES, BOXES, FPS, FRAMES, PHRASES, PROMPT, START, sample_clip

__all__ = ["Weights", "main", "run", "weights"]

Graph = dict[str, Any]
RANDOM = "matrix-random"  # the name of random weights in the server's models/diffusers
WORKFLOW = ROOT / "workflows" / "api" / "01_watch_attention.json"
SETTINGS = {
    "width": ("MatrixImageCondition", "MatrixPreviewTracks"),
    "height": ("MatrixImageCondition", "MatrixPreviewTracks"),
    "length": ("MatrixImageCondition",),
    "steps": ("BasicScheduler",),
}
SAY = {
    "random": "RANDOM weights: everything runs, but neither the video nor the maps mean anything.",
    "mini": "The mini model, which knows coloured shapes on soft backgrounds.",
    "user": "Your own weights.",
}
# Width and height, and steps, of bikes.mp4: what mini can do, what random weights do quickly, what CogVideoX expects.
SIZES = {"mini": ((128, 128), 12), "random": ((256, 112), 8), "user": ((720, 480), 24)}
# A clip of the held-out split of the mini world.
MINI_SEED, MINI_CLIP = 20261121, 10


@dataclass(frozen=True)
class Weights:
    """Which weights a run has: `kind` is random, mini or user; `folder` is a diffusers folder of the user's, `name` its
    place in the server's models/diffusers."""

    kind: str
    name: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class Input:
    """What goes into the workflow: the values of some nodes by class, and nodes that take the place of others.

    `edits`: {node class: {input: value}}. `swaps`: {node class: (new class, inputs)}, for nodes with the same outputs.
    `note` is added to what the report says about the weights.
    """

    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    swaps: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    note: str = ""


def weights(mini: bool = False) -> Weights:
    """The weights to use: a person's own where MATRIX_DEMO_MODEL names them, else mini where the loader offers it
    (`mini`), else random ones.

    Raises ValueError where MATRIX_DEMO_MODEL is no model folder.
    """
    own = os.environ.get("MATRIX_DEMO_MODEL")
    if not own:
        return Weights("mini") if mini else Weights("random", RANDOM)
    folder = Path(own).expanduser().resolve()
    if not (folder / "transformer" / "config.json").is_file():
        raise ValueError(
            f"MATRIX_DEMO_MODEL={own} is no diffusers model folder: it has no transformer/config.json. Name the folder "
            "that holds transformer, vae, text_encoder and model_index.json, or unset it."
        )
    return Weights("user", folder.name, folder)


def offers_mini(server: Server) -> bool:
    """Whether the loader on this server has the mini model."""
    loader = server.get("/object_info/MatrixLoadVideoDiT")["MatrixLoadVideoDiT"]
    return "mini" in [option["key"] for option in loader["input"]["required"]["source"][1]["options"]]


def place_weights(base: Path, chosen: Weights) -> None:
    """Puts the model where the server looks for it; mini is in the library already."""
    folder = base / "models" / "diffusers" / chosen.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if chosen.kind == "user" and chosen.folder and not folder.exists():
        folder.symlink_to(chosen.folder, target_is_directory=True)
    if chosen.kind == "random":
        from .tiny_models import random_cogvideox

        random_cogvideox(folder)


def bikes(base: Path, chosen: Weights) -> Input:
    """The cyclist and the van: a real clip, boxes drawn by hand."""
    (base / "input").mkdir(parents=True, exist_ok=True)
    shutil.copy(sample_clip(), base / "input" / BIKES)
    size, steps = SIZES[chosen.kind]
    shape = {"width": size[0], "height": size[1]}
    tokens = "mini" if chosen.kind == "mini" else "CogVideoX 1.0, Wan, HunyuanVideo"
    edits: dict[str, dict[str, Any]] = {"MatrixImageCondition": shape, "BasicScheduler": {"steps": steps}}
    edits["MatrixPreviewTracks"] = {**shape, "model": tokens}
    edits["Video Slice"] = {"start_time": START / FPS, "duration": FRAMES / FPS}
    edits["MatrixBoxTracks"] = {"boxes": BOXES, "fps": float(FPS)}
    edits["MatrixBindPrompt"] = {"prompt": PROMPT, "phrases": PHRASES}
    street = "It has never seen a street: this clip is far outside of its world, and its maps of it mean little."
    return Input(edits, _clip(BIKES), street if chosen.kind == "mini" else "")


def _clip(name: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """A clip in the input folder, in place of the one that comes with the pack."""
    return {"MatrixExampleClip": ("LoadVideo", {"file": name})}


def mini_world(base: Path, chosen: Weights) -> Input:
    """A clip of the mini world that training has never seen, with its true masks and its caption."""
    from matrix_lib.hosts.bundle import load
    from matrix_lib.io.tracks import save_tracks
    from matrix_lib.io.video import write_video
    from matrix_lib.mini.export import mask_tracks
    from matrix_lib.mini.world import WorldConfig, make_clips

    (base / "input").mkdir(parents=True, exist_ok=True)
    sizes = load().sizes
    frames, height, width = (sizes[name] for name in ("frames", "height", "width"))
    config = WorldConfig(height=height, width=width, frames=frames, split="heldout_pairs")
    clips = make_clips(MINI_SEED, MINI_CLIP + 1, config)
    write_video(base / "input" / "mini.mp4", clips.video[MINI_CLIP].permute(0, 2, 3, 1), config.fps, crf=0)
    save_tracks(mask_tracks(clips, MINI_CLIP), base / "input" / "mini.safetensors")
    edits: dict[str, dict[str, Any]] = {
        "Video Slice": {"start_time": 0.0, "duration": frames / config.fps},
        "MatrixBindPrompt": {"prompt": clips.prompts[MINI_CLIP], "phrases": clips.phrases[MINI_CLIP]},
        "MatrixImageCondition": {"width": width, "height": height, "length": frames},
        "MatrixPreviewTracks": {"width": width, "height": height, "length": frames},
    }
    note = "This clip is of its own world, though of a seed and a pair of verb and object that training never had."
    tracks = {"MatrixBoxTracks": ("MatrixLoadTracks", {"file": "mini.safetensors"})}
    return Input(edits, _clip("mini.mp4") | tracks, note)


def graph_for(chosen: Weights, given: Input | None = None, **settings: Any) -> Graph:
    """The workflow with the model and the input of this run, and with what `settings` (keys of SETTINGS) ask for
    instead of its own values; None leaves one alone."""
    graph: Graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    given = given or Input()
    for node in graph.values():
        kind = node["class_type"]
        if kind == "MatrixLoadVideoDiT":
            _set_model(node["inputs"], chosen)
        for name, value in {**given.edits.get(kind, {}), **_asked(kind, settings)}.items():
            node["inputs"][name] = value
        if kind in given.swaps:
            node["class_type"], inputs = given.swaps[kind]
            node["inputs"] = dict(inputs)
            node["_meta"] = {"title": node["class_type"]}
    return graph


def _asked(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None and kind in SETTINGS[name]}


def _set_model(inputs: dict[str, Any], chosen: Weights) -> None:
    """Turns the loader's widgets to the weights of this run."""
    for name in [name for name in inputs if name.startswith("source")]:
        del inputs[name]
    if chosen.kind == "mini":
        inputs["source"] = "mini"
    else:
        folder = {"folder": chosen.name, "text_encoder": True, "vae": True}
        inputs |= {"source": "diffusers folder"} | {f"source.{name}": value for name, value in folder.items()}


def collect(server: Server, graph: Graph, outputs: dict[str, Any], target: Path) -> dict[str, Path]:
    """Copies what the graph saved to `target`, under plain names."""
    found: dict[str, Path] = {}
    for number, node in graph.items():
        prefix = node["inputs"].get("filename_prefix")
        if prefix is None:
            continue
        name = Path(prefix).name
        (source,) = sorted((server.base / "output" / Path(prefix).parent).glob(f"{name}_*"))[-1:]
        found[name] = target / f"{name}{source.suffix}"
        shutil.copy(source, found[name])
        assert number in outputs, f"node {number} saved {source} but did not say so"
    return found


def _page(files: Mapping[str, Path], target: Path) -> Path:
    """The attention viewer of what the graph saved, as one HTML file."""
    from matrix_lib.io.captures import load_capture
    from matrix_lib.io.tracks import load_tracks
    from matrix_lib.viewer.page import attention_page

    capture, tracks = load_capture(files["capture"]), load_tracks(files["tracks"])
    return attention_page(capture, files["video"], target / "attention.html", tracks)


def report_of(files: dict[str, Path], graph: Graph, kind: str, note: str, host: str, seconds: float) -> dict[str, Any]:
    """What ran and what came out, for people and programs. Reads the files, not the server."""
    from matrix_lib.core.grid import Framing
    from matrix_lib.io.captures import load_capture
    from matrix_lib.io.tracks import load_tracks

    capture, tracks = load_capture(files["capture"]), load_tracks(files["tracks"])
    stream = capture.stream()
    (size,) = [n["inputs"] for n in graph.values() if n["class_type"] == "MatrixImageCondition"]
    framing = Framing((tracks.height, tracks.width), (size["height"], size["width"]))
    on_grid = tracks.to_grid(stream.grid, "nearest", framing)
    return {
        "weights": kind,
        "note": note,
        "backbone": capture.backbone,
        "prompt": stream.binding.prompt,
        "layers": sorted({*stream.layers_v2t, *stream.layers_v2v}),
        "steps": len(capture.steps),
        "pixels": [size["length"], size["height"], size["width"]],
        "tokens": list(stream.grid.shape),
        "instances": [_words(stream.binding, phrase) for phrase in stream.binding.instances],
        "verbs": [_words(stream.binding, phrase) for phrase in stream.binding.verbs],
        "aas": {kind: _scores(capture.aas(on_grid, kind)) for kind in ("v2t", "v2v") if kind in stream.maps},
        "host": host,
        "seconds": round(seconds, 1),
        "files": {name: path.name for name, path in files.items()},
    }


def _words(binding: Any, phrase: Any) -> dict[str, Any]:
    found = {"name": phrase.name, "phrase": phrase.text, "role": phrase.role}
    return found | {"tokens": list(binding.pieces(phrase.name)), "rows": list(phrase.rows)}


def _scores(alignment: Any) -> dict[str, Any]:
    """AAS per layer and entity, as the mean over the steps: the raw sum, the share of the map's mass, and chance."""
    raw, share = alignment.over_steps("raw"), alignment.over_steps("share")
    layers = {
        str(layer): {
            name: {"raw": round(float(raw[i, e]), 6), "share": round(float(share[i, e]), 4)}
            for e, name in enumerate(alignment.entities)
        }
        for i, layer in enumerate(alignment.layers)
    }
    return {"layers": layers, "chance": {n: round(float(c), 4) for n, c in zip(alignment.entities, alignment.chance)}}


def run(
    server: Server, chosen: Weights, target: Path, given: Callable[[Path, Weights], Input] = bikes, **settings: Any
) -> dict[str, Any]:
    """One run of the workflow on a running server: files and report.json into `target`. Returns the report."""
    began = time.monotonic()
    place_weights(server.base, chosen)
    made = given(server.base, chosen)
    graph = graph_for(chosen, made, **settings)
    outputs = follow(server, graph)
    target.mkdir(parents=True, exist_ok=True)
    files = collect(server, graph, outputs, target)
    files["attention_page"] = _page(files, target)
    host = server.get("/system_stats")["system"]["comfyui_version"]
    note = f"{SAY[chosen.kind]} {made.note}".strip()
    report = report_of(files, graph, chosen.kind, note, host, time.monotonic() - began)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (target / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


@contextlib.contextmanager
def _server() -> Iterator[Server]:
    """A server of its own in a folder that goes away; on a GPU where PyTorch sees one."""
    import torch

    print(f"starting ComfyUI from {comfyui_path()} ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="matrix-demo-") as base:
        # On a CPU PyTorch's own attention is three times as fast as the one that ComfyUI takes by itself.
        device = () if torch.cuda.is_available() else ("--cpu", "--use-pytorch-cross-attention")
        with serve(Path(base), device) as server:
            print(f"ComfyUI is up: {server.url}", flush=True)
            yield server


def summary(report: dict[str, Any], target: Path) -> str:
    """What to look at, in a few lines."""
    said = {
        "video": "the sampled clip",
        "attention_page": "the attention viewer: every word, layer and step of it, in a browser",
        "attention": "where every place of it looked for each word",
        "layers": "which layers did so, at which steps",
        "capture": "all maps, for MATRIX Load Capture or Python",
        "tracks": "the mask tracks that went in",
        "report": "words, tokens and alignment scores of every layer",
    }
    names = {kind: name for kind in said for name in [{**report["files"], "report": "report.json"}.get(kind)] if name}
    width = max(len(str(target / name)) for name in names.values())
    head = f"{report['backbone']} in ComfyUI {report['host']}, {report['seconds']:.0f} s"
    lines = ["", head, f"weights: {report['weights']}. {report['note']}", f"  {report['prompt']}"]
    for phrase in (*report["instances"], *report["verbs"]):
        pieces = [piece.replace("\u2581", "") for piece in phrase["tokens"]]
        lines.append(f"  {phrase['name']:<16} tokens {' | '.join(filter(None, pieces))}")
    lines += [f"  {target / name!s:<{width}}  {said[kind]}" for kind, name in names.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo", help="where the results go")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--steps", type=int)
    options = vars(parser.parse_args())
    target = options.pop("output")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the server is stopped as well
    try:
        weights()  # a wrong MATRIX_DEMO_MODEL is told before anything starts
        with _server() as server:
            chosen = weights(offers_mini(server))
            print(f"weights: {chosen.kind}. {SAY[chosen.kind]}")
            print(f"\n{BIKES}: a cyclist beside a van", flush=True)
            reports = {target: run(server, chosen, target, **options)}
            if chosen.kind == "mini":
                print("\na clip of the mini world", flush=True)
                reports[target / "mini"] = run(server, chosen, target / "mini", mini_world, steps=options["steps"])
    except KeyboardInterrupt:
        print("\ninterrupted; the server has been stopped", file=sys.stderr)
        return 130
    except (RuntimeError, TimeoutError, ValueError, FileNotFoundError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    for folder, report in reports.items():
        print(summary(report, folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
