"""One entry of a suite as a person types it: JSON as in `suite.json`, or lines that say who there is and who does what.

    cyclist: a cyclist in a black shirt [subject]      a name, and what tells it from its like
    van: the dark grey van
    waits beside = verb(cyclist -> van)                what is asked about

The lines are those of *MATRIX Bind Prompt*; words to watch that are no instance say nothing here.
"""

from __future__ import annotations

import json

from ...core.words.phrases import parse_phrases
from .suite import Instance, Interaction, Sample, read_sample

__all__ = ["parse_entry"]


def parse_entry(text: str, prompt: str = "", name: str = "clip") -> Sample:
    """A sample. prompt: of the video, for lines; name: its id, where the text does not say one.

    Raises ValueError that says what is wrong with the text, and for one that says of nobody what they do.
    """
    if not text.strip():
        raise ValueError(
            "the entry is empty: write who there is and who does what, a line each ('man: the man in a cap', "
            "'opens = verb(man -> fridge)'), or an entry of a suite.json"
        )
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the entry begins with a brace and is no JSON: {str(error)[:200]}") from None
        if prompt.strip():
            content.setdefault("prompt", prompt)
        content.setdefault("id", name)
        sample = read_sample(content, "the entry")
    else:
        sample = _from_lines(text, prompt, name)
    if not sample.interactions:
        raise ValueError(f"the entry names {', '.join(sample.names)}, and nothing that they do: nothing can be asked")
    return sample


def _from_lines(text: str, prompt: str, name: str) -> Sample:
    specs = parse_phrases(text)
    instances = tuple(
        Instance(each.name, each.name, " ".join(each.words[0].pieces), each.role)
        for each in specs
        if each.role not in ("verb", "word")
    )
    if not instances:
        raise ValueError(
            f"the entry {text.strip()[:60]!r} says of nobody who they are: write 'man: the man in a cap' and 'opens = "
            "verb(man -> fridge)', a line each"
        )
    done = [each for each in specs if each.role == "verb"]
    interactions = tuple(
        Interaction(each.name, each.subject or "", each.object or "", " ".join(each.words[0].pieces)) for each in done
    )
    asked = prompt.strip() or "; ".join(f"{each.subject} {each.name} {each.object or ''}".strip() for each in done)
    return Sample(name, asked or text.strip()[:1000], instances, interactions)
