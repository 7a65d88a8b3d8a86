"""Stage 2: who does what to whom, out of the caption, by a language model.

    {"name", "status", "reason", "instances": [{"id", "class", "words", "occurrence", "descriptor", "name", "role"}],
     "interactions": [{"subject", "verb", "words", "object", "contactness", "dynamism"}], "prompt", "phrases",
     "bystanders": [...], "alike": [[1, 2]]}

An answer is checked strictly and asked for once more with what was wrong; after that the clip is open, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matrix_lib.core.words.binding import locate
from matrix_lib.core.words.forms import MAX_TAGS, write_tags
from matrix_lib.core.words.phrases import parse_phrases
from matrix_lib.core.words.prompt import find_words
from matrix_lib.evaluation.intergen.answers import AnswerError, read_json
from matrix_lib.evaluation.judges.judge import JudgeError, Request

from ..asking import Asking, JudgeSource, UnreadableError
from ..stage import Failure, Item, Place, Resources, Result

__all__ = ["Triplets", "read_triplets", "written"]

_TASK = """You read the caption of a video and write down who does what to whom.
instances: every person, animal or thing that takes part, numbered from 1 without holes. `class` is one common noun in
the singular, the word that an object detector knows. `words` are the words of the caption that name it, as they stand
there, with their article; where these words come several times, `occurrence` says which one is meant, from 1.
`descriptor` tells it from others of its class by what can be seen.
interactions: `subject` and `object` are numbers of instances; `object` is null where nobody else takes part. `verb` is
the verb in its base form, `words` are its words in the caption as they stand there, with ... for words between.
`contactness` from 1 (no contact) over 3 (now and then, or through a tool) to 5 (direct and lasting); `dynamism` from 1
(a static pose) over 3 (moderate) to 5 (the object's state or place clearly changes).
Take nothing that the caption does not say. Answer with one JSON object:
{"instances": [{"id": 1, "class": "man", "words": "a man", "occurrence": null, "descriptor": "the man in a red coat"}],
"interactions": [{"subject": 1, "verb": "push", "words": "pushes", "object": 2, "contactness": 5, "dynamism": 4}]}
Write nothing else."""
_NOUN = re.compile(r"[^\W\d_][\w'-]*(?: [^\W\d_][\w'-]*){0,2}")
_DETERMINER = re.compile(
    r"(?:a|an|the|another|one|this|that|these|those|some|his|her|its|their|my|our|your|each|every)\s+", re.IGNORECASE
)
_MOST_NAMED = 12


@dataclass
class Triplets:
    """Settings of the stage.

    Args:
        judge: who reads captions. contactness, dynamism: an interaction has so much at least (1 to 5), else it does not
            count; a clip without one is left out.
    """

    judge: JudgeSource
    contactness: int = 3
    dynamism: int = 3
    name: str = field(default="triplets", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=("caption",), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(gpu=self.judge.gpu, alone=not self.judge.gpu, batch=16)

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._asking = Asking(self.judge, place, self.name)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`."""
        captions = {item["name"]: item["caption"]["text"] for item in batch}
        requests = [_request(name, caption) for name, caption in captions.items()]
        said = self._asking.put(requests, lambda request, raw: read_triplets(raw, captions[request.id]))
        return [self._one(item, said[request.key]) for item, request in zip(batch, requests)]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`. What the model is asked for is read from it; the rest is made of that."""
        if result["status"] != "kept":
            return result
        if not {"instances", "interactions"} <= result.keys():
            raise ValueError("a line of triplets has `instances` and `interactions`")
        content = {key: result[key] for key in ("instances", "interactions")}
        caption = item["caption"]["text"]
        return {**result, **self._made(read_triplets(json.dumps(content), caption), caption)}

    def _one(self, item: Item, said: str | JudgeError) -> Result:
        if isinstance(said, UnreadableError):
            return {"status": "open", "reason": f"the answer cannot be read: {said}"[:600]}
        if isinstance(said, JudgeError):
            return Failure(item["name"], f"no answer about its caption: {said}"[:600])
        return self._made(read_triplets(said, item["caption"]["text"]), item["caption"]["text"])

    def _made(self, content: dict[str, Any], caption: str) -> Result:
        strong = [
            each
            for each in content["interactions"]
            if each["contactness"] >= self.contactness and each["dynamism"] >= self.dynamism
        ]
        if not content["interactions"]:
            return {"status": "dropped", "reason": "nobody does anything in its caption", **content}
        if not strong:
            best = max(content["interactions"], key=lambda each: each["contactness"] + each["dynamism"])
            said = f"{best['verb']!r} has contactness {best['contactness']} and dynamism {best['dynamism']}"
            wanted = f"{self.contactness} and {self.dynamism} are wanted"
            return {"status": "dropped", "reason": f"no strong interaction: {said}, and {wanted}", **content}
        return {"status": "kept", "reason": "", **content, **written(content, strong, caption)}


def read_triplets(raw: str, caption: str) -> dict[str, Any]:
    """The instances and interactions of an answer. Raises AnswerError that says what is wrong, and where."""
    content = read_json(raw)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) for k in ("instances", "interactions")
    ):
        raise AnswerError('the answer is an object {"instances": [...], "interactions": [...]}')
    instances = [_instance(each, caption) for each in content["instances"]]
    if not instances or len(instances) > _MOST_NAMED:
        raise AnswerError(f"there are {len(instances)} instances; 1 to {_MOST_NAMED} are taken")
    ids = [each["id"] for each in instances]
    if ids != list(range(1, len(ids) + 1)):
        raise AnswerError(f"ids are 1 to {len(ids)} in this order; got {ids}")
    spans = [_span(each, caption) for each in instances]
    for n, span in enumerate(spans):
        other = next((m for m in range(n) if _overlap(spans[m], span)), None)
        if other is not None:
            raise AnswerError(f"instances {other + 1} and {n + 1} have the same words: split them, or drop one")
    interactions = [_interaction(each, ids, caption, spans) for each in content["interactions"]]
    triples = [(each["subject"], each["words"], each["object"]) for each in interactions]
    if len(set(triples)) < len(triples):
        raise AnswerError("an interaction is there twice")
    return {"instances": instances, "interactions": interactions}


def _instance(given: Any, caption: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise AnswerError(f"an instance is an object; got {str(given)[:60]}")
    number, occurrence = given.get("id"), given.get("occurrence")
    if not isinstance(number, int) or isinstance(number, bool):
        raise AnswerError(f"an id is a whole number; got {str(number)[:40]!r}")
    texts = {}
    for key in ("class", "words", "descriptor"):
        value = given.get(key)
        if not isinstance(value, str) or not value.strip():
            raise AnswerError(f"instance {number}: {key} is a text")
        texts[key] = " ".join(value.split())
    if not _NOUN.fullmatch(texts["class"]):
        raise AnswerError(f"instance {number}: class is one noun; got {texts['class'][:40]!r}")
    if occurrence is not None and (not isinstance(occurrence, int) or isinstance(occurrence, bool) or occurrence < 1):
        raise AnswerError(f"instance {number}: occurrence is null or a number from 1; got {str(occurrence)[:40]!r}")
    found = find_words(caption, texts["words"])
    if not found:
        raise AnswerError(f"instance {number}: {texts['words']!r} does not stand in the caption")
    if len(found) > 1 and occurrence is None:
        raise AnswerError(
            f"instance {number}: {texts['words']!r} stands {len(found)} times in the caption: say occurrence"
        )
    if occurrence is not None and occurrence > len(found):
        raise AnswerError(
            f"instance {number}: {texts['words']!r} stands {len(found)} times, so there is no {occurrence}."
        )
    return {"id": number, **texts, "occurrence": occurrence if len(found) > 1 else None}


def _span(instance: dict[str, Any], caption: str) -> tuple[int, int]:
    return find_words(caption, instance["words"])[(instance["occurrence"] or 1) - 1]


def _interaction(given: Any, ids: list[int], caption: str, spans: list[tuple[int, int]]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise AnswerError(f"an interaction is an object; got {str(given)[:60]}")
    subject, other = given.get("subject"), given.get("object")
    if subject not in ids or isinstance(subject, bool):
        raise AnswerError(f"subject is one of the ids {ids}; got {str(subject)[:40]!r}")
    if other is not None and (other not in ids or isinstance(other, bool)):
        raise AnswerError(f"object is null or one of the ids {ids}; got {str(other)[:40]!r}")
    if subject == other:
        raise AnswerError(f"instance {subject} does something to itself: write null as object")
    verb, words = given.get("verb"), given.get("words")
    if not isinstance(verb, str) or not verb.strip() or not isinstance(words, str) or not words.strip():
        raise AnswerError("verb and words of an interaction are texts")
    pieces = [" ".join(piece.split()) for piece in re.split(r"\.\.\.|…", words)]
    at, nth = 0, None
    for piece in pieces:
        places = [span for span in find_words(caption, piece) if span[0] >= at] if piece else []
        if not places:
            raise AnswerError(f"the words {words[:60]!r} of {verb[:40]!r} do not stand in the caption in this order")
        free = [span for span in places if not any(_overlap(span, each) for each in spans)]
        if not free:
            raise AnswerError(f"the words {piece!r} of {verb[:40]!r} lie inside of those of an instance")
        at = free[0][1]
        every = find_words(caption, piece)
        nth = every.index(free[0]) + 1 if len(pieces) == 1 and len(every) > 1 else None
    grades = {}
    for key in ("contactness", "dynamism"):
        value = given.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 5:
            raise AnswerError(f"{key} of {verb[:40]!r} is a whole number from 1 to 5; got {str(value)[:40]!r}")
        grades[key] = value
    said = {"subject": subject, "verb": " ".join(verb.split()), "words": " ... ".join(pieces), "occurrence": nth}
    return {**said, "object": other, **grades}


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def written(content: dict[str, Any], strong: Sequence[dict[str, Any]], caption: str) -> dict[str, Any]:
    """What the set says of a clip: names and roles of its instances, its phrases, its prompt with tags, and whom words
    cannot tell apart. Of more instances than there are tags those in strong interactions are kept; ids are then new."""
    taking_part = {each["subject"] for each in strong} | {each["object"] for each in strong} - {None}
    given = content["instances"]
    kept = given if len(given) <= MAX_TAGS else [each for each in given if each["id"] in taking_part][:MAX_TAGS]
    new = {each["id"]: number for number, each in enumerate(kept, 1)}
    shown = [each for each in strong if each["subject"] in new and (each["object"] is None or each["object"] in new)]
    if not shown:
        return {"status": "dropped", "reason": f"more than {MAX_TAGS} instances take part in its interactions"}
    objects = {each["object"] for each in shown} - {None}
    subjects = {each["subject"] for each in shown}
    instances, taken = [], set[str]()
    for each in kept:
        one, both = each["id"] in subjects, each["id"] in objects
        role = "instance" if one == both else "subject" if one else "object"
        name = _name(each["words"], taken)
        instances.append({**each, "id": new[each["id"]], "name": name, "role": role})
    names = {each["id"]: each["name"] for each in instances}
    moved = [
        {**each, "subject": new[each["subject"]], "object": new.get(each["object"]), "name": _name(each["verb"], taken)}
        for each in shown
    ]
    lines = [f"{each['name']}: {_quoted(each['words'], each['occurrence'])} [{each['role']}]" for each in instances]
    for each in moved:
        ends = names[each["subject"]] + (f" -> {names[each['object']]}" if each["object"] else "")
        lines.append(f"{each['name']}: {_quoted(each['words'], each['occurrence'])} = verb({ends})")
    phrases = "\n".join(lines)
    numbers = {each["name"]: each["id"] for each in instances}
    try:
        locate(caption, parse_phrases(phrases))
        prompt, _ = write_tags(caption, phrases, numbers=numbers)
    except ValueError as error:
        return {"status": "open", "reason": f"its words cannot be written as phrases: {error}"}
    looks: dict[tuple[str, str], list[int]] = {}
    for each in instances:
        looks.setdefault((each["class"].casefold(), each["descriptor"].casefold()), []).append(each["id"])
    return {
        "instances": instances,
        "interactions": moved,
        "prompt": prompt,
        "phrases": phrases,
        "bystanders": [each["words"] for each in given if each["id"] not in new],
        "alike": [ids for ids in looks.values() if len(ids) > 1],
    }


def _name(words: str, taken: set[str]) -> str:
    """A name that phrases can use: without determiner and signs, and nobody else's."""
    plain = " ".join("".join(" " if c in ':=|[]()#",.…' else c for c in _DETERMINER.sub("", words, count=1)).split())
    plain = plain[:48].strip() or "thing"
    name, count = plain, 1
    while name.casefold() in taken:
        count += 1
        name = f"{plain} {count}"
    taken.add(name.casefold())
    return name


def _quoted(words: str, occurrence: int | None) -> str:
    mark = f"#{occurrence}" if occurrence else ""
    if set(words) & set(':=|[]#"') and '"' not in words:
        return f'"{words}"{mark}'
    return f"{words}{mark}"


def _request(name: str, caption: str) -> Request:
    number, text = {"type": "integer"}, {"type": "string"}
    grade = {"type": "integer", "minimum": 1, "maximum": 5}
    maybe = {"type": ["integer", "null"]}
    instance = {"id": number, "class": text, "words": text, "occurrence": maybe, "descriptor": text}
    interaction = {
        "subject": number,
        "verb": text,
        "words": text,
        "object": maybe,
        "contactness": grade,
        "dynamism": grade,
    }
    schema = _object({"instances": _list(_object(instance)), "interactions": _list(_object(interaction))})
    return Request("triplets", name, "", _TASK, f"Caption: {caption}", schema=schema)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}
