"""Sample videos while a model is fine-tuned, with the attention of the layers that are being taught drawn over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.draw.capture import Choice, attention_pictures
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.latents import decode_clip
from matrix_lib.instrument.capture import Capture
from matrix_lib.io.video import write_video

from ..clips.batches import ClipBatch
from ..clips.folder import Sample
from ..data.alignment_clips import ClipStream
from ..data.world import seed_of
from ..models.video_model import VideoModel
from ..run.config import Run
from ..run.log import Log

__all__ = ["write_previews"]

FPS = 8.0


def write_previews(model: VideoModel, source: ClipStream, run: Run, step: int, log: Log) -> list[Path]:
    """Samples held-out clips (the first ones of the data where none is held out), from the same noise every time, and
    writes `previews/step-N/NAME.mp4` and, per kind of map, `NAME-v2t.mp4`: the video with each instance's attention
    over it.

    Every process samples, for a network that is split needs all of them; one writes. What goes wrong here is said, and
    ends no run.
    """
    made: list[Path] = []
    folder = Path(run.out) / "previews" / f"step-{step:07d}"
    transformer = model.transformer
    was = transformer.training
    transformer.eval()
    try:
        for index, sample in enumerate(source.clips.shown(run.preview_clips)):
            latents, capture, batch = _sample(model, source, run, index, sample)
            if not log.speak:
                continue
            with source.files.open() as encoders:
                frames = _decode(encoders.pipeline, model, latents, batch.grid.prefix_frames)
            made += _write(folder, batch, frames, capture, step, log)
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        log.say(f"no sample videos at step {step}: {error}")
    finally:
        transformer.train(was)
    if made:
        log.say(f"sample videos of step {step}: {folder}")
    return made


def _sample(
    model: VideoModel, source: ClipStream, run: Run, index: int, sample: Sample
) -> tuple[Tensor, Capture, ClipBatch]:
    batch = source.clips.alone(sample)
    batch = batch.to(source.files.device)
    layers = sorted({*model.task.v2t, *model.task.v2v})
    options: dict[str, Any] = {"layers": layers, "steps": run.preview_steps, "prefix_frames": batch.grid.prefix_frames}
    with watch(model.transformer, batch.bindings[0], _whole(batch), **options) as seen:
        seed = seed_of(run.seed, index, 11)
        latents = model.denoise(batch, source.empty, run.preview_steps, run.preview_cfg, seed)
        capture = seen.capture()
    return latents, capture, batch


@torch.no_grad()
def _decode(pipeline: Any, model: VideoModel, latents: Tensor, prefix_frames: int) -> Tensor:
    """(1, T, C, h, w) with `prefix_frames` in front -> (F, H, W, 3) uint8, by the pipeline's own VAE."""
    vae = pipeline.vae
    x = latents[:, prefix_frames:].transpose(1, 2).to(pipeline._execution_device, vae.dtype)
    video = decode_clip(vae, x, model.shape.family)[0].float()
    return video.add(1.0).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu()


def _write(folder: Path, batch: ClipBatch, frames: Tensor, capture: Capture, step: int, log: Log) -> list[Path]:
    name = batch.names[0].replace("/", "_")
    made = [write_video(folder / f"{name}.mp4", frames, FPS)]
    tracks = _whole(batch)
    for kind in ("v2t", "v2v"):
        with contextlib.suppress(ValueError):  # a kind of map that these layers do not give
            pictures = list(_overlays(capture, kind, frames, tracks))
            made.append(write_video(folder / f"{name}-{kind}.mp4", pictures, FPS))
            if log.board is not None:
                log.board.add_image(f"{name}/{kind}", pictures[len(pictures) // 2], step, dataformats="HWC")
    if log.board is not None:
        log.board.add_image(f"{name}/video", frames[len(frames) // 2].numpy(), step, dataformats="HWC")
    return made


def _overlays(capture: Capture, kind: str, frames: Tensor, tracks: MaskTracks | None) -> Iterator[np.ndarray]:
    _, _, pictures = attention_pictures(capture, Choice(kind=kind), frames, tracks)  # type: ignore[arg-type]
    for picture in pictures:
        yield np.asarray(picture.convert("RGB"))


def _whole(batch: ClipBatch) -> MaskTracks | None:
    """The clip's tracks, where they know more than the first frame."""
    return batch.tracks[0] if batch.tracks[0].frames == batch.size.frames else None
