"""Opens a diffusers-format folder as native MODEL, CLIP and VAE.

    folder/transformer/config.json, diffusion_pytorch_model*.safetensors (one file, or shards with their index)
    folder/transformer_2/           Wan 2.2: the expert for low noise
    folder/transformer_ref/         MiniMax H3: the one for clips after references
    folder/vae/, text_encoder/, text_encoder_2/, tokenizer/, scheduler/

Only safetensors are read. A model comes back repaired for what its configs say (see `repair`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from safetensors import SafetensorError, safe_open

from ...backbones import REGISTRY, BackboneSpec
from ...backbones.spec import input_channels
from ...backbones.weight_names import FAMILIES
from .families import family
from .model import FRAME_RATE, backbone_of
from .repair import repair
from .weights import DAMAGED, Progress, check_names, read_json, read_weights, told

__all__ = [
    "Loaded",
    "family_of",
    "find_folders",
    "load_folder",
    "load_native",
    "load_text_encoder",
    "load_transformer",
    "load_vae",
]


_PARTS = ("transformer", "transformer_ref")  # a download may hold one of them alone


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
            models = [folder for folder in inside if any((folder / p / "config.json").is_file() for p in _PARTS)]
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


def family_of(folder: Path, part: str = "transformer") -> str:
    """The family of a diffusers folder. Raises ValueError naming what is missing, or what is accepted."""
    return _spec_of(folder / part, read_json(folder / part / "config.json")).name


def _spec_of(folder: Path, config: Mapping[str, Any]) -> BackboneSpec:
    name = config.get("_class_name")
    for spec in REGISTRY.values():
        if name in spec.diffusers.classes:
            return spec
    accepted = ", ".join(each for spec in REGISTRY.values() for each in spec.diffusers.classes)
    raise ValueError(f"{folder} holds a {name}. Accepted: {accepted}.")


def load_folder(
    folder: Path,
    dtype: torch.dtype | None = None,
    text_encoder: bool = True,
    vae: bool = True,
    progress: Progress | None = None,
    references: bool = False,
) -> Loaded:
    """Loads a diffusers folder.

    Args:
        dtype: of the transformer's weights; None leaves the choice to the host.
        text_encoder, vae: whether those parts are wanted.
        references: the transformer for clips after references in place of the other (MiniMax H3: transformer_ref).

    Raises:
        ValueError: a file is missing, unreadable, not safetensors, or of a kind that the host has no place for.
    """
    part_of_it = "transformer_ref" if references else "transformer"
    if references and not (folder / part_of_it).is_dir():
        raise ValueError(
            f"{folder} has no transformer_ref, the second transformer that MiniMax H3 has for references: open "
            "the folder without references; those of other models go to their one transformer"
        )
    if not references and (folder / "transformer_ref").is_dir() and not (folder / "transformer").is_dir():
        raise ValueError(f"{folder} holds transformer_ref alone, MiniMax H3's for references: switch references on")
    name = family_of(folder, part_of_it)
    second = not references and (folder / "transformer_2").is_dir()
    jobs = 1 + second + text_encoder + vae
    done = iter(range(jobs))

    def part() -> Progress:
        start = next(done)
        return lambda share: progress((start + share) / jobs) if progress is not None else None

    model, notes = load_transformer(folder, part_of_it, dtype, part())
    low_noise = load_transformer(folder, "transformer_2", dtype, part())[0] if second else model
    return Loaded(
        model,
        low_noise,
        load_text_encoder(folder, name, part()) if text_encoder else None,
        load_vae(folder, part()) if vae else None,
        name,
        tuple(notes),
    )


def load_native(path: str, dtype: torch.dtype | None = None) -> Loaded:
    """A single native file, as the host loads it, repaired where it is a CogVideoX."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no complete safetensors file ({str(error)[:200]}). Download it again.") from error
    options = {} if dtype is None else {"dtype": dtype}
    try:
        loaded = comfy.sd.load_diffusion_model(path, model_options=options)
    except (RuntimeError, *DAMAGED) as error:
        raise ValueError(
            f"ComfyUI finds no model in {path} ({str(error)[:300]}). A native file is one that Load Diffusion Model "
            "opens; a part of a diffusers folder is opened as the whole folder, from models/diffusers."
        ) from error
    model, notes = repair(loaded)
    with contextlib.suppress(ValueError):  # of a network that is loaded all the same
        family(backbone_of(model).name).adapt_file(model, names)
    return Loaded(model, model, None, None, type(model.model).__name__, tuple(notes))


def load_transformer(
    folder: Path, part: str, dtype: torch.dtype | None = None, progress: Progress | None = None
) -> tuple[Any, list[str]]:
    """(MODEL, what was mended) of `folder/part`."""
    model = _build(str(folder), part, dtype, progress=progress)
    with told(folder):  # what the configs say about positions and noise is used here
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
    config = read_json(root / part / "config.json")
    spec = _spec_of(root / part, config)
    _check_config(root / part, spec, config)
    state = read_weights(root / part, "diffusion_pytorch_model", FAMILIES[spec.name], progress)
    state |= family(spec.name).weights_beside(root, config, progress)
    aside = family(spec.name).set_aside(state)
    expected = set(state)
    options = {} if dtype is None else {"dtype": dtype}
    with told(root / part):
        model = comfy.sd.load_diffusion_model_state_dict(
            state, options, metadata=family(spec.name).metadata(root, config), disable_dynamic=disable_dynamic
        )
    if model is None:
        raise ValueError(f"ComfyUI does not recognise {root / part} as {spec.name}: is the folder complete?")
    check_names(root / part, expected, set(model.model.diffusion_model.state_dict()))
    with told(root):
        family(spec.name).adapt(model, root, config, aside)
    if (rate := spec.class_fps.get(str(config.get("_class_name")))) is not None:
        model.model_options.setdefault("transformer_options", {})[FRAME_RATE] = rate
    vae = read_json(root / "vae" / "config.json") if (root / "vae" / "config.json").is_file() else {}
    maker = _vae_maker(vae)
    with told(root / "vae"):
        if maker is not None and (latents := family(maker.name).latent_format(vae)):
            model.model.latent_format = latents
    model.cached_patcher_init = (_build, (folder, part, dtype))
    return model


def _check_config(folder: Path, spec: BackboneSpec, config: Mapping[str, Any]) -> None:
    family(spec.name).check_folder(folder, config)
    head = config.get("attention_head_dim", spec.head_size)
    if spec.head_size and head != spec.head_size:
        raise ValueError(f"{folder} has heads of size {head!r}; ComfyUI's {spec.name} has heads of {spec.head_size}")
    usual, known = spec.latent_channels + spec.room_for_image, spec.native_channels
    channels = input_channels({"in_channels": usual, **config})
    if channels not in known:
        raise ValueError(
            f"{folder} takes {channels} input channels; ComfyUI reads {spec.name} with {', '.join(map(str, known))}. "
            "A projection widened in training (ID map, target mask) is loaded on top of its base model, not as one."
        )


def _vae_maker(config: Mapping[str, Any]) -> BackboneSpec | None:
    """The family whose kind of VAE this is."""
    return next((spec for spec in REGISTRY.values() if spec.vae == config.get("_class_name")), None)


def load_vae(folder: Path, progress: Progress | None = None) -> Any:
    """The VAE of `folder/vae`."""
    config = read_json(folder / "vae" / "config.json")
    maker = _vae_maker(config)
    if maker is None:
        known = ", ".join(spec.vae for spec in REGISTRY.values())
        raise ValueError(f"{folder / 'vae'} holds a {config.get('_class_name')}. Accepted: {known}.")
    for name, wanted in maker.vae_limits.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(
                f"{folder / 'vae'}: {name} is {config[name]}, and ComfyUI's VAE of this kind is made for {wanted}. "
                "Load the folder without its VAE, and one that fits beside it."
            )
    state = read_weights(folder / "vae", "diffusion_pytorch_model", family(maker.name).vae_rules(config), progress)
    with told(folder / "vae"):
        vae = comfy.sd.VAE(sd=dict(state))
    if vae.first_stage_model is None:
        raise ValueError(f"ComfyUI does not recognise {folder / 'vae'} as a VAE")
    places = {name for name in vae.first_stage_model.state_dict() if ".temb_proj." not in name}  # of time: none is told
    check_names(folder / "vae", set(state), places)
    return vae


def load_text_encoder(folder: Path, name: str, progress: Progress | None = None) -> Any:
    """The CLIP of a folder of the family `name`."""
    clip = family(name).text_encoder(folder, progress)
    if progress is not None:
        progress(1.0)
    return clip
