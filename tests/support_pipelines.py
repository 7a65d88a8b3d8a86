"""Diffusers' own pipelines around the tiny transformers of `support_diffusers`."""

import diffusers
import pytest
import torch
from support_attention import make_tracks
from support_diffusers import build

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
    "heun": lambda: diffusers.HeunDiscreteScheduler(prediction_type="epsilon"),
}


class Pipe:
    """A diffusers pipeline around a tiny transformer, called with random words, giving latents."""

    def __init__(self, family, scheduler, cfg=6.0):
        model, args, *_ = build(family)
        self.transformer, self.cfg, self.family, self.calls = model, cfg, family, 0
        self.words = args["encoder_hidden_states"]
        self.pooled = args.get("pooled_projections")
        parts = dict(tokenizer=None, text_encoder=None, vae=None, transformer=model, scheduler=SCHEDULERS[scheduler]())
        if family == "wan_t2v":
            self.pipe = diffusers.WanPipeline(**parts)
        elif family == "hunyuan":
            self.pipe = diffusers.HunyuanVideoPipeline(**parts, tokenizer_2=None, text_encoder_2=None)
        else:
            self.pipe = diffusers.CogVideoXPipeline(**parts)
        self.pipe.set_progress_bar_config(disable=True)
        model.register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1

    def __call__(self, steps=3, **more):
        uncond, cond = self.words[:1], self.words[1:]
        given = dict(prompt_embeds=cond, negative_prompt_embeds=uncond, guidance_scale=self.cfg)
        if self.family == "hunyuan":
            keep = torch.ones(1, cond.shape[1])
            given |= dict(
                pooled_prompt_embeds=self.pooled[1:], prompt_attention_mask=keep, true_cfg_scale=self.cfg,
                negative_pooled_prompt_embeds=self.pooled[:1], negative_prompt_attention_mask=keep,
            )  # fmt: skip
        draw = torch.Generator().manual_seed(3)
        return self.pipe(
            height=H, width=W, num_frames=FRAMES, num_inference_steps=steps, generator=draw, output_type="latent",
            **given, **more,
        ).frames  # fmt: skip


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
