"""The mini model's bundle as native MODEL, CLIP and VAE.

The codec is a small Wan VAE under the release's names, which the host reads as it is; the transformer is a CogVideoX
1.0 with rotary positions, repaired like any other; the text encoder is a small T5 behind the host's CogVideoX CLIP.
On a CPU it takes PyTorch's fastest kernels, also where the host would take others.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.text_encoders.cogvideo
import comfy.utils
import torch
from comfy import sd1_clip
from comfy.cli_args import args as host_args
from comfy.ldm.modules.attention import attention_pytorch, attention_sub_quad
from comfy.patcher_extension import WrappersMP
from comfy.text_encoders.sd3_clip import T5TokenizerFast
from torch import Tensor

from ...backbones.weight_names import FAMILIES, t5_to_native, to_native
from ..bundle import BACKBONE, Bundle
from ..cpu_layers import OneDnnLinear, use_onednn
from .families.cogvideox import remember
from .families.cogvideox_parts import Checkpoint
from .first_frame import LIMIT
from .load import Loaded
from .repair import repair
from .warn import warn

__all__ = ["check_clip", "load_mini"]

KEY = "matrix_mini"
_TIME_STRIDE, _STRIDE = 4, 8
_OVERRIDE = "optimized_attention_override"
_FUSED, _CHUNKED = inspect.unwrap(attention_pytorch), inspect.unwrap(attention_sub_quad)


def load_mini(bundle: Bundle, dtype: torch.dtype | None = None) -> Loaded:
    """MODEL, CLIP and VAE of a bundle. The MODEL refuses clips of other sizes than its own, and the CLIP warns of
    words that training never used.

    Args:
        dtype: of the transformer's weights; None leaves the choice to the host.
    """
    model = _build(bundle, dtype)
    check = SizeCheck(bundle)
    model.set_attachments(LIMIT, check)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, check.outer_sample)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _fast_on_a_cpu)
    model, notes = repair(model)
    return Loaded(model, model, _clip(bundle), _vae(bundle), "the mini model", tuple(notes))


def _build(bundle: Bundle, dtype: torch.dtype | None, disable_dynamic: bool = False) -> Any:
    """The MODEL as the host makes it. The host calls this again when it needs a second copy."""
    state = to_native(bundle.weights("transformer"), FAMILIES[BACKBONE.name])
    options = {} if dtype is None else {"dtype": dtype}
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options=options, disable_dynamic=disable_dynamic)
    if model is None:
        raise ValueError("this ComfyUI does not recognise the mini model as a CogVideoX: it needs 0.30 or newer")
    embed = model.model.diffusion_model.patch_embed
    embed.sample_frames, embed.sample_height, embed.sample_width = bundle.sizes["frames"], *bundle.grid[1:]
    remember(model, Checkpoint(base=bundle.grid, spatial_scale=1.0))
    model.cached_patcher_init = (_build, (bundle, dtype))
    return model


def _fast_on_a_cpu(
    executor: Any, x: Tensor, timestep: Tensor, context: Tensor, ofs: Any = None, transformer_options: Any = None,
    **kwargs: Any,
) -> Any:  # fmt: skip
    """DIFFUSION_MODEL wrapper. Overrides of attention stay: they get another kernel in hand."""
    options = dict(transformer_options or {})
    options[_OVERRIDE] = functools.partial(_fused_attention, options.get(_OVERRIDE))
    with contextlib.nullcontext() if torch.compiler.is_compiling() else OneDnnLinear():
        return executor(x, timestep, context, ofs, options, **kwargs)


def _fused_attention(override: Callable[..., Tensor] | None, kernel: Any, *args: Any, **kwargs: Any) -> Tensor:
    """On a CPU the host takes chunked attention unless it is told otherwise. Fused attention takes a third of the time,
    and its log-sum-exp comes with it, which a capture would have to compute again. Sums are taken in another order:
    results differ by rounding."""
    if kernel is _CHUNKED and not host_args.use_quad_cross_attention and args and args[0].device.type == "cpu":
        kernel = _FUSED
    return kernel(*args, **kwargs) if override is None else override(kernel, *args, **kwargs)


def _vae(bundle: Bundle) -> Any:
    vae = comfy.sd.VAE(sd={name: value.float() for name, value in bundle.weights("codec").items()})
    vae.throw_exception_if_invalid()
    use_onednn(vae.first_stage_model)
    setattr(vae, KEY, SizeCheck(bundle))
    return vae


def check_clip(vae: Any, frames: int, height: int, width: int) -> None:
    """Raises ValueError for a clip in pixels that this VAE's model cannot make, where that is known: mini's has one
    size. To be asked before much is encoded."""
    check = getattr(vae, KEY, None)
    if isinstance(check, SizeCheck):
        check(frames, height, width)


def _clip(bundle: Bundle) -> Any:
    state = t5_to_native({name: value.float() for name, value in bundle.weights("text").items()})
    target = SimpleNamespace(
        params={},
        clip=comfy.text_encoders.cogvideo.cogvideo_te(dtype_t5=torch.float32),
        tokenizer=lambda embedding_directory=None, tokenizer_data=None: MiniTokenizer(bundle, embedding_directory),
    )
    return comfy.sd.CLIP(
        target,
        parameters=comfy.utils.calculate_parameters(state),
        state_dict=[state],
        model_options={"t5xxl_model_config": _t5_config(state)},
    )


def _t5_config(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of a T5 encoder, from the shapes of its weights."""
    block = "encoder.block.0.layer"
    vocabulary, width = state["shared.weight"].shape
    buckets, heads = state[f"{block}.0.SelfAttention.relative_attention_bias.weight"].shape
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": state[f"{block}.0.SelfAttention.q.weight"].shape[0] // heads,
        "d_ff": state[f"{block}.1.DenseReluDense.wo.weight"].shape[1],
        "num_heads": heads,
        "num_layers": len({name.split(".")[2] for name in state if name.startswith("encoder.block.")}),
        "relative_attention_num_buckets": buckets,
    }


class MiniTokenizer(sd1_clip.SD1Tokenizer):
    """The host's tokenizer interface on the bundle's T5 tokenizer, padded to the rows of training."""

    def __init__(self, bundle: Bundle, embedding_directory: Any = None) -> None:
        self.bundle = bundle
        self._told: set[str] = set()
        super().__init__(embedding_directory=embedding_directory, clip_name="t5xxl", tokenizer=self._inner)

    def _inner(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> Any:
        return sd1_clip.SDTokenizer(
            str(self.bundle.tokenizer),
            embedding_directory=embedding_directory,
            pad_with_end=False,
            embedding_size=self.bundle.sizes["text_dim"],
            embedding_key="t5xxl",
            tokenizer_class=T5TokenizerFast,
            has_start_token=False,
            pad_to_max_length=False,
            max_length=99_999_999,
            min_length=self.bundle.sizes["text_length"],
        )

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Any:
        """As the host's. Raises ValueError for more `<idK>` tags than the world has instances."""
        self.bundle.check_instances(len(set(re.findall(r"<id\d+>", text))))
        warning = self.bundle.warning(text)
        if warning:
            warn(warning, log=warning not in self._told)
            self._told.add(warning)
        return super().tokenize_with_weights(text, return_word_ids, **kwargs)


class SizeCheck:
    """Refuses clips that the model was not trained for, before they are sampled."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def __call__(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for a size in pixels that the model cannot make."""
        self.bundle.check_clip(frames, height, width)

    def outer_sample(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        """OUTER_SAMPLE wrapper."""
        frames, height, width = noise.shape[-3:]
        self((frames - 1) * _TIME_STRIDE + 1, height * _STRIDE, width * _STRIDE)
        conditions = [entry for entries in executor.class_obj.conds.values() for entry in entries]
        if not all("concat_latent_image" in entry for entry in conditions):
            warn("the mini model always had a first frame in training: use MATRIX First Frame")
        return executor(noise, *args, **kwargs)
