"""Tiny native models with bound words and mask tracks, for tests of everything that steers them. Needs `comfy`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support_attention import make_binding, make_tracks
from support_counts import SOAK
from support_native import FAMILIES, SKYREELS, conditioning, latent, native_model, text_rows
from support_native import pixels as pixels_of

__all__ = [
    "LATER",
    "ROUNDS",
    "SAMPLERS",
    "bound",
    "inputs",
    "lib",
    "models",
    "pixels",
    "recording",
    "size_of",
    "windowed",
]

LATER = (0.15, None)  # seconds; in every family the first token frame of a clip lies before it, and the rest in it
SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "heun")
FULL = ("wan_t2v", "cogvideox")  # flow matching, and a model of noise
FEW = ("hunyuan15", "kandinsky5", "cosmos2", "minimax_h3", "mochi")  # told below
# These two under every sampler and each of the others under two of them, in turns; `make soak` has all of them. A test
# that goes through them is marked `soak`.
ROUNDS = [
    (family, sampler)
    for (i, family), (j, sampler) in itertools.product(enumerate(FAMILIES), enumerate(SAMPLERS))
    if family not in FEW and (SOAK or family in FULL or (i + j) % 2 == 0)
]
ROUNDS += [("hunyuan15", "heun"), ("mochi", "euler"), ("minimax_h3", "uni_pc")]  # all joint
ROUNDS += [(SKYREELS, "euler")]
ROUNDS += [("kandinsky5", "uni_pc"), ("cosmos2", "dpmpp_2m")]  # whose attention lies as Wan's


@pytest.fixture(scope="session")
def lib(comfy: Any) -> SimpleNamespace:
    """The library's own names; imported once the host is up."""
    from matrix_lib.core.grid import Grid
    from matrix_lib.core.guidance.dual_clock import DualClockDenoising
    from matrix_lib.core.guidance.gradient import GradientGuidance
    from matrix_lib.core.guidance.instance_captions import InstanceCaptions
    from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising, TemporalPrior
    from matrix_lib.core.guidance.partition import Partition
    from matrix_lib.core.guidance.perturbation import Perturbation
    from matrix_lib.core.guidance.region_bias import RegionBias
    from matrix_lib.core.guidance.schedule import Schedule
    from matrix_lib.core.guidance.timed_words import TimedWords
    from matrix_lib.core.layers import Layers
    from matrix_lib.core.tracks import tracks
    from matrix_lib.core.words import binding, captions
    from matrix_lib.hosts.comfy import attach, steps
    from matrix_lib.hosts.comfy.model import grid_of
    from matrix_lib.hosts.comfy.run import BINDING, TRACKS
    from matrix_lib.hosts.comfy.steer import steer
    from matrix_lib.instrument.recorder import Recorder, RecorderConfig
    from matrix_lib.instrument.session import Session

    def hold(model: Any, guidance: Any, reference: Any, tracks: Any = None) -> Any:
        return steer(model, guidance, tracks=tracks, reference=reference)

    return SimpleNamespace(
        BINDING=BINDING, TRACKS=TRACKS, binding=binding, captions=captions, Captions=InstanceCaptions, tracks=tracks,
        host=attach, steps=steps,
        attach=attach.attach, grid_of=grid_of, steer=steer, hold=hold, refine=steer, Grid=Grid,
        Clock=DualClockDenoising, Gradient=GradientGuidance, Intrinsic=IntrinsicDenoising, Layers=Layers,
        Partition=Partition, Perturbation=Perturbation, Prior=TemporalPrior, Recorder=Recorder,
        RecorderConfig=RecorderConfig, RegionBias=RegionBias, Schedule=Schedule, Session=Session,
        TimedWords=TimedWords,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(comfy: Any) -> Callable[[str], Any]:
    """models(family): a random native MODEL, made once."""
    return functools.cache(native_model)


def size_of(family: str) -> tuple[int, int, int]:
    """The smallest latent (T, H, W) that a family takes."""
    return (2, 3, 4) if family.startswith(("ltx", "hunyuan15")) else (2, 6, 8) if family != "cogvideox15" else (4, 6, 8)


def pixels(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Frames, height and width of a latent's clip."""
    return (size[0] - 1) * 4 + 1, size[1] * 8, size[2] * 8


def bound(
    lib: SimpleNamespace,
    family: str,
    seed: int = 1,
    tracks: Any = None,
    rows: Any = None,
    size: Any = None,
    **more: Any,
) -> list:
    """A CONDITIONING that carries words and tracks. `lib`: the fixture."""
    size = size or size_of(family)
    keys = {
        lib.BINDING: make_binding(lib.binding, text_rows(family), rows, LATER),
        lib.TRACKS: tracks or make_tracks(lib.tracks, *pixels_of(family, size)),
    }
    return conditioning(family, seed, size, **keys, **more)


def inputs(
    lib: SimpleNamespace, family: str, size: Any = None, tracks: Any = None, seed: int = 1, **more: Any
) -> tuple:
    """(positive, negative, latent) of a family."""
    size = size or size_of(family)
    positive = bound(lib, family, seed, tracks, size=size, **more)
    return positive, conditioning(family, 2, size), latent(family, 1, size)


def recording(lib: SimpleNamespace, model: Any, runs: list, **config: Any) -> Any:
    """A clone whose runs are recorded: a recorder for each is added to `runs`."""

    def start(info: Any) -> Any:
        streams = info.samples * info.prompts
        runs.append(
            lib.Recorder(lib.RecorderConfig(**config), info.spec.name, info.sites, info.grid, info.sigmas, streams)
        )
        return lib.Session([runs[-1]])

    return lib.attach(model, start)


def windowed(model: Any) -> Any:
    """A clone that samples in context windows of three latent frames, one of them shared."""
    import comfy.context_windows as windows

    clone = model.clone()
    clone.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule("standard_static"),
        windows.get_matching_fuse_method("pyramid"),
        context_length=3,
        context_overlap=1,
        dim=2,
    )
    return clone
