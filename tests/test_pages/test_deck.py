"""Cards, answers on the disk, and what a killed process leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from matrix_lib.pages.deck import Card, Choice, Deck, Media, Question
from matrix_lib.pages.marks import Mark, Marks, check_name

ROOT = Path(__file__).resolve().parent.parent.parent
YES, NO = Choice("yes", "yes", ("y",), on_frame=True), Choice("no", "no", ("n",))
FRAMES = tuple(Media(f"frame {n}", Path(f"{n}.png"), n) for n in (0, 5, 9))


def deck(folder: Path) -> Deck:
    questions = (
        Question("seen", "Is it seen?", (YES, NO)),
        Question("new", "What is new?", (Choice("unsure", "cannot tell", ("u",)),), kind="frames"),
        Question("why", "Why?", kind="text", optional=True),
    )
    return Deck(
        "Test", [Card(name, name, questions, frames=FRAMES) for name in ("a", "b")], Marks(folder / "m", "anna")
    )


def put(deck: Deck, question: str, value: object, frame: object = None) -> bool:
    return bool(deck.mark({"item": "a", "question": question, "value": value, "frame": frame})["done"])


def test_a_card_is_done_with_every_question_that_has_to_be(tmp_path: Path) -> None:
    made = deck(tmp_path)
    assert not put(made, "seen", "yes", 5)
    assert put(made, "new", [9, 5, 9])
    assert put(made, "why", "<b>because</b>")
    again = deck(tmp_path)
    assert [card["done"] for card in again.state()["cards"]] == [True, False]
    marks = again.card("a")["marks"]
    assert marks["seen"] == {"value": "yes", "frame": 5}
    assert marks["new"]["value"] == [5, 9]
    put(again, "seen", "no", 5)
    assert deck(tmp_path).marks.of("a")["seen"] == Mark("no", None), "the last counts, and a no has no frame"
    assert put(again, "new", "unsure")


@pytest.mark.parametrize(
    ("question", "value", "frame", "said"),
    [
        ("seen", "yes", None, "needs the frame"),
        ("seen", "yes", 4, "needs the frame"),
        ("seen", "yes", True, "needs the frame"),
        ("seen", "maybe", 5, "one of yes, no"),
        ("seen", [5], 5, "one of yes, no"),
        ("new", [0], None, "after the first"),
        ("new", [5.0], None, "after the first"),
        ("new", ["5"], None, "after the first"),
        ("why", 3, None, "at most 2000"),
        ("why", "x" * 2001, None, "at most 2000"),
        ("what", "yes", 5, "no such question"),
    ],
)
def test_answers_that_a_question_does_not_take(
    tmp_path: Path, question: str, value: object, frame: object, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        put(deck(tmp_path), question, value, frame)
    assert not (tmp_path / "m").exists()


def test_cards_and_keys_that_cannot_be(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "m", "anna")
    with pytest.raises(ValueError, match="ids of their own"):
        Deck("", [Card("a", "", ()), Card("a", "", ())], marks)
    for choices in ((YES, Choice("other", "", ("y",))), (Choice("back", "", ("b",)),)):
        with pytest.raises(ValueError, match="one choice's each"):
            Deck("", [Card("a", "", (Question("q", "?", choices),))], marks)
    for name in ("", "../x", "a/b", ".x", "x" * 50, "a\nb", "a:b"):
        with pytest.raises(ValueError, match="a name has"):
            check_name(name)
    assert check_name("Zoë B. 2") == "Zoë B. 2"


def test_lines_that_are_no_answers_are_passed_over_and_swallow_none(tmp_path: Path) -> None:
    path = tmp_path / "m"
    Marks(path, "anna").put("a", "q", Mark("yes", 3))
    with open(path, "ab") as file:
        file.write(b'{"item": 3, "question": "q", "value": 1, "frame": null}\n[]\n\xff\n{"item": "a", "ques')
    found = Marks(path, "anna")
    assert (found.of("a"), found.damaged) == ({"q": Mark("yes", 3)}, 4)
    found.put("b", "q", Mark("no"))
    again = Marks(path, "anna")
    assert again.of("b") == {"q": Mark("no", None)}
    assert again.damaged == 4


def test_two_servers_do_not_ask_one_person(tmp_path: Path) -> None:
    with Marks(tmp_path / "anna.jsonl", "anna").held():
        with pytest.raises(ValueError, match="open already"), Marks(tmp_path / "anna.jsonl", "anna").held():
            pass
        with Marks(tmp_path / "ben.jsonl", "ben").held():
            pass
    with Marks(tmp_path / "anna.jsonl", "anna").held():
        pass


def test_what_was_said_to_be_kept_is_there_after_a_kill(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from matrix_lib.pages.marks import Mark, Marks\n"
        "marks = Marks(Path(sys.argv[1]), 'anna')\n"
        "for n in range(100000): marks.put(str(n), 'q', Mark('yes', n)); print(n, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= 30:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = Marks(tmp_path / "m", "anna")
    for n in range(last + 1):
        assert found.of(str(n)) == {"q": Mark("yes", n)}
    assert len((tmp_path / "m").read_text().splitlines()) >= last + 1
    assert json.loads((tmp_path / "m").read_text().splitlines()[0])["by"] == "anna"
