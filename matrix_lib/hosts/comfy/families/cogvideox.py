"""What native CogVideoX gets wrong, found by asking it, and put right on a clone; and what else is particular to it.

ComfyUI 0.30 samples CogVideoX with an input that is not scaled, counts rotary positions in another unit, leaves parts
of the position tables out, scales CogVideoX 1.5's image latents the wrong way, and fills its odd clips at the wrong
end. Each defect is probed for: a host that is right is left alone. What mends it are object patches and wrappers on a
clone; the model that came in stays as it was. The measure is the diffusers pipeline of the same checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ....backbones.cogvideox import SPEC
from ....backbones.positions import add_sincos
from ..weights import Progress, read_json
from .base import Defect, DynamicGuidance, Family, FirstFrameInput, Variant, no_image, t5_clip
from .cogvideox_parts import (
    Checkpoint,
    DynamicCFG,
    InvertedImage,
    PositionTable,
    PrefixFrames,
    RotaryPositions,
    Sampling,
)

__all__ = ["FAMILY", "CogVideoX", "describe", "remember"]

KEY = "matrix_repair"
_CHECKPOINT = "matrix_cogvideox"
_ROTARY = "diffusion_model._get_rotary_emb"
_ROTARY_FLAG = "diffusion_model.use_rotary_positional_embeddings"
_TABLE_FLAGS = tuple(f"diffusion_model.patch_embed.use_{kind}positional_embeddings" for kind in ("", "learned_"))


class CogVideoX(Family):
    """CogVideoX 1.0 and 1.5."""

    def set_aside(self, state: dict[str, Tensor]) -> Tensor | None:
        """The learned position table; the host only has room for that of 49 frames at 480 x 720."""
        return state.pop("patch_embed.pos_embedding", None)

    def adapt(self, model: Any, folder: Path, config: Mapping[str, Any], aside: Tensor | None) -> None:
        """The base grid, and the learned positions."""
        vae, scheduler = folder / "vae" / "config.json", folder / "scheduler" / "scheduler_config.json"
        read = Checkpoint.from_configs(
            config,
            read_json(scheduler) if scheduler.is_file() else {},
            read_json(vae) if vae.is_file() else {},
        )
        embed = model.model.diffusion_model.patch_embed
        for name in ("sample_frames", "sample_height", "sample_width"):
            setattr(embed, name, config.get(name, getattr(embed, name)))
        if aside is not None:
            embed.register_buffer("pos_embedding", aside)
            embed.use_learned_positional_embeddings = True
        remember(model, read)

    def latent_format(self, vae: Mapping[str, Any]) -> Any:
        """One factor, from the config."""
        if not vae.get("scaling_factor"):
            return None
        latents = comfy.latent_formats.CogVideoX()
        latents.scale_factor = float(vae["scaling_factor"])
        return latents

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """T5."""
        import comfy.text_encoders.cogvideo as host

        return t5_clip(folder, "t5xxl", host.cogvideo_te, host.CogVideoXTokenizer, progress)

    def defects(self, model: Any, variant: Variant = "auto", first_frame: bool = True) -> list[Defect]:
        """Whatever of the checks below finds something; a check that this host has no place for is passed by."""
        checkpoint, found = describe(model, variant), []
        if checkpoint is None:
            return []
        for text, present, mend in _CHECKS:
            try:
                if present(model, checkpoint):
                    found.append(Defect(text, partial(mend, checkpoint=checkpoint)))
            except AttributeError as error:
                logging.warning(
                    "MATRIX: this ComfyUI's CogVideoX cannot be checked for one thing (%s): %s", text, error
                )
        return found

    def repair(self, model: Any, variant: Variant, dynamic_cfg: DynamicGuidance) -> tuple[Any, list[str]]:
        """As every family, and guidance that grows over the run where it is wanted."""
        clone, mended = super().repair(model, variant, dynamic_cfg)
        checkpoint = describe(model, variant)
        if checkpoint is None or (clone is model and dynamic_cfg == "off"):
            return clone, mended
        clone = model.clone() if clone is model else clone
        remember(clone, checkpoint)
        if dynamic_cfg != "off":
            clone.set_model_sampler_cfg_function(DynamicCFG(dynamic_cfg))
        return clone, mended

    def first_frame(self, model: Any, vae: Any, first: Tensor, empty: Tensor, length: int) -> FirstFrameInput:
        """The first frame's latent, then frames that are zero in the model's own scale."""
        channels = model.model.diffusion_model.in_channels
        if channels < 2 * empty.shape[1]:
            raise no_image(self.spec.title)
        if channels >= 3 * empty.shape[1]:
            raise ValueError(
                "this CogVideoX is an inpainting model (48 input channels): use the host's own nodes for it"
            )
        latents = model.get_model_object("latent_format")
        frames = latents.process_out(torch.zeros(1, *empty.shape[1:], device=empty.device))
        frames[:, :, :1] = vae.encode(first).to(frames)
        return {"concat_latent_image": frames}, {"samples": empty}

    def image_scale(self, model: Any) -> float:
        """CogVideoX 1.5 divides its image latents by the scale."""
        checkpoint = describe(model)
        if checkpoint is None or not checkpoint.inverted_image:
            return 1.0
        return 1.0 / float(model.get_model_object("latent_format").scale_factor) ** 2


def remember(model: Any, checkpoint: Checkpoint) -> None:
    """Hangs what a loader read about a checkpoint on its MODEL; clones keep it."""
    model.set_attachments(_CHECKPOINT, checkpoint)


def describe(model: Any, variant: Variant = "auto") -> Checkpoint | None:
    """What a native CogVideoX MODEL was trained with; None for other families and for the 48-channel inpainting models,
    which are sampled by nodes of their own.

    Args:
        variant: which 1.0 model it is; "auto" asks the loader that made it, and else takes fewer than 48 heads for
            2B, as the host does.
    """
    inner = getattr(model.model, "diffusion_model", None)
    if inner is None or type(inner).__name__ not in SPEC.native.classes or inner.in_channels == 48:
        return None
    known = model.get_attachment(_CHECKPOINT)
    found = known if known is not None else _read(inner)
    if variant == "auto" or found.temporal_patch > 1:
        return found
    rotary = variant == "5b"
    return replace(found, rotary=rotary, snr_shift=1.0 if rotary else 3.0, learned=found.learned and rotary)


def _read(inner: nn.Module) -> Checkpoint:
    embed, patch = inner.patch_embed, inner.patch_size
    temporal = inner.patch_size_t or 1
    rotary = temporal > 1 or embed.use_learned_positional_embeddings or inner.num_attention_heads >= 48
    return Checkpoint(
        rotary=rotary,
        learned=embed.use_learned_positional_embeddings and temporal == 1,
        temporal_patch=temporal,
        base=(
            (embed.sample_frames - 1) // embed.temporal_compression_ratio + 1,
            embed.sample_height // patch,
            embed.sample_width // patch,
        ),
        snr_shift=1.0 if rotary else 3.0,
        inverted_image=temporal > 1 and inner.in_channels == 32 and inner.ofs_embedding_linear_1 is not None,
        spatial_scale=embed.spatial_interpolation_scale,
        temporal_scale=embed.temporal_interpolation_scale,
    )


def _sampling_wrong(model: Any, checkpoint: Checkpoint) -> bool:
    sampling = model.get_model_object("model_sampling")
    sigma = torch.tensor([10.0])
    scaled = float(sampling.calculate_input(sigma, torch.ones(1, 1, 1, 1, 1)).mean())
    return abs(scaled - 101.0**-0.5) > 1e-3


def _schedule_wrong(model: Any, checkpoint: Checkpoint) -> bool:
    """A schedule that somebody chose for this model is theirs; only the one it was loaded with is judged."""
    if "model_sampling" in model.object_patches and not _sampling_wrong(model, checkpoint):
        return False
    sigmas = getattr(model.get_model_object("model_sampling"), "sigmas", None)
    wanted = Sampling(checkpoint.snr_shift).sigmas
    if sigmas is None or sigmas.shape != wanted.shape:
        return True
    return not torch.allclose(sigmas.cpu()[:-1].float(), wanted[:-1], rtol=1e-2)


def _mend_sampling(model: Any, checkpoint: Checkpoint) -> None:
    model.add_object_patch("model_sampling", Sampling(checkpoint.snr_shift))


def _rotary_wrong(model: Any, checkpoint: Checkpoint) -> bool:
    if bool(model.get_model_object(_ROTARY_FLAG)) != checkpoint.rotary:
        return True
    if not checkpoint.rotary or checkpoint.temporal_patch > 1:
        return False
    wanted = _rotary(model, checkpoint)
    positions = model.get_model_object(_ROTARY)
    for h, w, t in ((4, 6, 2), (6, 4, 1)):
        for mine, theirs in zip(wanted(h, w, t, "cpu"), positions(h, w, t, "cpu"), strict=True):
            if mine.shape != theirs.shape or not torch.allclose(mine, theirs, atol=1e-3):
                return True
    return False


def _rotary(model: Any, checkpoint: Checkpoint) -> RotaryPositions:
    return RotaryPositions(checkpoint.base[1:], model.model.diffusion_model.attention_head_dim)


def _mend_rotary(model: Any, checkpoint: Checkpoint) -> None:
    model.add_object_patch(_ROTARY_FLAG, checkpoint.rotary)
    if checkpoint.rotary and checkpoint.temporal_patch == 1:
        model.add_object_patch(_ROTARY, _rotary(model, checkpoint))


def _table_wrong(model: Any, checkpoint: Checkpoint) -> bool:
    wanted = checkpoint.learned or not checkpoint.rotary
    sincos, learned = (bool(model.get_model_object(flag)) for flag in _TABLE_FLAGS)
    if ours := model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        return sincos or learned or not wanted or any(table.checkpoint != checkpoint for table in ours)
    if not wanted:
        return sincos or learned
    if learned != checkpoint.learned or not (sincos or learned):
        return True
    return not _host_adds_table(model.model.diffusion_model.patch_embed.__class__, learned)


def _mend_table(model: Any, checkpoint: Checkpoint) -> None:
    for flag in _TABLE_FLAGS:
        model.add_object_patch(flag, False)
    model.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    if checkpoint.learned or not checkpoint.rotary:
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, PositionTable(checkpoint))


@lru_cache(maxsize=8)
def _host_adds_table(embed: Any, learned: bool) -> bool:
    """Whether the host's own patch embedding adds the right table, asked of a tiny one whose projections are zero."""
    size = {"sample_width": 8, "sample_height": 4, "sample_frames": 5, "max_text_seq_length": 3}
    try:
        module = embed(
            in_channels=1,
            dim=48,  # the host wants thirds, the checkpoint quarters
            text_dim=4,
            use_positional_embeddings=True,
            use_learned_positional_embeddings=learned,
            device="cpu",
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
            **size,
        )
        for weight in module.parameters():
            nn.init.zeros_(weight)
        if learned:
            module.pos_embedding = torch.randn(module.pos_embedding.shape, generator=torch.Generator().manual_seed(0))
        text, answers = torch.zeros(1, 3, 4), []
        for grid in ((2, 2, 4), (1, 2, 4), (2, 3, 2)):
            got = module(text, torch.zeros(1, grid[0], 1, 2 * grid[1], 2 * grid[2]))
            wanted = torch.nn.functional.pad(add_sincos(torch.zeros(1, *grid, 48)).flatten(1, 3), (0, 0, 3, 0))
            if learned and grid == (2, 2, 4):
                wanted = module.pos_embedding
            answers.append(got.shape == wanted.shape and torch.allclose(got, wanted, atol=1e-4))
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        logging.warning("MATRIX: cannot ask this host for its position table (%s); it gets ours", error)
        return False
    return all(answers)


def _image_wrong(model: Any, checkpoint: Checkpoint) -> bool:
    if not checkpoint.inverted_image:
        return False
    image, noise = torch.ones(1, 16, 1, 2, 2), torch.zeros(1, 16, 1, 2, 2)
    concat = model.get_model_object("concat_cond")
    got = concat(noise=noise, concat_latent_image=image, device=torch.device("cpu"))
    return got is not None and not torch.allclose(got.float(), image / _scale(model), atol=1e-3)


def _scale(model: Any) -> float:
    return float(model.get_model_object("latent_format").scale_factor)


def _mend_image(model: Any, checkpoint: Checkpoint) -> None:
    model.add_object_patch("concat_cond", InvertedImage(model.get_model_object("concat_cond"), _scale(model)))


def _lead_wrong(model: Any, checkpoint: Checkpoint) -> bool:
    if checkpoint.temporal_patch == 1 or model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        return False
    return _host_fills_behind(model.model.diffusion_model.__class__)


def _mend_lead(model: Any, checkpoint: Checkpoint) -> None:
    """Outermost: wrappers that were there before see the clip that the network sees."""
    others = model.wrappers.pop(WrappersMP.OUTER_SAMPLE, {})
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, PrefixFrames(checkpoint.temporal_patch))
    for key, wrappers in others.items():
        for wrapper in wrappers:
            model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, wrapper)


@lru_cache(maxsize=8)
def _host_fills_behind(transformer: Any) -> bool:
    """Whether the host fills an odd clip at its end, asked of a tiny transformer: then the same clip with its first
    frame appended (the host's padding goes round) comes out the same."""
    try:
        module = transformer(
            num_attention_heads=1,
            in_channels=2,
            out_channels=2,
            time_embed_dim=8,
            text_embed_dim=4,
            num_layers=1,
            patch_size_t=2,
            use_rotary_positional_embeddings=True,
            device="cpu",
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )
        generator = torch.Generator().manual_seed(0)
        for weight in module.parameters():
            weight.data = torch.randn(weight.shape, generator=generator) * 0.2
        clip = torch.randn(1, 2, 3, 4, 4, generator=generator)
        text, time = torch.randn(1, 3, 4, generator=generator), torch.tensor([500.0])
        odd = module(clip, time, text)
        filled = module(torch.cat([clip, clip[:, :, :1]], dim=2), time, text)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        logging.warning("MATRIX: cannot ask this host how it fills odd clips (%s); it gets our way", error)
        return True
    return torch.allclose(odd, filled[:, :, :3], atol=1e-4)


_CHECKS = (
    (
        "the sampler's input is not scaled: the network sees noise thousands of times too strong",
        _sampling_wrong,
        _mend_sampling,
    ),
    ("the noise schedule is not the one of this checkpoint", _schedule_wrong, _mend_sampling),
    ("rotary positions are off, or not in the checkpoint's unit", _rotary_wrong, _mend_rotary),
    ("the position table is missing, incomplete or another one", _table_wrong, _mend_table),
    ("image latents are multiplied by the VAE's scale instead of divided", _image_wrong, _mend_image),
    ("clips with an odd number of latent frames are filled at the end, not in front", _lead_wrong, _mend_lead),
)

FAMILY = CogVideoX(SPEC)
