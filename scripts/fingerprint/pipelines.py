"""`watch` and `steer` of diffusers: bare transformers of every family, pipelines, and ZeroScope's U-Net."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .book import Book
from .host import Host
from .names import find
from .steering import randn

__all__ = ["pipelines"]

SIZE = {"height": 64, "width": 96, "num_frames": 9}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SCHEDULERS = {
    "cogvideox": (("CogVideoXDDIMScheduler", ZERO_SNR, 6.0), ("CogVideoXDPMScheduler", ZERO_SNR, 1.0)),
    "wan_t2v": (
        ("UniPCMultistepScheduler", FLOW, 6.0), ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 1.0),
        ("DPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}, 6.0),
    ),
    "hunyuan": (("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 6.0),),
}  # fmt: skip


def editing() -> dict[str, Any]:
    """Guidance that needs no sampler."""
    bias, masked, perturbed, curve = (find(n) for n in ("RegionBias", "Partition", "Perturbation", "Schedule"))
    some = find("Layers")((0,), (1,))
    ramp = curve(((0.0, 1.0), (1.0, 0.3)), "smooth")
    found = {
        "bias": bias(),
        "bias, soft": bias(1.0, 2.0, weights=(("van", 2.0),), soft=True, branches="both", layers=some, schedule=ramp),
        "masked": masked(2),
        "masked, whole": masked(2, "global", words=False, branches="cond"),
        "perturbed": perturbed("both", 0.7),
        "perturbed, bound": perturbed("tracks", 1.0, bound=True, layers=some),
    }
    return {**found, "together": [found["bias"], found["perturbed, bound"]]}


def moving() -> dict[str, Any]:
    """Guidance that acts between steps."""
    gradient, intrinsic = find("GradientGuidance"), find("IntrinsicDenoising")
    found = {
        "gradient": gradient(),
        "gradient, logits": gradient(0.2, 2, scores="logits", checkpoint=False, spa=0.5),
        "intrinsic": intrinsic(2, normalise=True),
        "intrinsic, share": intrinsic(1, share=0.3, on="clean", region="mask", channels="each"),
        "clocks": find("DualClockDenoising")(0.7, 0.4),
    }
    return {**found, "everything": [*editing()["together"], *(found[n] for n in ("clocks", "gradient", "intrinsic"))]}


def pipelines(book: Book, host: Host, helpers: Any) -> None:
    for family in helpers("support_diffusers").FAMILIES:
        print(f"  {family}", flush=True)
        _transformer(book, family, helpers)
    for family, every in SCHEDULERS.items():
        for scheduler, settings, cfg in every:
            print(f"  {family}, {scheduler}", flush=True)
            _pipeline(book, family, scheduler, settings, cfg, helpers)
    _unet(book, helpers)


def _watched(book: Book, name: str, run: Callable[[], Tensor], model: Any, words: Any, tracks: Any) -> None:
    with find("watch")(model, words, tracks) as seen:
        book.add(f"{name}.out", run())
    capture = seen.capture()
    book.add(f"{name}.meta", {key: str(value) for key, value in capture.meta.items()})
    book.add(f"{name}.maps", [[stream.v2t, stream.v2v] for stream in capture.streams])


def _transformer(book: Book, family: str, helpers: Any) -> None:
    own, attention = helpers("support_diffusers"), helpers("support_attention")
    model, args, grid, rows = own.build(family)
    height, width = (n * p for n, p in zip(grid.shape[1:], grid.token_pixels))
    words = attention.make_binding(find("binding"), rows)
    tracks = attention.make_tracks(find("tracks"), grid.pixel_frames, height, width)
    for mode, guide in {"plain": None, **editing()}.items():
        with find("steer")(model, guide, words, tracks) if guide else contextlib.nullcontext():
            _watched(book, f"transformers.{family}.{mode}", lambda: own.forward(model, args), model, words, tracks)


def _pipeline(book: Book, family: str, scheduler: str, settings: Any, cfg: float, helpers: Any) -> None:
    pipe, call = _made(family, scheduler, settings, cfg, helpers)
    attention = helpers("support_attention")
    words = attention.make_binding(find("binding"), call["prompt_embeds"].shape[1])
    tracks = attention.make_tracks(find("tracks"), SIZE["num_frames"], SIZE["height"], SIZE["width"])
    clip, reference = randn(16, 3, 8, 12, seed=8), {}

    def run() -> Tensor:
        return pipe(**call, generator=torch.Generator().manual_seed(3)).frames

    for mode, guide in {"plain": None, **editing(), **moving()}.items():
        reference = {"reference": clip} if mode in ("clocks", "everything") else {}
        with find("steer")(pipe, guide, words, tracks, seed=5, **reference) if guide else contextlib.nullcontext():
            _watched(book, f"pipelines.{family}.{scheduler}.{mode}", run, pipe, words, tracks)


def _made(family: str, scheduler: str, settings: Any, cfg: float, helpers: Any) -> tuple[Any, dict[str, Any]]:
    """A pipeline of diffusers around a tiny transformer, and the arguments of a call of random words."""
    import diffusers

    if family == "cogvideox":  # without an image: half the channels of the tests' model
        model = diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=64, in_channels=16, out_channels=16, time_embed_dim=32,
            text_embed_dim=64, num_layers=3, sample_width=12, sample_height=8, sample_frames=9,
        )  # fmt: skip
        model, args = helpers("support_models").randomize(model), {"encoder_hidden_states": randn(2, 226, 64)}
    else:
        model, args = helpers("support_diffusers").build(family)[:2]
    text = args["encoder_hidden_states"]
    parts: dict[str, Any] = {"tokenizer": None, "text_encoder": None, "vae": None, "transformer": model}
    parts["scheduler"] = getattr(diffusers, scheduler)(**settings)
    call = {"prompt_embeds": text[1:], "negative_prompt_embeds": text[:1], "guidance_scale": cfg, **SIZE}
    call |= {"num_inference_steps": 3, "output_type": "latent"}
    kinds = {"cogvideox": "CogVideoXPipeline", "wan_t2v": "WanPipeline", "hunyuan": "HunyuanVideoPipeline"}
    if family == "hunyuan":
        parts |= {"tokenizer_2": None, "text_encoder_2": None}
        pooled, keep = args["pooled_projections"], torch.ones(1, text.shape[1])
        call |= {"pooled_prompt_embeds": pooled[1:], "negative_pooled_prompt_embeds": pooled[:1]}
        call |= {"prompt_attention_mask": keep, "negative_prompt_attention_mask": keep, "true_cfg_scale": cfg}
    pipe = getattr(diffusers, kinds[family])(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe, call


def _unet(book: Book, helpers: Any) -> None:
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet3DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8,
    )  # fmt: skip
    unet = helpers("support_models").randomize(unet).eval()
    words = helpers("support_attention").make_binding(find("binding"), 12)
    tracks = helpers("support_attention").make_tracks(find("tracks"), 4, 72, 96)
    for mode, guide in {"plain": None, **editing()}.items():
        with find("steer")(unet, guide, words, tracks) if guide else contextlib.nullcontext(), torch.no_grad():
            out = unet(randn(2, 4, 4, 9, 12), 7, randn(2, 12, 32, seed=1)).sample
        book.add(f"zeroscope.{mode}", out)
