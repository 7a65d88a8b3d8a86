"""`python -m training.sample RUN --out FOLDER`: held-out clips with and without a LoRA, side by side, as videos.

    python -m training.sample runs/matrix_cogvideox/0001                     its LoRA, its held-out clips
    python -m training.sample runs/matrix_cogvideox/0001/step-0000250        the LoRA of a checkpoint
    python -m training.sample runs/matrix_cogvideox/0001 --prompts words.txt   held-out clips under other words
    python -m training.sample matrix_cogvideox_5b_i2v --lora x.safetensors task.model=... data.folder=...

Every clip is made twice by the model's own pipeline, from one seed, one first frame and one prompt: by the base model
and with the LoRA, which also sees the ID map or the target mask that it was trained on. NAME-seedN.mp4 shows the real
clip, the base and the LoRA with the outlines of the tracks; the two clips alone lie beside it. Where no clip is held
out, the first ones are taken, and it says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from matrix_lib.backbones.lora import AlignmentLoRA
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.beside import side_by_side
from matrix_lib.evaluation.layers.probe import Recipe, generate
from matrix_lib.hosts.diffusers.load import Model, open_model
from matrix_lib.hosts.diffusers.tag_tokens import tag_tokens
from matrix_lib.io.files import whole_file
from matrix_lib.io.lora.apply import apply_lora
from matrix_lib.io.lora.read import describe
from matrix_lib.io.strict_json import own_object
from matrix_lib.io.video import write_video

from .analysis.settings import PRECISIONS
from .clips.batches import ClipBatches, open_clips
from .clips.encoders import ModelFiles
from .clips.folder import FolderData, Sample
from .clips.held_out import HoldOut
from .run.config import FitConfig, override
from .run.config_file import read_config
from .run.exported import read_lora
from .run.presets import PRESETS
from .run.record import CONFIG, newest_run
from .run.task_settings import EXPERTS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parse(arguments)
    try:
        _run(chosen)
    except (ValueError, OSError) as error:
        sys.exit(f"training.sample: {error}")
    except KeyboardInterrupt:
        sys.exit("training.sample: stopped; the same command makes what is missing")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a checkpoint, or a preset of training.fit")
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="such as data.folder=others/")
    parser.add_argument("--lora", type=Path, help="another LoRA file, checkpoint or run; default: the run's own")
    parser.add_argument("--out", type=Path, help="folder of the videos; default: samples/ in the run's folder")
    parser.add_argument("--clips", type=int, default=4, help="the first clips only, 0 for all (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each clip is made of each of them")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--strength", type=float, default=1.0, help="of the LoRA, on top of its own scale")
    parser.add_argument("--scale", type=float, help="scale of a LoRA file that stores none")
    parser.add_argument("--prompts", default="", help="text file with lines CLIP: PROMPT, instead of the clips' own")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="", help="default: bfloat16, on a CPU float32")
    parser.add_argument("--offload", action="store_true", help="keep the model's parts in main memory until they run")
    return parser.parse_intermixed_args(arguments)


def _run(chosen: argparse.Namespace) -> None:
    config, home = _config(chosen)
    lora = read_lora(chosen.lora or Path(chosen.run), scale=chosen.scale)
    out: Path = chosen.out or (home / "samples" if home else Path("samples"))
    data = config.data
    if not isinstance(data, FolderData):
        raise ValueError("this run makes its clips itself; training.sample shows clips of a folder (data.folder)")
    files = ModelFiles(config.task.model, tag_ids=data.prompt_form == "tag_ids")
    hold = HoldOut(config.validation.share, config.validation.clips, chosen.prompts)
    with_held = bool(hold.share or hold.clips)
    if chosen.prompts and not with_held:
        raise ValueError("--prompts is about held-out clips: name some with validation.clips=NAME,NAME")
    clips = open_clips(data, files, hold=hold)
    try:
        samples = _samples(clips, chosen, with_held)
        print(describe(lora), flush=True)
        if data.id_map == "merged" and data.condition == "id_map":
            print("ID maps are painted from the mask tracks; training read the dataset's merged pictures", flush=True)
        device = torch.device(chosen.device)
        precision = chosen.precision or ("float32" if device.type == "cpu" else "bfloat16")
        model = open_model(config.task.model, device, getattr(torch, precision), chosen.offload)
        _say_settings(out, chosen, config, lora)
        todo = [(sample, seed) for sample in samples for seed in chosen.seeds]
        with tag_tokens(model.pipeline) if files.tag_ids else nullcontext():
            for sample, seed in tqdm(todo, "sampling", unit=" clips", disable=None):
                _one(model, lora, clips, sample, seed, chosen, out, EXPERTS.get(config.task.expert, ""))
    finally:
        clips.close()
    print(f"wrote {out}", flush=True)


def _config(chosen: argparse.Namespace) -> tuple[FitConfig, Path | None]:
    """The configuration, and the run's folder where there is one."""
    if chosen.run in PRESETS:
        if chosen.lora is None:
            raise ValueError(f"{chosen.run} is a preset: say which LoRA with --lora FILE")
        return override(PRESETS[chosen.run](), chosen.settings), None
    given = Path(chosen.run)
    if not given.is_dir():
        raise ValueError(f"{chosen.run!r} is no folder of a run, and no preset ({', '.join(sorted(PRESETS))})")
    home = given.parent if (given.parent / CONFIG).is_file() else newest_run(given)
    config, _ = read_config(home / CONFIG)
    return override(config, chosen.settings), home


def _samples(clips: ClipBatches, chosen: argparse.Namespace, with_held: bool) -> tuple[Sample, ...]:
    found: Sequence[Sample] = clips.words if chosen.prompts else (clips.held if with_held else clips.samples)
    if not with_held:
        print("no clip is held out (validation.share, validation.clips): these are clips of the training", flush=True)
    return tuple(found[: chosen.clips or None])


def _say_settings(out: Path, chosen: argparse.Namespace, config: FitConfig, lora: AlignmentLoRA) -> None:
    """`sample.json`: how the videos were made. Raises ValueError where the folder holds videos of other settings."""
    made = {name: getattr(chosen, name) for name in ("steps", "guidance", "negative", "strength")} | {
        "model": config.task.model,
        "lora": lora.digest,
    }
    path = out / "sample.json"
    if path.is_file():
        before = own_object(path)
        differ = [
            f"{name}: {before.get(name)!r} before, {now!r} now" for name, now in made.items() if before.get(name) != now
        ]
        if differ:
            raise ValueError(f"{str(out)!r} holds videos of other settings ({'; '.join(differ)}): use another --out")
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def _one(
    model: Model,
    lora: AlignmentLoRA,
    clips: ClipBatches,
    sample: Sample,
    seed: int,
    chosen: argparse.Namespace,
    out: Path,
    part: str = "",
) -> None:
    """The videos of one clip and seed, unless they are there. part: of two experts the one that has the LoRA."""
    name = f"{sample.name.replace('/', '_')}-seed{seed}"
    if (out / f"{name}.mp4").is_file():
        return
    frames, height, width = sample.bucket
    recipe = Recipe("generate", frames, height, width, chosen.steps, chosen.guidance, chosen.negative)
    real = clips.cache.frames(sample)
    tracks = sample.tracks(clips.cache.store).framed(sample.framing)
    base = generate(model, recipe, sample.prompt, real, seed)
    given = {"strength": chosen.strength, "target": sample.written.target, "part": part}
    with apply_lora(model.pipeline, lora, tracks, **given):
        with_lora = generate(model, recipe, sample.prompt, real, seed)
    shown = {"the clip": real.numpy(), "base": base, "with the LoRA": with_lora}
    for part, video in (("base", base), ("lora", with_lora)):
        write_video(out / f"{name}-{part}.mp4", video)
    write_video(out / f"{name}.mp4", _frames(shown, tracks))  # last: it says that the clip is done


def _frames(shown: dict[str, NDArray[np.uint8]], tracks: MaskTracks) -> Any:
    return (np.asarray(picture) for picture in side_by_side(shown, tracks))


if __name__ == "__main__":
    main()
