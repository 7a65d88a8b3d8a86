"""Presets are functions: what a run was is a line of code, and a changed run is a changed argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from matrix_lib.mini.verbs import VERBS

from ..clips.folder import FolderData
from .config import Data, FitConfig, Optim, Run
from .task_settings import AlignTask, CodecTask, DenoiseTask, TuneTask, UNetTask

__all__ = ["PRESETS", "RELEASED_LOSS"]

RELEASED_LOSS: Mapping[str, Any] = {
    "sga": 0.01,
    "spa": 0.005,
    "scores": "logits",
    "bce": 1.0,
    "dice": 0.0,
    "l2": 0.0,
    "entities": "mean",
    "pos_weight": "shared",
    "joined_heads": True,
    "average_layers": True,
}
"""MATRIX's losses as the code that its authors released for Wan has them. Its decoder, a whole VAE decoder of 73
million weights with three channels for masks of one, does not run as released: ours is in its place."""


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


# Bases with room: what a method is to teach is what they were not told. Codec and text encoder are the published
# mini's and stay as they are; the transformer starts from nothing.
def weak_roles() -> FitConfig:
    """Knows things, verbs and motions, and not who does it to whom: in half of the interactions the caption names agent
    and recipient in each other's place."""
    config = mini()
    return replace(
        config,
        task=DenoiseTask(codec="mini", text="mini"),
        data=replace(config.data, single=0.3, captions="exchanged", caption_share=0.5),
        run=replace(config.run, steps=900, out="runs/weak_roles"),
    )


def weak_moves() -> FitConfig:
    """One thing moves and the other rests, sampled from text alone; half of the captions leave open where to."""
    config = mini()
    moves = tuple(verb.name for verb in VERBS if not verb.interaction)
    return replace(
        config,
        task=DenoiseTask(codec="mini", text="mini", image_dropout=0.75),
        data=replace(
            config.data,
            verbs=moves,
            often=(),
            single=1.0,
            most=2,
            distractors=0.0,
            captions="undetermined",
            caption_share=0.5,
        ),
        run=replace(config.run, steps=1100, out="runs/weak_moves"),
    )


def weak_pairs() -> FitConfig:
    """As `weak_roles`, and in most interactions two others act on each other at the same time, among 4 to 6 things."""
    config = weak_roles()
    return replace(
        config,
        data=replace(config.data, pairs=0.8, size=0.75, most=6),
        run=replace(config.run, out="runs/weak_pairs"),
    )


def weak_untold() -> FitConfig:
    """As `weak_roles`, but that captions say who is there and what happens, and in three of four not who does it."""
    config = weak_roles()
    return replace(
        config,
        data=replace(config.data, captions="untold", caption_share=0.75),
        run=replace(config.run, out="runs/weak_untold"),
    )


def weak_verbs() -> FitConfig:
    """Never saw anybody pull or lift; the words it knows from its text encoder."""
    config = weak_roles()
    return replace(
        config,
        data=replace(config.data, unseen=("pull", "lift"), captions="full"),
        run=replace(config.run, out="runs/weak_verbs"),
    )


def weak_clutter() -> FitConfig:
    """As `weak_roles`, before a moving background full of things that nobody names, with others in the way."""
    config = weak_roles()
    return replace(
        config,
        data=replace(config.data, clutter=24, occlusion=1.0, camera=True),
        run=replace(config.run, out="runs/weak_clutter"),
    )


def weak_roles_33() -> FitConfig:
    """As `weak_roles`, with clips of 33 frames."""
    config = weak_roles()
    return replace(config, data=replace(config.data, frames=33), run=replace(config.run, out="runs/weak_roles_33"))


def weak_roles_49() -> FitConfig:
    """As `weak_roles`, with clips of 49 frames."""
    config = weak_roles()
    return replace(config, data=replace(config.data, frames=49), run=replace(config.run, out="runs/weak_roles_49"))


def weak_scenes() -> FitConfig:
    """Two things act on each other, half of the time under a moving camera, sampled from text alone; half of the
    captions leave open how."""
    config = weak_moves()
    verbs = ("join", "bounce", "pull", "lift")
    return replace(
        config,
        data=replace(config.data, verbs=verbs, single=0.0, most=3, camera=True),
        run=replace(config.run, out="runs/weak_scenes"),
    )


def weak_moves_unet() -> FitConfig:
    """The same world for a U-Net as IVG-DA's, from text alone: 9 frames (ZeroScope has 24), time not compressed."""
    config = weak_moves()
    return replace(
        config,
        task=UNetTask(),
        data=replace(config.data, frames=9),
        optim=Optim(name="muon", lr=8e-3, ema=0.998),
        run=replace(config.run, steps=2000, out="runs/weak_moves_unet", compile=False),
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


# Released models on a folder of clips: give task.model and data.folder. What the papers say is as they say it; what
# they leave open is ours, and listed in docs/training.md.
def matrix_cogvideox_5b_i2v() -> FitConfig:
    """MATRIX on CogVideoX-5B-I2V: its published layers, LoRA and length."""
    return FitConfig(
        task=TuneTask(model="models/CogVideoX-5b-I2V", v2t=(7, 11), v2v=(12,), rank=128, alpha=64.0),
        data=FolderData(frames=49, height=480, width=720),
        optim=Optim(lr=1e-4, warmup=100, weight_decay=1e-4, beta2=0.999, ema=0.0, schedule="cosine"),
        run=Run(steps=4000, out="runs/matrix_cogvideox", log_every=10, save_every=250, preview_every=500),
    )


def mix_cogvideox_5b_i2v() -> FitConfig:
    """MATRIX on CogVideoX-5B-I2V, and beside its losses Local Gram Flow of the values, taught by SAM 2's features."""
    config = matrix_cogvideox_5b_i2v()
    task = replace(config.task, method="all", flow_of="values", teacher="models/sam2/sam2.1_hiera_tiny.pt")
    return replace(config, task=task, run=replace(config.run, out="runs/mix_cogvideox"))


def matrix_wan21_i2v_14b() -> FitConfig:
    """MATRIX on Wan2.1-I2V-14B-480P: layers, LoRA, rate and weights of the authors' code."""
    task = TuneTask(
        model="models/Wan2.1-I2V-14B-480P-Diffusers",
        v2t=(20, 24),
        v2v=(6, 8),
        rank=16,
        alpha=16.0,
        timestep="bell",
        shift=5.0,
    )
    return FitConfig(
        task=task,
        data=FolderData(frames=81, height=480, width=832),
        optim=Optim(lr=1e-5, warmup=100, weight_decay=0.01, beta2=0.999, ema=0.0, schedule="constant"),
        run=Run(steps=4000, out="runs/matrix_wan21", log_every=10, save_every=250, preview_every=500, preview_cfg=5.0),
    )


def matrix_wan21_released() -> FitConfig:
    """The same as the authors' code has it in every point that runs: BCE alone, one weight of the pixels inside and a
    mean over instances, time weight on the diffusion loss as well, logits of all heads at once, layers averaged, tags
    as tokens of their own whose attention alone is aligned, and no cross-attention to the picture."""
    config = matrix_wan21_i2v_14b()
    return replace(
        config,
        task=replace(
            config.task,
            **RELEASED_LOSS,
            timestep="levels",
            weigh_diffusion=True,
            image_attention=False,
            dropout=0.0,
        ),
        data=replace(config.data, prompt_form="tag_ids", verbs="left_out"),
        run=replace(config.run, out="runs/matrix_wan21_released"),
    )


def matrix_hunyuan_i2v() -> FitConfig:
    """MATRIX on HunyuanVideo-I2V: its published layers; the rest as on CogVideoX."""
    task = TuneTask(
        model="models/HunyuanVideo-I2V",
        v2t=(6, 7, 9, 10),
        v2v=(11, 26, 27, 29),
        rank=128,
        alpha=64.0,
        shift=7.0,
    )
    return FitConfig(
        task=task,
        data=FolderData(frames=49, height=544, width=960),
        optim=Optim(lr=1e-4, warmup=100, weight_decay=1e-4, beta2=0.999, ema=0.0, schedule="cosine"),
        run=Run(
            steps=4000, out="runs/matrix_hunyuan", log_every=10, save_every=250, preview_every=500, preview_cfg=1.0
        ),
    )


def tavid_cogvideox_5b_i2v() -> FitConfig:
    """TAViD on CogVideoX-5B-I2V: target mask, the word `target`, loss on blocks 5, 8 ... 23, LoRA on every block."""
    task = TuneTask(
        model="models/CogVideoX-5b-I2V",
        method="tavid",
        v2t=tuple(range(5, 24, 3)),
        lora_v2t=tuple(range(42)),
        rank=128,
        alpha=64.0,
        scores="probabilities",
    )
    folder = FolderData(condition="target_mask", prompt_form="target_word", masks="first", verbs="optional", frames=49)
    return FitConfig(
        task=task,
        data=folder,
        optim=Optim(lr=1e-4, warmup=100, weight_decay=1e-4, beta2=0.999, ema=0.0, schedule="cosine", accumulate=4),
        run=Run(steps=2000, out="runs/tavid_cogvideox", log_every=10, save_every=250, preview_every=500),
    )


PRESETS: dict[str, Callable[[], FitConfig]] = {
    "codec": codec,
    "mini": mini,
    "codec_cpu": codec_cpu,
    "mini_cpu": mini_cpu,
    "weak_roles": weak_roles,
    "weak_moves": weak_moves,
    "weak_moves_unet": weak_moves_unet,
    "weak_roles_33": weak_roles_33,
    "weak_roles_49": weak_roles_49,
    "weak_scenes": weak_scenes,
    "weak_pairs": weak_pairs,
    "weak_untold": weak_untold,
    "weak_verbs": weak_verbs,
    "weak_clutter": weak_clutter,
    "align": align,
    "align_cpu": align_cpu,
    "matrix_cogvideox_5b_i2v": matrix_cogvideox_5b_i2v,
    "mix_cogvideox_5b_i2v": mix_cogvideox_5b_i2v,
    "matrix_wan21_i2v_14b": matrix_wan21_i2v_14b,
    "matrix_wan21_released": matrix_wan21_released,
    "matrix_hunyuan_i2v": matrix_hunyuan_i2v,
    "tavid_cogvideox_5b_i2v": tavid_cogvideox_5b_i2v,
}
