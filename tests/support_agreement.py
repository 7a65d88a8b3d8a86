"""One LoRA file in diffusers and in native ComfyUI: what each network answers to the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support_loras import noise
from support_native import sample
from support_sampling import relative
from torch import Tensor

from matrix_lib.backbones import REGISTRY
from matrix_lib.backbones.lora import AlignmentLoRA, Factors
from matrix_lib.io.lora.read import save_lora


def with_lora(transformer: Any, lora: AlignmentLoRA, folder: Path) -> Any:
    """The transformer with the adapter as diffusers loads it, and the wide projection in its place."""
    save_lora(lora, folder / "x.safetensors", "diffusers")
    transformer.load_lora_adapter(str(folder), weight_name="x.safetensors", adapter_name="x")
    if not lora.projection:
        return transformer.eval()
    path, _, leaf = REGISTRY[lora.family].input_projection.rpartition(".")
    parent, old = transformer.get_submodule(path), transformer.get_submodule(REGISTRY[lora.family].input_projection)
    weight, bias = lora.projection["weight"], lora.projection.get("bias")
    if weight.ndim == 2:
        new: Any = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        new = type(old)(weight.shape[1], weight.shape[0], old.kernel_size, old.stride)
    new.load_state_dict({"weight": weight} | ({"bias": bias} if bias is not None else {}))
    setattr(parent, leaf, new)
    return transformer.eval()


def check_lora(family: str, pipe: Any, model: Any, pair: Any, grid: Any, folder: Path) -> None:
    """A LoRA of two blocks does in both hosts what diffusers' own loading does: in every format, found by its names
    where nobody says the family. One that is widened is refused by name, of a family whose input cannot be.

    pair: `both(*grid)` are the pipeline's latents, and what `sampled` takes behind the host's model to make the same.
    """
    from matrix_lib import apply_lora as apply_to_pipeline
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.hosts.comfy.lora import apply_lora
    from matrix_lib.io.lora.read import FORMATS, load_lora

    net, spec, factors = pipe.transformer, REGISTRY[family], {}
    paths = [stack.path for group in spec.diffusers.stacks for stack in group]
    for at, name in enumerate(f"{path.format(i)}.{name}" for i in (0, 1) for path in paths for name in spec.qkvo):
        rows, columns = net.get_submodule(name).weight.shape
        factors[name] = Factors(noise((4, columns), at), noise((rows, 4), 100 + at), 8.0)
    lora = AlignmentLoRA(family, factors)
    (file,) = save_lora(lora, folder / "x.safetensors", "diffusers")
    plain, *given = pair.both(*grid)
    net.load_lora_adapter(str(folder), weight_name="x.safetensors", adapter_name="x")
    try:
        wanted = pair.both(*grid)[0]
    finally:
        net.unload_lora()
    assert relative(wanted, plain) > 1e-2
    with apply_to_pipeline(pipe, file):
        assert relative(pair.both(*grid)[0], wanted) < 1e-3
    for form in (form for form in FORMATS if form != "tavid"):
        save_lora(lora, folder / form, form)
        read = load_lora(folder / form)
        assert read.family == family
        patched = apply_lora(model, read.with_scale(2.0) if not read.stored_scale else read)[0]
        assert relative(pair.sampled(patched, *given), wanted) < 1e-3, form
    if not spec.narrow:
        return
    place = net.get_submodule(spec.input_projection)
    wide = {"weight": torch.cat([place.weight.detach(), torch.zeros(len(place.weight), 4)], 1)}
    wide |= {} if place.bias is None else {"bias": place.bias.detach()}
    lora = AlignmentLoRA(family, factors, wide)
    tracks = MaskTracks.from_boxes({"a": {0: (8, 8, 24, 24)}}, *grid, hold=True)
    for refused in (lambda: apply_to_pipeline(pipe, lora, tracks), lambda: apply_lora(model, lora)):
        with pytest.raises(ValueError, match=f"input of {spec.title} cannot be widened"):
            refused()


def network(model: Any, family: str, extra: Tensor, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What the native network is given in one sampling step, and what it answers."""
    from comfy.patcher_extension import WrappersMP

    from matrix_lib.hosts.comfy.lora import add_extra

    seen: list[dict[str, Any]] = []

    def spy(executor: Any, x: Tensor, t: Tensor, words: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = executor(x, t, words, *args, **kwargs)
        seen.append({"x": x.clone(), "t": t.clone(), "words": words.clone(), "args": args, "out": out.clone()})
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    width, rows = (4096, 512) if family == "wan" else (64, 24 if family == "hunyuan_video" else 226)
    values: dict[str, Any] = {"concat_latent_image": noise((1, 16, *shape), 3, 1.0)}
    if family == "wan":
        mask = torch.ones(1, 1, *shape)
        mask[:, :, :1] = 0
        values["concat_mask"] = mask
    if family == "hunyuan_video":
        values = {"pooled_output": noise((1, 768), 5, 1.0), "guidance": 6.0}
    cond = add_extra([[noise((1, rows, width), 1, 1.0), values]], extra)
    sample(model, cond, cond, torch.zeros(1, 16, *shape), steps=1, cfg=1.0)
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in seen[0].items()}


def answer(transformer: Any, family: str, given: dict[str, Any]) -> Tensor:
    """The diffusers transformer's answer to what the native network was given."""
    import diffusers

    x, t, words = given["x"], given["t"], given["words"]
    with torch.no_grad():
        if family == "wan":
            return transformer(x, t, words, return_dict=False)[0]
        if family == "hunyuan_video":
            y, guidance = given["args"][0], given["args"][3]
            mask = torch.ones(words.shape[:2], dtype=torch.long)
            return transformer(x, t, words, mask, y, guidance=guidance * 1000.0, return_dict=False)[0]
        rope: dict[str, Any] = {}
        if transformer.config.use_rotary_positional_embeddings:
            kind = diffusers.CogVideoXImageToVideoPipeline
            pipe = kind(None, None, None, transformer, None)  # type: ignore[arg-type]
            frames, height, width = x.shape[2:]
            rope["image_rotary_emb"] = pipe._prepare_rotary_positional_embeddings(height * 8, width * 8, frames, "cpu")
            rope["ofs"] = torch.full((1,), 2.0)
        out = transformer(x.transpose(1, 2), words, t, **rope, return_dict=False)[0]
        return out.transpose(1, 2)
