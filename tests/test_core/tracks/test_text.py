"""What a person types for boxes, points and names."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.tracks.text import Prompt, parse_boxes, parse_names, parse_prompts

LINES = """
# a note
cyclist (subject): 0: 347 10 520 272; 28 = 350,10,525,272
 van (Object) : [0, 30, 300, 272]
bag: frame 12: 25% 50% 50%, 100% ; 20: off;
the man (in red): 1 2 3 4
"""


def test_boxes_as_lines_and_as_json():
    keys, roles = parse_boxes(LINES, 640, 272)
    assert keys == {
        "cyclist": {0: (347, 10, 520, 272), 28: (350, 10, 525, 272)},
        "van": {0: (0, 30, 300, 272)},
        "bag": {12: (160, 136, 320, 272), 20: None},
        "the man (in red)": {0: (1, 2, 3, 4)},
    }
    assert roles == {"cyclist": "subject", "van": "object"}
    text = '{"cyclist (subject)": {"0": [347, 10, 520.5, 272], "20": null}}'
    assert parse_boxes(text, 640, 272) == ({"cyclist": {0: (347, 10, 520.5, 272), 20: None}}, {"cyclist": "subject"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there are no boxes"),
        ("cyclist 1 2 3 4", "line 1 needs a name, a colon"),
        ("cyclist:", "line 1 needs a name, a colon"),
        ("\ncyclist: 0: 1 2 3", "line 2: a box is four numbers"),
        ("cyclist: 0: 1 2 3 four", "line 1: a box is four numbers"),
        ("a: 0: 1 2 3 4; 0: 1 2 3 4", "line 1 has two keys for frame 0"),
        ("a: 1 2 3 4\na: 1 2 3 4", "two instances are called 'a'"),
        (": 1 2 3 4", "line 1: an instance needs a name"),
        ('{"a": ', "begins like JSON"),
        ('{"a": {"0": null}, "a": {"0": null}}', "two entries are called 'a'"),
        ('{"a": [1, 2, 3, 4]}', "needs key frames"),
        ('{"a": {"x": [1, 2, 3, 4]}}', "needs key frames"),
        ('{"a": {"0": [1, 2, 3]}}', "4 numbers are needed"),
        ('{"a": {"0": [1, 2, 3, true]}}', "4 numbers are needed"),
        ('{"a":' * 100_000, "begins like JSON"),
        ("x" * 2_000_000, "characters"),
        ("x" * 900_000, "^.{,200}$"),
        ("a: " + "9" * 5000 + ": 1 2 3 4", "frame number of 5000 digits"),
        ("a: " + "z" * 900_000, "^.{,200}$"),
        ('{"a": {"0": [1, 2, 3, ' + "1" * 400 + "]}}", "no pixels"),
        ('{"a": {"0": [1, 2, 3, 4], "00": [1, 2, 3, 9]}}', "two keys for one frame"),
    ],
)
def test_bad_boxes(text, words):
    with pytest.raises(ValueError, match=words):
        parse_boxes(text, 640, 272)


def test_prompts():
    text = "cyclist (subject): 3: 420,120 430, 60 -300,200 [347,10,520,272]; 9: 50%,50%\nvan: [0 30 300 272]"
    keys, roles = parse_prompts(text, 640, 272)
    assert keys["cyclist"][3] == Prompt([(420, 120, True), (430, 60, True), (300, 200, False)], (347, 10, 520, 272))
    assert keys["cyclist"][9] == Prompt([(320, 136, True)])
    assert keys["van"][0] == Prompt([], (0, 30, 300, 272))
    assert roles == {"cyclist": "subject"}
    full = '{"points": [[4, 5], [6, 7]], "labels": [1, 0], "box": [1, 2, 3, 4]}'
    text = '{"cyclist": {"3": ' + full + ', "4": {"box": [1, 2, 3, 4]}}}'
    keys, _ = parse_prompts(text, 640, 272)
    assert keys["cyclist"] == {3: Prompt([(4, 5, True), (6, 7, False)], (1, 2, 3, 4)), 4: Prompt([], (1, 2, 3, 4))}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no points or boxes"),
        ("a: 3", "line 1: points are x,y"),
        ("a: 1,2 3", "line 1: points are x,y"),
        ("a: [1,2,3,4] [1,2,3,4]", "at most one box"),
        ("a: [1,2,3]", "four numbers"),
        ('{"a": {"0": {}}}', "a prompt has points"),
        ('{"a": {"0": {"dots": []}}}', "a prompt has points"),
        ('{"a": {"0": {"points": []}}}', "needs a point or a box"),
        ('{"a": {"0": {"points": [[1, 2]], "labels": [1, 1]}}}', "1 points, so 1 labels"),
        ('{"a": {"0": {"points": [[1, 2, 3]]}}}', "2 numbers"),
    ],
)
def test_bad_prompts(text, words):
    with pytest.raises(ValueError, match=words):
        parse_prompts(text, 640, 272)


def test_names():
    assert parse_names("cyclist (subject), van (object)\nthe sign; ") == (
        ["cyclist", "van", "the sign"],
        {"cyclist": "subject", "van": "object"},
    )
    assert parse_names("") == ([], {})
    with pytest.raises(ValueError, match="two instances are called 'a'"):
        parse_names("a\na")


@settings(max_examples=count(150, soak=3000))
@given(st.text(alphabet="a:0 1,;%-[]{}\"'(=\n.#é", max_size=60))
def test_any_text_parses_or_says_why(text):
    for parse in (parse_boxes, parse_prompts, lambda t, *_: parse_names(t)):
        with contextlib.suppress(ValueError):
            parse(text, 640, 272)


@pytest.mark.parametrize("fill", [" ", "9", "[", "(", "a: 0 0 1 1\n"])
@pytest.mark.parametrize("read", [parse_prompts, parse_boxes])
def test_a_long_text_is_read_in_no_time(read, fill):
    """Where characters could belong to two repeats of one pattern, this would take hours."""
    with pytest.raises(ValueError, match=r"."):
        read(f"a: 3 {fill * (200_000 // len(fill))}!", 99, 99)


def test_a_long_name_is_not_all_of_an_error():
    with pytest.raises(ValueError, match=r"^.{,500}$"):
        parse_names(f"a{'(' * 100_000}b (subjcet)")
