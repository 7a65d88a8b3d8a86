"""Diffusers' own pipelines around the tiny transformers of `support_diffusers`."""

import diffusers
import pytest
import torch
from PIL import Image
from support_attention import make_tracks
from support_cosmos import cosmos_pipeline
from support_diffusers import FACE, build
from support_models import hunyuan15_vae, hunyuan_vae, randomize

from matrix_lib.core.tracks import tracks as tracks_module

FRAMES, H, W = 9, 64, 96
TRACKS = make_tracks(tracks_module, FRAMES, H, W)
VP = dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
SCHEDULERS = {
    "ddim": lambda: diffusers.CogVideoXDDIMScheduler(**VP),
    "dpm": lambda: diffusers.CogVideoXDPMScheduler(**VP),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**FLOW),
    "flow": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "euler": lambda: diffusers.EulerDiscreteScheduler(prediction_type="epsilon"),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    "karras": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "inverted": lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    "heun": lambda: diffusers.HeunDiscreteScheduler(prediction_type="epsilon"),
}


class Pipe:
    """A diffusers pipeline around a tiny transformer, called with random words, giving latents."""

    def __init__(self, family, scheduler, cfg=6.0):
        model, args, *_ = build(family)
        self.transformer, self.cfg, self.family, self.calls = model, cfg, family, 0
        self.words = args["encoder_hidden_states"]
        self.pooled = args.get("pooled_projections")
        self.args = args
        parts = dict(tokenizer=None, text_encoder=None, vae=None, transformer=model, scheduler=SCHEDULERS[scheduler]())
        if family == "wan_t2v":
            self.pipe = diffusers.WanPipeline(**parts)
        elif family == "ltx":
            self.pipe = diffusers.LTXPipeline(**parts)
        elif family == "ltx2":
            parts |= dict(vae=ltx_vae(2), audio_vae=sound_vae())
            self.pipe = diffusers.LTX2Pipeline(**parts, vocoder=None, connectors=_connectors())
        elif family == "hunyuan15":
            parts |= dict(vae=hunyuan15_vae(), guider=diffusers.ClassifierFreeGuidance(guidance_scale=cfg))
            self.pipe = diffusers.HunyuanVideo15Pipeline(**parts, tokenizer_2=None, text_encoder_2=None)
            self.pipe.vision_num_semantic_tokens = 4  # of no picture, which are 729
        elif family == "kandinsky5":
            self.pipe = diffusers.Kandinsky5T2VPipeline(**parts, tokenizer_2=None, text_encoder_2=None)
        elif family == "wan_vace":
            self.pipe = diffusers.WanVACEPipeline(**parts | dict(vae=wan_vae()))
        elif family == "wan_animate":
            self.pipe = diffusers.WanAnimatePipeline(**parts | dict(vae=wan_vae()) | clip_vision(48))
        elif family == "cosmos2":
            vae = randomize(diffusers.AutoencoderKLWan(base_dim=4, z_dim=16), 10, 0.1)
            self.pipe = cosmos_pipeline(**{**parts, "vae": vae})
        elif family == "mochi":
            self.pipe = diffusers.MochiPipeline(**parts)
        elif family == "hunyuan":
            self.pipe = diffusers.HunyuanVideoPipeline(**parts, tokenizer_2=None, text_encoder_2=None)
        elif family == "hunyuan_skyreels":
            parts |= dict(vae=hunyuan_vae(), tokenizer_2=None, text_encoder_2=None)
            self.pipe = diffusers.HunyuanSkyreelsImageToVideoPipeline(**parts)
        else:
            self.pipe = diffusers.CogVideoXPipeline(**parts)
        self.pipe.set_progress_bar_config(disable=True)
        model.register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1

    def __call__(self, steps=3, usual=None, **more):
        uncond, cond = self.words[:1], self.words[1:]
        given = dict(prompt_embeds=cond, negative_prompt_embeds=uncond, guidance_scale=self.cfg)
        if self.family == "hunyuan_skyreels":
            given |= dict(image=picture(1))
        if self.family in ("hunyuan", "hunyuan_skyreels"):
            keep = torch.ones(1, cond.shape[1])
            given |= dict(
                pooled_prompt_embeds=self.pooled[1:], prompt_attention_mask=keep, true_cfg_scale=self.cfg,
                negative_pooled_prompt_embeds=self.pooled[:1], negative_prompt_attention_mask=keep,
            )  # fmt: skip
        if self.family == "kandinsky5":
            given = dict(guidance_scale=self.cfg)
            for name, of in (("negative_prompt", slice(0, 1)), ("prompt", slice(1, 2))):
                given[f"{name}_embeds_qwen"], given[f"{name}_embeds_clip"] = self.words[of], self.pooled[of]
                given[f"{name}_cu_seqlens"] = torch.tensor([0, self.words.shape[1]])
        if self.family == "hunyuan15":
            del given["guidance_scale"]  # its guider has it
            for name, of in (("negative_prompt", slice(0, 1)), ("prompt", slice(1, 2))):
                given[f"{name}_embeds_mask"] = self.args["encoder_attention_mask"][of]
                given[f"{name}_embeds_2"] = self.args["encoder_hidden_states_2"][of]
                given[f"{name}_embeds_mask_2"] = self.args["encoder_attention_mask_2"][of]
        if self.family == "mochi":
            for name, of in (("negative_prompt", slice(0, 1)), ("prompt", slice(1, 2))):
                given[f"{name}_attention_mask"] = self.args["encoder_attention_mask"][of]
        if self.family == "cosmos2":
            more["image"] = Image.new("RGB", (W, H), (200, 30, 60))
        if self.family.startswith("ltx"):
            keep = (torch.arange(cond.shape[1]) < 30).long()[None]
            given |= dict(prompt_attention_mask=keep, negative_prompt_attention_mask=keep)
        if self.family == "ltx2":
            keep = keep.flip(1)  # Gemma's padding stands in front
            rows = torch.randn(2, cond.shape[1], 16 * 3, generator=torch.Generator().manual_seed(5))
            given |= dict(
                prompt_embeds=rows[:1], negative_prompt_embeds=rows[1:], prompt_attention_mask=keep,
                negative_prompt_attention_mask=keep, audio_guidance_scale=self.cfg, **(usual or PLAIN_LTX2),
            )  # fmt: skip
        length = dict(num_frames=FRAMES)
        if self.family == "wan_vace":
            given |= dict(reference_images=[picture(1), picture(2)])
        if self.family == "wan_animate":
            length = dict(segment_frame_length=FRAMES)
            videos = dict(pose_video=video(FRAMES, (W, H)), face_video=video(FRAMES, (FACE, FACE)))
            given |= dict(image=picture(1)) | videos
        draw = torch.Generator().manual_seed(3)
        return self.pipe(**{
            **dict(height=H, width=W, num_inference_steps=steps, generator=draw, output_type="latent"),
            **length, **given, **more,
        }).frames  # fmt: skip


def picture(seed, size=(W, H)):
    """A PIL picture of noise; size: (width, height)."""
    noise = torch.randint(0, 256, (*size[::-1], 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def video(frames, size):
    return [picture(at, size) for at in range(frames)]


def wan_vae():
    return randomize(diffusers.AutoencoderKLWan(base_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1, z_dim=16), 10, 0.1)


def clip_vision(width):
    """CLIP for pictures, and what it is given them by."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    sizes = dict(intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=14)
    made = randomize(CLIPVisionModel(CLIPVisionConfig(hidden_size=width, **sizes)))
    return dict(image_encoder=made, image_processor=CLIPImageProcessor())


PLAIN_LTX2 = dict(stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0, audio_modality_scale=1.0,
                  guidance_rescale=0.0, audio_guidance_rescale=0.0)  # fmt: skip
"""CFG alone, where the pipeline's own way is four predictions and a rescaling."""


def ltx_vae(version, spread=True):
    """A tiny VAE of LTX-Video (1) or LTX-2 (2), whose statistics are random, or (not `spread`) 0 and 1."""
    if version == 1:
        return _spread(spread, diffusers.AutoencoderKLLTXVideo(
            block_out_channels=(8, 16, 32, 32), decoder_block_out_channels=(8, 16, 32, 32),
            layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        ))  # fmt: skip
    return _spread(spread, diffusers.AutoencoderKLLTX2Video(
        block_out_channels=(8, 16, 32, 32), decoder_block_out_channels=(8, 16, 32), layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4, spatial_compression_ratio=32, temporal_compression_ratio=8,
    ))  # fmt: skip


def sound_vae(spread=True):
    return _spread(spread, diffusers.AutoencoderKLLTX2Audio(ch_mult=(1,), num_res_blocks=1))


def _spread(spread, vae):
    if not spread:
        return vae.eval()
    randomize(vae)
    vae.latents_std.copy_(0.5 + vae.latents_std.abs())
    return vae


def _connectors():
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    both = dict(
        num_attention_heads=2, attention_head_dim=24, num_layers=1, num_learnable_registers=32
    )  # fmt: skip
    named = {f"{name}_connector_{key}": value for name in ("video", "audio") for key, value in both.items()}
    made = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=3, per_modality_projections=True, video_hidden_dim=48,
        audio_hidden_dim=48, rope_type="split", **named,
    )  # fmt: skip
    return randomize(made)


def text_to_video(family, scheduler, cfg=6.0):
    made = Pipe("wan_t2v" if family == "wan" else family, scheduler, cfg)
    return made


@pytest.fixture
def cog(monkeypatch):
    """CogVideoX without an image: the tiny transformer of the tests takes 32 channels, this one 16."""
    import support_diffusers

    real = diffusers.CogVideoXTransformer3DModel
    monkeypatch.setattr(diffusers, "CogVideoXTransformer3DModel", lambda **given: real(**{**given, "in_channels": 16}))
    return support_diffusers
