"""One sampling run: what is known when it starts, and what it carries while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...backbones import BackboneSpec
from ...core.grid import Grid
from ...core.guidance.part import RunPart
from ...core.sites import AttentionSite
from ...core.tracks.tracks import MaskTracks
from ...core.words.binding import PromptBinding
from ...instrument.session import Session
from .clip_latent import ClipLatent

__all__ = [
    "BINDING",
    "CLIP_LATENT",
    "ENCODED",
    "FRONT_FRAMES",
    "GRADIENT_KEY",
    "KEY",
    "PERTURBED_KEY",
    "PREFIX_FRAMES",
    "STEERED",
    "TRACKS",
    "Prompt",
    "Run",
    "RunInfo",
    "step_of",
    "unwatched",
]

KEY = "matrix"
STEERED = "matrix_steered"  # in transformer_options: the guidance that a MODEL has
BINDING = "matrix_binding"  # keys that a conditioning carries
TRACKS = "matrix_tracks"
ENCODED = "matrix_encoded"  # what `prompts.mark_of` says of the rows as they were encoded
PERTURBED_KEY = "matrix_perturbed"  # in transformer_options: an extra prediction, and whose
PREFIX_FRAMES = (
    "matrix_lead_frames"  # in transformer_options: latent frames that fill the first temporal patch of a clip
)
CLIP_LATENT = "matrix_clip_latent"  # in transformer_options: where the clip lies in the sampler's latent
FRONT_FRAMES = "matrix_front_frames"  # in transformer_options: latent frames of references in front of the clip
GRADIENT_KEY = "matrix_gradient"  # in transformer_options: gradients are wanted; the value: checkpointed


class Prompt(NamedTuple):
    """One conditioning that is watched and steered: its place among them, the words and tracks that it carries."""

    ordinal: int
    binding: PromptBinding | None
    tracks: MaskTracks | None


@dataclass
class Clock:
    """done: how many of a run's steps the sampler has finished."""

    done: int = 0


@dataclass(frozen=True)
class RunInfo:
    """What is known when a sampling run starts. `sigmas`: noise level of each step; `samples`: latents in the batch;
    `prompts`: positive conditionings; `given`: the words and tracks that each of them carries; `latent_in`: from a
    LATENT to what the model sees; `channels`: of a latent; `latent`: where the clip lies in the sampler's latent;
    `front_frames`: latent frames of references in front of the clip, which `grid` does not count; `part`: of which
    schedule it is which part; `notes`: what people should know of the words that it was given; `clock`: where it is."""

    spec: BackboneSpec
    sites: tuple[AttentionSite, ...]
    grid: Grid
    sigmas: tuple[float, ...]
    samples: int
    prompts: int
    given: tuple[tuple[PromptBinding | None, MaskTracks | None], ...]
    latent_in: Callable[[Tensor], Tensor]
    channels: int
    part: RunPart
    latent: ClipLatent
    front_frames: int = 0
    notes: tuple[str, ...] = ()
    clock: Clock = field(default_factory=Clock)

    @property
    def shared_tracks(self) -> MaskTracks | None:
        """The tracks that all positives that carry any agree on, which are the unconditional prediction's, too; else
        None."""
        tracks = [tracks for _, tracks in self.given if tracks is not None]
        return tracks[0] if tracks and all(each == tracks[0] for each in tracks) else None


@dataclass
class Run:
    """State of one sampling run. prompts: by the host's id of each conditioning. text_rows: of each conditioning, how
    many rows it has; the host repeats them to batch it with a longer one."""

    info: RunInfo
    session: Session
    modules: list[tuple[nn.Module, AttentionSite]]
    prompts: Mapping[Any, Prompt]
    text_rows: Mapping[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shared_tracks = self.info.shared_tracks


def step_of(info: RunInfo, sigma: float) -> int:
    """The step whose noise level is nearest to `sigma`; of several with the same the first that is not done."""
    level = min(info.sigmas, key=lambda each: abs(each - sigma))
    same = [step for step, each in enumerate(info.sigmas) if each == level]
    return next((step for step in same if step >= info.clock.done), same[-1])


def unwatched(options: dict[str, Any]) -> dict[str, Any]:
    """Model options of predictions that nobody captures, though they are steered as all others."""
    inner = options.get("transformer_options", {})
    return {**options, "transformer_options": {**inner, PERTURBED_KEY: inner.get(PERTURBED_KEY, "unwatched")}}
