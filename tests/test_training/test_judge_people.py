"""People at `python -m training.judge`: what they say counts, alone or together, and how far they agree is told."""

from __future__ import annotations

import csv
import json
import random
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from support_judging import SUITE, write_clips, write_suite
from support_people import answer_all, fetched, posted, serving

from matrix_lib.evaluation.intergen import side_by_side
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.io.video import write_video
from matrix_lib.pages.deck import Card, Question
from matrix_lib.pages.marks import Mark, Marks
from training.judge import main
from training.score_tracks import main as score_tracks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_suite(folder / "suite")
    write_clips(folder / "model")
    return folder


@pytest.fixture
def folders(made: Path, tmp_path: Path) -> tuple[str, str]:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return str(tmp_path / "suite"), str(tmp_path / "model")


def yes(card: Card, question: Question) -> Mark:
    return Mark([]) if question.kind == "frames" else Mark("yes", 5)


def lines_of(videos: str) -> dict[str, Any]:
    lines = Path(videos, "intergen", "scores.jsonl").read_text().splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def test_one_person_is_a_judge(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    suite, videos = folders

    def says(card: Card, question: Question) -> Mark | None:
        if question.kind == "frames":
            return Mark([5, 10]) if "girl" not in card.text + card.title and len(seen) % 2 else Mark([])
        seen.append(question.id)
        return {"2": Mark("no"), "8": Mark("implausible", 5)}.get(question.id, Mark("yes", 5))

    seen: list[str] = []
    assert answer_all(suite, videos, "anna", says) == 32
    assert main(["score", suite, videos]) == 0
    said = capsys.readouterr()
    assert "no judge has answered; people have: anna" in said.err
    assert "| model | 2 of 2 | 0.833 " in said.out
    assert "Agreement" not in said.out
    for line in lines_of(videos).values():
        assert line["values"]["kisa_raw"] == pytest.approx(5 / 6)
        assert line["values"]["sgi_raw"] == pytest.approx(3 / 4)
        assert line["implausible"] == pytest.approx(0.1)
    assert json.loads(Path(videos, "intergen", "summary.json").read_text())["judges"] == ["person: anna"]
    assert main(["score", suite, videos, "--people", "ben"]) == 1
    assert "ben has judged nothing in" in capsys.readouterr().err


def test_what_is_open_or_cannot_be_told_is_missing(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    suite, videos = folders

    def says(card: Card, question: Question) -> Mark | None:
        if "fridge" in card.title:
            return {"3": Mark("unsure"), "9": Mark("unsure")}.get(question.id, yes(card, question))
        return None if question.id == "10" else yes(card, question)

    answer_all(suite, videos, "anna", says)
    assert main(["score", suite, videos, "--people"]) == 2
    said = capsys.readouterr().out
    assert "| model | 0 of 2 |" in said
    assert "000, verify 1: anna cannot tell (3, 9)" in said
    assert "001, verify 2: anna has not answered 10" in said
    assert main(["score", suite, videos, "--people", "--complete"]) == 1


def test_two_peoples_agreement_is_reported_and_their_mean_counts(
    folders: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    suite, videos = folders
    apart = {"2": Mark("no"), "7": Mark("no"), "8": Mark("no")}
    answer_all(suite, videos, "anna", yes)
    answer_all(
        suite, videos, "ben", lambda card, q: Mark([10]) if q.kind == "frames" else apart.get(q.id, Mark("yes", 10))
    )
    assert main(["score", suite, videos, "--people", "anna", "ben"]) == 0
    said = capsys.readouterr().out
    assert "| KISA | anna and ben | 0.833 | 0.000 " in said, "anna always says yes: nothing beyond chance"
    assert "| SGI | anna and ben | 0.500 |" in said
    assert "| new | anna and ben | 0.500 |" in said, "of frames 5 and 10"
    line = lines_of(videos)["000"]
    alone = {name: json.loads(json.dumps(line["judges"][name])) for name in ("anna", "ben")}
    assert alone["ben"]["presence"]["emergence"] == [10]
    assert alone["ben"]["answers"][0]["2"]["yes"] is False
    assert line["values"]["kisa_raw"] == pytest.approx((1 + 5 / 6) / 2)
    assert line["values"]["sgi_raw"] == pytest.approx(3 / 4)
    assert line["values"]["spi"] == pytest.approx((1 + 0.5) / 2)
    assert line["values"]["fidelity"] == pytest.approx((1 + (5 / 6 + 1 / 2) / 2 * 0.5) / 2), "of each, then the mean"
    assert main(["score", suite, videos, "--people", "ben"]) == 0
    assert lines_of(videos)["000"]["values"]["kisa_raw"] == pytest.approx(5 / 6)
    assert "| KISA | anna and ben |" in capsys.readouterr().out, "who does not count is compared all the same"


def test_people_stand_beside_a_judge(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    suite, videos = folders
    assert main(["ask", suite, videos]) == 2
    lines = []
    for line in Path(videos, "intergen", "requests.jsonl").read_text().splitlines():
        request = json.loads(line)
        raw: Any = {"emergence": "no", "emergence_frames": [], "emergence_reason": ""}
        if request["kind"] == "verify":
            raw = [{"question_id": q, "answer": "no", "frame_index": None} for q in range(1, 11)]
        lines.append(json.dumps({"key": request["key"], "judge": "x", "model": "v1", "raw": json.dumps(raw)}))
    Path(videos, "others.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["ask", suite, videos, "--answers", f"{videos}/others.jsonl"]) == 0
    draws = random.Random(0)
    answer_all(suite, videos, "anna", lambda c, q: Mark("no") if draws.random() < 0.5 else yes(c, q))
    assert main(["score", suite, videos]) == 0
    assert lines_of(videos)["000"]["values"]["kisa_raw"] == 0.0, "the judge counts where it has answered"
    assert "| KISA | file: v1 and anna |" in capsys.readouterr().out
    assert main(["score", suite, videos, "--people"]) == 0
    assert lines_of(videos)["000"]["values"]["kisa_raw"] > 0


def test_the_report_holds_everything_and_no_script_of_others(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, videos = folders
    content = json.loads(json.dumps(SUITE))
    content["samples"][0]["prompt"] = "</script><script>window.hit=1</script><!-- & \u2028 a man"
    write_suite(Path(suite), content)
    shutil.rmtree(Path(suite, "questions"), ignore_errors=True)
    other = tmp_path / "other"
    shutil.copytree(videos, other)
    Path(other, "001.mp4").unlink()
    answer_all(suite, videos, "anna", yes)
    answer_all(suite, str(other), "anna", lambda c, q: Mark("no") if q.id != "new" else Mark([5]))
    assert score_tracks([videos, videos, "--no-video"]) == 0  # the tables of other papers come from here
    assert main(["report", suite, videos, str(other), "--embed", "0"]) == 2
    out = Path(suite, "report")
    page = (out / "report.html").read_text()
    assert page.count("<script") == 2, "its data and its own"
    assert "</script><script>window" not in page
    assert "script-src &#x27;sha256-" in page
    assert "default-src &#x27;none&#x27;" in page
    assert len(list((out / "report_films").glob("*.mp4"))) == 3, "nothing was to be inside"
    assert main(["report", suite, videos, str(other)]) == 2
    assert not (out / "report_films").exists()
    again = (out / "report.html").read_bytes()
    assert again.count(b'<script type="text/plain"') == 3
    assert main(["report", suite, videos, str(other)]) == 2
    assert (out / "report.html").read_bytes() == again, "the same answers make the same page"
    said = capsys.readouterr()
    assert "not shown: other/001: there is no video" in said.err
    assert "| model - other | kisa_raw | 1.000 " in said.out
    rows = list(csv.DictReader((out / "matrix.csv").open()))
    assert [(row["model"], row["KISA ↑"]) for row in rows] == [("model", "1.0"), ("other", "0.0")]
    assert r"model & KISA $\uparrow$" in (out / "tables.tex").read_text()
    assert "**InterGenEval**" in (out / "tables.md").read_text()
    paths = list(csv.DictReader((out / "ivg_da.csv").open()))
    assert [(row["model"], row["mIoU ↑"], row["CD ↓"]) for row in paths] == [("model", "1.0", "0.0"), ("other", "", "")]
    assert "**Contact, as in TAViD**" in (out / "tables.md").read_text()
    found = json.loads((out / "results.json").read_text())
    assert found["videos"]["other"] == {"n": 2, "complete": 1}
    table = pyarrow.parquet.read_table(out / "videos.parquet").to_pydict()
    assert table["model"] == ["model", "model", "other", "other"]
    assert table["kisa_raw"][0] == 1.0
    assert np.isnan(table["kisa_raw"][3])


# --- side by side


@pytest.fixture
def models(folders: tuple[str, str], tmp_path: Path) -> tuple[str, list[str]]:
    """A suite of 24 prompts and three models' videos of two frames."""
    content = {**SUITE, "samples": [{**SUITE["samples"][0], "id": f"{n:02d}"} for n in range(24)]}
    suite = write_suite(tmp_path / "many", content)
    names = []
    for place, name in enumerate(("north", "south", "west")):
        for n in range(24):
            frames = np.full((2, 16, 16, 3), 10 * n + place, np.uint8)
            write_video(tmp_path / name / f"{n:02d}.mp4", frames, 8)
        names.append(str(tmp_path / name))
    return str(suite), names


def test_preferences_of_simulated_people(models: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    suite, names = models
    assert main(["prefer", suite, *names]) == 1
    assert "nobody has voted yet" in capsys.readouterr().err
    pairs, missing = side_by_side.pairs_of(read_suite(suite), {Path(name).name: Path(name) for name in names})
    assert (len(pairs), missing) == (72, [])
    strength, draws = {"north": 1.0, "south": 0.0, "west": -1.0}, random.Random(0)
    out = Path(suite, "preference")
    for person in ("anna", "ben"):
        marks = Marks(out / f"{person}.jsonl", person)
        for pair in pairs:
            chance = 1 / (1 + np.exp(strength[pair.other] - strength[pair.one]))
            even = draws.random() < 0.1
            marks.put(pair.id, "interaction", Mark("tie" if even else "one" if draws.random() < chance else "other"))
            marks.put(pair.id, "quality", Mark(draws.choice(["one", "other"])))
    assert main(["prefer", suite, *names]) == 0
    found = json.loads((out / "preference.json").read_text())
    assert list(found["interaction"]["strength"]) == ["north", "south", "west"]
    for name, true in strength.items():
        mean, low, high = found["interaction"]["strength"][name]
        assert low <= true <= high, (name, mean, low, high)
    assert all(pair["p_holm"] < 0.05 for pair in found["interaction"]["pairs"])
    assert all(pair["p_holm"] > 0.05 for pair in found["quality"]["pairs"])
    assert "identity" not in found
    rows = list(csv.DictReader((out / "votes.csv").open()))
    assert len(rows) == 2 * 2 * 72
    said = capsys.readouterr().out
    assert "| interaction | north | 0." in said
    assert "| interaction | anna and ben |" in said
    write_video(Path(names[0], "00.mp4"), np.full((2, 16, 16, 3), 255, np.uint8), 8)
    assert main(["prefer", suite, *names]) == 0
    rows = list(csv.DictReader((out / "votes.csv").open()))
    assert len(rows) == 2 * 2 * 70, "votes on a video that was made anew do not count"


def test_order_and_sides_are_drawn_and_say_nothing_of_the_model(models: tuple[str, list[str]]) -> None:
    suite, names = models
    pairs, _ = side_by_side.pairs_of(read_suite(suite), {Path(name).name: Path(name) for name in names})
    cards = side_by_side.cards_of(pairs, side_by_side.QUESTIONS, "0 anna")
    assert cards == side_by_side.cards_of(pairs, side_by_side.QUESTIONS, "0 anna")
    other = side_by_side.cards_of(pairs, side_by_side.QUESTIONS, "0 ben")
    assert [card.id for card in cards] != [card.id for card in other]
    left = [card.questions[0].choices[0].value for card in cards]
    assert 20 < left.count("one") < 52
    by_id = {pair.id: pair for pair in pairs}
    for card in cards:
        pair, choices = by_id[card.id], card.questions[0].choices
        side = {choice.label: choice.value for choice in choices}
        videos = {"one": pair.first.path, "other": pair.second.path}
        assert [media.source for media in card.clips] == [videos[side["left"]], videos[side["right"]]]
        told = (card.id, card.title, card.text, [media.label for media in card.clips], [c.label for c in choices])
        assert not any(name in repr(told) for name in ("north", "south", "west"))
    few, _ = side_by_side.pairs_of(read_suite(suite), {Path(name).name: Path(name) for name in names}, most=1, seed=3)
    assert len(few) == 24
    assert len({(pair.one, pair.other) for pair in few}) == 3


def test_one_answer_counts_for_every_model_that_made_the_same_video(
    folders: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, videos = folders
    same = str(tmp_path / "same")
    shutil.copytree(videos, same)
    with serving("serve", suite, videos, same, "--rater", "anna", "ben") as command:
        for address, name in zip(command.addresses, ("anna", "ben"), strict=True):
            state = fetched(address, "state")
            assert (state["by"], len(state["cards"])) == (name, 5)
            for entry in state["cards"]:
                card = fetched(address, f"card/{entry['id']}")
                for question in card["questions"]:
                    value: Any = [] if question["kind"] == "frames" else "no"
                    kept = posted(address, item=card["id"], question=question["id"], value=value)
                assert kept == {"done": True}
        with pytest.raises(urllib.error.HTTPError):
            posted(command.addresses[0], item="x", question="1", value="yes")
        assert main(["serve", suite, videos, "--rater", "anna"]) == 1, "one page for one person"
        assert "open already" in capsys.readouterr().err
    assert command.code == 0
    said = capsys.readouterr().out
    assert "ben: 5 of 5 are done" in said
    assert main(["score", suite, videos, same]) == 0
    said = capsys.readouterr().out
    assert "| model | 2 of 2 | 0.000 " in said
    assert "| same | 2 of 2 | 0.000 " in said


def test_names_and_questions_that_cannot_be(folders: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    suite, videos = folders
    for more, said in (
        (["--rater", "../anna"], "a name has up to 40"),
        (["--rater", "anna", "Anna"], "a name of their own"),
    ):
        assert main(["serve", suite, videos, *more]) == 1
        assert said in capsys.readouterr().err
    for more, said in (
        ([], "two models or more"),
        ([videos], "is given twice"),
    ):
        assert main(["prefer", suite, videos, *more]) == 1
        assert said in capsys.readouterr().err
    shutil.copytree(videos, f"{videos}2")
    assert main(["prefer", suite, videos, f"{videos}2", "--ask", "hands"]) == 1
    assert "NAME=TEXT" in capsys.readouterr().err
