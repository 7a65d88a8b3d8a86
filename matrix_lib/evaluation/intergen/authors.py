"""The files of MATRIX's released evaluation, read and written, so that its results and ours can stand side by side.

    EVAL_DATA/{type}/meta.json                        samples; the index is the number
    EVAL_DATA/{type}/questions/NNN.json               {"items": [{"key_interaction", "questions": [10]}], ...}
    .../{type}/question_verification.json             answers
    .../{type}/_emergence_disappearance.json          frames with something new, with somebody gone

Its scorer pools questions over interactions, counts "yes" alone, and takes what failed for perfect or leaves it out.
Here the released formula is the same, and what failed is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...io.files import whole_file
from .answers import Answer, AnswerError, read_verification
from .scores import Presence, VideoScores, score_video
from .suite import Instance, Interaction, Sample, Suite

__all__ = ["read_list", "read_meta", "read_results", "write_results"]

VERIFICATION, PRESENCE = "question_verification.json", "_emergence_disappearance.json"


def read_meta(folder: Path, stride: int = 5) -> Suite:
    """A suite from an `EVAL_DATA` folder: each `{type}/meta.json`. Samples are called TYPE-NNN, instances id1, id2, ...

    Interactions are not in these files: a language model found them. Raises ValueError that names file and sample.
    """
    paths = sorted(folder.glob("*/meta.json")) or sorted(folder.glob("meta.json"))
    if not paths:
        raise ValueError(f"{folder} holds no meta.json: give the folder EVAL_DATA, or one of its types")
    samples = []
    for path in paths:
        for number, entry in enumerate(read_list(path)):
            kind = path.parent.name if path.parent != folder else str(entry.get("interaction_type", ""))
            objects = entry.get("objects")
            if not isinstance(objects, list) or not all(isinstance(each, Mapping) for each in objects):
                raise ValueError(f"{path}: sample {number} has no list of objects")
            instances = tuple(
                Instance(f"id{place}", str(each.get("class", "")), str(each.get("appearance", "")))
                for place, each in enumerate(objects, 1)
            )
            prompt, direction = str(entry.get("video_text_prompt", "")), str(entry.get("interaction_direction", ""))
            samples.append(Sample(f"{kind}-{number:03d}", prompt, instances, (), kind, direction))
    return Suite(folder, tuple(samples), stride)


def read_results(folder: Path) -> list[VideoScores]:
    """Scores from the two result files of one model and type, in both forms of SPI.

    A failed or unreadable answer is missing, by name. Raises ValueError for files of another form.
    """
    videos = []
    presences = {str(each.get("video_id")): each for each in read_list(folder / PRESENCE)}
    for entry in read_list(folder / VERIFICATION):
        name = str(entry.get("video_id"))
        why: list[str] = []
        shown = [k for k in entry.get("frame_indices", []) if isinstance(k, int)]
        answers = [_answers(item, shown, why) for item in entry.get("items", [])]
        videos.append(score_video(name, "", answers, _presence(presences.get(name), why), why=why))
    return videos


def write_results(folder: Path, videos: Sequence[VideoScores], suite: Suite, model: str) -> None:
    """Writes both result files, and the scores under the names that the released combiner reads.

    Videos with something missing are left out, as there: their names go to `missing.json`.
    """
    whole = [video for video in videos if video.complete]
    verification, presence, scores = [], [], {}
    for video in whole:
        assert video.presence is not None
        assert video.presence.emergence is not None
        sample = suite.sample(video.id)
        asked = _interactions(sample, video)
        items = [
            {
                "item_index": place,
                "key_interaction": interaction.name,
                "question_verification_results": [
                    {"question_id": q, "answer": _word(answer), "frame_index": answer.frame}
                    for q, answer in sorted((answers or {}).items())
                ],
            }
            for place, (interaction, answers) in enumerate(zip(asked, video.answers, strict=True))
        ]
        verification.append({"video_id": video.id, "prompt": sample.prompt, "model_used": model, "items": items})
        overall = {
            "emergence": "yes" if video.presence.emergence else "no",
            "emergence_frames": list(video.presence.emergence),
            "disappearance": "yes" if video.presence.disappearance else "no",
            "disappearance_frames": list(video.presence.disappearance),
        }
        presence.append({"video_id": video.id, "frames_analyzed": video.presence.sampled, "overall_analysis": overall})
        scores[video.id] = {
            "KISA_score": video.values["kisa_raw"],
            "SGA_score": video.values["sgi_raw"],
            "interaction_score": video.values["kisa_raw"],
            "grounding_score": video.values["sgi_raw"],
            "SPI_score": video.values["spi_released"],
        }
    missing = {video.id: list(video.missing) for video in videos if not video.complete}
    for name, content in (
        (VERIFICATION, verification),
        (PRESENCE, presence),
        ("video_scores.json", scores),
        ("missing.json", missing),
    ):
        with whole_file(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _interactions(sample: Sample, video: VideoScores) -> Sequence[Interaction]:
    if len(sample.interactions) == len(video.answers):
        return sample.interactions
    return [Interaction(f"interaction {i + 1}", sample.names[0]) for i in range(len(video.answers))]


def _answers(item: Any, shown: Sequence[int], why: list[str]) -> dict[int, Answer] | None:
    results = item.get("question_verification_results") if isinstance(item, Mapping) else None
    try:
        if not isinstance(results, list):
            raise AnswerError(
                str(item.get("error", "it holds no list of answers")) if isinstance(item, Mapping) else ""
            )
        asked = [dict(each) for each in results if isinstance(each, Mapping)]
        if not shown:  # older files do not say which frames were shown: any number is taken
            shown = sorted({each["frame_index"] for each in asked if isinstance(each.get("frame_index"), int)})
        return read_verification(json.dumps(asked), shown)
    except (AnswerError, TypeError) as error:
        why.append(f"an interaction's answer is not readable: {error}")
        return None


def _presence(entry: Mapping[str, Any] | None, why: list[str]) -> Presence | None:
    """From overall lists of frames; a frame whose call failed makes it missing."""
    if entry is None:
        return None
    overall = entry.get("overall_analysis")
    per_frame = entry.get("hallucination_results", [])
    failed = [
        each
        for each in per_frame
        if isinstance(each, Mapping) and "error" in (each.get("emergence"), each.get("disappearance"))
    ]
    if not isinstance(overall, Mapping) or "raw_response" in overall or failed:
        why.append("the answer about who is there failed or is not readable")
        return None
    lists = [overall.get(f"{what}_frames") for what in ("emergence", "disappearance")]
    frames = entry.get("frames_analyzed")
    if not all(isinstance(each, list) for each in lists) or not isinstance(frames, int) or frames < 2:
        why.append("the answer about who is there lacks its lists of frames, or their number")
        return None
    indices = entry.get("frame_indices")
    known = set(indices) if isinstance(indices, list) else None
    for each in lists:
        if unknown := [k for k in each or () if known is not None and k not in known]:
            why.append(f"the answer about who is there names frames that were not shown: {unknown[:5]}")
            return None
    emergence, gone = (tuple(sorted(set(each or ()))) for each in lists)
    return Presence(len(known) if known else frames, gone, emergence)


def _word(answer: Answer) -> str:
    return "yes" if answer.yes else "no (visually implausible)" if answer.implausible else "no"


def read_list(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a JSON file. Raises ValueError for another form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, list) or not all(isinstance(each, Mapping) for each in content):
        raise ValueError(f"{path} is not a list of objects, as the released evaluation writes it")
    return content
