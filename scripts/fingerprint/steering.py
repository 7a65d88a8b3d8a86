"""Sampling, steering, LoRAs and mini through the nodes: tiny random models of every family in the real host."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .book import Book
from .host import Host
from .names import find

__all__ = ["families", "folders", "loras", "mini"]

PROMPT = "a cyclist on a red bicycle passes the grey van"
PHRASES = "cyclist: a cyclist [subject]\nvan: the grey van [object]\npasses = verb(cyclist -> van)"
BOXES = "cyclist (subject): 0: 0% 0% 50% 50%; {last}: 33% 10% 83% 60%\nvan (object): 50% 50% 100% 100%"
CLIPS = {"cogvideox": "t5", "cogvideox15": "t5", "wan_t2v": "umt5", "wan_i2v": "umt5", "hunyuan": "llama"}
RUNS = (("euler", 1.0), ("euler", 6.0), ("dpmpp_2m", 1.0), ("dpmpp_2m", 6.0))
LORAS = (("cogvideox", 1), ("cogvideox", 16), ("wan", 20), ("hunyuan_video", 16))
NATIVE = {"cogvideox": "cogvideox", "wan": "wan_i2v", "hunyuan_video": "hunyuan"}
FORMATS = ("matrix", "diffusers", "comfyui", "diffsynth", "tavid")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def steered(host: Host, model: Any, reference: Tensor) -> Iterator[tuple[str, Any]]:
    """Every way of steering through its node: (name, steered MODEL)."""
    ramp = host("MatrixScheduleCurve", shape={"shape": "ramp", "first": 1.0, "last": 0.4, "easing": "smooth"})[0]
    points = host("MatrixScheduleCurve", shape={"shape": "key points", "points": "0: 1, 0.5: 0.5, 1: 0.2"})[0]
    late = host("MatrixScheduleCurve", shape={"shape": "constant", "strength": 0.7}, start=0.4)[0]
    every = {"layers": "all"}
    biased = {"soft_edges": True, "weights": "cyclist: 2", "predictions": "with and without the prompt"}
    whole = {"normalisation": "all values together", "frozen_steps": 1, "predictions": "with the prompt only"}
    modes: dict[str, tuple[dict[str, Any], Any]] = {
        "bias": ({"mode": "region bias", **every}, None),
        "bias, soft": ({"mode": "region bias", "layers": "1", **biased}, ramp),
        "masked": ({"mode": "masked attention (IVG-DA)", "frozen_steps": 2}, None),
        "masked, whole": ({"mode": "masked attention (IVG-DA)", **whole}, None),
        "masked, video": (
            {"mode": "masked attention (IVG-DA)", "normalisation": "off", "words": False, "layers": "0"}, late,
        ),
        "CMG": ({"mode": "perturbation (CMG, CAG)", "target": "words (CMG)", **every}, points),
        "CAG, bound": ({"mode": "perturbation (CMG, CAG)", "target": "video (CAG)", "only_bound": True, **every}, None),
        "gradient": ({"mode": "gradient (SGA, SPA)", **every}, None),
        "gradient, logits": (
            {"mode": "gradient (SGA, SPA)", "maps": "logits", "save_memory": False, "iterations": 2, **every}, late,
        ),
    }  # fmt: skip
    made = {}
    for name, (mode, schedule) in modes.items():
        made[name] = host("MatrixAttentionGuidance", model=model, mode=mode, schedule=schedule)[0]
    intrinsic, clocks = "MatrixIntrinsicDenoising", "MatrixDualClockDenoising"
    made["intrinsic"] = host(intrinsic, model=model, scale={"scale": "fixed (c_g)", "normalise": True})[0]
    other = {"on": "predicted clean latent", "region": "masks", "channels": "each channel", "iterations": 1}
    made["intrinsic, share"] = host(intrinsic, model=model, scale={"scale": "share of the score"}, **other)[0]
    held = {"reference": {"samples": reference}, "inside": 0.7, "outside": 0.4}
    made["clocks"] = host(clocks, model=model, **held)[0]
    several = made["bias"]
    for name in ("CMG", "gradient"):
        several = host("MatrixAttentionGuidance", model=several, mode=modes[name][0])[0]
    several = host(intrinsic, model=several, scale={"scale": "share of the score"}, iterations=1)[0]
    made["together"] = host(clocks, model=several, **held)[0]
    yield from made.items()


def sample(book: Book, host: Host, name: str, model: Any, conds: tuple, latent: Any, run: Any, steps: int = 3) -> Any:
    """Samples through the nodes, captures every layer and step, writes both down; returns (samples, capture)."""
    sampler, cfg = run
    outputs = host(
        "MatrixSampleAttention",
        noise=host("RandomNoise", noise_seed=7)[0],
        guider=host("CFGGuider", model=model, positive=conds[0], negative=conds[1], cfg=cfg)[0],
        sampler=host("KSamplerSelect", sampler_name=sampler)[0],
        sigmas=host("BasicScheduler", model=model, scheduler="simple", steps=steps, denoise=1.0)[0],
        latent_image=latent,
    )
    output, denoised, capture, report = outputs
    book.add(f"{name}.samples", output["samples"])
    book.add(f"{name}.denoised", denoised["samples"])
    book.add(f"{name}.report", report)
    book.add_file(f"{name}.capture", Path(host("MatrixSaveCapture", capture=capture)[0]))
    return output, capture


def _bound(book: Book, host: Host, name: str, family: str, tracks: Any, helpers: Any) -> list:
    """A CONDITIONING with what MATRIX Bind Prompt put on it, in the width of the tiny models."""
    clip = helpers("support_words").make_clip(CLIPS[family])
    conditioning, *rest = host("MatrixBindPrompt", clip=clip, prompt=PROMPT, phrases=PHRASES, tracks=tracks)
    book.add(f"{name}.words", [conditioning, rest])
    rows, values = conditioning[0]
    made, own = helpers("support_native").conditioning(family, 1, size_of(family), rows.shape[1])[0]
    return [[rows @ randn(rows.shape[-1], made.shape[-1], seed=4), {**values, **own}]]


def size_of(family: str) -> tuple[int, int, int]:
    return (2, 6, 8) if family != "cogvideox15" else (4, 6, 8)


def boxes(host: Host, frames: int, height: int, width: int) -> Any:
    text = BOXES.format(last=frames - 1)
    return host("MatrixBoxTracks", boxes=text, width=width, height=height, frames=frames)[0]


def families(book: Book, host: Host, helpers: Any) -> None:
    """Native models: captured and steered in every way, by two samplers, with CFG and without; context windows."""
    native = helpers("support_native")
    for number, family in enumerate(native.FAMILIES):
        name, (t, h, w) = f"families.{family}", size_of(family)
        print(f"  {family}", flush=True)
        (model,) = host("MatrixRepairModel", model=native.native_model(family))
        tracks = boxes(host, 4 * t - 3, 8 * h, 8 * w)
        conds = _bound(book, host, name, family, tracks, helpers), native.conditioning(family, 2, (t, h, w))
        latent = {"samples": native.latent(family, 1, (t, h, w))}
        for run in RUNS:
            sample(book, host, f"{name}.plain.{run}", model, conds, latent, run)
        for place, (mode, patched) in enumerate(steered(host, model, randn(1, 16, t, h, w, seed=8)), number):
            run = RUNS[place % 4]  # over the families each way has all four
            steps = 3 if mode in ("clocks", "together") else 2  # the clocks let go in the third
            sample(book, host, f"{name}.{mode}.{run}", patched, conds, latent, run, steps)
        several = {"samples": native.latent(family, 2, (t, h, w))}
        sample(book, host, f"{name}.two samples", model, (conds[0] * 2, conds[1]), several, RUNS[1], 2)
    windows = helpers("support_steering").windowed(host("MatrixRepairModel", model=native.native_model("wan_t2v"))[0])
    tracks = boxes(host, 17, 48, 64)
    conds = _bound(book, host, "families.windows", "wan_t2v", tracks, helpers), native.conditioning("wan_t2v", 2)
    for mode, patched in [("plain", windows), *steered(host, windows, randn(1, 16, 5, 6, 8, seed=8))]:
        if mode in ("plain", "bias", "CMG", "gradient", "intrinsic", "clocks"):
            size = {"samples": native.latent("wan_t2v", 1, (5, 6, 8))}
            sample(book, host, f"families.windows.{mode}", patched, conds, size, RUNS[1], 2)


def loras(book: Book, host: Host, helpers: Any) -> None:
    """LoRA files in every format; MATRIX Apply LoRA and MATRIX Mask Condition on native models."""
    native, models = helpers("support_native"), helpers("support_models")
    types, save = find("lora", host.library), find("save_lora", host.library)
    vae = _loaded(host, models.make_wan(host.path_of("diffusers", "lora_vae"), text_encoder=False))[2]
    for family, extra in LORAS:
        name, kind = f"loras.{family}-{extra}", NATIVE[family]
        print(f"  {family}, {extra} channels more", flush=True)
        made, model = helpers("support_loras").make_lora(types, family, extra), native.native_model(kind)
        size = (4 if kind == "cogvideox15" else 3, 8, 12)
        tracks = boxes(host, 9, 64, 96)
        for to in FORMATS if extra != 16 or family != "cogvideox" else FORMATS[:1]:
            file = f"{family}-{extra}-{to}/x.safetensors" if to != "tavid" else f"{family}-{extra}-{to}"
            written = save(made, host.path_of("loras", file), to)
            for path in written:
                book.add_file(f"{name}.{to}.{path.name}", path)
            menu = Path(written[0]).relative_to(host.path_of("loras")).as_posix()
            patched, report = host("MatrixApplyLoRA", model=model, lora=menu, strength=0.8)
            book.add(f"{name}.{to}.report", report)
            plain = native.conditioning(kind, 1, size), native.conditioning(kind, 2, size)
            given = {"positive": plain[0], "negative": plain[1], "tracks": tracks, "vae": vae}
            latent = {"samples": native.latent(kind, 1, size)}
            asked = {"kind": "ID map" if extra > 1 else "target mask"}
            *conds, picture = host("MatrixMaskCondition", model=patched, latent=latent, **asked, **given)
            book.add(f"{name}.{to}.condition", [conds, picture])
            out = native.sample(patched, *conds, native.latent(kind, 1, size), steps=2)
            book.add(f"{name}.{to}.samples", out)


def _loaded(host: Host, folder: Path) -> tuple[Any, ...]:
    source = {"source": "diffusers folder", "folder": folder.name, "text_encoder": (folder / "text_encoder").is_dir()}
    source["vae"] = "hunyuan" not in folder.name  # the host has its codec in one size alone
    return host("MatrixLoadVideoDiT", source=source, weight_dtype="float32")


def folders(book: Book, host: Host, helpers: Any) -> None:
    """From a folder of diffusers to pixels: loader, words, first frame, sampler, codec."""
    models = helpers("support_models")
    kinds: dict[str, Any] = {
        "cogvideox": lambda at: models.make_cogvideox(at, vae="wan"),
        "cogvideox 2b": lambda at: models.make_cogvideox(at, size="2b", vae="wan"),
        "cogvideox 1.5": lambda at: models.make_cogvideox(at, version="1.5", vae="wan"),
        "wan": lambda at: models.make_wan(at),
        "wan 2.2 i2v": lambda at: models.make_wan(at, i2v=True, version="2.2"),
        "hunyuan replace": lambda at: models.make_hunyuan(at, i2v="token_replace"),
        "hunyuan concat": lambda at: models.make_hunyuan(at, i2v="latent_concat"),
    }
    vae = None
    for kind, make in kinds.items():
        name, frames = f"folders.{kind}", 13 if kind == "cogvideox 1.5" else 9
        print(f"  {kind}", flush=True)
        model, clip, own, low = _loaded(host, make(host.path_of("diffusers", kind.replace(" ", "_"))))
        tracks, vae = boxes(host, frames, 64, 96), own or vae
        if clip is not None:
            words = host("MatrixBindPrompt", clip=clip, prompt=PROMPT, phrases=PHRASES, tracks=tracks)
            book.add(f"{name}.words", words)
            conds = words[0], host.core("CLIPTextEncode", "encode", clip, "")
        else:
            negative = helpers("support_native").conditioning("hunyuan", 2)
            conds = _bound(book, host, name, "hunyuan", tracks, helpers), negative
        latent = {"samples": torch.zeros(1, 16, (frames + 3) // 4, 8, 12)}
        if kind != "wan":
            size = {"width": 96, "height": 64, "length": frames, "image": pictures(1, 64, 96)}
            given = {"model": model, "positive": conds[0], "negative": conds[1], "vae": vae}
            *conds, latent = host("MatrixImageCondition", **given, **size)  # type: ignore[assignment]
            book.add(f"{name}.condition", [conds, latent])
        for which, each in (("model", model), ("low noise", low))[: 1 + (low is not model)]:
            out, _ = sample(book, host, f"{name}.{which}", each, tuple(conds), latent, RUNS[1], 2)
        book.add(f"{name}.pixels", host.core("VAEDecode", "decode", vae, out))


def pictures(count: int, height: int, width: int) -> Tensor:
    """(count, height, width, 3) in [0, 1], the same everywhere."""
    ramp = torch.linspace(0, 1, width).expand(count, height, width)
    return torch.stack([ramp, ramp.flip(-1), torch.linspace(0.2, 0.6, height)[:, None].expand_as(ramp)], -1)


def mini(book: Book, host: Host, helpers: Any) -> None:
    """Mini and its LoRAs through the nodes, steered, and every picture that nodes draw."""
    model, clip, vae, _ = host("MatrixLoadVideoDiT", source={"source": "mini"}, weight_dtype="float32")
    tracks = boxes(host, 17, 128, 128)
    prompt, phrases = "the red circle pushes the blue square", (
        "cyclist: the red circle [subject]\nvan: the blue square [object]\npushes = verb(cyclist -> van)"
    )  # fmt: skip
    words = host("MatrixBindPrompt", clip=clip, prompt=prompt, phrases=phrases, tracks=tracks)
    book.add("mini.words", words)
    empty = host.core("CLIPTextEncode", "encode", clip, "")
    picture = pictures(1, 128, 128)
    given = {"positive": words[0], "negative": empty, "vae": vae}
    size = {"image": picture, "width": 128, "height": 128, "length": 17}
    *conds, latent = host("MatrixImageCondition", model=model, **given, **size)
    book.add("mini.condition", [conds, latent])
    drag = host("MatrixCutAndDrag", image=picture, tracks=tracks)[0]
    book.add("mini.drag", drag)
    reference = host.core("VAEEncode", "encode", vae, drag)
    for mode, patched in [("plain", model), *steered(host, model, reference["samples"])]:
        if mode not in ("plain", "together"):
            continue  # takes long, and the families have it
        print(f"  mini, {mode}", flush=True)
        out, seen = sample(book, host, f"mini.{mode}", patched, tuple(conds), latent, RUNS[1], 2)
        frames = host.core("VAEDecode", "decode", vae, out)
        book.add(f"mini.{mode}.pixels", frames)
        drawn(book, host, f"mini.{mode}", seen, frames, tracks)
    for lora in ("mini_matrix.safetensors", "mini_tavid.safetensors"):
        patched, report = host("MatrixApplyLoRA", model=model, lora=lora)
        masked = {"positive": conds[0], "negative": conds[1], "tracks": tracks, "latent": latent, "vae": vae}
        *both, shown = host("MatrixMaskCondition", model=patched, **masked)
        book.add(f"mini.{lora}", [report, shown, both])
        sample(book, host, f"mini.{lora}", patched, tuple(both), latent, RUNS[1], 2)


def drawn(book: Book, host: Host, name: str, capture: Any, frames: Tensor, tracks: Any) -> None:
    """Overlays, charts, layer analysis, and previews of tracks."""
    for kind in ("words (video to text)", "instances over time (video to video)"):
        for look in ({}, {"heat": "token cells", "colour_scale": "one for each frame", "layers": "1-3", "width": 320}):
            overlay, _, chart = host(
                "MatrixAttentionPreview", capture=capture, frames=frames[:5], tracks=tracks, kind=kind, **look
            )
            book.add(f"{name}.{kind}.{len(look)}", [overlay, chart])
    book.add(f"{name}.layers", host("MatrixAnalyseLayers", capture=capture, tracks=tracks))
    book.add(f"{name}.tracks", host("MatrixPreviewTracks", tracks=tracks, images=frames, model="mini"))
    area = {"resize": "area", "show": "every frame", "width": 96, "height": 64}
    book.add(f"{name}.tracks, cropped", host("MatrixPreviewTracks", tracks=tracks, **area))
    book.add(f"{name}.masks", host("MatrixTracksToMask", tracks=tracks, several="one after the other", width=96))
    file = host("MatrixSaveTracks", tracks=tracks)[1]
    book.add_file(f"{name}.track file", host.base / "output" / file.removesuffix(" [output]"))
    random.seed(0)  # the host draws names of preview files
