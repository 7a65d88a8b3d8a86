"""What watching and steering cost inside the real ComfyUI: a CogVideoX-5B-I2V-shaped MODEL under the host's sampler.

`checks`: capture as it is, beside the capture of an older tree of this project, in one process and the same rounds.
`MATRIX_BEFORE` names that tree, for example `git worktree add /tmp/before af0009a`: the last commit before every call
was attributed, settled and checked.

`compile`: plain, captured, and each way of steering: uncompiled, under the host's own compile node, and compiled block
by block as nodes of other packs do it. The backend is inductor on a GPU. On a CPU graphs run as they are, which shows
that the bench runs. `graphs`: how many were compiled. `apart`: how far a latent is from that of the uncompiled model;
compiling alone moves it as well. `moved`: how far each way moves it.

A figure is the mean of the steps of one run but its first.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scripts.comfyui import comfyui_path

from .timing import against, as_json, compare

__all__ = ["Bench", "Library", "Save", "run", "start_host"]

Save = Callable[[dict[str, Any]], None]
HOMES = {  # where a name is, in this tree and in older ones
    "attach": ("hosts.comfy.attach",),
    "MaskTracks": ("core.tracks.tracks", "core.tracks"),
    "Phrase": ("core.words.binding", "core.binding"),
    "PromptBinding": ("core.words.binding", "core.binding"),
    "Recorder": ("instrument.recorder",),
    "RecorderConfig": ("instrument.recorder",),
    "Session": ("instrument.session",),
    "BINDING": ("hosts.comfy.run", "hosts.comfy.attach"),
    "TRACKS": ("hosts.comfy.run", "hosts.comfy.attach"),
}


@dataclass(frozen=True)
class Size:
    """layers, steps: of the model that is captured, and of its runs. compiled: layers of the model that is compiled,
    whose runs take three steps: each way has to compile first."""

    heads: int
    layers: int
    compiled: int
    latent: tuple[int, int, int]
    text: int
    steps: int


FULL = Size(48, 42, 2, (13, 60, 90), 4096, 4)
SMALL = Size(2, 2, 2, (3, 8, 12), 64, 3)


class Library:
    """The `matrix_lib` of a tree, whichever package it has been imported as."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __getattr__(self, name: str) -> Any:
        for home in HOMES[name]:
            with contextlib.suppress(ModuleNotFoundError):
                found = importlib.import_module(f"{self.package}.{home}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"{self.package} has no {name} in {' or '.join(HOMES[name])}")

    def carried(self, frames: int, height: int, width: int, text: int = 226, reads: str = "t5") -> dict[str, Any]:
        """What a conditioning of `text` rows of a text encoder carries: ten words of two tokens, three of which are
        instances of a ninth of the picture each."""
        phrases = [
            self.Phrase(f"word {i}", f"word {i}", "instance" if i < 3 else "word", 0, 1, (2 * i + 1, 2 * i + 2))
            for i in range(10)
        ]
        third = width // 3
        rows = {
            f"word {i}": {
                0: (i * third, height // 3, (i + 1) * third, 2 * height // 3),
                frames - 1: (i * third, height // 2, (i + 1) * third, 5 * height // 6),
            }
            for i in range(3)
        }
        return {
            self.BINDING: self.PromptBinding("ten words", text, (), tuple(phrases), reads),
            self.TRACKS: self.MaskTracks.from_boxes(rows, frames, height, width),
        }

    def recorded(self, model: Any, **config: Any) -> Any:
        """A MODEL whose runs are captured: all layers, words and instances, every step."""

        def start(info: Any) -> Any:
            made = (self.RecorderConfig(**config), info.spec.name, info.sites, info.grid, info.sigmas, info.samples)
            return self.Session([self.Recorder(*made)])

        return self.attach(model, start)


def other_library(tree: Path) -> Library:
    """The library of another tree, beside this one. Raises ValueError where there is none."""
    init = tree / "matrix_lib" / "__init__.py"
    if not init.is_file():
        raise ValueError(f"MATRIX_BEFORE={tree} holds no matrix_lib: name a worktree of an older commit")
    name = "matrix_lib_before"
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return Library(name)


class Bench:
    """Models, inputs and the library of one size on one device."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device, self.library = size, device, Library("matrix_lib")
        self.latent = torch.zeros(1, 16, *size.latent)

    def model(self, layers: int) -> Any:
        """A native MODEL with random weights, made on the device and loaded by the host's own loader."""
        import comfy.ops
        import comfy.sd
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        net = CogVideoXTransformer3DModel(
            num_attention_heads=self.size.heads, attention_head_dim=64, in_channels=32, out_channels=16,
            time_embed_dim=512, text_embed_dim=self.size.text, num_layers=layers,
            use_rotary_positional_embeddings=True, device=self.device, dtype=dtype,
            operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.inference_mode():
            state = net.state_dict()
            for name, value in state.items():
                norm = name.endswith("weight") and value.ndim == 1
                value.normal_(float(norm), 0.1 if norm else 0.02, generator=generator)
            return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})

    def conditioning(self, library: Library | None, seed: int = 1) -> list[Any]:
        """A CONDITIONING with a first frame, and with words and tracks where a library is given."""
        random = torch.Generator().manual_seed(seed)
        frames, height, width = self.size.latent
        given = {} if library is None else library.carried(4 * frames - 3, 8 * height, 8 * width)
        given["concat_latent_image"] = torch.randn(self.latent.shape, generator=random)
        return [[torch.randn(1, 226, self.size.text, generator=random), given]]

    def sample(self, model: Any, positive: list[Any], ends: list[float] | None = None) -> Tensor:
        """The host's KSampler at CFG 1, one prediction a step. `ends`: gets when each step was over, in seconds."""
        import comfy.sample

        def over(*_: Any) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            if ends is not None:
                ends.append(time.perf_counter())

        with torch.inference_mode():
            noise = comfy.sample.prepare_noise(self.latent, 7)
            return comfy.sample.sample(
                model, noise, self.size.steps, 1.0, "euler", "simple", positive, self.conditioning(None, 2),
                self.latent, denoise=1.0, callback=over, disable_pbar=True, seed=7,
            )  # fmt: skip

    def timed(self, model: Any, library: Library | None) -> Callable[[], float]:
        """Milliseconds of a step."""
        positive = self.conditioning(library)

        def once() -> float:
            ends: list[float] = []
            self.sample(model, positive, ends)
            return (ends[-1] - ends[0]) * 1e3 / (len(ends) - 1)

        return once


def run(rounds: int, save: Save) -> dict[str, Any]:
    """`checks` and `compile`, or the one of them that MATRIX_NATIVE names."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    start_host(cuda)
    if not cuda:
        print("no GPU: a small model on the CPU, graphs run as they are; these figures say nothing about a GPU")
    bench, results = Bench(FULL if cuda else SMALL, device), dict[str, Any]()
    parts = {"checks": checks, "compile": compiled}
    for name in os.environ.get("MATRIX_NATIVE", " ".join(parts)).split():
        results[name] = parts[name](bench, rounds)
        save(results)
    return results


def start_host(cuda: bool) -> None:
    """The host in this process, on the device alone."""
    sys.path.insert(0, str(comfyui_path()))  # before the project's root: the host owns the module name `nodes`
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu, args.gpu_only = not cuda, cuda


def checks(bench: Bench, rounds: int) -> dict[str, Any]:
    """Capture of every layer, now and before."""
    own, before = bench.library, os.environ.get("MATRIX_BEFORE")
    model = bench.model(bench.size.layers)
    variants = {"plain": bench.timed(model, None), "captured": bench.timed(own.recorded(model), own)}
    if before:
        older = other_library(Path(before))
        variants["captured, before"] = bench.timed(older.recorded(model), older)
    else:
        print("MATRIX_BEFORE names no older tree: capture is compared with a plain run alone")
    figures = compare(variants, rounds, bench.device)
    found: dict[str, Any] = {"layers": bench.size.layers, "steps": as_json(figures)}
    if before:
        found["now_against_before"] = against(figures, "captured", "captured, before")
        print("captured now against before:", found["now_against_before"])
    return found


def compiled(bench: Bench, rounds: int) -> dict[str, Any]:
    """Each way of compiling, in rounds of its own beside the plain model: captured, and each way of steering.

    Nothing is compiled when one begins: code that has met the compiler's limit of graphs runs uncompiled.
    """
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    backend = "inductor" if bench.device.type == "cuda" else "eager"
    bench = Bench(replace(bench.size, steps=3), bench.device)
    model = bench.model(bench.size.compiled)
    found: dict[str, Any] = {"backend": backend, "layers": bench.size.compiled}
    latents: dict[str, dict[str, Tensor]] = {}
    with _told() as told:
        for how, keys in {"uncompiled": [], "host's node": ["diffusion_model"], "by block": _blocks(model)}.items():
            reset()
            counters.clear()
            print(how)
            latents[how], runs = _first_runs(bench, _compiled(model, backend, keys) if keys else model)
            variants = {"plain, uncompiled": bench.timed(model, bench.library), **runs} if keys else runs
            found[how] = {
                "steps": as_json(compare(variants, rounds, bench.device)),
                "graphs": counters["stats"]["unique_graphs"],
                "apart": _apart(latents[how], latents["uncompiled"]),
            }
    found["moved"] = _apart(latents["uncompiled"], dict.fromkeys(latents["uncompiled"], latents["uncompiled"]["plain"]))
    found["told"] = sorted(set(told))
    return found


def _first_runs(bench: Bench, model: Any) -> tuple[dict[str, Tensor], dict[str, Callable[[], float]]]:
    """Latents of each way's first run, which compiles, and what times the later ones."""
    latents, runs = {}, {}
    for way, acted in _ways(bench, model).items():
        began = time.perf_counter()
        latents[way] = bench.sample(acted, bench.conditioning(bench.library)).float().cpu()
        print(f"{way}: first run {time.perf_counter() - began:.1f} s", flush=True)
        runs[way] = bench.timed(acted, bench.library)
    return latents, runs


def _ways(bench: Bench, model: Any) -> dict[str, Any]:
    """The MODEL as it is, captured, and steered in each way."""
    from matrix_lib.core.guidance.dual_clock import DualClockDenoising
    from matrix_lib.core.guidance.gradient import GradientGuidance
    from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
    from matrix_lib.core.guidance.partition import Partition
    from matrix_lib.core.guidance.perturbation import Perturbation
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.hosts.comfy.steer import steer

    reference = {"samples": torch.randn(bench.latent.shape, generator=torch.Generator().manual_seed(5))}
    return {
        "plain": model,
        "captured": bench.library.recorded(model),
        "region bias": steer(model, RegionBias()),
        "partition": steer(model, Partition(bench.size.steps, match=None)),
        "perturbation": steer(model, Perturbation("both", 1.5)),
        "intrinsic": steer(model, IntrinsicDenoising(1)),
        "dual clock": steer(model, DualClockDenoising(0.67, 0.5), reference=reference),
        "gradient": steer(model, GradientGuidance()),
    }


def _blocks(model: Any) -> list[str]:
    """What nodes of other packs compile: each block by itself."""
    return [f"diffusion_model.blocks.{i}" for i in range(len(model.get_model_object("diffusion_model").blocks))]


def _compiled(model: Any, backend: str, keys: list[str]) -> Any:
    """These parts compiled with the host's own wrapper.

    As in its node, what changes in `transformer_options` compiles nothing anew.
    """
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def without_options(guards: Any) -> list[bool]:
        return ["transformer_options" not in guard.name for guard in guards]

    clone = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(clone, backend=backend, options={"guard_filter_fn": without_options}, keys=keys)
    return clone


def _apart(some: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each latent, as a share of the largest value."""
    return {
        way: round(float((latent - others[way]).abs().max() / others[way].abs().max()), 6)
        for way, latent in some.items()
    }


@contextlib.contextmanager
def _told() -> Iterator[list[str]]:
    """What is warned of meanwhile that has to do with compiling."""
    texts: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "compile" in record.getMessage():
                texts.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger().addHandler(listener)
    try:
        yield texts
    finally:
        logging.getLogger().removeHandler(listener)
