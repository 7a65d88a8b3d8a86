"""Side-by-side timing: variants run in turn, every round, so that a drifting clock touches all of them alike."""

from __future__ import annotations

import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

__all__ = ["Figure", "against", "as_json", "compare", "kernel_times", "manifest", "show"]


@dataclass(frozen=True)
class Figure:
    """One variant. `ms`: median; `low`, `high`: range over the rounds; `ratio`: median over rounds of time / baseline
    of the same round; `peak_gb`: highest allocation during one run, what the other variants hold included; `series`:
    milliseconds of each round."""

    name: str
    ms: float
    low: float
    high: float
    ratio: float
    peak_gb: float
    series: tuple[float, ...] = ()


def compare(
    variants: dict[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    seconds: float = math.inf,
    seen: Callable[[list[Figure]], None] | None = None,
) -> list[Figure]:
    """Times every variant `rounds` times in turn after a warm-up; the first one is the baseline.

    Args:
        variants: one that returns a float has timed itself, in milliseconds.
        seconds: no round is begun, after the first one, that would end later than this.
        seen: told the figures so far after every round.
    """
    began = time.perf_counter()
    cuda = device.type == "cuda"
    times: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, float] = {}
    figures: list[Figure] = []
    for turn in range(rounds + 1):
        each = (time.perf_counter() - began) / max(turn, 1)
        if turn > 1 and each * (turn + 1) > seconds:
            break
        for name, run in variants.items():
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            own = run()
            if cuda:
                torch.cuda.synchronize()
            if turn:
                times[name].append(own if isinstance(own, float) else (time.perf_counter() - start) * 1e3)
                peaks[name] = max(peaks.get(name, 0.0), torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0)
        if turn:
            figures = [
                _figure(name, series, times[next(iter(variants))], peaks[name]) for name, series in times.items()
            ]
            if seen is not None:
                seen(figures)
    show(figures)
    return figures


def _figure(name: str, series: list[float], first: list[float], peak: float) -> Figure:
    ratio = statistics.median(a / b for a, b in zip(series, first))
    return Figure(name, statistics.median(series), min(series), max(series), ratio, peak, tuple(series))


def show(figures: list[Figure]) -> None:
    width = max(len(f.name) for f in figures)
    print(f"{'':{width}}  {'median ms':>10} {'range':>19} {'ratio':>7} {'peak GB':>8}")
    for f in figures:
        span = f"{f.low:.1f} .. {f.high:.1f}"
        print(f"{f.name:{width}}  {f.ms:10.1f} {span:>19} {f.ratio:7.3f} {f.peak_gb:8.2f}", flush=True)


def kernel_times(run: Callable[[], Any], most: int = 20) -> dict[str, float]:
    """Milliseconds that each kernel takes in one run, the longest ones, after a run that warms up; GPU alone."""
    from torch.profiler import ProfilerActivity, profile

    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    for event in seen.key_averages():
        times[event.key[:100]] = times.get(event.key[:100], 0.0) + event.self_device_time_total / 1e3
    longest = sorted(times, key=lambda name: -times[name])[:most]
    return {"all": round(sum(times.values()), 3)} | {name: round(times[name], 3) for name in longest}


def against(figures: list[Figure], name: str, other: str) -> dict[str, float]:
    """One variant against another that is not the baseline: median and range of the ratios of equal rounds."""
    series = {figure.name: figure.series for figure in figures}
    ratios = [a / b for a, b in zip(series[name], series[other], strict=True)]
    found = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {key: round(value, 4) for key, value in found.items()}


def as_json(figures: list[Figure]) -> list[dict[str, Any]]:
    return [{k: _rounded(v) for k, v in asdict(f).items()} for f in figures]


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(each, 3) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def manifest(command: list[str]) -> dict[str, Any]:
    """What a reader needs to make the figures again."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    cuda = torch.cuda.is_available()
    return {
        "command": "python -m benchmarks " + " ".join(command[1:]),
        "commit": commit,
        "machine": torch.cuda.get_device_name() if cuda else f"CPU {platform.machine()}",
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "seed": 0,
    }
