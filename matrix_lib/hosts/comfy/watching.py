"""Records the runs of a MODEL under whatever sampler takes it, and hands out their captures afterwards.

A run is known by what it made: the latent's content. A graph's nodes are cached, each by itself, so that a handle would
tell nothing about which run a LATENT came from; its content does. A run that went on from what another one left
unfinished (two KSamplerAdvanced, Wan 2.2's two experts) is found the same way: its input is the other's output.
"""

from __future__ import annotations

import hashlib
import uuid
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...instrument.capture import Capture
from ...instrument.joining import extend
from ...instrument.recorder import Recorder, RecorderConfig
from ...instrument.session import Session
from .attach import attach
from .clip_latent import ClipLatent, clip_shape, first_latent, packed_shapes
from .run import KEY, RunInfo

__all__ = ["RUNS", "Keeper", "Runs", "Watch", "WatchedRun", "latent_id", "model_token", "recorder_of"]

Live = Callable[[Recorder], None]
"""Shows what a recorder has so far."""

_MOST_RUNS, _MOST_BYTES, _MOST_FORGOTTEN = 32, 4_000_000_000, 4096


def latent_id(samples: Tensor) -> str:
    """Names a latent by its content: shape, type and every bit."""
    data = samples.detach().cpu().contiguous()
    found = hashlib.sha256(f"{data.dtype} {tuple(data.shape)}".encode())
    found.update(data.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


_TOKENS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def model_token(model: Any) -> str:
    """What `StepInfo.model` says of a MODEL without a name: the same for all clones of one model, another for every
    other."""
    return _TOKENS.setdefault(model.model, f"#{uuid.uuid4().hex[:12]}")


def recorder_of(
    config: RecorderConfig,
    info: RunInfo,
    model: str,
    sink: Callable[[int, Capture], None] | None = None,
    live: Live | None = None,
) -> Recorder:
    """A recorder of one run. sink: is given the bins as they are done; live: is told then, too."""

    def done(first: int, part: Capture) -> None:
        if sink is not None:
            sink(first, part)
        if live is not None:
            live(recorder)

    streams = info.samples * info.prompts
    told = done if live is not None else sink
    recorder = Recorder(config, info.spec.name, info.sites, info.grid, info.sigmas, streams, model, told)
    for text in info.notes:
        recorder.note(text)
    recorder.beside = len(recorder.notes)
    return recorder


@dataclass
class WatchedRun:
    """One run that has ended: what went in, what came out, and what was recorded (or why nothing was). clip: what came
    out without references in front and guides behind, as nodes cut them off; `end` where there are none."""

    watch: tuple[Any, ...]
    start: str
    end: str
    last_sigma: float
    capture: Capture | None
    reason: str = ""
    clip: str = ""

    @property
    def names(self) -> tuple[str, str]:
        """Of the latents that it is found by."""
        return self.end, self.clip or self.end

    @property
    def nbytes(self) -> int:
        return 0 if self.capture is None else self.capture.nbytes


class Runs:
    """The runs that have ended, the newest last; the oldest are forgotten where they would take more than their share.

    Args:
        most, most_bytes: runs, and bytes of their maps. The newest run stays whatever it takes.
    """

    def __init__(self, most: int = _MOST_RUNS, most_bytes: int = _MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._runs: OrderedDict[tuple[Any, ...], WatchedRun] = OrderedDict()
        self._forgotten: deque[str] = deque(maxlen=_MOST_FORGOTTEN)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in self._runs.values())

    def clear(self) -> None:
        """Forgets everything."""
        self._runs.clear()
        self._forgotten.clear()

    def add(self, run: WatchedRun) -> None:
        """Keeps a run; one of the same watch with the same start and end takes the place of the older one."""
        key = (run.watch, run.start, run.end)
        self._runs.pop(key, None)
        self._runs[key] = run
        while len(self._runs) > 1 and (len(self._runs) > self.most or self.nbytes > self.most_bytes):
            _, old = self._runs.popitem(last=False)
            self._forgotten.extend(dict.fromkeys(old.names))

    def capture(self, samples: Tensor, watch: tuple[Any, ...]) -> Capture:
        """The capture of the run of this watch that made a latent, with the runs that it went on from in front.

        Raises ValueError, saying what to do, where that latent came out of no run of this watch, where its run is
        forgotten, and where nothing was recorded.
        """
        name = latent_id(first_latent(samples))
        run = next((r for r in reversed(self._runs.values()) if name in r.names and r.watch == watch), None)
        if run is None:
            raise ValueError(self._why_not(name))
        chain = [run]
        while (before := self._before(chain[0])) is not None and before not in chain:
            chain.insert(0, before)
        captures = [_captured(each) for each in chain]
        return captures[0] if len(captures) == 1 else extend(*captures)

    def _before(self, run: WatchedRun) -> WatchedRun | None:
        """The run whose unfinished latent this one went on from; of several the one that was watched alike."""
        found = [r for r in self._runs.values() if r.end == run.start and r.last_sigma > 0]
        alike = [r for r in found if r.watch[:-1] == run.watch[:-1]]
        return next(iter(reversed(alike or found)), None)

    def _why_not(self, name: str) -> str:
        if any(name in run.names for run in self._runs.values()):
            return (
                "this latent was sampled, but not with the MODEL of this watch as it is now: connect the MODEL output "
                "of this MATRIX Watch Attention to the sampler, and the sampler's LATENT here"
            )
        if name in self._forgotten:
            return (
                f"the capture of this latent is not kept any more: the newest {self.most} runs are, as far as they "
                f"take less than {self.most_bytes / 1e9:.0f} GB. Sample it anew (another seed, or restart), with fewer "
                "layers or steps"
            )
        return (
            "this latent was not sampled anew since the watch was there, or something changed it behind the sampler: "
            "connect the LATENT of the sampler itself, whose MODEL comes from MATRIX Watch Attention, and change its "
            "seed if the sampler did not run again"
        )


def _captured(run: WatchedRun) -> Capture:
    if run.capture is None:
        raise ValueError(run.reason)
    return run.capture


RUNS = Runs()


class Keeper(Protocol):
    """Keeps the steps of a run while it is sampled; it is a recorder's sink."""

    def __call__(self, first: int, part: Capture) -> None:
        """The bins from `first` on are done."""

    def finish(self, capture: Capture) -> None:
        """The run has ended well, with this capture."""


@dataclass
class _Open:
    """A run that is going on. made: what went in and out, the clip alone, and the noise that was left; None until it
    ended well."""

    recorder: Recorder
    kept: Keeper | None
    info: RunInfo
    made: tuple[str, str, str, float] | None = None


@dataclass(frozen=True)
class Watch:
    """How a MODEL is watched.

    Args:
        config: what to record.
        expert: a name for this model among several of one run, or "".
        model: of `model_token`.
        keeper: makes who keeps the steps of a run while it is sampled, asked at the start of each; None: nobody.
        notes: what is known of the model beforehand, for people.
        live: makes who shows a run while it is sampled, asked at the start of each.
    """

    config: RecorderConfig
    expert: str
    model: str
    keeper: Callable[[], Keeper] | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    live: Callable[[], Live | None] | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for all watches that record the same of the same model. A node that runs again makes another object,
        but no other watch. The last part is whose steps they are."""
        return (self.config, (self.expert, self.model))

    def attach(self, model: Any) -> Any:
        """A clone of MODEL whose every sampling run is recorded, and kept in `RUNS` when it has ended well."""
        opened: list[_Open] = []

        def start(info: RunInfo) -> Session:
            kept = None if self.keeper is None else self.keeper()
            live = None if self.live is None else self.live()
            run = _Open(recorder_of(self.config, info, self.expert or self.model, kept, live), kept, info)
            opened[:] = [run]

            def done() -> None:
                if run.made is not None:
                    RUNS.add(self._ended(run, *run.made))

            return Session([run.recorder], done=done)

        def sampled(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *rest: Any, **kw: Any):
            run = opened.pop() if opened else None  # none: a sampling inside of a run
            whole = ClipLatent(clip_shape(noise, packed_shapes(rest, kw)), noise.ndim != 5)
            before = None if run is None else latent_id(whole.of(latent))
            out = executor(noise, latent, sampler, sigmas, *rest, **kw)
            if run is not None and before is not None:
                made = whole.of(out).to(dtype=comfy.model_management.intermediate_dtype())  # as the host hands it on
                front, behind = run.info.front_frames, run.info.latent.behind
                clip = latent_id(made[:, :, front : made.shape[2] - behind]) if front or behind else ""
                run.made = (before, latent_id(made), clip, float(sigmas[-1]))
            return out

        clone = attach(model, start)
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"{KEY}_watch", sampled)  # inside of the run's own
        return clone

    def _ended(self, run: _Open, start: str, end: str, clip: str, last_sigma: float) -> WatchedRun:
        try:
            capture = run.recorder.result()
        except ValueError as reason:
            return WatchedRun(self.key, start, end, last_sigma, None, str(reason), clip)
        capture.meta["notes"] = [*self.notes, *capture.meta["notes"]]
        if run.kept is not None:
            run.kept.finish(capture)
        return WatchedRun(self.key, start, end, last_sigma, capture, clip=clip)
