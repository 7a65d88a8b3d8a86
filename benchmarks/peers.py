"""Capture beside the package attention-map-diffusers, which has to be installed: one step of the same model each.

Both look at every layer, at the same words and at the same query tokens of the same instances. What the other package
computes is the mean over heads of a softmax over whole rows, while the attention runs (its mode `exact`), or afterwards
from q and k that it keeps (`fast`), as far as its own limit of memory allows; it is told of either by name.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from matrix_lib.core.grid import Grid

from .capture import Watching, boxes, build, words
from .timing import as_json, compare

__all__ = ["run"]


def run(rounds: int) -> dict[str, Any]:
    try:
        import attention_map_diffusers as peer
    except ImportError:
        print("compares with a package that is not installed: pip install attention-map-diffusers")
        return {"missing": "attention-map-diffusers"}
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no GPU: a small model on the CPU; these figures say nothing about a GPU")
    model, args = build(device, full=cuda)
    latent = args["hidden_states"].shape
    tracks, binding = boxes((latent[1] - 1) * 4 + 1, latent[3] * 8, latent[4] * 8), words()
    at = iter(range(100_000, 0, -1))

    def plain() -> None:
        with torch.inference_mode():
            model(**{**args, "timestep": torch.full_like(args["timestep"], next(at))})

    seen = Watching(model, binding, tracks, rounds + 3)

    def captured() -> None:
        with seen:
            plain()

    plain()
    captured()
    grid = Grid.from_latent((latent[1], latent[3], latent[4]))
    on_grid = tracks.to_grid(grid, "nearest")
    rows = torch.unique(torch.cat([on_grid.query(name) for name in on_grid.names])).tolist()
    columns = sorted({row for phrase in binding.phrases for row in phrase.rows})
    pipe = SimpleNamespace(transformer=model, components={"transformer": model}, tokenizer=None, config={})
    asked: dict[str, Any] = {
        "relations": ["video->text", "video->video"], "timesteps": "all", "heads": "mean", "offload": "cpu",
        "relation_key_indices": {"video->text": columns}, "relation_query_indices": {"video->video": rows},
        "allow_large_maps": True,
    }  # fmt: skip

    def theirs(mode: str) -> Callable[[], None]:
        def step() -> None:
            with peer.AttentionCapture(pipe, mode=mode, **asked) as capture:
                plain()
            capture.compute(compute_device=device)

        return step

    variants, refused = {"plain": plain, "captured": captured}, {}
    for mode in ("exact", "fast"):
        try:
            theirs(mode)()
        except (ValueError, RuntimeError, MemoryError) as error:
            refused[mode] = str(error)[:300]
            print(f"attention-map-diffusers, {mode}: {refused[mode]}")
        else:
            variants[f"attention-map-diffusers, {mode}"] = theirs(mode)
    figures = compare(variants, rounds, device)
    return {
        "version": peer.__version__, "layers": len(model.transformer_blocks), "words": len(columns), "rows": len(rows),
        "refused": refused, "one_step": as_json(figures),
    }  # fmt: skip
