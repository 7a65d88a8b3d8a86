"""Judges videos of the mini world by their pixels alone: did it happen, who did it, is everybody still there.

The questions, their grouping and the formulas are InterGenEval's (MATRIX, arXiv 2510.07310, section 5), asked of exact
truth instead of a language model: six questions about the stages (KISA), four about who (SGI), and SPI for what appears
or disappears.

N clips, K instance slots, F frames, H, W pixels. Lengths in pixels on a frame whose short side is 64.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from ...mini.world import Clips
from ..statistics import Estimate, estimate
from .object_tracking import Sight, look

__all__ = ["QUESTIONS", "Tolerances", "Verdict", "breakdown", "judge", "semantic_preservation"]

QUESTIONS = (
    "before: agent and recipient stand where the first frame put them, touching or not as they should",
    "during: by the middle the agent has done its part",
    "during: by the middle the recipients have done theirs",
    "during: they touch when they should, and only then",
    "during: from the middle to the end both move on as they should",
    "after: at the end everybody named is in place, touching or not as they should",
    "the agent, and no other, plays the agent's part",
    "the recipients play theirs",
    "agent and recipient stand to each other as their roles want it",
    "everybody else stays at rest",
)
_STAGES = slice(0, 6)
_ROLES = slice(6, 10)


@dataclass(frozen=True)
class Tolerances:
    """How far off still counts as right; lengths in pixels on a frame whose short side is 64.

    ``place``: a named instance at a stage. ``path_mean``, ``path_end``: a moving instance's whole path, and its last
    position. ``rest``: how far something at rest may stray. ``part``: a part counts as played when a displacement is
    right within this share of its length, at least ``rest`` and at most ``part_most``. ``contact``: share of frames in
    which contact has to agree, each give or take one frame. ``flicker``: frames in which something may be missing or
    extra and the video still counts as intact.
    """

    place: float = 6.0
    path_mean: float = 4.0
    path_end: float = 6.0
    rest: float = 5.0
    part: float = 0.5
    part_most: float = 8.0
    contact: float = 0.85
    flicker: int = 1


@dataclass(frozen=True)
class Verdict:
    """What the judge found, one entry a clip.

    Attributes:
        questions: (N, 10) bool, the answers to ``QUESTIONS``.
        kisa_raw, sgi_raw: (N,) shares of yes among the first six and the last four. spi: (N,) in [0, 1].
        kisa, sgi: times spi. interaction_fidelity: their mean. All (N,) float.
        emergence, disappearance: (N,) share of the frames after the first with something new, something lost.
        right_path: (N,) bool, all that moves takes the right path. right_roles: (N,) bool, agent and recipients play
            their parts and nobody else moves. intact: (N,) bool, nothing lost and nothing new.
        error: (N, K) mean distance of the centres, in pixels. iou: (N, K) mean overlap of the visible masks over the
            frames in which the truth shows the instance. nan for absent slots.
        contact: (N, F) bool, agent and recipient are seen to touch. contact_share: (N,) share of the frames with
            contact in truth that have it here (nan without one). sustained_contact: (N,) seconds of the longest run.
    """

    questions: Tensor
    kisa_raw: Tensor
    sgi_raw: Tensor
    spi: Tensor
    kisa: Tensor
    sgi: Tensor
    interaction_fidelity: Tensor
    emergence: Tensor
    disappearance: Tensor
    right_path: Tensor
    right_roles: Tensor
    intact: Tensor
    error: Tensor
    iou: Tensor
    contact: Tensor
    contact_share: Tensor
    sustained_contact: Tensor

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, index: Tensor | list[int] | slice) -> Verdict:
        """The verdicts on the clips at ``index`` (slice, positions, or bool tensor)."""
        chosen = index if isinstance(index, slice) else torch.as_tensor(index)
        return Verdict(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @property
    def spi_released(self) -> Tensor:
        """(N,) SPI as MATRIX's authors released it, which nothing stops at 0: from -4 to 1."""
        return 0.5 * ((1 - 5 * self.emergence) + (1 - 5 * self.disappearance))

    @property
    def fidelity_released(self) -> Tensor:
        """(N,) interaction fidelity with that SPI."""
        return (self.kisa_raw + self.sgi_raw) / 2 * self.spi_released

    def summary(self, confidence: float = 0.95) -> dict[str, Estimate]:
        """Mean and interval of each score: Wilson's for right or wrong, the bootstrap over clips for the others."""
        scores = {
            "right_path": self.right_path,
            "right_roles": self.right_roles,
            "intact": self.intact,
            "kisa": self.kisa,
            "sgi": self.sgi,
            "spi": self.spi,
            "interaction_fidelity": self.interaction_fidelity,
            "trajectory_iou": self.iou.nanmean(dim=1),
            "contact_share": self.contact_share,
        }
        released = {"spi_released": self.spi_released, "fidelity_released": self.fidelity_released}
        return {name: estimate(value.cpu().numpy(), confidence, (0, 1)) for name, value in scores.items()} | {
            name: estimate(value.cpu().numpy(), confidence, (-4, 1)) for name, value in released.items()
        }


def semantic_preservation(emergence: Tensor, disappearance: Tensor) -> Tensor:
    """SPI = 1/2 [(1 - 5 emergence) + (1 - 5 disappearance)], each half not below 0, so that it stays a factor."""
    return ((1 - 5 * emergence).clamp_min(0) + (1 - 5 * disappearance).clamp_min(0)) / 2


def judge(video: Tensor, clips: Clips, tolerances: Tolerances | None = None, sight: Sight | None = None) -> Verdict:
    """Judges ``video`` (N, F, 3, H, W), uint8 or float in [0, 1], against the truth of ``clips``.

    ``sight`` is what `look` saw in it, where that is known already: it holds for every truth with the same first frame.

    Raises ValueError where the video's shape, type or range does not fit.
    """
    return _Bench(clips, sight or look(video, clips), tolerances or Tolerances()).verdict()


def breakdown(verdict: Verdict, clips: Clips, confidence: float = 0.95) -> dict[str, dict[str, Estimate]]:
    """Summaries by group: "clear" (words single out who is meant), "ambiguous" (only a mask could), and of the clear
    ones each verb. Groups without clips are left out."""
    doubled = clips.ambiguous.cpu()
    groups = {"clear": ~doubled, "ambiguous": doubled}
    for verb in sorted(set(clips.verb)):
        groups[verb] = ~doubled & torch.tensor([name == verb for name in clips.verb])
    device = verdict.questions.device
    return {name: verdict.select(mask.to(device)).summary(confidence) for name, mask in groups.items() if mask.any()}


class _Bench:
    """One judgement: the truth, what was seen, and the distances between them that the questions share."""

    def __init__(self, clips: Clips, sight: Sight, tolerances: Tolerances) -> None:
        self.clips, self.sight = clips, sight
        self.unit = clips.config.unit
        self.limits = tolerances
        self.truth = visible_centres(clips)
        self.off = (sight.centres - self.truth).norm(dim=-1) / self.unit  # (N, K, F)
        self.middle, self.end = clips.config.frames // 2, clips.config.frames - 1
        slots = torch.arange(clips.present.shape[1], device=clips.present.device)
        self.named = (slots < clips.parts[:, None]) & clips.present
        self.patients = self.named & (slots > 0)
        self.bystanders = clips.present & ~self.named
        self.pair = clips.parts > 1
        self.contact = self._touching(sight.masks)
        # Corners come near before the line between two centres closes: either counts as contact in truth.
        self.shown = self._touching(clips.masks)

    def _touching(self, masks: Tensor) -> Tensor:
        return touching(masks[:, 0], masks[:, 1], max(1, round(self.unit))) & self.pair[:, None]

    def _all(self, right: Tensor, who: Tensor) -> Tensor:
        """Whether ``right`` (N, K) holds for all of ``who`` (N, K): (N,)."""
        return (right | ~who).all(dim=1)

    def _did(self, frame: int, since: int = 0) -> Tensor:
        """Whether the displacement up to ``frame`` is right, (N, K). From frame 0 it starts at the true start."""
        truth = self.truth[:, :, frame] - self.truth[:, :, since]
        begin = self.truth[:, :, 0] if since == 0 else self.sight.centres[:, :, since]
        wrong = (self.sight.centres[:, :, frame] - begin - truth).norm(dim=-1) / self.unit
        length = truth.norm(dim=-1) / self.unit
        return wrong <= (length * self.limits.part).clamp(self.limits.rest, self.limits.part_most)

    def _rest(self) -> Tensor:
        """Whether an instance keeps to its true place, (N, K); for bystanders that is where they began."""
        return (self.off.mean(dim=-1) <= self.limits.rest) & (self.off[:, :, self.end] <= self.limits.rest)

    def _contact_agrees(self) -> Tensor:
        near = _widen(self.clips.contact | self.shown)
        free = _widen(~self.clips.contact | ~self.shown)
        agree = torch.where(self.contact, near, free).float().mean(dim=1) >= self.limits.contact
        ever = self.contact.any(dim=1)
        return agree & ((ever == self.clips.contact.any(dim=1)) | (ever == self.shown.any(dim=1)))

    def _contact_at(self, frame: int) -> Tensor:
        seen = self.contact[:, frame]
        return (seen == self.clips.contact[:, frame]) | (seen == self.shown[:, frame])

    def _stages(self) -> list[Tensor]:
        place = self.limits.place
        began = self._all(self.off[:, :, :2].amax(dim=-1) <= place, self.named) & self._contact_at(0)
        first, second = self._did(self.middle), self._did(self.end, since=self.middle)
        ended = self._all(self.off[:, :, self.end] <= place, self.named) & self._contact_at(self.end)
        return [
            began,
            first[:, 0],
            self._all(first, self.patients) & (self.pair | self._all(self._rest(), self.bystanders)),
            self._contact_agrees() & (self.pair | first[:, 0]),
            self._all(second, self.named),
            ended,
        ]

    def _roles(self) -> list[Tensor]:
        did = self._did(self.middle) & self._did(self.end)
        agent, patients = did[:, 0], self._all(did, self.patients)
        side_seen = self.sight.centres[:, 1] - self.sight.centres[:, 0]
        side = self.truth[:, 1] - self.truth[:, 0]
        stray = (side_seen - side)[:, [self.middle, self.end]].norm(dim=-1).amax(dim=1) / self.unit
        as_wanted = (stray <= self.limits.part_most) | ~self.pair
        others = self._all(self._rest(), self.bystanders)
        # Keeping still is no merit where nothing happens: it counts beside an agent that plays its part.
        active = (self.clips.moving & self.patients).any(dim=1)
        return [agent, patients & (active | agent), as_wanted & agent & patients, others & agent & patients]

    def _right_path(self) -> Tensor:
        near = (self.off.mean(dim=-1) <= self.limits.path_mean) & (self.off[..., self.end] <= self.limits.path_end)
        return self._all(near, self.clips.moving)

    def verdict(self) -> Verdict:
        lost, new = self.sight.lost.any(dim=1), self.sight.new
        emergence, disappearance = new[:, 1:].float().mean(dim=1), lost[:, 1:].float().mean(dim=1)
        spi = semantic_preservation(emergence, disappearance)
        questions = torch.stack(self._stages() + self._roles(), dim=1)
        kisa_raw = questions[:, _STAGES].float().mean(dim=1)
        sgi_raw = questions[:, _ROLES].float().mean(dim=1)
        absent = ~self.clips.present
        return Verdict(
            questions=questions,
            kisa_raw=kisa_raw,
            sgi_raw=sgi_raw,
            spi=spi,
            kisa=kisa_raw * spi,
            sgi=sgi_raw * spi,
            interaction_fidelity=(kisa_raw + sgi_raw) / 2 * spi,
            emergence=emergence,
            disappearance=disappearance,
            right_path=self._right_path(),
            right_roles=questions[:, [6, 7, 9]].all(dim=1),
            intact=torch.maximum(lost[:, 1:].sum(dim=1), new[:, 1:].sum(dim=1)) <= self.limits.flicker,
            error=(self.off * self.unit).mean(dim=-1).masked_fill(absent, torch.nan),
            iou=mask_iou(self.sight.masks, self.clips.masks).masked_fill(absent, torch.nan),
            contact=self.contact,
            contact_share=(self.contact & self.clips.contact).sum(dim=1) / self.clips.contact.sum(dim=1),
            sustained_contact=longest_run(self.contact) / self.clips.config.fps,
        )


def visible_centres(clips: Clips) -> Tensor:
    """Centres of what the truth shows of each instance, (N, K, F, 2) pixels; of the whole where it shows nothing.

    What is seen of a half hidden thing is compared with what should be seen of it, not with the centre of the whole.
    """
    height, width = clips.masks.shape[-2:]
    device = clips.masks.device
    across = clips.masks.sum(dim=-2).float()
    down = clips.masks.sum(dim=-1).float()
    mass = across.sum(dim=-1)
    x = (across * (torch.arange(width, device=device) + 0.5)).sum(dim=-1) / mass.clamp_min(1)
    y = (down * (torch.arange(height, device=device) + 0.5)).sum(dim=-1) / mass.clamp_min(1)
    return torch.where((mass > 0).unsqueeze(-1), torch.stack([x, y], dim=-1), clips.trajectories)


def touching(first: Tensor, second: Tensor, reach: int) -> Tensor:
    """Whether two masks (N, F, H, W) come within 2 ``reach`` pixels of each other in each frame: (N, F) bool."""

    def grown(mask: Tensor) -> Tensor:
        return functional.max_pool2d(mask.float(), 2 * reach + 1, 1, reach) > 0

    return (grown(first) & grown(second)).flatten(2).any(dim=2)


def mask_iou(seen: Tensor, truth: Tensor) -> Tensor:
    """Mean over the frames that show the instance in truth of intersection over union, (N, K) from (N, K, F, H, W)."""
    both, either = (seen & truth).sum(dim=(-2, -1)), (seen | truth).sum(dim=(-2, -1))
    shown = truth.flatten(3).any(dim=3)
    return (both / either.clamp_min(1) * shown).sum(dim=-1) / shown.sum(dim=-1).clamp_min(1)


def longest_run(flags: Tensor) -> Tensor:
    """Length of the longest run of True along the last axis: (N,) from (N, F)."""
    run = torch.zeros(len(flags), device=flags.device)
    best = run
    for flag in flags.unbind(dim=1):
        run = (run + 1) * flag
        best = torch.maximum(best, run)
    return best


def _widen(flags: Tensor) -> Tensor:
    """True also one frame before and after each True of (N, F)."""
    return functional.max_pool1d(flags.float().unsqueeze(1), 3, 1, 1).squeeze(1) > 0
