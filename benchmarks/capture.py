"""What watching costs: all layers of a CogVideoX-5B-I2V-shaped forward, ten words and three instances.

Against the plain forward with PyTorch's own choice of kernel and with the host's (flash first), and beside the
whole-row softmax that analysis code usually takes. `MATRIX_CAPTURE` names parts (`steps host rows ways`): `ways` is one
layer's maps alone, with Triton and by each way that there is without it, and what each is off by.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from matrix_lib.core.attention import pooled_maps
from matrix_lib.core.attention.pooled_maps import Pool, pooled_columns, pooled_rows
from matrix_lib.core.attention.sdpa_lse import sdpa_with_lse
from matrix_lib.core.sites import AttentionCall
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import Phrase, PromptBinding
from matrix_lib.hosts.diffusers.attach import Watch, attach, backbone_of, sites_of
from matrix_lib.instrument.recorder import RecorderConfig
from matrix_lib.instrument.session import BaseObserver, Editor, Session

from .timing import as_json, compare

HOST_ORDER = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def run(rounds: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no GPU: a small model on the CPU; these figures say nothing about a GPU")
    named = os.environ.get("MATRIX_CAPTURE", "steps host rows ways" if cuda else "steps ways").split()
    results: dict[str, Any] = {"accuracy": accuracy(device)}
    print("accuracy against float64:", results["accuracy"])
    if "ways" in named:
        results["ways"] = {name: ways(device, *shape) for name, shape in (LAYERS if cuda else SMALL_LAYERS).items()}
    return results if named == ["ways"] else results | _steps(named, rounds, device)


def _steps(named: Sequence[str], rounds: int, device: torch.device) -> dict[str, Any]:
    """Whole steps: `steps` with PyTorch's choice of kernel, `host` with the host's, `rows` by whole rows."""
    cuda = device.type == "cuda"
    model, args = build(device, full=cuda)
    latent = args["hidden_states"].shape
    frames, height, width = (latent[1] - 1) * 4 + 1, latent[3] * 8, latent[4] * 8
    binding, tracks = words(), boxes(frames, height, width)
    results: dict[str, Any] = {"shape": [frames, height, width], "layers": len(model.transformer_blocks)}
    at = iter(range(1000, 0, -1))

    def forward() -> None:
        """One step: each has a timestep of its own, so that every step's maps are brought to main memory."""
        model(**{**args, "timestep": torch.full_like(args["timestep"], next(at))})

    def plain() -> None:
        with torch.inference_mode():
            forward()

    def in_run(run: Any) -> Any:
        """`run` inside a watch of its own that stays open between the rounds but listens only to its own forwards."""
        seen = Watching(model, binding, tracks, rounds + 3)

        def inside() -> None:
            with seen:
                run()

        return inside

    def plain_torch(run: Any) -> Any:
        def inside() -> None:
            with without_triton():
                run()

        return inside

    def whole_row() -> None:
        with torch.inference_mode(), attach(model, Session([WholeRows(binding)]), lambda f: None):
            forward()

    def host(run: Any) -> Any:
        def inside() -> None:
            with sdpa_kernel(HOST_ORDER, set_priority=True):
                run()

        return inside

    if cuda:  # before any watched run keeps its sums on the GPU
        before = peak(plain)
        results["memory_gb"] = {"plain": before, "captured": peak(in_run(plain))}
        results["memory_gb"]["no Triton"] = peak(plain_torch(in_run(plain)))
        results["memory_gb"]["more"] = round(results["memory_gb"]["captured"] - before, 3)
        print("peak memory:", results["memory_gb"])
    if "steps" in named:
        print("fastest plain kernel")
        variants = {"plain": plain, "captured": in_run(plain), "captured, no Triton": plain_torch(in_run(plain))}
        results["fastest_kernel"] = as_json(compare(variants, rounds, device))
    if "host" in named:
        print("the host's kernel order")
        variants = {"plain": host(plain), "captured": host(in_run(plain))}
        results["host_kernel"] = as_json(compare(variants, rounds, device))
    if "rows" in named:
        print("whole rows")
        results["whole_rows"] = as_json(compare({"plain": plain, "whole-row softmax": whole_row}, 2, device))
    return results


def build(device: torch.device, full: bool) -> tuple[Any, dict[str, Tensor]]:
    """A CogVideoX-5B-I2V transformer with random weights (a small one for the CPU), and one forward's arguments."""
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    torch.manual_seed(0)
    dtype = torch.bfloat16 if full else torch.float32
    heads, layers, (t, h, w), text = (48, 42, (13, 60, 90), 4096) if full else (2, 4, (5, 16, 24), 64)
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = CogVideoXTransformer3DModel(
                num_attention_heads=heads, attention_head_dim=64, in_channels=32, out_channels=16, time_embed_dim=512,
                text_embed_dim=text, num_layers=layers, sample_width=w, sample_height=h, sample_frames=(t - 1) * 4 + 1,
                use_rotary_positional_embeddings=True,
            ).eval()  # fmt: skip
    finally:
        torch.set_default_dtype(torch.float32)
    rope = get_3d_rotary_pos_embed(64, ((0, 0), (h // 2, w // 2)), (h // 2, w // 2), t, device=device)
    return model, {
        "hidden_states": torch.randn(1, t, 32, h, w, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, 226, text, device=device, dtype=dtype),
        "timestep": torch.tensor([500], device=device),
        "image_rotary_emb": rope,
    }


def words() -> PromptBinding:
    """Ten phrases of two tokens; three are instances."""
    phrases = []
    for i in range(10):
        role = "instance" if i < 3 else "word"
        phrases.append(Phrase(f"word {i}", f"word {i}", role, 0, 1, (2 * i + 1, 2 * i + 2)))
    return PromptBinding("ten words", 226, (), tuple(phrases), "t5")


def boxes(frames: int, height: int, width: int) -> MaskTracks:
    """Three instances, each about a ninth of the picture, moving."""
    third, last = width // 3, frames - 1
    rows = {}
    for i in range(3):
        a, b = (i * third, height // 3), (max(0, i * third - width // 12), height // 2)
        rows[f"word {i}"] = {
            0: (a[0], a[1], a[0] + third, a[1] + height // 3),
            last: (b[0], b[1], b[0] + third, b[1] + height // 3),
        }
    return MaskTracks.from_boxes(rows, frames, height, width)


def peak(run: Any) -> float:
    """Highest GPU allocation during one run, GB (10^9 bytes), after one that warms up."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 1e9, 3)


class Watching:
    """One watched sampling run whose steps are taken one at a time, with other work between them."""

    def __init__(
        self, model: Any, binding: PromptBinding, tracks: MaskTracks, steps: int, editors: Sequence[Editor] = ()
    ) -> None:
        self.model, self.editors, self.stack = model, editors, contextlib.ExitStack()
        spec, sites = backbone_of(model), sites_of(model)
        self.seen = Watch([binding], [tracks], RecorderConfig(), spec.name, sites, lambda: [0.0] * steps, ["cond"])

    def __enter__(self) -> None:
        self.stack.enter_context(attach(self.model, Session([self.seen], self.editors), self.seen.begin))

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


class WholeRows(BaseObserver):
    """The usual way: the softmax of every row in full, averaged over heads, columns taken afterwards."""

    def __init__(self, binding: PromptBinding) -> None:
        self.columns = [row for phrase in binding.phrases for row in phrase.rows]
        self.kept: list[Tensor] = []

    def wants(self, site: Any) -> bool:
        return True

    def observe(self, call: AttentionCall, lse: Tensor | None) -> None:
        assert call.video_q is not None
        first, count = call.video_q
        out = torch.zeros(count, len(self.columns), device=call.q.device)
        for head in range(call.q.shape[1]):
            for start in range(first, first + count, 4096):
                rows = call.q[0, head, start : min(start + 4096, first + count)]
                p = (rows @ call.k[0, head].T * call.scale).softmax(-1)
                out[start - first : start - first + len(p)] += p[:, self.columns]
        self.kept.append((out / call.q.shape[1]).cpu())


@contextlib.contextmanager
def without_triton() -> Iterator[None]:
    before = os.environ.get("MATRIX_TRITON")
    os.environ["MATRIX_TRITON"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MATRIX_TRITON"]
        else:
            os.environ["MATRIX_TRITON"] = before


def accuracy(device: torch.device) -> dict[str, float]:
    """Largest error of both reads over the row maximum, against float64, for each dtype and way of reading."""
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        g = torch.Generator(device).manual_seed(1)
        q, k, v = (torch.randn(1, 4, 1100, 64, device=device, generator=g).to(dtype) * 1.3 for _ in range(3))
        p = (q.double() @ k.double().transpose(-1, -2) * 0.125).softmax(-1)
        words, rows = Pool.mean_of({"a": range(5), "b": [7, 9]}), Pool.mean_of({"a": range(100, 190), "b": [150, 300]})
        for triton in (True, False):
            with contextlib.nullcontext() if triton else without_triton():
                lse = sdpa_with_lse(q, k, v, scale=0.125)[1]
                got = pooled_columns(q, k, words, 0.125, lse=lse)
                want = torch.einsum("bhnc,ce->ben", p[..., :10][..., words.indices], words.weights.to(p)) / 4
                got_rows = pooled_rows(q, k, rows, 0.125, lse=lse, keys=(200, 900))
                picked = p[:, :, rows.indices.to(device), 200:]
                want_rows = torch.einsum("bhrn,re->ben", picked, rows.weights.to(p)) / 4
            name = f"{str(dtype).removeprefix('torch.')} {'triton' if triton else 'torch'}"
            errors[f"{name} words"] = float((got - want).abs().max() / want.max())
            errors[f"{name} instances"] = float((got_rows - want_rows).abs().max() / want_rows.max())
            each = pooled_columns(q, k, words, 0.125, lse=lse, per_head=True).mean(1)
            each_row = pooled_rows(q, k, rows, 0.125, lse=lse, keys=(200, 900), per_head=True).mean(1)
            apart = max(float((each - got).abs().max()), float((each_row - got_rows).abs().max()))
            errors[f"{name} per head"] = apart / float(want_rows.max())
    return errors


LAYERS = {"cogvideox-5b": (48, 64, 226, 17550), "wan-14b": (40, 128, 512, 32760)}  # heads, head size, words, video
SMALL_LAYERS = {"mini": (4, 64, 226, 1280)}


def ways(device: torch.device, heads: int, size: int, text: int, video: int) -> dict[str, Any]:
    """Where the time of one layer goes: the kernel with and without its log-sum-exp, and the two reads, by each way
    that there is; beside that, how far each is from float64 on eight of the heads."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    random = torch.Generator(device).manual_seed(2)
    # heads inside of tokens, as models have them
    q, k, v = (
        torch.randn(1, text + video, heads, size, device=device, dtype=dtype, generator=random).transpose(1, 2)
        for _ in range(3)
    )
    scale, each = size**-0.5, video // 117
    lse = sdpa_with_lse(q, k, v)[1]
    words = Pool.mean_of({str(i): [2 * i, 2 * i + 1] for i in range(10)}).to(device)
    rows = Pool.mean_of({str(i): range(text + each * 3 * i, text + each * (3 * i + 1)) for i in range(3)}).to(device)
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def read_words(part: slice, each_head: bool = False) -> Tensor:
        given: dict[str, Any] = {"lse": lse[:, part, text:], "per_head": each_head}
        return pooled_columns(q[:, part, text:], k[:, part], words, scale, **given)

    def read_rows(part: slice, each_head: bool = False, by: Sequence[Any] = (), kernels: Any = None) -> Tensor:
        """Instances' rows, by the first of `by` that can do it."""
        given: dict[str, Any] = {"lse": lse[:, part], "keys": (text, video), "per_head": each_head}
        chosen: dict[str, Any] = dict.fromkeys(("ROWS_BY", "HEAD_ROWS_BY"), (*by, "products"))
        with patch.multiple(pooled_maps, **chosen, ROW_KERNELS=kernels or pooled_maps.ROW_KERNELS):
            return pooled_rows(q[:, part], k[:, part], rows, scale, **given)

    flash, efficient, cudnn = ([getattr(SDPBackend, f"{name}_ATTENTION")] for name in ("FLASH", "EFFICIENT", "CUDNN"))
    reads: dict[str, Any] = {
        "words": read_words,
        "words, no Triton": lambda part: _plain(read_words, part),
        "words, every head": lambda part: read_words(part, True),
        "instances: Triton": lambda part: read_rows(part, by=["triton"]),
        "instances: flash kernel": lambda part: read_rows(part, by=["kernel"], kernels=flash),
        "instances: efficient kernel": lambda part: read_rows(part, by=["kernel"], kernels=efficient),
        "instances: cuDNN's kernel": lambda part: read_rows(part, by=["kernel"], kernels=cudnn),
        "instances: products": read_rows,
        "instances, every head: Triton": lambda part: read_rows(part, True, ["triton"]),
        "instances, every head: kernel": lambda part: read_rows(part, True, ["kernel"]),
        "instances, every head: cuDNN's": lambda part: read_rows(part, True, ["kernel"], cudnn),
    }
    variants = {"sdpa": lambda _: sdpa(q, k, v), "sdpa with lse": lambda _: sdpa_with_lse(q, k, v)} | reads
    times = 20 if device.type == "cuda" else 3
    whole = slice(None)
    repeated = {name: (lambda call=call: [call(whole) for _ in range(times)]) for name, call in variants.items()}
    print(f"one layer of {text} words and {video} tokens, {len(rows.indices)} rows, {times} times")
    eight, off = slice(0, 8), {}
    with torch.inference_mode():
        wanted = _explicit(q, k, words, rows, lse, scale, text)
        for name, read in reads.items():
            want, got = wanted[name.replace(":", ",").split(",")[0]], read(eight)
            got = got.mean(1) if got.ndim > want.ndim else got
            off[name] = float(f"{float((got - want).abs().max() / want.max()):.2g}")
        print("apart from float64, over the largest value:", off)
        return {f"x{times}": as_json(compare(repeated, 3, device)), "off": off}


def _plain(call: Any, *given: Any) -> Any:
    with without_triton():
        return call(*given)


def _explicit(q: Tensor, k: Tensor, words: Pool, rows: Pool, lse: Tensor, scale: float, text: int) -> dict[str, Tensor]:
    """Both maps of the first eight heads in float64."""
    found: dict[str, Any] = {"words": 0.0, "instances": 0.0}
    for head in range(min(8, q.shape[1])):
        left, right = q[:, head].double(), k[:, head].double()
        p = (left[:, text:] @ right[:, words.indices].mT * scale - lse[:, head, text:, None].double()).exp()
        found["words"] += (p @ words.weights.double()).mT
        p = (left[:, rows.indices] @ right[:, text:].mT * scale - lse[:, head, rows.indices, None].double()).exp()
        found["instances"] += rows.weights.double().mT @ p
    return {name: total / min(8, q.shape[1]) for name, total in found.items()}
