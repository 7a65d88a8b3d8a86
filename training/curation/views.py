"""A clip as it grows: what each stage reads is no more than it needs, so that nothing is made anew without a reason."""

from __future__ import annotations

from typing import Any

from .stage import Item, Result

__all__ = ["all_faults", "clip_item", "with_result"]


def clip_item(raw: Item, part: dict[str, Any]) -> Item:
    """A clip from a file and the part of it that stage 1 found."""
    facts = {key: value for key, value in part.items() if key not in ("name", "status", "reason", "caption", "looks")}
    raw = {**raw["raw"]}
    video = {"video": raw["video"]}
    item = {"name": part["name"], "raw": video, "clips": facts, "caption": {"text": part["caption"]}}
    return {**item, "fixes": {}, "doubts": {"faults": []}}


def all_faults(item: Item) -> list[dict[str, Any]]:
    """What the checks and a second look found, for people."""
    return [*item["checks"]["faults"], *item["doubts"]["faults"]]


def with_result(item: Item, stage: str, result: Result) -> Item:
    """The clip with what a stage found, and what later stages read of that."""
    item = {**item, stage: result}
    if stage == "triplets" and result["status"] == "kept":
        instances = result["instances"]
        who = [{key: each[key] for key in ("id", "class", "descriptor")} for each in instances]
        pairs = [[each["subject"], each["object"]] for each in result["interactions"] if each["object"] is not None]
        item["classes"] = {"classes": list(dict.fromkeys(each["class"] for each in instances))}
        item["who"] = {"instances": who}
        item["pairs"] = {"pairs": [list(pair) for pair in dict.fromkeys(map(tuple, pairs))]}
    if stage == "verify":
        item["doubts"] = {"faults": result.get("faults", [])}
    return item
