"""What watching and steering cost inside the real ComfyUI, at the full shapes of released models, with random weights.

Native models under the host's own sampler with CFG: plain, captured, live, each way of steering, and both at once.
`uses`: what takes more than one run: two passes, seeds that are tried, and what is read off a capture between them.
`curve`: the first over the number of tokens, with two layers. `mini`: one clip of the small model that comes with the
pack, for a CPU.

`MATRIX_HOST` names what runs, of `cogvideox uses wan curve mini`. `MATRIX_HOST_LAYERS`: layers of the large models,
fewer than they have. `MATRIX_HOST_WAYS`: what is compared beside plain, with commas between (`captured, region bias`).
`MATRIX_HOST_WEIGHTS`: `fp8` for weights in float8, `gguf` for linear layers packed as Q8_0 and unpacked as they are
used. `MATRIX_HOST_MEMORY`: so many GB of weights stay on the GPU, the rest is streamed from main memory. A figure is
the mean of the steps of one run but its first; of `uses` all of it, by the predictions that were made. Memory: the most
that is held during a run, beside that of a plain run of the same model.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import streamed
from .native import Library, Save, start_host
from .packed import pack_linear
from .timing import against, as_json, compare, kernel_times

__all__ = ["named", "run"]

FRAME = (30, 52)  # tokens of one frame of 480 x 832


@dataclass(frozen=True)
class Shape:
    """A model and its clip: latent frames, rows, columns. text: rows of the conditioning and their width."""

    family: str
    heads: int
    layers: int
    latent: tuple[int, int, int]
    text: tuple[int, int]

    @property
    def tokens(self) -> int:
        t, h, w = self.latent
        return t * (h // 2) * (w // 2) + (self.text[0] if self.family == "cogvideox" else 0)


SHAPES = {
    "cogvideox": Shape("cogvideox", 48, 42, (13, 60, 90), (226, 4096)),
    "wan": Shape("wan", 40, 40, (21, 60, 104), (512, 4096)),
}
SMALL = {
    "cogvideox": Shape("cogvideox", 2, 2, (3, 8, 12), (226, 64)),
    "wan": Shape("wan", 2, 2, (3, 8, 12), (512, 4096)),
}


class Bench:
    """One model on one device, and the runs that are timed with it."""

    def __init__(self, shape: Shape, device: torch.device, steps: int = 3, cfg: float = 6.0) -> None:
        self.shape, self.device, self.steps, self.cfg = shape, device, steps, cfg
        self.library = Library("matrix_lib")
        self.latent = torch.zeros(1, 16, *shape.latent)
        self.most = float(os.environ.get("MATRIX_HOST_MEMORY", "0"))
        self.there = 0.0  # GB of weights on the device after a run, where others are streamed
        if self.most:
            streamed.begin()
        self.model = self._model()
        if self.most:
            streamed.leave(self.model, self.latent, self.most)

    def _model(self) -> Any:
        import comfy.sd

        weights = os.environ.get("MATRIX_HOST_WEIGHTS", "")
        whole = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        with torch.inference_mode():
            state = _network(self.shape, self.device, whole).state_dict()
            random = torch.Generator(self.device).manual_seed(0)
            for name, value in state.items():
                norm = name.endswith("weight") and value.ndim == 1
                value.normal_(float(norm), 0.1 if norm else 0.02, generator=random)
            options = {"dtype": torch.float8_e4m3fn if weights == "fp8" else whole}
            model = comfy.sd.load_diffusion_model_state_dict(state, model_options=options)
            if weights == "gguf":
                print(f"{pack_linear(model.get_model_object('diffusion_model'))} linear layers are packed", flush=True)
            return model

    def conditioning(self, seed: int, told: bool, texts: int = 1) -> list[Any]:
        """A CONDITIONING, with ten words and three instances where `told`; seven of the words hold in one half of the
        clip each, in frames. texts: of that length, those behind the first are captions of instances."""
        from matrix_lib.core.words.captions import with_captions

        random, (t, h, w) = torch.Generator().manual_seed(seed), self.shape.latent
        rows, width = self.shape.text
        given = self.library.carried(4 * t - 3, 8 * h, 8 * w, rows) if told else {}
        if told:
            binding, halves = given[self.library.BINDING], ((0.0, 2.0 * t), (2.0 * t, None))
            words = (replace(each, time=halves[i % 2]) if i > 2 else each for i, each in enumerate(binding.phrases))
            own = [(each.name, replace(binding, phrases=())) for each in binding.instances[: texts - 1]]
            given[self.library.BINDING] = with_captions(replace(binding, phrases=tuple(words)), own)
        if self.shape.family == "cogvideox":
            given["concat_latent_image"] = torch.randn(self.latent.shape, generator=random)
        return [[torch.randn(1, texts * rows, width, generator=random), given]]

    def timed(self, model: Any, told: bool = True, texts: int = 1) -> Callable[[], float]:
        """Milliseconds of a step under the host's KSampler."""
        import comfy.sample

        positive, negative = self.conditioning(1, told, texts), self.conditioning(2, False)

        def once() -> float:
            ends: list[float] = []

            def over(*_: Any) -> None:
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                ends.append(time.perf_counter())

            with torch.inference_mode():
                noise = comfy.sample.prepare_noise(self.latent, 7)
                comfy.sample.sample(
                    model, noise, self.steps, self.cfg, "euler", "simple", positive, negative, self.latent,
                    denoise=1.0, callback=over, disable_pbar=True, seed=7,
                )  # fmt: skip
            self.there = streamed.check(self.model, self.most) if self.most else 0.0
            return (ends[-1] - ends[0]) * 1e3 / (len(ends) - 1)

        return once

    def points(self) -> tuple[Any, ...]:
        """Three places of the first frame, as a person pins them."""
        from matrix_lib.core.points import parse_points

        return parse_points("25%,40%; 50%,50%; 75%,60%")

    def ways(self) -> dict[str, Callable[[], float]]:
        """Everything that is compared, plain first."""
        from matrix_lib.core.guidance.instance_captions import InstanceCaptions
        from matrix_lib.core.guidance.partition import Partition
        from matrix_lib.core.guidance.region_bias import RegionBias
        from matrix_lib.core.guidance.timed_words import TimedWords
        from matrix_lib.hosts.comfy.steer import steer

        model, watch, steps = self.model, self.library.recorded, self.steps
        points, few = self.points(), tuple(range(0, self.shape.layers, -(-self.shape.layers // 4)))
        found = {
            "plain": self.timed(model, told=False),
            "captured": self.timed(watch(model)),
            "live maps": self.timed(watch(model, keep=False)),
            "captured with three points": self.timed(watch(model, points=points)),
            "four layers, heads apart, three points": self.timed(watch(model, layers=few, heads="all", points=points)),
            "region bias": self.timed(steer(model, RegionBias())),
            "captured and region bias": self.timed(watch(steer(model, RegionBias()))),
            "plain, three texts": self.timed(model, told=False, texts=3),
            "two captions": self.timed(steer(model, InstanceCaptions()), texts=3),
            "timed words": self.timed(steer(model, TimedWords(fade=4.0, fps=1.0))),
        }
        if self.shape.family != "wan" or self.device.type == "cpu":  # soft edges and partition: one model is enough
            found |= {
                "region bias, soft edges": self.timed(steer(model, RegionBias(soft=True))),
                "partition": self.timed(steer(model, Partition(steps, match=None))),
                "partition, matched": self.timed(steer(model, Partition(steps))),
                "captured and partition, matched": self.timed(watch(steer(model, Partition(steps)))),
            }
        return named(found)


def named(found: dict[str, Callable[[], float]]) -> dict[str, Callable[[], float]]:
    """Those that MATRIX_HOST_WAYS names, and plain. A name may hold commas of its own: the longest one counts."""
    parts = [part.strip() for part in os.environ.get("MATRIX_HOST_WAYS", "").split(",") if part.strip()]
    asked: set[str] = set()
    while parts:
        longest = (n for n in range(len(parts), 0, -1) if ", ".join(parts[:n]) in found)
        if not (taken := next(longest, 0)):
            raise ValueError(f"MATRIX_HOST_WAYS names {parts[0]!r}; there are: {'; '.join(found)}")
        asked.add(", ".join(parts[:taken]))
        parts = parts[taken:]
    return {name: way for name, way in found.items() if not asked or name == "plain" or name in asked}


def run(rounds: int, save: Save) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    start_host(cuda)
    memory = os.environ.get("MATRIX_HOST_MEMORY")
    if memory and not cuda:
        raise ValueError("MATRIX_HOST_MEMORY is about a GPU, and there is none: leave it away")
    if not cuda:
        print("no GPU: small models on the CPU; these figures say nothing about a GPU")
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "cogvideox": lambda: at_shape("cogvideox", rounds, device),
        "uses": lambda: uses(rounds, device),
        "wan": lambda: at_shape("wan", rounds, device),
        "curve": lambda: curve(rounds, device),
        "mini": lambda: mini(rounds, device),
    }
    results: dict[str, Any] = {"weights": os.environ.get("MATRIX_HOST_WEIGHTS", "bf16" if cuda else "float32")}
    results |= {"most_weights_on_gpu_gb": float(memory)} if memory else {}
    for name in os.environ.get("MATRIX_HOST", " ".join(parts)).split():
        results[name] = parts[name]()
        save(results)
    return results


def _shape(name: str, device: torch.device) -> Shape:
    shape = (SHAPES if device.type == "cuda" else SMALL)[name]
    return replace(shape, layers=int(os.environ.get("MATRIX_HOST_LAYERS", shape.layers)))


def at_shape(name: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Every way at one model's shape."""
    shape = _shape(name, device)
    print(f"{name}: {shape.layers} layers, {shape.tokens} tokens", flush=True)
    bench = Bench(shape, device)
    ways = bench.ways()
    figures = compare(ways, rounds, device)
    print(f"weights on the device: {bench.model.loaded_size() / 1e9:.2f} of {bench.model.model_size() / 1e9:.2f} GB")
    streams = (
        {"weights_gb": {"all": bench.model.model_size() / 1e9, "on the device": bench.there}} if bench.most else {}
    )
    plain = figures[0].peak_gb
    more = {figure.name: round(figure.peak_gb - plain, 3) for figure in figures}
    print(_table(f"{name}, {shape.layers} layers, {shape.tokens} tokens, CFG", as_json(figures), more))
    both, bias = "captured and region bias", "region bias"
    found = {"layers": shape.layers, "tokens": shape.tokens, "steps": as_json(figures), "more_gb": more, **streams}
    if {"captured", both, bias} <= set(ways):
        found[f"{both}, to {bias}"] = against(figures, both, bias)
    if device.type == "cuda" and {"captured", both, bias} <= set(ways):
        found["kernels"] = {name: kernel_times(ways[name], 12) for name in ("captured", bias, both)}
    return found


class Uses:
    """Runs that attention decides about, each with as many predictions as a plain run of `SPENT` steps."""

    SPENT, LOOKED = 6, 2
    """Steps in all. Of them, those of a first pass, and those that each of two seeds is tried for."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.seconds = bench, dict[str, list[float]]()
        self.positive, self.negative = bench.conditioning(1, True), bench.conditioning(2, False)

    def ways(self) -> dict[str, Callable[[], float]]:
        """Everything that is compared, plain first; milliseconds for each step that was paid for."""
        told = {"plain": self.plain, "two seeds in one batch": self.batch, "two passes": self.passes}
        return {name: self._timed(run) for name, run in {**told, "two seeds tried, one kept": self.seeds}.items()}

    def plain(self) -> None:
        self._sample(self._guider(self.bench.model), self.SPENT)

    def batch(self) -> None:
        """What trying seeds in one batch would give at the most: both take half of the steps, at once."""
        self._sample(self._guider(self.bench.model), self.SPENT // 2, seeds=2)

    def passes(self) -> None:
        """A watched one, masks read off its words, a steered one. Words of random weights look nowhere in particular,
        so the second one is steered by the masks of the conditioning."""
        from matrix_lib.core.guidance.region_bias import RegionBias
        from matrix_lib.hosts.comfy.steer import steer
        from matrix_lib.instrument.readings.reading import read_capture

        model, recorders = self._watched(v2v=False)
        self._sample(self._guider(model), self.LOOKED)
        with self._clock("reading masks"):
            read_capture(recorders[-1].result(), mended=True)
        self._sample(self._guider(steer(self.bench.model, RegionBias())), self.SPENT - self.LOOKED)

    def seeds(self) -> None:
        """Two are tried, and the first goes on from where it was, as MATRIX Pick Seeds does it."""
        from matrix_lib.hosts.comfy.seeds import begin, go_on
        from matrix_lib.instrument.readings.seed_rule import LABEL_FREE, tried

        steps, begun, model = self.SPENT - self.LOOKED, [], self.bench.model
        for seed in range(2):
            watched, recorders = self._watched()
            guider = self._guider(watched)
            begun.append(begin(lambda own, seed=seed: self._sample(own, steps, seed), guider, self._sigmas(steps), 2))
            with self._clock("scoring a seed"):
                tried(seed, recorders[-1].result().take(range(self.LOOKED)), LABEL_FREE, recorders[-1].tracks)
        _, more = go_on(lambda own: self._sample(own, steps, 0), self._guider(model), begun[0])
        assert sum(each.calls for each in begun) + more == self.SPENT

    def _sigmas(self, steps: int) -> Any:
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.bench.model.get_model_object("model_sampling"), "simple", steps)

    def _guider(self, model: Any) -> Any:
        import comfy.samplers

        made = comfy.samplers.CFGGuider(model)
        made.set_conds(self.positive, self.negative)
        made.set_cfg(self.bench.cfg)
        return made

    def _sample(self, guider: Any, steps: int, seed: int = 0, seeds: int = 1) -> Any:
        import comfy.sample
        import comfy.samplers

        latent = self.bench.latent.repeat(seeds, 1, 1, 1, 1)
        noise, sampler = comfy.sample.prepare_noise(latent, seed), comfy.samplers.sampler_object("euler")
        return guider.sample(noise, latent, sampler, self._sigmas(steps), disable_pbar=True, seed=seed)

    def _watched(self, **config: Any) -> tuple[Any, list[Any]]:
        """A MODEL whose runs are captured, and their recorders."""
        from matrix_lib.hosts.comfy.watching import recorder_of

        own, recorders = self.bench.library, list[Any]()

        def start(info: Any) -> Any:
            recorders.append(recorder_of(own.RecorderConfig(**config), info, "bench"))
            return own.Session([recorders[-1]])

        return own.attach(self.bench.model, start), recorders

    def _timed(self, run: Callable[[], None]) -> Callable[[], float]:
        def once() -> float:
            began = time.perf_counter()
            with torch.inference_mode():
                run()
            if self.bench.device.type == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - began) * 1e3 / self.SPENT

        return once

    @contextlib.contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        if self.bench.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        yield
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)


def uses(rounds: int, device: torch.device) -> dict[str, Any]:
    """What deciding by attention costs beside its predictions: two passes and tried seeds against plain runs that make
    as many, and the seconds of what is read in between (medians)."""
    shape = _shape("cogvideox", device)
    print(f"uses: {shape.layers} layers, {shape.tokens} tokens", flush=True)
    own = Uses(Bench(shape, device))
    figures = compare(own.ways(), rounds, device)
    plain = figures[0].peak_gb
    more = {figure.name: round(figure.peak_gb - plain, 3) for figure in figures}
    print(_table(f"uses, {shape.layers} layers, {shape.tokens} tokens, CFG", as_json(figures), more))
    read = {name: round(statistics.median(series), 4) for name, series in own.seconds.items()}
    print("; ".join(f"{name}: {seconds:.3f} s" for name, seconds in read.items()))
    return {"layers": shape.layers, "tokens": shape.tokens, "steps": as_json(figures), "more_gb": more, "read_s": read}


def curve(rounds: int, device: torch.device) -> dict[str, Any]:
    """Ratios over the number of tokens: a Wan-14B of two layers, clips of more and more frames."""
    found: dict[str, Any] = {}
    base = (SHAPES if device.type == "cuda" else SMALL)["wan"]
    for tokens in (9_360, 18_720, 32_760, 65_520, 120_120) if device.type == "cuda" else (72, 144):
        frames = tokens // (FRAME[0] * FRAME[1]) if device.type == "cuda" else tokens // 24
        bench = Bench(Shape("wan", base.heads, 2, (frames, *base.latent[1:]), base.text), device, steps=2)
        found[str(tokens)] = as_json(compare(bench.ways(), rounds, device))
    return found


def mini(rounds: int, device: torch.device) -> dict[str, Any]:
    """One clip of 24 steps of the small model in this host, with capture and without; seconds for all of it."""
    import comfy.sample

    from matrix_lib.hosts.bundle import load
    from matrix_lib.hosts.comfy.mini import load_mini

    with torch.inference_mode():
        loaded = load_mini(load(), torch.float32)
        rows = [
            loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize(text))[0][0]
            for text in ("the red diamond carries the orange square to the cyan circle", "")
        ]
    latent, library = torch.zeros(1, 16, 5, 16, 16), Library("matrix_lib")
    given = {"concat_latent_image": torch.randn(latent.shape, generator=torch.Generator().manual_seed(3))}
    told = library.carried(17, 128, 128, rows[0].shape[1]) | given

    def clip(model: Any, carried: dict[str, Any]) -> Callable[[], float]:
        def once() -> float:
            began = time.perf_counter()
            with torch.inference_mode():
                comfy.sample.sample(
                    model, comfy.sample.prepare_noise(latent, 7), 24, 3.0, "euler", "simple", [[rows[0], carried]],
                    [[rows[1], given]], latent, denoise=1.0, disable_pbar=True, seed=7,
                )  # fmt: skip
            return (time.perf_counter() - began) * 1e3

        return once

    ways = {"plain": clip(loaded.model, given), "captured": clip(library.recorded(loaded.model), told)}
    figures = compare(ways, rounds, device)
    return {"threads": torch.get_num_threads(), "clip": as_json(figures)}


def _network(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """The host's own module of a family."""
    import comfy.ops
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel
    from comfy.ldm.wan.model import WanModel

    made: dict[str, Any] = {"device": device, "dtype": dtype, "operations": comfy.ops.disable_weight_init}
    if shape.family == "wan":
        width = shape.heads * 128
        return WanModel(
            model_type="t2v", in_dim=16, dim=width, ffn_dim=width * 27 // 10, num_heads=shape.heads,
            num_layers=shape.layers, **made,
        )  # fmt: skip
    return CogVideoXTransformer3DModel(
        num_attention_heads=shape.heads, attention_head_dim=64, in_channels=32, out_channels=16, time_embed_dim=512,
        text_embed_dim=shape.text[1], num_layers=shape.layers, use_rotary_positional_embeddings=True, **made,
    )  # fmt: skip


def _table(title: str, figures: list[dict[str, Any]], more: dict[str, float]) -> str:
    """Markdown, as the README has it."""
    lines = [f"| {title} | ms a step | ratio | more memory |", "|---|---|---|---|"]
    lines += [f"| {f['name']} | {f['ms']:,.1f} | {f['ratio']:.3f} | {more[f['name']]:+.2f} GB |" for f in figures]
    return "\n".join(lines)
