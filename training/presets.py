"""Presets are functions: what a run was is a line of code, and a changed run is a changed argument."""

from __future__ import annotations

from collections.abc import Callable

from .config import AlignTask, CodecTask, Data, DenoiseTask, FitConfig, Optim, Run

__all__ = ["PRESETS"]


def codec() -> FitConfig:
    """The mini model's codec."""
    return FitConfig(
        task=CodecTask(base=16, crop=64),
        data=Data(batch=32, chunk=1024, reuse=8, workers=8),
        optim=Optim(name="muon", lr=2.5e-3, ema=0.995),
        run=Run(steps=2000, out="runs/codec", precision="bf16", save_every=1000),
    )


def mini() -> FitConfig:
    """The mini video DiT, on the latents of `codec`.

    Pushing, chasing, hitting and carrying show in the first frame who will do it: only one of the two has room for it.
    The verbs that come up more often are those where the words alone tell.
    """
    return FitConfig(
        task=DenoiseTask(codec="runs/codec"),
        data=Data(
            batch=128, chunk=2048, reuse=8, workers=8, distractors=0.05, often=("join", "bounce", "pull", "lift")
        ),
        optim=Optim(name="muon", lr=4e-3, ema=0.998),
        run=Run(steps=2000, out="runs/mini", precision="bf16", compile=True, save_every=1000),
    )


def codec_cpu() -> FitConfig:
    """A few steps of a tiny codec on any machine: shows that everything works, not that anything is learnt."""
    return FitConfig(
        task=CodecTask(base=4, crop=32),
        data=Data(height=64, width=64, frames=5, batch=2, chunk=4),
        optim=Optim(warmup=2),
        run=Run(steps=4, out="runs/codec_cpu", log_every=1, save_every=2),
    )


def mini_cpu() -> FitConfig:
    """A few steps of a tiny transformer on any machine, on the latents of `codec_cpu`."""
    return FitConfig(
        task=DenoiseTask(codec="runs/codec_cpu", layers=2, heads=1, text_layers=1, text_dim=32, text_length=64),
        data=Data(height=64, width=64, frames=5, batch=2, chunk=4),
        optim=Optim(warmup=2),
        run=Run(steps=4, out="runs/mini_cpu", log_every=1, save_every=2),
    )


def align() -> FitConfig:
    """Alignment fine-tuning of the published mini model on interaction clips of its world."""
    return FitConfig(
        task=AlignTask(),
        data=Data(batch=64, chunk=3072, workers=8),
        optim=Optim(lr=1e-3, warmup=20, weight_decay=0.0, ema=0.98),
        run=Run(steps=300, out="runs/align", precision="bf16"),
    )


def align_cpu() -> FitConfig:
    """A few steps of the same on any machine."""
    return FitConfig(
        task=AlignTask(rank=4, alpha=4.0, decoder=8),
        data=Data(batch=2, chunk=4, workers=1),
        optim=Optim(lr=1e-3, warmup=1, weight_decay=0.0),
        run=Run(steps=2, out="runs/align_cpu", log_every=1, save_every=2),
    )


PRESETS: dict[str, Callable[[], FitConfig]] = {
    "codec": codec,
    "mini": mini,
    "codec_cpu": codec_cpu,
    "mini_cpu": mini_cpu,
    "align": align,
    "align_cpu": align_cpu,
}
