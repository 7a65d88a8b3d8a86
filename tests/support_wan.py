"""Every native Wan model that the host knows, tiny and with random weights, and conditioning from the host's own nodes.

The list is the host's: configurations of `comfy.supported_models` whose network is Wan. Needs the `comfy` fixture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

SIZE = {"width": 48, "height": 32, "length": 9}  # 3 latent frames of 2 x 3 tokens
LARGER = {"width": 64, "height": 64, "length": 9}
_DIMS = {"dim": 256, "ffn_dim": 64, "num_heads": 2, "num_layers": 2}
_CHANNELS = {"t2v": 16, "flow_rvs": 16, "vace": 16, "s2v": 16, "scail": 20, "scail2": 20}
_MORE: dict[str, dict[str, Any]] = {
    "vace": {"vace_layers": 1, "vace_in_dim": 96},
    "s2v": {"audio_dim": 32, "audio_inject_layers": [0]},
    "wandancer": {"audio_inject_layers": [0], "music_dim": 256},
}


def configs() -> dict[str, Any]:
    """The host's configurations of Wan, by their class names."""
    import comfy.supported_models as host

    return {each.__name__: each for each in host.models if each.unet_config.get("image_model") == "wan2.1"}


def wan_model(name: str, seed: int = 0, **dims: Any) -> Any:
    """A MODEL of one configuration, made as the host's loader makes it, with random weights."""
    import comfy.model_patcher

    config = configs()[name]
    kind = config.unet_config["model_type"]
    sizes = {"in_dim": _CHANNELS.get(kind, 36), **_DIMS, **_MORE.get(kind, {}), **config.unet_config, **dims}
    if sizes.get("out_dim") == 48:
        sizes["in_dim"] = 48
    made = config(sizes)
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, device="cpu")
    _fill(model.diffusion_model, seed)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def _fill(network: nn.Module, seed: int) -> None:
    """Random weights; the largest, of parts that no test runs, are zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        noise = (
            torch.randn(weight.shape, generator=generator) if weight.numel() < 1 << 23 else torch.zeros(weight.shape)
        )
        scale = (weight.ndim == 1 and name.endswith("weight")) or name.endswith("gamma")
        weight.data = 1 + 0.1 * noise if scale else 0.03 * noise
        weight.requires_grad_(False)


@cache
def wan_vae() -> Any:
    """A random VAE of 16 channels."""
    import comfy.ldm.wan.vae
    import comfy.sd

    sizes = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "dropout": 0.0}
    made = comfy.ldm.wan.vae.WanVAE(dim=4, z_dim=16, temperal_downsample=[False, True, True], **sizes)
    _fill(made, 5)
    return comfy.sd.VAE(sd=made.state_dict(), dtype=torch.float32)


def picture(frames: int = 1, seed: int = 3) -> Tensor:
    return torch.rand(frames, SIZE["height"], SIZE["width"], 3, generator=torch.Generator().manual_seed(seed))


def _audio() -> dict[str, Any]:
    """What the host's audio encoders give, for HuMo."""
    return {"encoded_audio_all_layers": [torch.zeros(1, 50, 1280)] * 33, "audio_samples": 16000}


@dataclass(frozen=True)
class Setup:
    """A run as people build it. `front`: latent frames that the host's node says will be trimmed; `given`: the clip's
    own first ones, which the host overwrites before each step."""

    model: Any
    positive: list
    negative: list
    latent: Tensor
    front: int = 0
    given: int = 0


@dataclass(frozen=True)
class Recipe:
    """How one configuration is used: `node` of the module `file` in comfy_extras with `given`."""

    label: str
    file: str = ""
    node: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    dims: dict[str, Any] = field(default_factory=dict)
    trims: int | None = None  # which output of the node says what is cut off in front
    size: dict[str, int] = field(default_factory=lambda: SIZE)
    alone: bool = False  # the host runs it in batches of one, so not beside a second prediction


_ANIMATE = {"continue_motion_max_frames": 5, "video_frame_offset": 0}
_SCAIL = {"pose_strength": 1.0, "pose_start": 0.0, "pose_end": 1.0, "video_frame_offset": 0, "previous_frame_count": 5}
_POSE = {"reference_image": 1, "pose_video": 9}
_PLAIN = Recipe("plain")

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "WAN21_T2V": (
        _PLAIN,
        Recipe("subjects", "nodes_wan", "WanPhantomSubjectToVideo", {"images": 2}),
        Recipe("context", "nodes_bernini", "BerniniConditioning", {"source_video": 9, "reference_video": 5}),
        Recipe(
            "picture", "nodes_wan", "Wan22FunControlToVideo", {"ref_image": 1}, {"in_dim": 52, "in_dim_ref_conv": 16}
        ),
    ),
    "WAN21_I2V": (
        Recipe("start", "nodes_wan", "WanImageToVideo", {"start_image": 1}),
        Recipe(
            "talk",
            "nodes_wan",
            "WanInfiniteTalkToVideo",
            {"start_image": 1},
            {"dim": 1280, "num_heads": 10},
            alone=True,
        ),
    ),
    "WAN21_FunControl2V": (Recipe("control", "nodes_wan", "WanFunControlToVideo", {"control_video": 9}),),
    "WAN21_Camera": (Recipe("start", "nodes_wan", "WanCameraImageToVideo", {"start_image": 1}),),
    "WAN22_Camera": (Recipe("start", "nodes_wan", "WanCameraImageToVideo", {"start_image": 1}),),
    "WAN21_Vace": (
        Recipe("control", "nodes_wan", "WanVaceToVideo", {"strength": 1.0, "control_video": 9}, trims=3),
        Recipe("reference", "nodes_wan", "WanVaceToVideo", {"strength": 1.0, "reference_image": 1}, trims=3),
    ),
    "WAN21_HuMo": (
        Recipe("reference", "nodes_wan", "WanHuMoImageToVideo", {"ref_image": 1, "audio_encoder_output": 0}),
    ),
    "WAN22_S2V": (
        Recipe("plain", "nodes_wan", "WanSoundImageToVideo"),
        Recipe("reference", "nodes_wan", "WanSoundImageToVideo", {"ref_image": 1}),
        Recipe("motion", "nodes_wan", "WanSoundImageToVideo", {"ref_image": 1, "ref_motion": 5}, size=LARGER),
    ),
    "WAN22_Animate": (
        Recipe("reference", "nodes_wan", "WanAnimateToVideo", {**_ANIMATE, "reference_image": 1}, trims=3),
        Recipe("pose", "nodes_wan", "WanAnimateToVideo", {**_ANIMATE, **_POSE}, trims=3),
        Recipe("references", "nodes_wan", "WanAnimateToVideo", {**_ANIMATE, **_POSE, "reference_image": 5}, trims=3),
        Recipe("further", "nodes_wan", "WanAnimateToVideo", {**_ANIMATE, **_POSE, "continue_motion": 5}, trims=3),
    ),
    "WAN22_T2V": (Recipe("plain", size=LARGER),),
    "WAN21_FlowRVS": (_PLAIN,),
    "WAN21_SCAIL": (
        Recipe("plain", "nodes_scail", "WanSCAILToVideo", _SCAIL),
        Recipe("reference", "nodes_scail", "WanSCAILToVideo", {**_SCAIL, "reference_image": 1}),
        Recipe("pose", "nodes_scail", "WanSCAILToVideo", {**_SCAIL, **_POSE}),
    ),
    "WAN21_SCAIL2": (
        Recipe("references", "nodes_scail", "WanSCAILToVideo", {**_SCAIL, **_POSE, "reference_image": 2}),
    ),
    "WAN22_WanDancer": (Recipe("start", "nodes_wandancer", "WanDancerVideo", {"start_image": 1}),),
}
"""By configuration. One that is missing here has to be refused when it is attached to."""


CASES = [(name, recipe) for name, recipes in RECIPES.items() for recipe in recipes]


def setup(name: str, recipe: Recipe, positive: list, negative: list) -> Setup:
    """The MODEL, and what the host's node makes of two conditionings."""
    model = wan_model(name, **recipe.dims)
    channels = model.get_model_object("latent_format").latent_channels
    stride = model.get_model_object("latent_format").spacial_downscale_ratio
    size = recipe.size
    if not recipe.node:
        shape = (1, channels, (size["length"] - 1) // 4 + 1, size["height"] // stride, size["width"] // stride)
        return Setup(model, positive, negative, torch.randn(shape, generator=torch.Generator().manual_seed(6)))
    node = getattr(import_module(f"comfy_extras.{recipe.file}"), recipe.node)
    settings = {*_ANIMATE, *_SCAIL, "strength"}
    given = {key: value if key in settings else picture(value) for key, value in recipe.given.items()}
    if "audio_encoder_output" in given:
        given["audio_encoder_output"] = _audio()
    if recipe.node == "WanInfiniteTalkToVideo":
        return _talking(node, model, positive, negative, given)
    batch = {} if recipe.node == "WanDancerVideo" else {"batch_size": 1}
    with torch.inference_mode():
        made = node.execute(positive, negative, wan_vae(), **size, **batch, **given).result
    latent = next(each for each in made if isinstance(each, dict))["samples"]
    front = 0 if recipe.trims is None else made[recipe.trims]
    return Setup(model, made[0], made[-2] if recipe.node == "WanPhantomSubjectToVideo" else made[1], latent, front)


def _talking(node: Any, model: Any, positive: list, negative: list, given: dict[str, Any]) -> Setup:
    """InfiniteTalk: patches of the MODEL attend to sound in each block, and hold the first latent frame."""
    import comfy.model_patcher
    import comfy.ops
    from comfy_extras.nodes_model_patch import MultiTalkModelPatch

    patch = MultiTalkModelPatch(
        in_dim=1280, out_dim=64, intermediate_dim=16, num_layers=2, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    _fill(patch, 7)
    cpu = torch.device("cpu")
    generator = torch.Generator().manual_seed(1)
    sound = {"encoded_audio_all_layers": [torch.randn(1, 50, 768, generator=generator) for _ in range(13)]}
    with torch.inference_mode():
        made = node.execute(
            {"mode": "single_speaker"}, model, comfy.model_patcher.ModelPatcher(patch, cpu, cpu), positive, negative,
            wan_vae(), **SIZE, audio_encoder_output_1=sound, motion_frame_count=5, audio_scale=1.0, **given,
        ).result  # fmt: skip
    return Setup(*made[:3], made[3]["samples"], given=1)
