"""The exact judge of the mini world behind the interface of all judges: it answers what it is asked from the truth."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ...core.tracks.tracks import MaskTracks
from ...mini.world import Clips
from ..intergen.suite import Instance, Interaction, Sample
from ..judges.judge import JudgeError, Reply, Request
from .judges import judge
from .object_tracking import look

__all__ = ["ExactJudge", "sample_of"]


class ExactJudge:
    """Judges one video of the mini world by its pixels.

    Args:
        video: (F, 3, H, W), uint8 or float in [0, 1]. truth: the clip that it should show (`Clips` of length 1).

    Raises ValueError where the video's shape, type or range does not fit the clip.
    """

    name, workers = "the mini world's exact judge", 1

    def __init__(self, video: Tensor, truth: Clips) -> None:
        sight = look(video[None], truth)
        self._truth, self._verdict, self._new = truth, judge(video[None], truth, sight=sight), sight.new[0]
        self._seen = sight.masks[0] & ~sight.lost[0, ..., None, None]  # (K, F, H, W)

    def tracks(self) -> MaskTracks:
        """What it has found of each instance; a lost one has no pixel."""
        slots = self._truth.present[0].nonzero()[:, 0].tolist()
        found = {name: self._seen[slot].cpu() for name, slot in zip(self._truth.names[0], slots)}
        return MaskTracks.from_masks(found, roles=self._truth.roles[0], fps=self._truth.config.fps, allow_empty=True)

    def answer(self, request: Request, complaint: str = "") -> Reply:
        """Answers the ten questions, each yes on the last frame, and what is new. Raises JudgeError for the rest."""
        shown = [picture.index for picture in request.pictures]
        if request.kind == "verify":
            said: Any = [
                {"question_id": q, "answer": "yes" if yes else "no", "frame_index": shown[-1] if yes else None}
                for q, yes in enumerate(self._verdict.questions[0].tolist(), 1)
            ]
        elif request.kind == "emergence":
            new = [k for k in shown[1:] if bool(self._new[k])]
            reason = "a spot that nobody should be at" if new else ""
            said = {"emergence": "yes" if new else "no", "emergence_frames": new, "emergence_reason": reason}
        else:
            raise JudgeError(f"{self.name} answers about videos, and writes no {request.kind}", again=False)
        return Reply(json.dumps(said), "1")


def sample_of(truth: Clips, name: str) -> Sample:
    """What a clip of the mini world should show, as an entry of a suite."""
    names = truth.names[0]
    instances = tuple(Instance(each, each.split()[-1], f"the {each}", truth.roles[0][each]) for each in names)
    # Not all instances of a clip are named; the agent is the first one, and acts alone where its verb has one part.
    recipient = names[1] if int(truth.parts[0]) > 1 else ""
    return Sample(name, truth.prompts[0], instances, (Interaction(truth.verb[0], names[0], recipient),), truth.verb[0])
