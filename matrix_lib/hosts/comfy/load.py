"""Opens a diffusers-format folder as native MODEL, CLIP and VAE.

    folder/transformer/config.json, diffusion_pytorch_model*.safetensors (one file, or shards with their index)
    folder/transformer_2/           Wan 2.2: the expert for low noise
    folder/vae/, text_encoder/, text_encoder_2/, tokenizer/, scheduler/

Only safetensors are read. Names go through `backbones.keymaps`; what the host then has no place for is an error,
never a silent gap. A CogVideoX comes back repaired for what its configs say (see `repair`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.sd
import comfy.utils
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...backbones.weight_names import FAMILIES, VAES, Rules, llama_to_native, t5_to_native, to_native
from .families.cogvideox import Checkpoint
from .repair import remember, repair

__all__ = ["Loaded", "family_of", "find_folders", "load_folder", "load_native", "read_weights"]

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1; may raise to stop."""

_TRANSFORMERS = {
    "CogVideoXTransformer3DModel": "cogvideox",
    "WanTransformer3DModel": "wan",
    "HunyuanVideoTransformer3DModel": "hunyuan_video",
}
# input channels that the host reads rightly: T2V, I2V, and what else is published in this format
_CHANNELS = {"cogvideox": (16, 32, 48), "wan": (16, 36, 48), "hunyuan_video": (16, 32, 33)}
_HEAD_SIZE = {"cogvideox": 64, "wan": 128, "hunyuan_video": 128}  # the host counts heads by these
_COGVIDEOX_VAE = {"block_out_channels": [128, 256, 256, 512], "layers_per_block": 3, "latent_channels": 16}
_HUNYUAN_VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 16}
_DAMAGED = (TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError)
_MAX_JSON = 16 * 1024 * 1024


@dataclass(frozen=True)
class Loaded:
    """What a source gives. `low_noise` is Wan 2.2's second expert, else `model` again; parts that were not wanted are
    None."""

    model: Any
    low_noise: Any
    clip: Any
    vae: Any
    family: str
    notes: tuple[str, ...] = ()


def find_folders(roots: list[str], depth: int = 3) -> dict[str, Path]:
    """Diffusers folders of video models under `roots`, by their path inside the root, sorted."""
    found: dict[str, Path] = {}
    for root in map(Path, roots):
        level = [root]
        for _ in range(depth):
            inside = [folder for parent in level for folder in _folders(parent)]
            models = [folder for folder in inside if (folder / "transformer" / "config.json").is_file()]
            for folder in models:
                found.setdefault(folder.relative_to(root).as_posix(), folder)
            level = [folder for folder in inside if folder not in models]
    return dict(sorted(found.items()))


def _folders(parent: Path) -> list[Path]:
    """The folders in `parent`; none where it cannot be read, as a menu must not fail over one folder."""
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir())
    except OSError:
        return []


def family_of(folder: Path) -> str:
    """The family of a diffusers folder. Raises ValueError naming what is missing, or what is accepted."""
    name = _json(folder / "transformer" / "config.json").get("_class_name")
    if not isinstance(name, str) or name not in _TRANSFORMERS:
        raise ValueError(f"{folder / 'transformer'} holds a {name}. Accepted: {', '.join(_TRANSFORMERS)}.")
    return _TRANSFORMERS[name]


def load_folder(
    folder: Path,
    dtype: torch.dtype | None = None,
    text_encoder: bool = True,
    vae: bool = True,
    progress: Progress | None = None,
) -> Loaded:
    """Loads a diffusers folder.

    Args:
        dtype: of the transformer's weights; None leaves the choice to the host.
        text_encoder, vae: whether those parts are wanted.

    Raises:
        ValueError: a file is missing, unreadable, not safetensors, or of a kind that the host has no place for.
    """
    family = family_of(folder)
    second = (folder / "transformer_2").is_dir()
    jobs = 1 + second + text_encoder + vae
    done = iter(range(jobs))

    def part() -> Progress:
        start = next(done)
        return lambda share: progress((start + share) / jobs) if progress is not None else None

    model, notes = load_transformer(folder, "transformer", dtype, part())
    low_noise = load_transformer(folder, "transformer_2", dtype, part())[0] if second else model
    return Loaded(
        model,
        low_noise,
        load_text_encoder(folder, family, part()) if text_encoder else None,
        load_vae(folder, part()) if vae else None,
        family,
        tuple(notes),
    )


def load_native(path: str, dtype: torch.dtype | None = None) -> Loaded:
    """A single native file, as the host loads it, repaired where it is a CogVideoX."""
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({error}). Download it again.") from error
    options = {} if dtype is None else {"dtype": dtype}
    try:
        loaded = comfy.sd.load_diffusion_model(path, model_options=options)
    except (RuntimeError, *_DAMAGED) as error:
        raise ValueError(
            f"ComfyUI finds no model in {path} ({str(error)[:300]}). A native file is one that Load Diffusion Model "
            "opens; a part of a diffusers folder is opened as the whole folder, from models/diffusers."
        ) from error
    model, notes = repair(loaded)
    return Loaded(model, model, None, None, type(model.model).__name__, tuple(notes))


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the host trips over in a folder whose weights and configs do not fit together, as one ValueError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, *_DAMAGED) as error:
        raise ValueError(
            f"{folder} cannot be loaded: its weights and its config.json do not fit together, or a file is damaged "
            f"({type(error).__name__}: {str(error)[:300]}). Download the folder again."
        ) from error


def load_transformer(
    folder: Path, part: str, dtype: torch.dtype | None = None, progress: Progress | None = None
) -> tuple[Any, list[str]]:
    """(MODEL, what was mended) of `folder/part`."""
    model = _build(str(folder), part, dtype, progress=progress)
    with _told(folder):  # what the configs say about positions and noise is used here
        return repair(model)


def _build(
    folder: str,
    part: str,
    dtype: torch.dtype | None,
    disable_dynamic: bool = False,
    progress: Progress | None = None,
) -> Any:
    """The MODEL as the host makes it, before any repair. The host calls this again when it needs a second copy."""
    root = Path(folder)
    config = _json(root / part / "config.json")
    family = _TRANSFORMERS[config["_class_name"]]
    _check_config(root / part, family, config)
    state = read_weights(root / part, "diffusion_pytorch_model", FAMILIES[family], progress)
    table = _take_table(state) if family == "cogvideox" else None
    expected = set(state)
    options = {} if dtype is None else {"dtype": dtype}
    with _told(root / part):
        model = comfy.sd.load_diffusion_model_state_dict(state, model_options=options, disable_dynamic=disable_dynamic)
    if model is None:
        raise ValueError(f"ComfyUI does not recognise {root / part} as {family}: is the folder complete?")
    _check_names(root / part, expected, set(model.model.diffusion_model.state_dict()))
    if family == "cogvideox":
        with _told(root):
            _adapt_cogvideox(model, root, config, table)
    vae = _json(root / "vae" / "config.json") if (root / "vae" / "config.json").is_file() else {}
    with _told(root / "vae"):
        if latents := _latent_format(vae, model.model.latent_format):
            model.model.latent_format = latents
    model.cached_patcher_init = (_build, (folder, part, dtype))
    return model


def _check_config(folder: Path, family: str, config: Mapping[str, Any]) -> None:
    head = config.get("attention_head_dim", _HEAD_SIZE[family])
    if head != _HEAD_SIZE[family]:
        raise ValueError(f"{folder} has heads of size {head!r}; ComfyUI's {family} has heads of {_HEAD_SIZE[family]}")
    channels, known = config.get("in_channels", 16), _CHANNELS[family]
    if channels not in known:
        raise ValueError(
            f"{folder} takes {channels} input channels; ComfyUI reads {family} with {', '.join(map(str, known))}. "
            "A projection widened in training (ID map, target mask) is loaded on top of its base model, not as one."
        )


def _check_names(folder: Path, given: set[str], wanted: set[str]) -> None:
    """Both ways: a weight without a place and a place without a weight are errors."""
    for names, what in ((wanted - given, "lacks weights"), (given - wanted, "has weights without a place")):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise ValueError(f"{folder} {what} in the native model: {first} ({len(names)} in all). Is a shard missing?")


def _take_table(state: dict[str, Tensor]) -> Tensor | None:
    """Takes the learned position table out of `state`; the host only has room for that of 49 frames at 480 x 720."""
    return state.pop("patch_embed.pos_embedding", None)


def _adapt_cogvideox(model: Any, folder: Path, config: Mapping[str, Any], table: Tensor | None) -> None:
    """Tells the fresh model what the host does not read: its base grid, and the learned positions."""
    vae, scheduler = folder / "vae" / "config.json", folder / "scheduler" / "scheduler_config.json"
    read = Checkpoint.from_configs(
        config,
        _json(scheduler) if scheduler.is_file() else {},
        _json(vae) if vae.is_file() else {},
    )
    embed = model.model.diffusion_model.patch_embed
    for name in ("sample_frames", "sample_height", "sample_width"):
        setattr(embed, name, config.get(name, getattr(embed, name)))
    if table is not None:
        embed.register_buffer("pos_embedding", table)
        embed.use_learned_positional_embeddings = True
    remember(model, read)


def _latent_format(vae: Mapping[str, Any], current: Any) -> Any:
    """The latent scaling that the folder's VAE was made with, where it is not the host's guess."""
    if "latents_mean" in vae and vae["latents_mean"] is not None and vae.get("z_dim", 16) == 16:
        latents = comfy.latent_formats.Wan21()
        for name in ("latents_mean", "latents_std"):
            setattr(latents, name, torch.tensor(vae[name], dtype=torch.float32).view(1, 16, 1, 1, 1))
        return latents
    if vae.get("_class_name") == "AutoencoderKLCogVideoX" and vae.get("scaling_factor"):
        latents = comfy.latent_formats.CogVideoX()
        latents.scale_factor = float(vae["scaling_factor"])
        return latents
    return None


def load_vae(folder: Path, progress: Progress | None = None) -> Any:
    """The VAE of `folder/vae`."""
    config = _json(folder / "vae" / "config.json")
    rules, limits = _vae_kind(folder / "vae", config)
    for name, wanted in limits.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(
                f"{folder / 'vae'}: {name} is {config[name]}, and ComfyUI's VAE of this kind is made for {wanted}. "
                "Load the folder without its VAE, and one that fits beside it."
            )
    state = read_weights(folder / "vae", "diffusion_pytorch_model", rules, progress)
    with _told(folder / "vae"):
        vae = comfy.sd.VAE(sd=dict(state))
    if vae.first_stage_model is None:
        raise ValueError(f"ComfyUI does not recognise {folder / 'vae'} as a VAE")
    _check_names(folder / "vae", set(state), set(vae.first_stage_model.state_dict()))
    return vae


def _vae_kind(folder: Path, config: Mapping[str, Any]) -> tuple[Rules, Mapping[str, Any]]:
    name = config.get("_class_name")
    if name == "AutoencoderKLCogVideoX":
        return (), _COGVIDEOX_VAE
    if name == "AutoencoderKLWan":
        return VAES["wan2.2" if config.get("is_residual") else "wan"], {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    if name == "AutoencoderKLHunyuanVideo":
        return VAES["hunyuan_video"], _HUNYUAN_VAE
    known = "AutoencoderKLCogVideoX, AutoencoderKLWan, AutoencoderKLHunyuanVideo"
    raise ValueError(f"{folder} holds a {name}. Accepted: {known}.")


def load_text_encoder(folder: Path, family: str, progress: Progress | None = None) -> Any:
    """The CLIP of a folder: T5 (CogVideoX), UMT5 with its tokenizer (Wan), Llama and CLIP-L (HunyuanVideo)."""
    if family == "hunyuan_video":
        states = [
            llama_to_native(read_weights(folder / "text_encoder", "model")),
            read_weights(folder / "text_encoder_2", "model"),
        ]
        with _told(folder / "text_encoder"):
            clip = comfy.sd.load_text_encoder_state_dicts(states, clip_type=comfy.sd.CLIPType.HUNYUAN_VIDEO)
    else:
        state = t5_to_native(read_weights(folder / "text_encoder", "model", progress=progress))
        with _told(folder / "text_encoder"):
            clip = _t5_clip(folder, family, state)
    if progress is not None:
        progress(1.0)
    return clip


def _t5_clip(folder: Path, family: str, state: dict[str, Tensor]) -> Any:
    import comfy.text_encoders.cogvideo
    import comfy.text_encoders.sd3_clip
    import comfy.text_encoders.wan

    config = _json(folder / "text_encoder" / "config.json")
    sizes = ("d_ff", "d_kv", "d_model", "num_heads", "num_layers", "vocab_size", "relative_attention_num_buckets")
    options = {name: config[name] for name in sizes if name in config}
    detected = comfy.text_encoders.sd3_clip.t5_xxl_detect(state)
    if family == "wan":
        target = SimpleNamespace(
            params={}, clip=comfy.text_encoders.wan.te(**detected), tokenizer=comfy.text_encoders.wan.WanT5Tokenizer
        )
        tokenizer, model_name = {"spiece_model": _spiece(folder)}, "umt5xxl"
    else:
        cogvideo = comfy.text_encoders.cogvideo
        target = SimpleNamespace(
            params={}, clip=cogvideo.cogvideo_te(**detected), tokenizer=cogvideo.CogVideoXTokenizer
        )
        tokenizer, model_name = {}, "t5xxl"
    clip = comfy.sd.CLIP(
        target,
        tokenizer_data=tokenizer,
        parameters=comfy.utils.calculate_parameters(state),
        state_dict=[dict(state)],
        model_options={f"{model_name}_model_config": options},
    )
    inner = getattr(clip.cond_stage_model, model_name).transformer
    _check_names(folder / "text_encoder", set(state), set(inner.state_dict()))
    return clip


def _spiece(folder: Path) -> Tensor:
    """The bytes of UMT5's SentencePiece model, which the host reads from checkpoints only."""
    path = folder / "tokenizer" / "spiece.model"
    if not path.is_file():
        raise ValueError(f"{path} is missing: Wan's words need the tokenizer's SentencePiece file")
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def read_weights(
    folder: Path, stem: str, rules: Rules | None = None, progress: Progress | None = None
) -> dict[str, Tensor]:
    """All tensors of `folder/stem*.safetensors`, renamed by `rules`. Raises ValueError naming the file that is
    missing or cannot be read."""
    state: dict[str, Tensor] = {}
    files = _weight_files(folder, stem)
    for index, path in enumerate(files):
        try:
            state.update(comfy.utils.load_torch_file(str(path), safe_load=True))
        except MemoryError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is no complete safetensors file ({error}). Download it again.") from error
        if progress is not None:
            progress((index + 1) / len(files) * 0.5)
    if not rules:
        return state
    return to_native(state, rules, (lambda i, n: progress(0.5 + 0.5 * i / n)) if progress is not None else None)


def _weight_files(folder: Path, stem: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: a diffusers folder has one part a sub-folder")
    for variant in ("", ".bf16", ".fp16"):
        single, index = folder / f"{stem}{variant}.safetensors", folder / f"{stem}.safetensors.index{variant}.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return _shards(index)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    hint = f" It holds {pickles[0]}, a pickle, which is not read: convert it to safetensors." if pickles else ""
    raise ValueError(f"{folder} has neither {stem}.safetensors nor {stem}.safetensors.index.json.{hint}")


def _shards(index: Path) -> list[Path]:
    listed = _json(index).get("weight_map", {})
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index} is no index of shards: its weight_map does not name one file for each weight")
    names = sorted(set(listed.values()))
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}: shards are .safetensors files beside the index")
    files = [index.parent / name for name in names]
    if missing := [path.name for path in files if not path.is_file()]:
        raise ValueError(f"{index.parent} lacks {len(missing)} of {len(files)} shards: {', '.join(missing[:3])}")
    if not files:
        raise ValueError(f"{index} lists no shards")
    return files


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: is the folder a complete diffusers download?")
    if path.stat().st_size > _MAX_JSON:
        raise ValueError(f"{path} is {path.stat().st_size} bytes, too large for a config")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, a config is a JSON object")
    return content
