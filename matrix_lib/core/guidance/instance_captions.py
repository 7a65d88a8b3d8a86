"""Captions of instances: each is seen where its instance is, and nowhere else.

n video tokens of a call, R signature regions of them, E instances, C captions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..attention.regions import RegionLayout, signatures
from ..grid import Grid
from ..layers import Layers
from .base import Edit, EditsAttention, Where
from .scene import CallScene, Spans
from .schedule import Schedule

if TYPE_CHECKING:
    from ..tracks.tracks import MaskTracks
    from ..words.binding import PromptBinding

__all__ = ["InstanceCaptions", "captions_layout", "filled_layout"]


@dataclass(frozen=True)
class InstanceCaptions(EditsAttention):
    """A caption for each instance: its rows of the text (`PromptBinding.captions`) are seen by the instance's video
    tokens alone, and the rows of the shared prompt by all.

    Regional prompting for diffusion transformers (arXiv 2411.02395, there for pictures) masks attention in the same
    way, by a dense mask. Here it is a bias that is constant for each pair of regions, so that no mask is made. In a
    joint sequence text rows are queries, too: those of a caption see themselves, the shared prompt and their own
    instance; those of the shared prompt see no caption, nor do references beside the clip, for else every layer would
    carry captions on to all.

    Args:
        down: logits taken from attention to the caption of another; infinite: nothing of it is seen.
        up: logits added to an instance's attention to its own caption.
        schedule: factor on both, over the steps; at 0 everybody sees every caption.

    A token of several instances sees the captions of all of them. In token frames that the tracks say nothing about no
    caption is seen. The text of a prediction without captions that was repeated to fill the batch counts once.
    """

    where: ClassVar[Where] = "attention"
    needs_words: ClassVar[bool] = True
    fills: ClassVar[bool] = True
    edits_video: ClassVar[bool] = False
    only_one: ClassVar[str] = "it acts on the captions of every conditioning, so one is enough"

    down: float = math.inf
    up: float = 0.0
    layers: Layers = Layers()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if not (0 <= self.down <= 100 or self.down == math.inf):
            raise ValueError(f"down is 0 to 100 logits, or infinite for nothing at all; got {self.down}")
        if not 0 <= self.up <= 100:
            raise ValueError(f"up is 0 to 100 logits; got {self.up}")

    @property
    def idle(self) -> bool:
        return not (self.down or self.up)

    def at(self, step: float, steps: int) -> float:
        return 0.0 if self.idle else self.schedule.at(step, steps)

    def check_text(self, title: str, trouble: str) -> None:
        if trouble:
            raise ValueError(
                f"captions of instances cannot be kept apart in {title}: {trouble}. Write one prompt here and "
                "steer it with region bias, or use CogVideoX, Wan, LTX-Video or Cosmos Predict 2"
            )

    def check_words(self, bindings: Sequence[PromptBinding]) -> None:
        super().check_words(bindings)
        if not any(binding.captions for binding in bindings):
            raise ValueError(
                "no instance has a caption of its own, so there is nothing to keep apart: make them with 'MATRIX "
                "Instance Captions' (`encode_captions`)"
            )

    def told(self, grid: Grid, binding: PromptBinding | None, tracks: MaskTracks | None) -> list[str]:
        if binding is None or not binding.captions or tracks is None:
            return []
        shown = tracks.to_grid(grid, "area")
        unknown = [str(frame) for frame, known in enumerate(shown.known) if not known]
        names = dict(zip(shown.names, shown.maps.flatten(1).any(1).tolist()))
        hidden = [each.name for each in binding.captions if not names.get(each.name, True)]
        notes = [f"the caption of {name!r} is seen by nobody: its track shows in no token frame" for name in hidden]
        if unknown:
            notes.append(f"tracks say nothing of token frames {', '.join(unknown)}: no caption is seen there")
        return notes

    def edit(self, scene: CallScene | None, spans: Spans, strength: float, text: bool, video: bool) -> Edit | None:
        assert scene is not None
        if not text or not scene.captions:
            return None
        layout = captions_layout(scene, spans, self, strength)
        return None if layout.neutral else Edit(layout)

    def edit_filled(self, spans: Spans, rows: int, strength: float) -> Edit | None:
        if spans.text_q is None or not 0 < rows < spans.text_q[1]:
            return None  # text alone: it is worth the same however often it is repeated
        return Edit(filled_layout(spans, rows))


def captions_layout(scene: CallScene, spans: Spans, guidance: InstanceCaptions, strength: float) -> RegionLayout:
    """Regions of a call. Queries: 0 whatever is nobody's (shared text, references), 1..R the video, then in a joint
    sequence each caption. Keys: 0 the rest, 1..C the captions, then in a joint sequence the video's R regions."""
    assert spans.video_q is not None
    assert spans.text_k is not None
    labels, table = signatures(scene.inside & scene.known)
    count, captions, joint = len(table), len(scene.captions), spans.text_q is not None
    owners = torch.stack([owner for owner, _ in scene.captions]).float()  # (C, E)
    own = table.float() @ owners.T > 0  # (R, C)
    query, key = torch.zeros(spans.queries).long(), torch.zeros(spans.keys).long()
    video = slice(spans.video_q[0], sum(spans.video_q))
    query[video] = 1 + labels
    for at, (_, rows) in enumerate(scene.captions, 1):
        key[[spans.text_k[0] + row for row in rows]] = at
    bias = torch.zeros(1 + count + joint * captions, 1 + captions + joint * count)
    up, down = guidance.up * strength, -guidance.down * strength
    told, seen = slice(1, 1 + captions), slice(1 + captions, None)
    bias[0, told] = down
    bias[1 : 1 + count, told] = _chosen(own, up, down)
    if joint:
        text = slice(spans.text_k[0], sum(spans.text_k))
        query[text] = torch.where(key[text] > 0, count + key[text], 0)
        key[video] = 1 + captions + labels
        bias[1 + count :, told] = _chosen(torch.eye(captions).bool(), 0.0, down)
        bias[1 + count :, seen] = _chosen(own.T, 0.0, down)
    return RegionLayout(query, key, bias)


def filled_layout(spans: Spans, rows: int) -> RegionLayout:
    """Text rows of a joint sequence behind the first `rows` are copies, which nobody sees."""
    assert spans.text_q is not None
    key = torch.zeros(spans.keys).long()
    key[spans.text_q[0] + rows : sum(spans.text_q)] = 1
    return RegionLayout(torch.zeros(spans.queries).long(), key, torch.tensor([[0.0, -math.inf]]))


def _chosen(where: Tensor, inside: float, outside: float) -> Tensor:
    return torch.where(where, torch.tensor(inside), torch.tensor(outside))
