"""Phrases, their grammar, and how they meet tokens. Tokenizers belong to the hosts' tests; here a word is a token."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import replace

import pytest
from support_counts import seeds
from support_words import generate

from matrix_lib.core.words.binding import CUT, PromptBinding, Token, bind, check_tokens, locate
from matrix_lib.core.words.forms import write_tags, write_target
from matrix_lib.core.words.phrases import PhraseSpec, parse_phrases, verb
from matrix_lib.core.words.prompt import find_words, parse_prompt

PROMPT = (
    "A man on a (bicycle:1.3) rides up behind the \\(white\\) van, the cafe\u0301 cup. He picks the cup up near the cup"
)


def words(prompt: str, limit: int = 999) -> list[Token]:
    """One token a word, beginning at row 3."""
    found = enumerate(re.finditer(r"[\w\u0301<>]+", prompt))
    return [Token(n + 3 if n < limit else CUT, 100 + n, m.start(), m.end(), m[0]) for n, m in found]


def bound(phrases: object, prompt: str = PROMPT, limit: int = 999) -> PromptBinding:
    return bind(prompt, words(prompt, limit), phrases, 226, "t5", weights=True)  # type: ignore[arg-type]


def test_instances_verbs_and_words() -> None:
    binding = bound("""
        # who is who
        cyclist: a man on a bicycle | he
        van: the (white) van
        rides up behind = verb(cyclist -> van)
        pick: picks ... up = verb(cyclist -> cup)
        cup: the cup#2 | the café cup
        near
    """)
    assert binding.names == ("cyclist", "van", "rides up behind", "pick", "cup", "near")
    assert [phrase.role for phrase in binding.phrases] == ["subject", "object", "verb", "verb", "object", "word"]
    assert binding.pieces("cyclist") == ("A", "man", "on", "a", "bicycle", "He")
    assert binding.pieces("van") == ("the", "white", "van")
    assert binding.pieces("pick") == ("picks", "up")
    assert binding.phrase("pick").subject == "cyclist"
    assert binding.phrase("pick").object == "cup"
    assert binding.phrase("near").rows == (24,)
    assert binding.phrase("cup").rows == (16, 17, 18, 25, 26)
    van = binding.phrase("van")
    assert PROMPT[van.start : van.end] == "the \\(white\\) van"
    assert not binding.notes
    assert [phrase.name for phrase in binding.instances] == ["cyclist", "van", "cup"]
    assert len(binding.verbs) == 2


def test_python_form_is_the_text_form() -> None:
    text = (
        "robot: a man\ncup: the cup#2 | the café cup [object]\npicks ... up = verb(robot -> cup)\nfalls: he = verb(cup)"
    )
    made = [
        PhraseSpec.instance("robot", "a man"),
        PhraseSpec.instance("cup", "the cup#2", "the café cup", role="object"),
        verb("picks ... up", "robot", "cup"),
        verb("he", "cup", name="falls"),
    ]
    # A cup that is object of one verb and subject of another keeps the role it was given.
    ours, theirs = bound(text), bound(made)
    assert [(p.name, p.rows, p.role) for p in ours.phrases] == [(p.name, p.rows, p.role) for p in theirs.phrases]
    assert ours.phrase("cup").role == "object"


def test_roles_come_from_the_verbs_where_they_agree() -> None:
    specs = parse_phrases(
        "a: x\nb: y\nc: z [instance]\nd: w\nhits = verb(a -> b)\nruns = verb(b)\ntakes = verb(a -> c)"
    )
    assert {spec.name: spec.role for spec in specs if spec.role != "verb"} == {
        "a": "subject",
        "b": "instance",
        "c": "object",
        "d": "instance",
    }


def test_repeated_words() -> None:
    prompt = "the cup and the cup, then The cup"
    one = bound("x: the cup", prompt)
    assert one.phrase("x").rows == (3, 4)
    assert "3 times" in one.notes[0]
    assert "the cup#2" in one.notes[0]
    two = bound("x: the cup#2\ny: the cup#1\nz: the cup#all", prompt)
    assert [p.rows for p in two.phrases] == [(6, 7), (3, 4), (3, 4, 6, 7, 9, 10)]
    assert not two.notes


def test_parted_words_take_the_nearest_beginning() -> None:
    prompt = "she picks a mug and picks the cup up, then picks it up"
    binding = bound(
        "a = verb(s)\ns: she\nb: picks ... up#1 = verb(s)\nc: picks ... up#2 = verb(s)".replace("a =", "picks ="),
        prompt,
    )
    assert binding.pieces("b") == ("picks", "up")
    assert binding.phrase("b").rows == (8, 11)
    assert binding.phrase("c").rows == (13, 15)


@pytest.mark.parametrize(
    ("prompt", "words_", "found"),
    [
        ("un cafe\u0301 noir", "CAF\u00c9", ["cafe\u0301"]),
        ("un caf\u00e9 noir", "cafe\u0301", ["caf\u00e9"]),
        ("a red\u3000apple", "red apple", ["red\u3000apple"]),
        ("it \ufb01ts", "fits", ["\ufb01ts"]),
        ("the man\u2019s hat", "man's", ["man\u2019s"]),
        ("category cat catalog cat", "cat", ["cat", "cat"]),
        ("一个男人骑自行车追白色面包车", "男人", ["男人"]),
        ("한국어를", unicodedata.normalize("NFD", "한국어"), ["한국어"]),
        ("Stra\u00dfe", "STRASSE", ["Stra\u00dfe"]),
        ("cafe\u0301", "cafe", []),
    ],
)
def test_what_counts_as_the_same_words(prompt: str, words_: str, found: list[str]) -> None:
    assert [prompt[a:b] for a, b in find_words(prompt, words_)] == found


def test_weights_and_escapes_are_read_through() -> None:
    visible = parse_prompt("a (red (toy:1.5) \\(car\\):1.2) (x", weights=True)
    assert visible.text == "a red toy (car) (x"
    assert [(s.text, round(s.weight, 3)) for s in visible.segments] == [
        ("a ", 1.0),
        ("red ", 1.2),
        ("toy", 1.5),
        (" (car)", 1.2),
        (" ", 1.0),
        ("(x", 1.0),
    ]
    assert all("a (red (toy:1.5) \\(car\\):1.2) (x"[a:b][-1] == c for c, (a, b) in zip(visible.text, visible.spans))
    assert parse_prompt("a (red:1.2)", weights=False).text == "a (red:1.2)"


def test_phrases_pasted_with_their_weights_are_found() -> None:
    assert bound("x: a (bicycle:1.3)").pieces("x") == ("a", "bicycle")
    assert bound("x: the \\(white\\) van").pieces("x") == ("the", "white", "van")


def test_quotes_protect_signs() -> None:
    prompt = "a sign: stop [now] = yes #1"
    assert bound('sign: "sign: stop [now] = yes"', prompt).pieces("sign") == ("sign", "stop", "now", "yes")


@pytest.mark.soak
def test_generated_prompts_are_located_exactly() -> None:
    for seed in seeds(300, soak=10_000):
        case = generate(seed)
        found, _ = locate(case.prompt, case.phrases, weights=True)
        for phrase, spans in zip(found, case.spans):
            ours = {i for a, b in phrase.spans for i in range(a, b) if case.prompt[i] not in " \n\\()"}
            truth = {i for a, b in spans for i in range(a, b) if case.prompt[i] not in " \n\\()"}
            assert ours == truth, (seed, case)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ("", "no phrases given"),
        ("\n# only a remark\n", "no phrases given"),
        ("x: a man\ny: the vam", "line 2.*'the vam' is not in the prompt; did you mean"),
        ("x: zebra crossing", "line 1.*write the words as they stand"),
        ("x: the elephant", "line 1.*write the words as they stand"),
        ("a: a man\nb: van\na: he", r"line 3 .*taken by line 1 .*on one line, a: a man \| he"),
        ("a: a man\nrides = verb(a -> vann)", "line 2.*names the instance 'vann', but the instances are: 'a'"),
        ("rides = verb(a)", "line 1.*instances are: none yet"),
        ("a: a man\nrides = a -> b", r"line 2.*verb\(SUBJECT -> OBJECT\)"),
        ("a: a man\nrides = verb(a -> a -> a)", "line 2.*at most one object"),
        ("a: a man\nrides = verb( -> a)", "line 2.*at most one object"),
        ("a = b = c", "line 1.*one '=' a line"),
        ("a: a man [boss]", r"line 1.*got \[boss\]"),
        ("a: rides [verb]", r"a verb is written WORDS = verb"),
        ("a man [subject]", r"an instance needs a name: write NAME: a man \[subject\]"),
        ("a:", "line 1.*words are missing"),
        ("a: | van", "line 1.*words are missing"),
        ("a: picks ...", "line 1.*words are missing"),
        ("(a): van", "line 1.*is no name"),
        ("a: the cup#3", "'the cup#3' is wanted, but the words stand in the prompt only 2 times"),
        ("a: van#2", "only once"),
        ("a: van#0", "count from 1"),
        ("a: up ... rides", "do not follow each other"),
        ("a: a man @2-1s", "line 1.*the end behind the start"),
        ("a: the cup\nb: the cup", "line 2.*same words as 'a'.*the cup#1, the cup#2"),
    ],
)
def test_bad_phrases(phrases: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        bound(phrases)


def test_cut_off_phrases_name_the_limit() -> None:
    with pytest.raises(ValueError, match=r"'cup' \(line 1\).*cut off by the token limit.*24 tokens.*226"):
        bound("cup: near the cup", limit=20)
    binding = bound("van: van", limit=20)
    assert len(binding.tokens) == 20


def test_words_without_tokens() -> None:
    with pytest.raises(ValueError, match="no token of these characters"):
        bound("spark: \u2728", "a \u2728 man")


def test_rows_outside_the_conditioning_are_refused() -> None:
    with pytest.raises(ValueError, match="outside of the 10 rows"):
        bind(PROMPT, words(PROMPT), "van: van", 10)
    with pytest.raises(ValueError, match="ascend"):
        bind("a b", [Token(1, 0, 0, 1, "a"), Token(1, 0, 2, 3, "b")], "a", 10)


def test_json_round_trip() -> None:
    binding = bound("cup: the cup\npicks ... up = verb(cup)")
    assert binding.notes
    assert PromptBinding.from_json(binding.to_json()) == binding
    for broken in ("", "[]", "{}", binding.to_json().replace('"version": 1', '"version": 9'), '{"version": 1}'):
        with pytest.raises(ValueError, match="no prompt binding"):
            PromptBinding.from_json(broken)


def test_times_are_kept_and_told() -> None:
    binding = bound("cup: the cup\nvan: van @0-1.5s\npicks ... up = verb(cup) @2s-")
    assert [phrase.time for phrase in binding.phrases] == [None, (0.0, 1.5), (2.0, None)]
    assert [phrase.name for phrase in binding.timed] == ["van", "picks ... up"]
    assert "in time: van @0-1.5s, picks ... up @2s-" in binding.notes[-1]
    assert PromptBinding.from_json(binding.to_json()) == binding
    assert '"time"' not in bound("van: van").to_json(), "readers from before there were times"
    with pytest.raises(ValueError, match=r"phrase 'van': a time is \(from, until\).*got \(2.0, 1.0\)"):
        bound([replace(PhraseSpec.instance("van", "van"), time=(2.0, 1.0))])
    for wrong in ("[1.5]", "[2, 1]", "[-1, 2]", '["0", 1]', "[null, 1]", "[NaN, null]", "[true, null]", "3"):
        with pytest.raises(ValueError, match="no prompt binding"):
            PromptBinding.from_json(binding.to_json().replace("[0.0, 1.5]", wrong))


def test_reuse_needs_equal_tokens() -> None:
    binding = bound("van: van")
    tokens = words(PROMPT)
    check_tokens(binding, tokens, 226)
    with pytest.raises(ValueError, match="226 rows, the text encoder makes 512"):
        check_tokens(binding, tokens, 512)
    with pytest.raises(ValueError, match=r"'on' \(id 102\) in row 5.*id 7"):
        check_tokens(binding, [*tokens[:2], Token(5, 7, 6, 8, "on"), *tokens[3:]], 226)
    with pytest.raises(ValueError, match="has 24 tokens"):
        check_tokens(binding, tokens[:-1], 226)


def test_names_have_to_agree_with_tracks() -> None:
    binding = bound("cyclist: a man\nvan: van\nrides")
    binding.check_tracks(["van", "cyclist", "dog"])
    with pytest.raises(ValueError, match="binds 'cyclist', but the tracks are named 'Cyclist', 'van'"):
        binding.check_tracks(["Cyclist", "van"])
    with pytest.raises(ValueError, match="no phrase is called 'dog'.*'cyclist', 'van', 'rides'"):
        binding.phrase("dog")


def shown(prompt: str, found: object) -> list[str]:
    return [" ".join(prompt[a:b] for a, b in phrase.spans) for phrase in found]  # type: ignore[attr-defined]


def test_tags_go_behind_the_determiner_and_belong_to_the_instance() -> None:
    spec = "a: a man\nid5: ball\nb: another woman\npasses ... to = verb(a -> b)\nball: red"
    prompt, (found, _) = write_tags("a man passes a red ball to (another (woman:1.2):0.9)", spec, weights=True)
    assert prompt == "a <id1> man passes a <id3> red <id5> ball to (another (<id2> woman:1.2):0.9)"
    assert shown(prompt, found) == [
        "a <id1> man",
        "<id5> ball",
        "another  <id2> woman",
        "passes to",
        "<id3> red",
    ]
    again, (same, _) = write_tags(prompt, spec, weights=True)
    assert again == prompt
    tokens = [Token(n, n, m.start(), m.end(), m[0]) for n, m in enumerate(re.finditer(r"<id\d>|\w+", prompt))]
    binding = bind(prompt, tokens, found, 64)
    assert binding.pieces("b") == ("another", "<id2>", "woman")
    assert shown(again, same)[0] == "a <id1> man"


def test_at_most_five_tags() -> None:
    prompt = "a b c d e f"
    with pytest.raises(ValueError, match="tags are <id1> to <id5>.*'f' <id6>"):
        write_tags(prompt, "\n".join(f"{c}: {c}" for c in "abcdef"))
    with pytest.raises(ValueError, match="one an instance"):
        write_tags(prompt, "id2: a\n<id2>: b")


def test_the_target_word() -> None:
    prompt, (found, _) = write_target("a man grabs the mug", "man: a man\nmug: the mug\ngrabs = verb(man -> mug)")
    assert prompt == "a man grabs the target mug"
    assert shown(prompt, found) == ["a man", "the target mug", "grabs"]
    with pytest.raises(ValueError, match="exactly one instance, but 0 qualify"):
        write_target("a man grabs the mug", "mug: the mug")
    with pytest.raises(ValueError, match=r"2 qualify \(man, mug\)"):
        write_target("a man grabs the mug", "man: man [object]\nmug: the mug [object]")
    assert write_target("a man grabs the mug", "target: the mug")[0] == "a man grabs the target mug"
    assert write_target("a man grabs the mug", "m: the mug", name="m")[0] == "a man grabs the target mug"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("prompt",), 5),
        (("length",), "226"),
        (("notes",), [1]),
        (("tokens", 0, "row"), None),
        (("phrases", 0, "name"), ["x"]),
        (("phrases", 0, "role"), "boss"),
        (("phrases", 0, "rows"), [10**30]),
        (("phrases", 0, "subject"), {"a": 1}),
        (("phrases", 1, "name"), "first"),
    ],
)
def test_a_binding_of_a_file_that_lies(place, value):
    """Whatever stands in a file: a binding of texts and rows, or a ValueError."""
    tokens = [Token(0, 7, 0, 1, "a"), Token(1, 8, 2, 3, "b")]
    data = json.loads(bind("a b", tokens, "first: a\nsecond: b", 4).to_json())
    assert PromptBinding.from_json(json.dumps(data)).names == ("first", "second")
    at = data
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(ValueError, match=r"no prompt binding of version 1.{,250}$"):
        PromptBinding.from_json(json.dumps(data))
