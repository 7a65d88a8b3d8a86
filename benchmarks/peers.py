"""Beside what others do in diffusers, on the same model, machine and run: one step of CogVideoX-2B and of Wan2.1-1.3B.

Capture: the package attention-map-diffusers, where it is installed, at every layer, for the same words and the same
query tokens of the same instances. What it computes is the mean over heads of a softmax over whole rows, while the
attention runs (`exact`), or afterwards from q and k that it keeps (`fast`). What each holds is counted: bytes for each
step, and how many steps its own limit leaves room for.

Steering: regional prompting by a dense mask in every attention, as it is usually done, and words in time by the
penalty of Prompt Relay as a dense mask. Both masks hold the very biases of our edits: the outputs have to agree.

`MATRIX_PEERS` names shapes (`cogvideox-2b wan-1.3b`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from matrix_lib.core.attention.regions import RegionLayout
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.base import EditsAttention
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.timed_words import TimedWords
from matrix_lib.core.sites import BatchRow
from matrix_lib.hosts.diffusers.attach import Forward, attach
from matrix_lib.instrument.attention_guidance import AttentionGuidance
from matrix_lib.instrument.session import Session

from .capture import Watching, boxes, words
from .timing import as_json, compare

__all__ = ["run"]

Save = Callable[[dict[str, Any]], None]
PEER = "attention-map-diffusers"
LIMIT = 8 * 1024**3  # bytes that it keeps unless it is told otherwise


def run(rounds: int, save: Save) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no GPU: small models on the CPU; these figures say nothing about a GPU")
    found: dict[str, Any] = {}
    for name in os.environ.get("MATRIX_PEERS", " ".join(SHAPES)).split():
        if name not in SHAPES:
            raise ValueError(f"MATRIX_PEERS names {name!r}; there are {', '.join(SHAPES)}")
        one = Bench(name, device)
        print(f"{name}: {one.layers} layers, {one.grid.size} tokens", flush=True)
        found[name] = {"layers": one.layers, "tokens": one.grid.size}
        for part in (captures, steers):
            found[name] |= part(one, rounds)
            save(found)
    return found


class Bench:
    """A model, a step of it, and what its prompt says."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.device, cuda = device, device.type == "cuda"
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
        try:
            with device:
                self.model, self.inputs, (t, h, w) = SHAPES[name](cuda)
        finally:
            torch.set_default_dtype(torch.float32)
        self.model.eval()
        self.layers = int(self.model.config.num_layers)
        self.grid = Grid.from_latent((t, h, w))
        pixels = (t - 1) * 4 + 1, h * 8, w * 8
        half = pixels[0] / 2
        said = words()
        timed = [
            replace(e, time=((0.0, half), (half, None))[i % 2]) if i > 2 else e for i, e in enumerate(said.phrases)
        ]
        rows = self.inputs["encoder_hidden_states"].shape[1]
        self.binding, self.tracks = replace(said, length=rows, phrases=tuple(timed)), boxes(*pixels)
        self.row = BatchRow("cond", 0, self.binding, self.tracks)
        self.at = iter(range(100_000, 0, -1))

    def plain(self) -> Tensor:
        """One step: each has a timestep of its own."""
        with torch.inference_mode():
            at = torch.full_like(self.inputs["timestep"], next(self.at) % 1000)
            return self.model(**{**self.inputs, "timestep": at}, return_dict=False)[0]

    def under(self, guidance: EditsAttention) -> Callable[[], Tensor]:
        """A step that is steered in every layer."""
        editor = AttentionGuidance(guidance, self.grid, 1)

        def begin(forward: Forward) -> None:
            forward.rows = (self.row,)

        def step() -> Tensor:
            with attach(self.model, Session(editors=[editor]), begin):
                return self.plain()

        return step


def captures(one: Bench, rounds: int) -> dict[str, Any]:
    """Every layer's maps: a plain step, one that is captured, and the package's two modes; what each of them holds."""
    watching = Watching(one.model, one.binding, one.tracks, rounds + 3)

    def captured() -> None:
        with watching:
            one.plain()

    captured()
    holds: dict[str, Any] = {}
    variants: dict[str, Callable[[], Any]] = {"plain": one.plain, "captured": captured}
    try:
        import attention_map_diffusers as peer
    except ImportError:
        print(f"{PEER} is not installed: pip install attention-map-diffusers==1.0.0")
        missing = {"missing": PEER}
    else:
        missing = {"version": peer.__version__, **_peer(peer, one, variants, holds)}
    figures = compare(variants, rounds, one.device)
    made = watching.seen.capture()
    steps = len(made.steps)
    holds["captured"] = {"gb_a_step": made.nbytes / steps / 1e9, "relations": sorted(made.streams[0].maps)}
    print("held:", holds, flush=True)
    return {"capture": as_json(figures), "holds": holds, **missing}


def _peer(peer: Any, one: Bench, variants: dict[str, Any], holds: dict[str, Any]) -> dict[str, Any]:
    """Adds what the package can do to `variants`, and what it holds; why it refuses the rest."""
    on_grid = one.tracks.to_grid(one.grid, "nearest")
    rows = torch.unique(torch.cat([on_grid.query(name) for name in on_grid.names])).tolist()
    columns = sorted({row for phrase in one.binding.phrases for row in phrase.rows})
    pipe = SimpleNamespace(transformer=one.model, components={"transformer": one.model}, tokenizer=None, config={})
    asked: dict[str, Any] = {
        "relations": ["video->text", "video->video"], "timesteps": "all", "heads": "mean", "offload": "cpu",
        "relation_key_indices": {"video->text": columns}, "relation_query_indices": {"video->video": rows},
        "allow_large_maps": True,
    }  # fmt: skip

    def theirs(mode: str, **more: Any) -> Any:
        with peer.AttentionCapture(pipe, mode=mode, **asked, **more) as capture:
            one.plain()
        capture.compute(compute_device=one.device)
        return capture

    refused = {}
    for mode in ("exact", "fast"):
        name = f"{PEER}, {mode}"
        try:
            kept = theirs(mode, max_capture_bytes=None).collector.peak_capture_bytes
            holds[name] = {"gb_a_step": kept / 1e9, "steps_within_its_limit": LIMIT // kept, "limit_gb": LIMIT / 1e9}
            variants[name] = lambda mode=mode: theirs(mode, max_capture_bytes=None)
        except (ValueError, RuntimeError, MemoryError) as error:
            refused[mode] = str(error)[:300]
            print(f"{name}: {refused[mode]}")
    return {"words": len(columns), "rows": len(rows), "refused": refused}


def steers(one: Bench, rounds: int) -> dict[str, Any]:
    """Region bias and words in time, and both as dense masks of the same numbers."""
    ways = {"region bias": RegionBias(), "timed words": TimedWords(fade=4.0, fps=1.0)}
    variants: dict[str, Callable[[], Any]] = {"plain": one.plain}
    sizes: dict[str, float] = {}
    for name, guidance in ways.items():
        step = one.under(guidance)
        masks = _masks(guidance, step, one)
        sizes[name] = sum(mask.nbytes for mask in masks.values()) / 1e9
        variants |= {name: step, f"{name}, dense mask": lambda masks=masks: _dense(one, masks)}
    apart = {name: _apart(one, variants[name], variants[f"{name}, dense mask"]) for name in ways}
    print("apart from the dense mask:", apart, "GB of masks:", sizes, flush=True)
    return {"steering": as_json(compare(variants, rounds, one.device)), "apart": apart, "mask_gb": sizes}


def _masks(guidance: EditsAttention, step: Callable[[], Any], one: Bench) -> dict[tuple[int, int], Tensor]:
    """{(queries, keys) of an attention: (queries, keys) logits} of what a step is steered by."""
    layouts: dict[tuple[int, int], RegionLayout] = {}
    kind, edit = type(guidance), type(guidance).edit

    def noted(self: Any, scene: Any, spans: Any, *given: Any) -> Any:
        made = edit(self, scene, spans, *given)
        if made is not None and made.layout is not None:
            layouts[len(made.layout.query), len(made.layout.key)] = made.layout
        return made

    with patch.object(kind, "edit", noted):
        step()
    dtype = torch.bfloat16 if one.device.type == "cuda" else torch.float32
    masks = {}
    for key, made in layouts.items():
        bias, rows, columns = (part.to(one.device) for part in (made.bias.to(dtype), made.query, made.key))
        masks[key] = bias[rows][:, columns]
    if not masks:
        raise RuntimeError(f"{kind.__name__} edits no attention of this model")
    return masks


@contextlib.contextmanager
def _masked(masks: dict[tuple[int, int], Tensor]) -> Iterator[None]:
    """While open, every attention of these sizes takes its mask."""
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **given: Any) -> Tensor:
        mask = masks.get((query.shape[-2], key.shape[-2]), attn_mask)
        return sdpa(query, key, value, attn_mask=mask, **given)

    with patch("torch.nn.functional.scaled_dot_product_attention", attention):
        yield


def _dense(one: Bench, masks: dict[tuple[int, int], Tensor]) -> Tensor:
    with _masked(masks):
        return one.plain()


def _apart(one: Bench, ours: Callable[[], Tensor], dense: Callable[[], Tensor]) -> dict[str, float]:
    """The largest difference of a step's output, over the largest value; and that of a plain step beside it."""
    outs = []
    for step in (ours, dense, one.plain):
        one.at = iter([500, *range(100_000, 0, -1)])
        outs.append(step().float())
    mine, theirs, plain = outs
    largest = float(theirs.abs().max())
    off = {"ours": mine, "plain": plain}
    return {name: float(f"{float((each - theirs).abs().max()) / largest:.2g}") for name, each in off.items()}


def cogvideox(full: bool) -> tuple[Any, dict[str, Any], tuple[int, int, int]]:
    """CogVideoX-2B, 49 frames of 480x720."""
    from diffusers import CogVideoXTransformer3DModel

    heads, layers, (t, h, w), width = (30, 30, (13, 60, 90), 4096) if full else (2, 3, (3, 16, 24), 64)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=64, in_channels=16, out_channels=16, time_embed_dim=512,
        text_embed_dim=width, num_layers=layers, sample_width=w, sample_height=h, sample_frames=(t - 1) * 4 + 1,
    )  # fmt: skip
    return model, _inputs(torch.randn(1, t, 16, h, w), torch.randn(1, 226, width)), (t, h, w)


def wan(full: bool) -> tuple[Any, dict[str, Any], tuple[int, int, int]]:
    """Wan2.1-T2V-1.3B, 81 frames of 480x832."""
    from diffusers import WanTransformer3DModel

    (t, h, w), width = ((21, 60, 104), 4096) if full else ((3, 16, 24), 64)
    sizes = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
    small = {"num_attention_heads": 2, "num_layers": 3, "ffn_dim": 64, "freq_dim": 32, "attention_head_dim": 32}
    model = WanTransformer3DModel(text_dim=width, **(sizes if full else small))
    return model, _inputs(torch.randn(1, 16, t, h, w), torch.randn(1, 512, width)), (t, h, w)


def _inputs(hidden: Tensor, text: Tensor) -> dict[str, Any]:
    return {"hidden_states": hidden, "encoder_hidden_states": text, "timestep": torch.tensor([500])}


SHAPES = {"cogvideox-2b": cogvideox, "wan-1.3b": wan}
