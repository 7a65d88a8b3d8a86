"""One grammar in two languages: what web/js reads out of a text is what the library reads, or both refuse it."""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_counts import count, seeds

from matrix_lib.core.names import name_key
from matrix_lib.core.points import parse_points
from matrix_lib.core.tracks.boxes import boxes_at
from matrix_lib.core.tracks.painted import mask_code
from matrix_lib.core.tracks.palette import distinct_colours
from matrix_lib.core.tracks.text import parse_boxes, parse_masks, parse_prompts
from matrix_lib.core.words.phrases import parse_phrases
from matrix_lib.draw.style import readable
from scripts.comfyui import ROOT
from scripts.front import node, packages

WIDTH, HEIGHT = 640, 272
CASES = json.loads((ROOT / "tests" / "data" / "tracks_text.json").read_text(encoding="utf-8"))
# What lines are made of, and what can go wrong in them.
PIECES = {
    "boxes": [
        *("a", "van (object)", "b(subjct)", ":", ";", "0", "12", "frame 3", "=", "1 2 30 40", "10% 20%, 50% .5%"),
        *("off", "Gone", "#", "\n", "\u2028", "\x1f", "\u00a0", " ", "[1,2,3,4]", "-5", "+7.", "1e3", "\u0663"),
        "\ufeff",
    ],
    "prompts": [
        *("a", "van (object)", ":", ";", "0", "12", "1,2", "-3,4", "!5% , 6%", "[1,2,3,4]", "[10% 2 3 4]", "off", "\n"),
        *(" ", "\t", ",", "+7,8", "\u00a0", "[", "]", "9", "mask 640x272 k0AwAwzAA8joF", "mask"),
    ],
    "masks": [
        *("a: ", "van (object): 3: ", "; ", "; 12: ", "off", "\n", "mask 4x3 AM", "mask 4x3 BBK", "mask ", "4x3 "),
        *("B", "C", "gB", "-", "_", " ", "\u00a0", "1,2", "16385x1 ", "c: mask 3x4 BBK\n", "d: 2: off\n"),
        *("e: 1: mask 4x3 AM; 3: off\n", "f (subject): mask 1x2 AC\n", "g: mask 2x6 BBK;\n"),
    ],
    "phrases": [
        *("cat", "dog", ":", "=", "verb(cat -> dog)", "verb(cat)", "[subject]", "[Object]", "[x]", "#2", "#all", "|"),
        *('"', "...", "\u2026", " ", "\n", "# ", "@0-1.5s", " @2-1s", " @ 0 - 2 s", "\u2192", "a cat", "[word]", "#0"),
        *(" @2s-", " @-1s"),
    ],
    "points": [
        *("1,2", "60,90@8", "50%,25%", ".5 , 7.@ 3", "9%,1", ";", "; ", "\n", "\r\n", " ", "\t", "@", ",", "%", "12"),
        *("1,2@0", "1.0,2", "-", "\u00a0", "\u0663", "e3", "\u2028", "0.125", "1.0625", "@1234567", "@12345678"),
    ],
}
JSON_PIECES = [
    *('{"a": ', '"b (object)": ', "{", "}", '"0": ', '"12": ', "null", "[1, 2, 3, 4]", ", ", "]", "NaN", "1e2", "{}"),
    '{"mask": "640x272 k0AwAwzAA8joF"}',
    *('{"points": [[1, 2]], "labels": [1]}', '{"box": [1, 2, 3, 4.5]}', "true", "\n", '"\\ud800"', '"00": '),
]


def read(what: str, texts: list[str], tmp_path: Path) -> list[Any]:
    packages()
    place = tmp_path / "texts.json"
    place.write_text(json.dumps({"what": what, "texts": texts, "width": WIDTH, "height": HEIGHT}), encoding="utf-8")
    done = node("tools/read.js", str(place))
    assert done.returncode == 0, done.stdout[-2000:]
    return json.loads(done.stdout)


def told(what: str, text: str) -> Any:
    """What the library reads, as JSON; None where it refuses."""
    try:
        if what == "phrases":
            found = [vars(spec) | {"words": [vars(words) for words in spec.words]} for spec in parse_phrases(text)]
        elif what == "points":
            found = [[point.x, point.y, point.frame, point.percent] for point in parse_points(text)]
        elif what == "boxes":
            keys, roles = parse_boxes(text, WIDTH, HEIGHT)
            found = [[name, roles.get(name), [*sorted(own.items())]] for name, own in keys.items()]
        elif what == "masks":
            masks, roles = parse_masks(text)
            found = [[n, roles.get(n), [(f, _mask(own[f])) for f in sorted(own)]] for n, own in masks.items()] or None
        else:
            given, roles = parse_prompts(text, WIDTH, HEIGHT)
            found = [[n, roles.get(n), [(f, _prompt(own[f])) for f in sorted(own)]] for n, own in given.items()]
    except ValueError:
        return None
    return json.loads(json.dumps(found))


def _prompt(prompt: Any) -> Any:
    return None if prompt is None else {"points": prompt.points, "box": prompt.box, "mask": _mask(prompt.mask)}


def _mask(mask: Any) -> Any:
    return None if mask is None else mask_code(mask).removeprefix("mask ")


def differences(what: str, texts: list[str], tmp_path: Path) -> list[Any]:
    return [
        (text, here, there)
        for text, there in zip(texts, read(what, texts, tmp_path), strict=True)
        if (here := told(what, text)) != there
    ]


@pytest.mark.parametrize("what", list(CASES))
def test_written_cases(what: str, tmp_path: Path) -> None:
    """The file says what each text means: the library and the page read it so."""
    texts = [case["text"] for case in CASES[what]]
    wanted = [case["says"] for case in CASES[what]]
    assert [told(what, text) for text in texts] == wanted
    assert read(what, texts, tmp_path) == wanted


@pytest.mark.soak
@pytest.mark.parametrize("what", list(PIECES))
def test_generated_texts(what: str, tmp_path: Path) -> None:
    texts = [case["text"] for case in CASES[what]]
    for seed in seeds(600, 60_000):
        rng = random.Random(f"{what} {seed}")
        pieces = PIECES[what] if rng.random() < 0.7 or what in ("phrases", "points") else JSON_PIECES
        made = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 14)))
        if rng.random() < 0.5:  # a good text with one thing in it changed
            old = rng.choice(CASES[what])["text"]
            cut, end = sorted(rng.randint(0, len(old)) for _ in range(2))
            made = old[:cut] + rng.choice(pieces) + old[rng.choice((cut, end)) :]
        texts.append(made)
    wrong = differences(what, texts, tmp_path)
    assert not wrong, wrong[:5]
    assert sum(told(what, text) is not None for text in texts) > count(20, 2000)


def test_boxes_between_keys_are_the_librarys(tmp_path: Path) -> None:
    rng = random.Random(5)
    texts = []
    for _ in range(60):
        frames = sorted(rng.sample(range(24), rng.randint(1, 6)))
        keys = [
            f"{f}: off" if rng.random() < 0.25 else f"{f}: " + " ".join(str(rng.randint(2, 90)) for _ in "1234")
            for f in frames
        ]
        texts.append("a: " + "; ".join(keys))
    for text, found in zip(texts, read("frames", texts, tmp_path), strict=True):
        keys = parse_boxes(text, WIDTH, HEIGHT)[0]["a"]
        for hold, boxes in zip((True, False), found[0], strict=True):
            for box, other in zip(boxes_at(keys, 24, hold), boxes, strict=True):
                assert (box is None) == (other is None), (text, hold)
                assert box is None or np.allclose(box, other, rtol=0, atol=1e-9), (text, hold)


def test_instances_have_the_colours_of_the_pictures(tmp_path: Path) -> None:
    (found,) = read("colours", ["60"], tmp_path)
    assert found == [list(readable(colour)) for colour in distinct_colours(60)]


def test_every_character_counts_alike_in_names(tmp_path: Path) -> None:
    known = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    texts = [f"x{char}Y {char}{char}" for char in known]
    found = read("keys", texts, tmp_path)
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    wrong = []
    for text, there in zip(texts, found, strict=True):
        here = name_key(text)
        if ours.setdefault(there, here) != here or theirs.setdefault(here, there) != there:
            wrong.append(text)
    assert not wrong, (len(wrong), [(text, [hex(ord(c)) for c in text[1:2]]) for text in wrong[:20]])
