"""A small world whose every truth is known: coloured shapes that push, pull, chase, carry, and a caption that says so.

N clips, K instance slots, F frames, H, W pixels. Slot 0 is the agent, slot 1 the recipient, slot 2 the third where a
verb names one; the slots behind them are bystanders, at rest. All lengths in pixels, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .captions import CAMERA_MOVES, FORMS, Caption, Form, caption
from .paint import paint
from .shapes import COLOURS, MAX_REACH, SHAPES, reach
from .verbs import VERB_NAMES, VERBS, Verb, act, lay_out, reserved_shape, verb_named

__all__ = ["Clips", "WorldConfig", "make_clips"]

_TRIES = 48  # places tried for each part or bystander before the roomiest one is taken
_EDGE = 1.5  # free pixels between a shape and the frame
_RADII = (6.0, 7.5)
_TOUCH = 1.0  # a gap of up to this many pixels counts as contact
_PAN = 8.0  # pixels that a moving camera shifts the scene by
_SMALLEST, _LARGEST = 48, 512
_SECOND, _CLUTTER, _TWIN = 104_729, 611_953, 350_377  # what further numbers of a clip are drawn from, beside its seed
_CAMERAS = tuple(CAMERA_MOVES)

Split = Literal["train", "heldout_pairs", "all"]


@dataclass(frozen=True)
class WorldConfig:
    """What clips to make.

    Args:
        height, width: pixels, each a multiple of 8 from 48 to 512; all lengths scale with the shorter side / 64.
        frames: 4 n + 1, at least 5. fps: frames a second of the exported video.
        max_instances: 2 to 5 instances in a clip (3 at least where `carry` and `give` may come up).
        camera: half of the clips have a moving camera, and their captions say so.
        single_motion_share: share of clips in which one thing moves and nothing interacts.
        distractor_share: share of clips with a bystander that looks just like a named instance (same shape and colour),
            which no words can tell apart; needs max_instances of 3, and 4 for verbs with three parts.
        even_twins: look-alikes are doubles of the recipient, as large, and stand where the same verb could act on them
            just as well: which of the two is meant cannot be told from the first frame. They are in clips of verbs with
            two parts, where both find room.
        occlusion_share: share of clips in which bystanders may stand in the way, in front or behind.
        split: every verb has one shape that is never its object (for moves: never the mover) in "train"; in
            "heldout_pairs" the object always has that shape; "all" draws freely.
        verbs: names of the verbs to use, all of them by default; a name that stands there twice comes up twice as
            often.
        size: of the things, as a share of their usual 6 to 7.5 pixels of radius; small ones leave room for more.
        pair_share: share of the clips with an interaction of two in which the next two instances have one of their own
            at the same time, where they find room; max_instances may then be 6. `Clips.second` says what they do.
        clutter: grey things on the background that nobody names and that are no instances, 0 to 40.
        captions: how much captions say, see `captions.FORMS`. caption_share: share of the clips that have this form;
            the others say everything.
    """

    height: int = 64
    width: int = 64
    frames: int = 17
    fps: float = 8.0
    max_instances: int = 5
    camera: bool = False
    single_motion_share: float = 0.15
    distractor_share: float = 0.15
    occlusion_share: float = 0.3
    split: Split = "train"
    verbs: tuple[str, ...] = VERB_NAMES
    captions: Form = "full"
    caption_share: float = 1.0
    size: float = 1.0
    pair_share: float = 0.0
    clutter: int = 0
    even_twins: bool = False

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not _SMALLEST <= value <= _LARGEST or value % 8:
                raise ValueError(
                    f"{name} is {value}; the mini world does multiples of 8 from {_SMALLEST} to {_LARGEST} pixels"
                )
        if max(self.height, self.width) > 2 * min(self.height, self.width):
            raise ValueError(f"{self.width}x{self.height}: one side may be at most twice the other")
        if self.frames < 5 or self.frames % 4 != 1:
            raise ValueError(f"frames is {self.frames}; use 5, 9, 13, 17, ... (4 n + 1), as the video codec needs")
        if not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it has to be above 0")
        most = 6 if self.pair_share > 0 else 5
        if not 2 <= self.max_instances <= most:
            raise ValueError(f"max_instances is {self.max_instances}; a clip has 2 to {most} instances")
        if self.pair_share > 0 and self.max_instances < 4:
            raise ValueError(f"two interactions at once want max_instances of 4 or more; got {self.max_instances}")
        if self.even_twins and self.pair_share > 0:
            raise ValueError("even_twins and pair_share both want the third slot: set one of them")
        if not 0.5 <= self.size <= 1 or not 0 <= self.clutter <= 40:
            raise ValueError(f"size is .5 to 1 and clutter 0 to 40; got {self.size:g} and {self.clutter}")
        for name in ("single_motion_share", "distractor_share", "occlusion_share", "caption_share", "pair_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share between 0 and 1")
        if self.split not in ("train", "heldout_pairs", "all"):
            raise ValueError(f"split is {self.split!r}; use 'train', 'heldout_pairs' or 'all'")
        if self.captions not in FORMS:
            raise ValueError(f"captions is {self.captions!r}; use one of {', '.join(FORMS)}")
        if not self.verbs:
            raise ValueError(f"verbs is empty; choose from {', '.join(VERB_NAMES)}")
        for name in self.verbs:
            verb = verb_named(name)
            if verb.parts > self.max_instances:
                raise ValueError(f"{name!r} names {verb.parts} instances but max_instances is {self.max_instances}")
        if not any(verb_named(name).interaction for name in self.verbs) and self.single_motion_share < 1:
            raise ValueError("verbs holds no interaction; add one or set single_motion_share to 1")
        if not any(not verb_named(name).interaction for name in self.verbs) and self.single_motion_share > 0:
            raise ValueError(
                "verbs holds no single motion; add one (such as 'move_left') or set single_motion_share to 0"
            )

    @property
    def unit(self) -> float:
        """Pixels per 1/64 of the shorter side."""
        return min(self.height, self.width) / 64


@dataclass(frozen=True)
class Clips:
    """N clips and their whole truth. Lists have one entry a clip; tensors have N in front.

    Attributes:
        video: (N, F, 3, H, W) uint8.
        masks: (N, K, F, H, W) bool, the pixels where each instance is seen (occlusion resolved).
        present: (N, K) bool. parts: (N,) how many slots, from slot 0, the verb names.
        prompts, tagged: captions in plain words, and with ``<idK>`` before the named instances (slot K - 1).
        names: per clip the name of each present instance, by slot. roles: name -> "subject", "object", "instance".
        phrases: per clip the text form of `core.phrases`, for `core.binding.bind` with ``prompts``.
        verb: name of the verb. camera_move: what the camera does. second: name of the verb of the next two instances,
            slots 2 and 3, which act at the same time; "" where they rest.
        shape, colour: (N, K) indices into `shapes.SHAPES`, `shapes.COLOURS`. radius: (N, K) pixels.
        depth: (N, K) drawing order, 0 is farthest away.
        trajectories: (N, K, F, 2) centres. camera: (N, F, 2) shift of the picture.
        touch: (N, K, K, F) bool, who touches whom.
        contact: (N, F) bool, whether agent and recipient touch.
        moving: (N, K) bool, whether an instance moves by itself.
        swapped: (N, 2, F, 2) centres of agent and recipient if they had changed roles in the same first frame.
        ambiguous: (N,) bool, another instance looks like a named one: words alone cannot tell them apart.
        backdrop: (N, 10 or more) numbers that the background is made of.
        config: what made them; `split` is its split.
    """

    video: Tensor
    masks: Tensor
    present: Tensor
    parts: Tensor
    prompts: list[str]
    tagged: list[str]
    names: list[tuple[str, ...]]
    roles: list[dict[str, str]]
    phrases: list[str]
    verb: list[str]
    second: list[str]
    camera_move: list[str]
    shape: Tensor
    colour: Tensor
    radius: Tensor
    depth: Tensor
    trajectories: Tensor
    camera: Tensor
    touch: Tensor
    contact: Tensor
    moving: Tensor
    swapped: Tensor
    ambiguous: Tensor
    backdrop: Tensor
    config: WorldConfig

    def __len__(self) -> int:
        return self.video.shape[0]

    @property
    def split(self) -> Split:
        return self.config.split

    def select(self, index: Tensor | list[int] | slice) -> Clips:
        """The clips at ``index``: a slice, a list of positions, or a bool or integer tensor."""
        chosen = torch.arange(len(self))[index if isinstance(index, slice) else torch.as_tensor(index).cpu()]
        picks = chosen.tolist()

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[chosen.to(value.device)]
            return [value[i] for i in picks] if isinstance(value, list) else value

        return replace(self, **{field.name: pick(getattr(self, field.name)) for field in fields(self)})

    def to(self, device: str | torch.device) -> Clips:
        """The same clips with all tensors on ``device``."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in moved.items()})

    @property
    def named(self) -> Tensor:
        """(N, K) bool, the instances that a verb names."""
        slots = torch.arange(self.present.shape[1], device=self.parts.device)
        both = torch.tensor([bool(name) for name in self.second], device=self.parts.device)
        return slots < torch.where(both, 4, self.parts)[:, None]

    def exchanged(self) -> Clips:
        """The same clips with the second interaction in the place of the first, as `judge` wants it: its agent in slot
        0, its recipient in slot 1. Prompts, roles and phrases stay what they are.

        Raises ValueError where some clip has no second interaction.
        """
        if "" in self.second:
            raise ValueError("some of these clips have no second interaction: select those whose `second` is not empty")
        order = [2, 3, 0, 1, *range(4, self.present.shape[1])]
        slots = ("masks", "present", "shape", "colour", "radius", "depth", "trajectories", "moving")
        moved = {name: getattr(self, name)[:, order] for name in slots}
        touch = self.touch[:, order][:, :, order]
        turned = torch.zeros_like(self.swapped)
        for verb in VERBS:
            rows = torch.tensor([name == verb.name for name in self.second], device=self.shape.device)
            rows = rows.nonzero().squeeze(1)
            if len(rows):
                turned[rows] = _turned(verb, {name: value[rows] for name, value in moved.items()}, self, rows)
        names = [tuple(each[i] for i in order if i < len(each)) for each in self.names]
        return replace(
            self, **moved, touch=touch, contact=touch[:, 0, 1], swapped=turned, names=names, verb=self.second,
            second=self.verb, parts=torch.full_like(self.parts, 2),
        )  # fmt: skip

    def repaint(self, trajectories: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """The video (N, F, 3, H, W) uint8 if the instances took other paths or were not all there."""
        centres = self.trajectories if trajectories is None else trajectories
        there = self.present if present is None else present
        size = (self.config.height, self.config.width)
        video, _ = paint(
            centres.float(), self.shape, self.colour, self.radius, self.depth, there, self.camera, self.backdrop, size
        )
        return video

    def restage(self, trajectories: Tensor) -> Clips:
        """The same first frames and words with other paths (N, K, F, 2) that begin where these do; the picture, the
        masks and who touches whom follow. `swapped` stays what it was.

        Raises ValueError for paths of another shape or another first frame.
        """
        if trajectories.shape != self.trajectories.shape:
            raise ValueError(f"paths are {list(self.trajectories.shape)} here; got {list(trajectories.shape)}")
        moved = (trajectories[:, :, 0] - self.trajectories[:, :, 0]).norm(dim=-1)[self.present]
        if len(moved) and float(moved.max()) > 0.01:
            off = float(moved.max())
            raise ValueError(f"paths begin where the first frame shows everybody; one is {off:.2f} pixels off")
        centres = trajectories.float()
        size = (self.config.height, self.config.width)
        video, masks = paint(
            centres, self.shape, self.colour, self.radius, self.depth, self.present, self.camera, self.backdrop, size
        )
        own = centres - self.camera[:, None]
        touch = _touching(own, self.shape, self.radius, self.present, self.config.unit)
        pair = (self.parts > 1)[:, None]
        return replace(
            self,
            video=video,
            masks=masks,
            trajectories=centres,
            touch=touch,
            contact=touch[:, 0, 1] & pair,
            moving=((own - own[:, :, :1]).abs().amax(dim=(2, 3)) > 1) & self.present,
        )


def _turned(verb: Verb, of: Mapping[str, Tensor], clips: Clips, rows: Tensor) -> Tensor:
    """(M, 2, F, 2) centres of the two in front if they had changed roles."""
    shift = clips.camera[rows][:, None].double()
    starts = of["trajectories"][:, :3, 0].double() - shift[:, :, 0]
    other = act(
        verb, starts[:, [1, 0, 2]], of["shape"][:, [1, 0, 2]], of["radius"][:, [1, 0, 2]].double(),
        clips.config.frames, clips.config.unit,
    )  # fmt: skip
    return (other[:, [1, 0]] + shift).float()


class _Chance:
    """Uniform numbers, a fixed share of a row for each clip: clip i is the same whatever the count."""

    def __init__(self, seed: int, count: int) -> None:
        self._numbers = torch.from_numpy(np.random.default_rng(seed).random((count, 1024)))
        self._used = 0

    def __call__(self, *shape: int) -> Tensor:
        size = int(np.prod(shape))
        end = self._used + size
        assert end <= self._numbers.shape[1], "the row of numbers per clip is too short"
        out = self._numbers[:, self._used : end].reshape(-1, *shape)
        self._used = end
        return out


def _pick(chance: Tensor, size: int) -> Tensor:
    """Uniform integers below ``size`` from uniform numbers."""
    return (chance * size).long().clamp_max(size - 1)


def _choose_verbs(config: WorldConfig, chance: Tensor) -> Tensor:
    """(N,) indices into ``VERBS``."""
    chosen = [VERB_NAMES.index(name) for name in config.verbs]
    groups = [[i for i in chosen if VERBS[i].interaction is wanted] for wanted in (False, True)]
    single = chance[:, 0] < config.single_motion_share
    picks = [
        torch.tensor(group)[_pick(chance[:, 1], len(group))] if group else torch.zeros(len(chance), dtype=torch.long)
        for group in groups
    ]
    return torch.where(single, picks[0], picks[1])


def _choose_looks(config: WorldConfig, verbs: Tensor, parts: Tensor, chance: _Chance) -> tuple[Tensor, ...]:
    """Shapes, colours, radii, depth (N, K), and how many instances (N,)."""
    slots = config.max_instances
    shape = _pick(chance(slots), len(SHAPES))
    colour = chance(len(COLOURS)).argsort(dim=1)[:, :slots]
    low, high = _RADII
    radius = (low + (high - low) * chance(slots)) * (config.unit * config.size)
    depth = chance(slots).argsort(dim=1).argsort(dim=1)

    clip = torch.arange(len(verbs))
    object_slot = (parts > 1).long()
    reserved = torch.tensor([reserved_shape(verb) for verb in VERBS])[verbs]
    if config.split == "heldout_pairs":
        shape[clip, object_slot] = reserved
    elif config.split == "train":
        others = (reserved + 1 + _pick(chance(1)[:, 0], len(SHAPES) - 1)) % len(SHAPES)
        shape[clip, object_slot] = others

    least = parts.clamp_min(2)
    total = least + _pick(chance(1)[:, 0], 10**6) % (slots - least + 1)
    # A twin takes the place of the first bystander, so there has to be room for one.
    roll = chance(2)
    twin = (roll[:, 0] < config.distractor_share) & (parts < slots)
    total = torch.where(twin, total.maximum(parts + 1), total)
    model = _pick(roll[:, 1], 10**6) % parts
    if config.even_twins:
        twin, model = twin & (parts == 2), torch.ones_like(model)
    place = parts.clamp_max(slots - 1)
    shape[clip, place] = torch.where(twin, shape[clip, model], shape[clip, place])
    colour[clip, place] = torch.where(twin, colour[clip, model], colour[clip, place])
    if config.even_twins:
        radius[clip, place] = torch.where(twin, radius[clip, model], radius[clip, place])
    return shape, colour, radius, depth, total


def _place_parts(
    verb: Verb, config: WorldConfig, chance: Tensor, looks: tuple[Tensor, Tensor], pan: Tensor
) -> tuple[Tensor, Tensor]:
    """Starts (M, 3, 2) and paths (M, 3, F, 2) of the named parts of M clips of one verb, inside the frame.

    ``chance`` (M, tries, 5); ``looks`` are shapes and radii (M, 3); ``pan`` (M, F, 2) is the camera's shift.
    """
    shapes, radii = (look.unsqueeze(1).expand(-1, chance.shape[1], -1) for look in looks)
    starts = lay_out(verb, chance, shapes, radii, config.unit)
    seen = act(verb, starts, shapes, radii, config.frames, config.unit) + pan[:, None, None]
    margin = (radii * MAX_REACH + _EDGE)[..., None, None]
    parts = slice(0, verb.parts)
    size = torch.tensor((config.width, config.height), dtype=seen.dtype)
    low = (margin - seen)[:, :, parts].amax(dim=(2, 3))
    high = (size - margin - seen)[:, :, parts].amin(dim=(2, 3))
    slack = (high - low).amin(dim=-1)  # (M, tries); below 0 it does not fit
    best = torch.where((slack >= 0).any(1), (slack >= 0).int().argmax(1), slack.argmax(1))
    row = torch.arange(len(best))
    low, high = low[row, best], high[row, best]
    shift = torch.where(high >= low, low + (high - low) * chance[row, best, 3:5], (low + high) / 2)
    placed = starts[row, best] + shift[:, None]
    return placed, act(verb, placed, *looks, config.frames, config.unit)


def _place_bystander(
    slot: int, config: WorldConfig, chance: Tensor, paths: Tensor, radius: Tensor, others: Tensor, pan: Tensor
) -> tuple[Tensor, Tensor]:
    """A place (N, 2) at rest, clear of all paths (N, K, F, 2) of those before it, and whether it really is clear.

    ``chance`` (N, tries * 2 + 1). In frame 0 everybody is seen whole; later, in clips with occlusion, somebody may
    cover up to about a third of somebody else. ``others`` (N, K) marks who is there already.
    """
    tries = chance[:, 1:].reshape(len(chance), -1, 2)
    size = torch.tensor((config.width, config.height), dtype=paths.dtype)
    margin = radius[:, slot] * MAX_REACH + _EDGE
    low = margin[:, None] - pan.amin(dim=1)
    high = size - margin[:, None] - pan.amax(dim=1)
    places = low[:, None] + (high - low)[:, None] * tries  # (N, tries, 2)
    reachable = (radius + radius[:, slot : slot + 1])[:, None, :slot, None]
    distance = (places[:, :, None, None] - paths[:, None, :slot]).norm(dim=-1) / reachable  # (N, tries, slot, F)
    crossing = chance[:, 0] < config.occlusion_share
    need = torch.where(crossing, 0.6, 1.25)[:, None, None].expand(-1, distance.shape[1], slot)
    room = torch.minimum(distance.amin(dim=-1) - need, distance[..., 0] - 1.25)
    room = room.masked_fill(~others[:, None, :slot], torch.inf).amin(dim=-1)
    best = torch.where((room >= 0).any(1), (room >= 0).int().argmax(1), room.argmax(1))
    row = torch.arange(len(best))
    return places[row, best], room[row, best] >= 0


def _place_second(
    config: WorldConfig, seed: int, looks: tuple[Tensor, ...], pan: Tensor, first: Tensor, paths: Tensor, there: Tensor
) -> Tensor:
    """Gives the two instances behind the first pair an interaction of their own, in place, in clips that are to have
    one and where it finds room: (N,) indices into ``VERBS``, -1 where it did not.

    ``first`` (N,) indices of the first verbs; ``paths`` (N, K, F, 2) and ``there`` (N, K) are changed. Who stands in
    the way is taken out.
    """
    pairs = [i for i, verb in enumerate(VERBS) if verb.parts == 2 and verb.name in config.verbs]
    count, out = len(first), torch.full_like(first, -1)
    if config.pair_share == 0 or not pairs:
        return out
    chance = _Chance(seed + _SECOND, count)
    roll, draw, tries = chance(2), chance(1)[:, 0], chance(_TRIES, 5)
    second = torch.tensor(pairs)[_pick(draw, len(pairs))]
    wanted = (roll[:, 0] < config.pair_share) & torch.isin(first, torch.tensor(pairs))
    shape, radius = looks[0], looks[2]
    for index in pairs:
        rows = (wanted & (second == index)).nonzero().squeeze(1)
        if not len(rows):
            continue
        mine = tuple(torch.cat([look[rows, 2:4], look[rows, 3:4]], 1) for look in (shape, radius))
        path, clear = _beside(VERBS[index], config, tries[rows], mine, pan[rows], paths[rows], radius[rows])
        rows, path = rows[clear], path[clear]
        paths[rows, 2:4], out[rows] = path, index
        there[rows, 2:4] = True
        for slot in range(4, shape.shape[1]):
            near = (paths[rows, slot, None] - path).norm(dim=-1)
            far = (near > 1.25 * (radius[rows, slot, None] + radius[rows, 2:4])[..., None]).all(2).all(1)
            there[rows, slot] &= far
    return out


def _beside(
    verb: Verb,
    config: WorldConfig,
    chance: Tensor,
    looks: tuple[Tensor, Tensor],
    pan: Tensor,
    paths: Tensor,
    radius: Tensor,
) -> tuple[Tensor, Tensor]:
    """Paths (M, 2, F, 2) of a second pair, inside the frame and clear of the first pair's (M, K, F, 2) in every frame,
    and whether that was possible (M,). ``chance`` (M, tries, 5)."""
    shapes, radii = (look.unsqueeze(1).expand(-1, chance.shape[1], -1) for look in looks)
    starts = lay_out(verb, chance, shapes, radii, config.unit)
    seen = act(verb, starts, shapes, radii, config.frames, config.unit)[:, :, :2]
    margin = (radii[..., :2] * MAX_REACH + _EDGE)[..., None, None]
    size = torch.tensor((config.width, config.height), dtype=seen.dtype)
    low = (margin - seen - pan[:, None, None]).amax(dim=(2, 3))
    high = (size - margin - seen - pan[:, None, None]).amin(dim=(2, 3))
    placed = seen + (low + (high - low) * chance[..., 3:5])[:, :, None, None]
    apart = (placed[:, :, :, None] - paths[:, None, None, :2]).norm(dim=-1)  # (M, tries, 2, 2, F)
    reach_of = radii[:, :, :2, None, None] + radius[:, None, None, :2, None]
    room = torch.where((high >= low).all(-1), (apart / reach_of).amin(dim=(2, 3, 4)) - 1.25, -torch.inf)
    best, row = room.argmax(1), torch.arange(len(chance))
    return placed[row, best], room[row, best] >= 0


def _place_twins(
    config: WorldConfig,
    seed: int,
    verbs: Tensor,
    looks: tuple[Tensor, ...],
    pan: Tensor,
    paths: Tensor,
    there: Tensor,
    swapped: Tensor,
) -> None:
    """Stages clips with a double of the recipient anew, in place, so that the agent could act on either: both stand to
    it as the verb wants it, each drawn as the other, and there is room for both plays. Where there is not, the double
    is taken out, and so is who stands in the way of one of the plays: a free way says nothing.

    ``verbs`` (N,); ``paths`` (N, K, F, 2), ``there`` (N, K) and ``swapped`` (N, 2, F, 2) are changed.
    """
    if not config.even_twins or config.max_instances < 3:
        return
    shape, colour, radius = looks[:3]
    alike = (shape[:, 1] == shape[:, 2]) & (colour[:, 1] == colour[:, 2])
    tries = _Chance(seed + _TWIN, len(verbs))(_TRIES, 8)
    size, turned = torch.tensor((config.width, config.height), dtype=paths.dtype), torch.tensor((1, 0, 2))
    for index, verb in enumerate(VERBS):
        rows = (alike & (verbs == index)).nonzero().squeeze(1)
        if verb.parts != 2 or not len(rows):
            continue
        mine, draw = (shape[rows][:, :3], radius[rows][:, :3]), tries[rows]
        shapes, radii = (look.unsqueeze(1).expand(-1, _TRIES, -1) for look in mine)
        starts = [lay_out(verb, draw[..., at : at + 3], shapes, radii, config.unit) for at in (0, 3)]
        acted = [act(verb, start, shapes, radii, config.frames, config.unit)[:, :, :2] for start in starts]
        seen = torch.cat(acted, 2) + pan[rows][:, None, None]
        margin = (mine[1][:, [0, 1, 0, 1]] * MAX_REACH + _EDGE)[:, None, :, None, None]
        low, high = (margin - seen).amax((2, 3)), (size - margin - seen).amin((2, 3))
        reach_of = (mine[1][:, :2] + mine[1][:, 1:2])[:, None, :, None]
        apart = [
            ((play - starts[other][:, :, 1, None, None]).norm(dim=-1) / reach_of).amin((2, 3))
            for play, other in zip(acted, (1, 0), strict=True)
        ]
        fits = (high >= low).all(-1) & (torch.minimum(*apart) >= 1.25)
        found, best = fits.any(1), fits.int().argmax(1)
        there[rows, 2] = found
        rows, at = rows[found], best[found]
        if not len(rows):
            continue
        pick = (found.nonzero().squeeze(1), at)
        shift = (low[pick] + (high[pick] - low[pick]) * draw[pick][:, 6:])[:, None]
        begin, plays = starts[0][pick] + shift, [play[pick] + shift[:, None] for play in acted]
        paths[rows, :2], paths[rows, 2] = plays[0], plays[1][:, 1, :1].expand(-1, config.frames, -1)
        shapes, radii = (look[found][:, turned] for look in mine)
        other = act(verb, begin[:, turned], shapes, radii, config.frames, config.unit)
        swapped[rows] = other[:, turned][:, :2]
        for slot in range(3, shape.shape[1]):
            near = [(paths[rows, slot, None] - play).norm(dim=-1) for play in plays]
            clear = 1.25 * (radius[rows, slot, None] + radius[rows, :2])[..., None]
            there[rows, slot] &= torch.stack([(each > clear).all(2).all(1) for each in near]).all(0)


def _touching(centres: Tensor, shape: Tensor, radius: Tensor, present: Tensor, unit: float) -> Tensor:
    """Who touches whom, (N, K, K, F) bool: the free space on the line between two centres is at most a pixel."""
    apart = centres[:, None] - centres[:, :, None]  # (N, from, to, F, 2)
    distance = apart.norm(dim=-1)
    line = apart / distance.clamp_min(1e-6).unsqueeze(-1)
    ours = reach(shape[:, :, None, None], radius[:, :, None, None], line)
    theirs = reach(shape[:, None, :, None], radius[:, None, :, None], -line)
    pair = present[:, :, None] & present[:, None]
    pair = pair & ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    return (distance - ours - theirs <= _TOUCH * unit) & pair.unsqueeze(-1)


def _pad_parts(values: Tensor) -> Tensor:
    """The first three slots (N, 3); with two slots only, the last one stands in for the third, which then is unused."""
    return values[:, :3] if values.shape[1] >= 3 else torch.cat([values, values[:, -1:]], dim=1)


def _place_all(
    config: WorldConfig, verbs: Tensor, parts: Tensor, looks: tuple[Tensor, ...], pan: Tensor, chance: _Chance
) -> tuple[Tensor, Tensor, Tensor]:
    """Paths (N, K, F, 2) without the camera, who is present (N, K), and the swapped paths (N, 2, F, 2)."""
    shape, _, radius, _, total = looks
    count, slots = shape.shape
    paths = torch.zeros(count, slots, config.frames, 2, dtype=torch.float64)
    swapped = torch.zeros(count, 2, config.frames, 2, dtype=torch.float64)
    part_chance = chance(_TRIES, 5)
    three = (_pad_parts(shape), _pad_parts(radius))
    turned = torch.tensor((1, 0, 2))
    for index, verb in enumerate(VERBS):
        rows = (verbs == index).nonzero().squeeze(1)
        if not len(rows):
            continue
        mine = (three[0][rows], three[1][rows])
        starts, path = _place_parts(verb, config, part_chance[rows], mine, pan[rows])
        paths[rows, : verb.parts] = path[:, : verb.parts]
        other = act(verb, starts[:, turned], mine[0][:, turned], mine[1][:, turned], config.frames, config.unit)
        swapped[rows] = other[:, turned][:, :2] if verb.interaction else path[:, :1].repeat(1, 2, 1, 1)
    present = torch.arange(slots) < parts[:, None]
    for slot in range(1, slots):
        place, clear = _place_bystander(slot, config, chance(2 * _TRIES + 1), paths, radius, present, pan)
        wanted = (slot >= parts) & (slot < total)
        # A second instance there always is; further ones only where they find room.
        added = wanted & (clear | (slot < 2))
        paths[:, slot] = torch.where((slot >= parts)[:, None, None], place[:, None], paths[:, slot])
        present[:, slot] |= added
    return paths, present, swapped


def _is_ambiguous(shape: Tensor, colour: Tensor, present: Tensor, parts: Tensor) -> Tensor:
    same = (shape[:, :, None] == shape[:, None]) & (colour[:, :, None] == colour[:, None])
    same &= present[:, :, None] & present[:, None] & ~torch.eye(shape.shape[1], dtype=torch.bool)
    named = torch.arange(shape.shape[1]) < parts[:, None]
    return (same.any(dim=2) & named).any(dim=1)


def _close_ranks(present: Tensor, parts: Tensor, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Moves present slots to the front, so that ``<idK>`` has no holes."""
    order = (~present).to(torch.int8).argsort(dim=1, stable=True)
    out = []
    for tensor in tensors:
        index = order.view(*order.shape, *(1,) * (tensor.dim() - 2)).expand_as(tensor)
        out.append(tensor.gather(1, index))
    return present.gather(1, order), out


def _captions(
    config: WorldConfig,
    verbs: Tensor,
    second: Tensor,
    looks: tuple[Tensor, Tensor, Tensor],
    camera: Tensor,
    chance: _Chance,
) -> list[Caption]:
    """Captions of clips whose instances have ``looks``: shapes, colours, who is there (N, K)."""
    said: list[Caption] = []
    draws = torch.zeros(len(verbs), 2) if config.captions == "full" else chance(2)
    rows = zip(verbs.tolist(), second.tolist(), *(look.tolist() for look in looks), camera.tolist(), draws.tolist())
    for verb, other, shapes, colours, there, move, (share, turn) in rows:
        seen = [f"{COLOURS[c]} {SHAPES[s]}" for s, c, is_there in zip(shapes, colours, there) if is_there]
        form: Form = config.captions if share < config.caption_share else "full"
        beside = None if other < 0 else VERBS[other]
        said.append(caption(VERBS[verb], seen, _CAMERAS[move], form, turn < 0.5, beside))
    return said


def make_clips(
    seed: int,
    count: int,
    config: WorldConfig = WorldConfig(),
    device: str | torch.device = "cpu",
) -> Clips:
    """``count`` clips of the mini world. The same seed and config give the same clips, on every device.

    Where everybody stands is worked out on the CPU; pixels are drawn on ``device``. Clip i does not depend on
    ``count``. Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least one clip")
    chance = _Chance(seed, count)
    verbs = _choose_verbs(config, chance(2))
    parts = torch.tensor([verb.parts for verb in VERBS])[verbs]
    looks = _choose_looks(config, verbs, parts, chance)
    moves = chance(2)
    camera_index = torch.where(moves[:, 0] < 0.5, 0, 1 + _pick(moves[:, 1], len(_CAMERAS) - 1)) * int(config.camera)
    ways = torch.tensor([way for _, way in CAMERA_MOVES.values()], dtype=torch.float64)[camera_index]
    pan = ways[:, None] * torch.linspace(0, _PAN * config.unit, config.frames, dtype=torch.float64)[:, None]
    backdrop = chance(10).float()
    paths, present, swapped = _place_all(config, verbs, parts, looks, pan, chance)
    _place_twins(config, seed, verbs, looks, pan, paths, present, swapped)
    if config.clutter:
        litter = _Chance(seed + _CLUTTER, count)(4 * config.clutter).float()
        backdrop = torch.cat([backdrop, litter], dim=1)
    second = _place_second(config, seed, looks, pan, verbs, paths, present)
    present, (paths, shape, colour, radius, depth) = _close_ranks(present, parts, [paths, *looks[:4]])
    touch = _touching(paths, shape, radius, present, config.unit)
    twins = _is_ambiguous(shape, colour, present, parts)
    contact = touch[:, 0, 1] & (parts > 1)[:, None]
    moving = ((paths - paths[:, :, :1]).abs().amax(dim=(2, 3)) > 1) & present
    said = _captions(config, verbs, second, (shape, colour, present), camera_index, chance)
    centres = (paths + pan[:, None]).float()

    def there(tensor: Tensor) -> Tensor:
        return tensor.to(device)

    places, present, shift = there(centres), there(present), there(pan.float())
    shape, colour, depth, radius = there(shape), there(colour), there(depth), there(radius.float())
    backdrop = there(backdrop)
    size = (config.height, config.width)
    video, masks = paint(places, shape, colour, radius, depth, present, shift, backdrop, size)
    return Clips(
        video=video,
        masks=masks,
        present=present,
        parts=there(parts),
        prompts=[c.prompt for c in said],
        tagged=[c.tagged for c in said],
        names=[c.names for c in said],
        roles=[c.roles for c in said],
        phrases=[c.phrases for c in said],
        verb=[VERB_NAMES[i] for i in verbs.tolist()],
        second=["" if i < 0 else VERB_NAMES[i] for i in second.tolist()],
        camera_move=[_CAMERAS[i] for i in camera_index.tolist()],
        shape=shape,
        colour=colour,
        radius=radius,
        depth=depth,
        trajectories=places,
        camera=shift,
        touch=there(touch),
        contact=there(contact),
        moving=there(moving),
        swapped=there((swapped + pan[:, None]).float()),
        ambiguous=there(twins),
        backdrop=backdrop,
        config=config,
    )
