"""Prompts whose rows stand one behind the other."""

from dataclasses import replace

from matrix_lib.core.words.behind import put_behind
from matrix_lib.core.words.binding import CUT, Phrase, PromptBinding, Token

FIRST = PromptBinding(
    "a cup falls",
    10,
    (Token(0, 5, 0, 1, "a"), Token(1, 6, 2, 5, "cup"), Token(2, 7, 6, 11, "falls")),
    (
        Phrase("cup", "a cup", "subject", 0, 5, (0, 1), spans=((0, 5),)),
        Phrase("falls", "falls", "word", 6, 11, (2,), spans=((6, 11),)),
    ),
    "t5",
    ("one note",),
)
SECOND = PromptBinding(
    "the cup meets a dog",
    8,
    (Token(1, 6, 4, 7, "cup"), Token(3, 9, 16, 19, "dog"), Token(CUT, 1, 19, 19, "")),
    (
        Phrase("cup", "the cup", "instance", 0, 7, (0, 1), spans=((0, 7),)),
        Phrase("dog", "a dog", "object", 14, 19, (2, 3), spans=((14, 19),)),
        Phrase("meets", "meets", "verb", 8, 13, (4,), "cup", "dog", ((8, 13),)),
        Phrase("falls", "meets", "verb", 8, 13, (4,), "cup", "dog", ((8, 13),)),
    ),
    "t5",
    ("one note", "another"),
)


def test_rows_and_characters_count_on():
    both = put_behind(FIRST, [SECOND])
    assert both.prompt == "a cup falls\nthe cup meets a dog"
    assert both.length == 18
    assert [token.row for token in both.tokens] == [0, 1, 2, 11, 13, CUT]
    for token in both.tokens:
        assert both.prompt[token.start : token.end] == token.text
    assert both.phrase("dog").rows == (12, 13)
    for phrase in both.phrases:
        for start, end in phrase.spans:
            assert both.prompt[start:end] in ("a cup", "the cup", "falls", "meets", "a dog")
    assert both.notes == ("one note", "another")


def test_one_name_is_one_phrase_where_it_means_the_same():
    both = put_behind(FIRST, [SECOND])
    cup = both.phrase("cup")
    assert (cup.role, cup.rows, cup.spans) == ("subject", (0, 1, 10, 11), ((0, 5), (12, 19)))
    assert both.phrase("falls") == FIRST.phrase("falls")
    assert both.phrase("falls (2)").role == "verb"
    assert both.names == ("cup", "falls", "dog", "meets", "falls (2)")
    thrice = put_behind(FIRST, [SECOND, FIRST])
    assert thrice.length == 28
    assert thrice.phrase("cup").rows == (0, 1, 10, 11, 18, 19)


def test_times_stay_with_their_rows():
    def at(time):
        return replace(FIRST, phrases=(replace(FIRST.phrases[0], time=time), *FIRST.phrases[1:]))

    same = put_behind(at((0.0, 1.0)), [at((0.0, 1.0))])
    assert (same.phrase("cup").rows, same.phrase("cup").time) == ((0, 1, 10, 11), (0.0, 1.0))
    both = put_behind(at((0.0, 1.0)), [at(None), at((1.0, None)), at((0.0, 1.0))])
    assert (both.phrase("cup").role, both.phrase("cup").time) == ("subject", None)
    assert both.phrase("cup").rows == (0, 1, 10, 11, 20, 21, 30, 31)
    assert {phrase.name: (phrase.rows, phrase.time) for phrase in both.timed} == {
        "cup @0-1s": ((0, 1, 30, 31), (0.0, 1.0)),
        "cup @1s-": ((20, 21), (1.0, None)),
    }


def test_what_has_no_track_is_a_word():
    both = put_behind(FIRST, [SECOND], ("cup",))
    assert (both.phrase("dog").role, both.phrase("meets").role) == ("word", "word")
    assert both.phrase("meets").subject is None
    both.check_tracks(("cup",))
    assert put_behind(FIRST, [SECOND], ("cup", "dog")).phrase("meets").role == "verb"
