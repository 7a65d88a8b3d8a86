"""What a judge is asked, as data: about each interaction, about what is new, and for questions where nobody wrote any.

The wording is ours; the structure is that of MATRIX's released evaluation. The video's prompt is not shown unless a
person wants it: a judge that reads it can answer without looking.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from ..judges.judge import Picture, Request
from .questions import Sheet
from .suite import Sample

__all__ = ["emergence_requests", "verify_requests"]

_VERIFY = """You look at frames of a video and answer questions about it.
Each person or thing that a question names has a box of its own colour in the frames. The colour tells which one is
meant.
Judge by what can be seen in the frames and by nothing else. Do not guess what happens between them.
For each question choose the one frame that decides it, the earliest if several do. If none shows it, answer "no" with
null.
Then look at that frame once more: if bodies there are not possible (limbs too many or missing, joints bent the wrong
way, bodies fused or passing through each other), answer "no (visually implausible)" instead of "yes".
Answer with JSON, one object for each question:
{"answers": [{"question_id": 1, "answer": "yes", "frame_index": 5}, ...]}
An answer is "yes", "no" or "no (visually implausible)"; frame_index is the number of the frame, or null.
Write nothing else."""
_EMERGENCE = """You look at frames of a video in which persons and things are marked with coloured boxes.
The first frame shows everybody and everything there is. Look in the later frames for what is new: a whole person or
thing of one of the named classes that has no box, and that was not there in the first frame. Do not count shadows,
reflections, parts of something with a box, or what was there from the beginning and has no box.
Answer with one JSON object:
{"emergence": "yes", "emergence_frames": [10, 15], "emergence_reason": "what it is"}
emergence is "yes" or "no"; the frames are the numbers of those in which it is seen.
Write nothing else."""


def verify_requests(
    sample: Sample,
    sheet: Sheet,
    seed: str,
    pictures: Sequence[Picture],
    repeats: int = 1,
    show_prompt: bool = False,
    shuffle: int | None = None,
) -> list[Request]:
    """One request for each interaction and repeat; all ten questions in one.

    shuffle: a seed by which the questions are mixed; their numbers stay.
    """
    found, schema = [], _verify_schema(pictures)
    for place, asked in enumerate(sheet.asked):
        for repeat in range(repeats):
            lines = [{"question_id": q, "question": text} for q, text in enumerate(asked.told(sample), 1)]
            if shuffle is not None:
                random.Random(f"{shuffle} {sample.id} {place} {repeat}").shuffle(lines)
            prompt = f"The video was made from the words: {sample.prompt}\n" if show_prompt else ""
            text = f"{prompt}Questions:\n{json.dumps(lines, indent=1, ensure_ascii=False)}"
            about = (sample.id, seed, _VERIFY, text, tuple(pictures), place, repeat, schema)
            found.append(Request("verify", *about))
    return found


def emergence_requests(sample: Sample, seed: str, pictures: Sequence[Picture], repeats: int = 1) -> list[Request]:
    """One request for each repeat: what is new since the first frame?"""
    classes = ", ".join(dict.fromkeys(each.kind or each.name for each in sample.instances))
    who = "\n".join(f"- {sample.called(name)}" for name in sample.names)
    text = f"Classes: {classes}\nMarked from the beginning:\n{who}"
    schema = {
        "type": "object",
        "properties": {
            "emergence": {"type": "string", "enum": ["yes", "no"]},
            "emergence_frames": {"type": "array", "items": {"type": "integer"}},
            "emergence_reason": {"type": "string"},
        },
        "required": ["emergence", "emergence_frames", "emergence_reason"],
        "additionalProperties": False,
    }
    return [
        Request("emergence", sample.id, seed, _EMERGENCE, text, tuple(pictures), 0, repeat, schema)
        for repeat in range(repeats)
    ]


def _verify_schema(pictures: Sequence[Picture]) -> dict[str, Any]:
    answer = {
        "type": "object",
        "properties": {
            "question_id": {"type": "integer"},
            "answer": {"type": "string", "enum": ["yes", "no", "no (visually implausible)"]},
            "frame_index": {"type": ["integer", "null"], "enum": [*(picture.index for picture in pictures), None]},
        },
        "required": ["question_id", "answer", "frame_index"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"answers": {"type": "array", "items": answer}},
        "required": ["answers"],
        "additionalProperties": False,
    }
