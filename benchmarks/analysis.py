"""What an analysis costs: alignment scores of every layer, head and step of a CogVideoX-5B-I2V-shaped run, streamed.

Beside the plain forward, and beside the capture of maps (heads averaged). Stored maps of every head would be the other
way; their size is worked out, not tried.
"""

from __future__ import annotations

from typing import Any

import torch

from matrix_lib.hosts.diffusers.attach import Watch, backbone_of, sites_of
from matrix_lib.instrument.recorder import RecorderConfig
from matrix_lib.instrument.scores import AlignmentRecorder

from .capture import Watching, boxes, build, peak, words
from .timing import as_json, compare

__all__ = ["run"]

STEPS = 50


class Scoring(Watching):
    """A watched run that keeps scores only."""

    def __init__(self, model: Any, steps: int) -> None:
        binding, tracks = words(), boxes(*_pixels(model))
        super().__init__(model, binding, tracks, steps)
        spec, sites = backbone_of(model), sites_of(model)
        config = RecorderConfig()
        self.seen = Watch(
            [binding], [tracks], config, spec.name, sites, lambda: [0.0] * steps, ["cond"], AlignmentRecorder
        )


def run(rounds: int) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no GPU: a small model on the CPU; these figures say nothing about a GPU")
    model, args = build(device, full=cuda)
    at = iter(range(100_000, 0, -1))

    def forward() -> None:
        """One step, with a timestep of its own."""
        with torch.inference_mode():
            model(**{**args, "timestep": torch.full_like(args["timestep"], next(at))})

    def inside(watching: Watching) -> Any:
        def one() -> None:
            with watching:
                forward()

        return one

    steps = rounds + 3
    scoring = Scoring(model, steps)
    mapping = Watching(model, words(), boxes(*_pixels(model)), steps)
    results: dict[str, Any] = {"layers": len(model.transformer_blocks), "stored": stored(model, args)}
    if cuda:  # before any watched run keeps its sums on the GPU
        before, scored = peak(forward), peak(inside(Scoring(model, 2)))
        results["memory_gb"] = {"plain": before, "scored": scored, "more": round(scored - before, 3)}
        print("peak memory:", results["memory_gb"])
    variants = {"plain": forward, "scores of every head": inside(scoring), "maps, heads averaged": inside(mapping)}
    results["one_step"] = as_json(compare(variants, rounds, device))
    recorder = scoring.seen.recorder
    assert isinstance(recorder, AlignmentRecorder)
    found = next(iter(recorder.alignments().values()))
    results["kept_mb"] = round(sum(a.raw.nbytes + a.mass.nbytes for a in found) / 1e6 * STEPS / steps, 2)
    print(f"{STEPS} steps keep {results['kept_mb']} MB of scores; stored maps would take {results['stored']}")
    return results


def stored(model: Any, args: dict[str, Any]) -> dict[str, float]:
    """Terabytes (10^12 bytes, float16) of maps for 50 steps: of ten words and three instances for every head, and of
    the whole attention matrix that one would otherwise compute them from."""
    config, latent = model.config, args["hidden_states"].shape
    frames, height, width = latent[1], latent[3] // config.patch_size, latent[4] // config.patch_size
    video, text = frames * height * width, args["encoder_hidden_states"].shape[1]
    each = config.num_layers * config.num_attention_heads * STEPS * 2
    return {
        "maps_tb": float(f"{each * 13 * video / 1e12:.3g}"),
        "matrices_tb": float(f"{each * (video + text) ** 2 / 1e12:.3g}"),
    }


def _pixels(model: Any) -> tuple[int, int, int]:
    config = model.config
    return config.sample_frames, config.sample_height * 8, config.sample_width * 8
