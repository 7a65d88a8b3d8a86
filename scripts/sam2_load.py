"""Clips through SAM 2 with random weights: clips a second, memory, and what a clip costs.

python -m scripts.sam2_load [--clips 20] [--size t|s|b+|l] [--device cuda] [--price 2.5] [--tiny]

Weights are random and of the released size, so the work is that of a real run; what is found means nothing. Frames are
noise in memory: no video file is read. Needs the `sam2` package (pure Python) with hydra, omegaconf and iopath; the
price is of one hour of the machine. Several GPUs: `accelerate launch --num_processes N -m scripts.sam2_load ...`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from matrix_lib.core.tracks.text import Prompt
from matrix_lib.io.sam2 import track_prompts
from matrix_lib.io.sam2_checkpoints import load_sam2
from training.run.shares import Shares

__all__ = ["main", "random_weights"]

_CONFIGS = {"t": "sam2.1_hiera_t", "s": "sam2.1_hiera_s", "b+": "sam2.1_hiera_b+", "l": "sam2.1_hiera_l"}


def random_weights(folder: Path, size: str) -> Path:
    """A checkpoint of a released size with random weights that believe that something is there."""
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(sam2.__path__[0], f"configs/sam2.1/{_CONFIGS[size]}.yaml"))
    torch.manual_seed(0)
    weights = instantiate(config.model, _recursive_=True).state_dict()
    weights["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 20
    for i in range(4):
        bias = weights[f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias"]
        bias.copy_(torch.linspace(-2, 2, len(bias)))
    torch.save({"model": weights}, folder / f"{_CONFIGS[size]}.pt")
    return folder / f"{_CONFIGS[size]}.pt"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.sam2_load", description=__doc__.splitlines()[0])
    for name, default in (("clips", 20), ("frames", 49), ("height", 480), ("width", 720), ("instances", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", choices=tuple(_CONFIGS), default="l", help="the released size (default: l)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--price", type=float, default=0.0, help="of an hour of this machine, in any currency")
    parser.add_argument("--checkpoint", type=Path, help="weights of one's own instead of random ones")
    given = parser.parse_args()
    shares = Shares(gpu=given.device.startswith("cuda"))
    device = shares.device(given.device)
    with tempfile.TemporaryDirectory(prefix="matrix-sam2-load-") as place:
        path = given.checkpoint or random_weights(Path(place), given.size)
        predictor = load_sam2(path, device)
    seconds, found = [], 0
    for number in shares.of(range(given.clips)):
        chance = np.random.default_rng(number)
        start = time.monotonic()
        tracks, _ = track_prompts(predictor, _frames(given, chance), _prompts(given, chance))
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
        found += len(tracks.names)
        print(f"clip {number}: {seconds[-1]:.2f} s", flush=True)
    shares.meet()
    _tell(given, device, seconds, found, shares)
    shares.end()


def _frames(given: argparse.Namespace, chance: np.random.Generator) -> list[np.ndarray]:
    size = (given.height // 16 + 1, given.width // 16 + 1, 3)
    frames = []
    for _ in range(given.frames):
        coarse = chance.integers(0, 256, size, dtype=np.uint8)
        frames.append(coarse.repeat(16, 0).repeat(16, 1)[: given.height, : given.width])
    return frames


def _prompts(given: argparse.Namespace, chance: np.random.Generator) -> dict[str, dict[int, Prompt | None]]:
    """A box for each instance in frame 0."""
    found: dict[str, dict[int, Prompt | None]] = {}
    for place in range(given.instances):
        x, y = (int(chance.integers(0, side // 2)) for side in (given.width, given.height))
        mask = np.zeros((given.height, given.width), dtype=bool)
        mask[y : y + given.height // 4, x : x + given.width // 4] = True
        found[f"id{place + 1}"] = {0: Prompt(mask=mask)}
    return found


def _tell(given: argparse.Namespace, device: str, seconds: list[float], found: int, shares: Shares) -> None:
    later = seconds[1:] or seconds  # the first clip chooses kernels
    mean = sum(later) / len(later)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else 0.0
    print(
        json.dumps(
            {
                "process": shares.place,
                "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
                "size": given.size,
                "clips": len(seconds),
                "of": f"{given.frames}x{given.height}x{given.width}, {given.instances} instances",
                "tracks": found,
                "seconds_per_clip": round(mean, 3),
                "clips_per_second": round(shares.count / mean, 3),
                "gpu_gib": round(memory, 2),
                "cost_per_clip": round(given.price * mean / 3600 / shares.count, 6),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
