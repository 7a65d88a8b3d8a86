"""The pages on which people judge, and the report, in a real browser: keys, closed tabs, killed servers, HTML."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support_curation import Blobs, Verifier, stages_for, write_raw
from support_judging import SUITE, write_clips, write_suite
from support_pages import FLAGS
from support_people import answer_all, serving

from matrix_lib.evaluation.intergen import side_by_side
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.pages.deck import Card, Choice, Deck, Media, Question
from matrix_lib.pages.marks import Mark, Marks
from matrix_lib.pages.server import PageServer
from scripts.front import chromium
from training.curation.local import LocalEngine
from training.curation.raw import read_raw
from training.curation.review_page import Follower, ReviewSite, to_look_at
from training.curation.review_pictures import Pictures
from training.curation.run import Curation, Options
from training.curation.stage import Place
from training.judge import main

ROOT = Path(__file__).resolve().parent.parent.parent
HOSTILE = '<img src="x" onerror="window.hit=1"><script>window.hit=1</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    content = json.loads(json.dumps(SUITE))
    content["samples"][0]["prompt"] = f"a man opens {HOSTILE}"
    content["samples"][0]["instances"][0]["appearance"] = f"the man {HOSTILE}"
    content["samples"][0]["instances"][1]["class"] = HOSTILE
    write_suite(folder / "suite", content)
    write_clips(folder / "one")
    write_clips(folder / "two", frames=7)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def tab_of(browser: Browser, address: str) -> Page:
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    tab.set_default_timeout(30_000)
    tab.problems = []  # type: ignore[attr-defined]
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))  # type: ignore[attr-defined]
    tab.goto(address)
    return tab


def begin(tab: Page) -> None:
    """Reads what to do, and begins."""
    expect(tab.locator("#guide")).to_be_visible()
    press(tab, "Enter")
    expect(tab.locator("#guide")).to_be_hidden()


def press(tab: Page, *keys: str) -> None:
    for key in keys:
        tab.keyboard.press(key)


def until(tab: Page, expression: str) -> None:
    """Asks from outside: the page's policy lets nobody evaluate text in it."""
    for _ in range(600):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")


def active(tab: Page) -> str:
    return tab.locator("#questions li.active .number").inner_text()


def unhurt(tab: Page) -> None:
    """Nothing that somebody wrote has run, nothing was refused by the policy, no script failed."""
    assert tab.evaluate("window.hit") is None
    assert tab.locator("main img[src='x'], main script").count() == 0
    assert tab.problems == []  # type: ignore[attr-defined]


class Serving:
    """`python -m training.judge serve` as a person runs it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "training.judge", "serve", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
        said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said += line
            if "Ctrl-C stops" in line:
                break
        self.addresses = re.findall(r"http://127\.0\.0\.1:\d+/\S+/", said)


def marks_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / "one" / "intergen" / "people" / "anna.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_person_judges_by_keyboard_through_a_closed_tab_and_a_killed_server(browser: Browser, folder: Path) -> None:
    suite, videos = str(folder / "suite"), str(folder / "one")
    first = Serving(suite, videos, "--rater", "anna")
    try:
        tab = tab_of(browser, first.addresses[0])
        begin(tab)
        expect(tab.locator("#count")).to_have_text("0 of 5")
        while tab.locator("#questions .row").count() < 10:
            press(tab, "s")  # to an interaction: its ten questions
            tab.wait_for_timeout(100)
        assert active(tab) == "1"
        press(tab, "ArrowRight", "y", "n", "ArrowRight", "i", "u")  # faster than they are kept
        expect(tab.locator("#questions li.active .number")).to_have_text("5")
        kept = [(mark["question"], mark["value"], mark["frame"]) for mark in marks_of(folder)]
        assert kept == [("1", "yes", 5), ("2", "no", None), ("3", "implausible", 10), ("4", "unsure", None)]
        expect(tab.locator(".said").first).to_have_text("yes, frame 5")
        unhurt(tab)
        tab.close()

        tab = tab_of(browser, first.addresses[0])
        expect(tab.locator("#count")).to_have_text("0 of 5")
        item = marks_of(folder)[0]["item"]
        begin(tab)
        while tab.locator(".said").count() != 4:
            press(tab, "s")
            tab.wait_for_timeout(100)
        assert active(tab) == "5", "it goes on at the first question that is open"
        first.process.send_signal(signal.SIGKILL)
        first.process.communicate()
        press(tab, "y", "n")
        expect(tab.locator("#trouble")).to_contain_text("Not kept: the server does not answer")
        assert active(tab) == "5"
        assert len(marks_of(folder)) == 4, "what was pressed behind it is dropped"
        tab.close()
    finally:
        first.process.kill()

    with serving("serve", suite, videos, "--rater", "anna") as second:
        assert second.addresses != tuple(first.addresses)
        tab = tab_of(browser, second.addresses[0])
        begin(tab)
        press(tab, *"n" * 28)  # 3 interactions and 2 videos, less 4 answers
        expect(tab.locator(".end h2")).to_have_text("Everything is answered")
        expect(tab.locator("#count")).to_have_text("5 of 5")
        press(tab, "b")  # the last card, to change an answer
        expect(tab.locator("#questions li.active")).to_have_count(1)
        unhurt(tab)
        tab.close()
    assert second.code == 0
    answers = {(mark["item"], mark["question"]): mark["value"] for mark in marks_of(folder)}
    assert len(answers) == 32
    assert answers[item, "4"] == "unsure"
    assert main(["score", suite, videos]) == 2, "one answer was that nobody can tell"
    line = [json.loads(line) for line in (folder / "one" / "intergen" / "scores.jsonl").read_text().splitlines()]
    assert sum(bool(each["missing"]) for each in line) == 1
    assert "anna cannot tell (4)" in str(line)


def test_what_is_new_is_said_by_frames(browser: Browser, folder: Path) -> None:
    frames = tuple(Media(f"frame {n}", folder / "x.png", n) for n in (0, 5, 10))
    Image.new("RGB", (32, 24), "red").save(folder / "x.png")
    question = Question("new", HOSTILE, (Choice("unsure", HOSTILE, ("u",)),), kind="frames")
    cards = [Card(f"{n}", HOSTILE, (question,), HOSTILE, frames) for n in range(3)]
    marks = Marks(folder / "marks.jsonl", "anna")
    with PageServer([Deck(HOSTILE, cards, marks, (HOSTILE,))]) as server:
        tab = tab_of(browser, server.addresses[0])
        expect(tab.locator("#task li")).to_have_text(HOSTILE)
        begin(tab)
        for each in ("#title", "#card-title", "#card-text", "#questions li .text"):
            expect(tab.locator(each)).to_have_text(HOSTILE)
        press(tab, "y")
        expect(tab.locator("#strip .chosen")).to_have_count(0)  # not in the first frame
        press(tab, "ArrowRight", "ArrowRight", "y", "ArrowLeft", "y", "ArrowRight", "y", "y", "Enter")
        expect(tab.locator("#count")).to_have_text("1 of 3")
        press(tab, "n")
        expect(tab.locator("#count")).to_have_text("2 of 3")
        press(tab, "Enter")
        expect(tab.locator("#trouble")).to_contain_text("not answered yet")
        press(tab, "s")
        expect(tab.locator("#trouble")).to_contain_text("the only one that is left")
        press(tab, "u")
        expect(tab.locator(".end h2")).to_have_text("Everything is answered")
        unhurt(tab)
        tab.close()
    found = [marks.of(card.id)["new"].value for card in cards]
    assert found == [[5, 10], [], "unsure"]


def test_a_review_goes_by_keyboard_and_what_is_fixed_is_followed_anew(browser: Browser, tmp_path: Path) -> None:
    """One clip is accepted, one dropped with words, one fixed: its anchors were on each other's instances."""
    write_raw(tmp_path, 3, 12, 96, 9, single_motion_share=0.0, distractor_share=0.0, verbs=("push", "pull"))
    truth = {p.stem: list(json.loads(p.read_text()).values()) for p in (tmp_path / "truth").iterdir()}
    fixed, dropped, accepted = sorted(truth)
    verifier = Verifier(tmp_path / "truth", planted=((fixed, 1, 2), (fixed, 2, 1)))
    place = Place(tmp_path / "work", tmp_path / "raw")
    stages = stages_for(tmp_path, tmp_path / "out", 96, 9, verifier=verifier, detector=Blobs(0.0))
    seen: list[str] = []

    def fix(tab: Page, anchors: dict[str, Any]) -> None:
        """Moves each box onto whom it should have been on, in its own frame."""
        press(tab, "f")
        expect(tab.locator(".prompts .state")).to_contain_text(f"frame {anchors['1']['frame']} of 8")
        for k, anchor in sorted(anchors.items()):
            right = truth[fixed][int(k) - 1][1][anchor["frame"]]
            for n, (back, on) in enumerate((("ArrowLeft", "ArrowRight"), ("ArrowUp", "ArrowDown"))):
                far = round((right[n] + right[n + 2] - anchor["box"][n] - anchor["box"][n + 2]) / 2)
                key = on if far > 0 else back
                press(tab, *[f"Shift+{key}"] * (abs(far) // 10), *[key] * (abs(far) % 10))
            press(tab, "Tab")
        press(tab, "Enter")

    def look(curation: Curation) -> None:
        with Pictures(place, place.work / "review") as pictures, Follower(curation) as follower:
            site = ReviewSite(curation, to_look_at(curation), "anna", pictures, follower)
            with PageServer([site]) as server:
                tab = tab_of(browser, server.addresses[0])
                begin(tab)
                while not tab.locator(".end h2", has_text="Everything is answered").count():
                    name = tab.locator("#card-title").inner_text() if not tab.locator(".end").count() else ""
                    if not name:
                        tab.wait_for_timeout(100)
                    elif name == fixed and fixed not in seen:
                        fix(tab, curation.load(fixed)[0]["anchors"]["anchors"])
                    elif name == dropped:
                        press(tab, "d", "w")
                        expect(tab.locator("#questions input")).to_be_focused()
                        tab.keyboard.type("too dark, b s")
                        press(tab, "Enter")
                    else:
                        until(tab, "document.querySelector('figure img').naturalWidth > 0")
                        press(tab, "c")
                        until(tab, "document.querySelector('video').readyState >= 2")
                        press(tab, "a")
                    if name:
                        seen.append(name)
                        expect(tab.locator("#card-title")).not_to_have_text(name)
                tab.reload()
                expect(tab.locator(".end h2")).to_have_text("Everything is answered")
                unhurt(tab)
                tab.close()

    curation = Curation(read_raw(tmp_path / "raw"), place, stages, Options(), str)
    curation.run(LocalEngine(place), look)
    assert sorted(seen) == sorted([fixed, *truth])
    lines = [json.loads(line) for line in (place.work / "7_review.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines if line["name"] == fixed] == ["fix", "accept"]
    assert curation.load(dropped)[1].reason == "dropped by a person: too dark, b s"
    assert sorted(p.stem for p in (tmp_path / "out" / "videos").iterdir()) == sorted([fixed, accepted])
    for k in (1, 2):
        made, true = (
            [
                np.asarray(Image.open(p)) > 0
                for p in sorted((tmp_path / where / "mask_annotation" / fixed / f"<id{k}>").iterdir())
            ]
            for where in ("out", "exported")
        )
        assert (np.stack(made) & np.stack(true)).sum() > 0.9 * (np.stack(made) | np.stack(true)).sum()
    assert not (place.work / "review").exists()


def test_two_films_run_side_by_side_and_seek(browser: Browser, folder: Path) -> None:
    pairs, _ = side_by_side.pairs_of(read_suite(folder / "suite"), {n: folder / n for n in ("one", "two")})
    cards = side_by_side.cards_of(pairs, {"interaction": "Which?", "quality": "Better?"}, "0 anna")
    marks = Marks(folder / "anna.jsonl", "anna")
    with PageServer([Deck("Which one?", cards, marks)]) as server:
        tab = tab_of(browser, server.addresses[0])
        begin(tab)
        expect(tab.locator("video")).to_have_count(2)
        until(tab, "[...document.querySelectorAll('video')].every((v) => v.readyState >= 2 && !v.paused)")
        tab.evaluate("document.querySelector('video').dataset.same = 'yes'")
        press(tab, "ArrowLeft")
        expect(tab.locator("#questions li.active .number")).to_have_text("2")
        expect(tab.locator("video[data-same]")).to_have_count(1)  # the film was not begun anew
        press(tab, " ")
        until(tab, "[...document.querySelectorAll('video')].every((v) => v.paused)")
        tab.evaluate("document.querySelector('video').currentTime = 0.6")
        until(tab, "!document.querySelector('video').seeking")
        assert tab.evaluate("document.querySelector('video').currentTime") == pytest.approx(0.6, abs=0.01)
        press(tab, "t", "2", "1")
        expect(tab.locator(".end h2")).to_have_text("Everything is answered")
        unhurt(tab)
        tab.close()
    first, second = (marks.of(card.id) for card in cards)
    left, right = (cards[0].questions[0].choices[n].value for n in (0, 2))
    assert (first["interaction"].value, first["quality"].value) == (left, "tie")
    sides = [cards[1].questions[0].choices[n].value for n in (0, 2)]
    assert (second["interaction"].value, second["quality"].value) == (sides[1], sides[0])
    assert {left, right} == {"one", "other"}


def test_the_report_shows_text_films_and_the_frame_of_each_answer(browser: Browser, folder: Path) -> None:
    suite, one, two = (str(folder / name) for name in ("suite", "one", "two"))

    def says(at: int, no: str) -> Any:
        return lambda card, q: Mark([]) if q.kind == "frames" else Mark("no") if q.id == no else Mark("yes", at)

    answer_all(suite, one, "anna", says(10, "1"))
    answer_all(suite, one, "ben", says(5, "2"))
    for name in ("anna", "ben"):
        answer_all(suite, two, name, says(5, "3"))
    assert main(["report", suite, one, two]) == 0
    context = browser.new_context()
    context.set_offline(True)
    tab = context.new_page()
    tab.problems = []  # type: ignore[attr-defined]
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))  # type: ignore[attr-defined]
    tab.on("console", lambda line: line.type == "error" and tab.problems.append(line.text))  # type: ignore[attr-defined]
    tab.on("request", lambda r: r.url.startswith("http") and tab.problems.append(r.url))  # type: ignore[attr-defined]
    tab.goto((folder / "suite" / "report" / "report.html").as_uri())
    expect(tab.locator("#results")).to_contain_text("InterGenEval")
    expect(tab.locator("#results")).to_contain_text("anna and ben")
    press(tab, "v")
    expect(tab.locator("#list li")).to_have_count(4)
    expect(tab.locator("#list li[aria-selected=true]")).to_have_count(1)
    tab.locator("#by-keep").select_option("apart")
    expect(tab.locator("#count")).to_have_text("2 of 4 videos")
    tab.locator("#by-keep").select_option("all")
    tab.locator("#by-model").select_option("one")
    tab.locator("#words").fill("opens")
    expect(tab.locator("#list li")).to_have_count(1)
    expect(tab.locator("#detail h2")).to_have_text(f"a man opens {HOSTILE}")
    expect(tab.locator("#detail")).to_contain_text(f"the man {HOSTILE}")
    expect(tab.locator("tr.apart")).to_have_count(2)
    until(tab, "document.querySelector('video')?.readyState >= 2")
    tab.locator(".told button", has_text="yes · 10").first.click()
    until(tab, "!document.querySelector('video').seeking")
    assert tab.evaluate("Math.floor(document.querySelector('video').currentTime * 8)") == 10
    expect(tab.locator(".frames .at")).to_have_text("10")
    tab.locator("#words").fill("")
    tab.locator("#words").press("Escape")
    before = tab.locator("#detail h2").inner_text()
    press(tab, "j")
    assert tab.locator("#detail h2").inner_text() != before
    press(tab, "t")
    assert tab.evaluate("document.documentElement.dataset.theme") in ("light", "dark")
    unhurt(tab)
    context.close()

    assert main(["report", suite, one, "--embed", "0", "--out", str(folder / "apart")]) == 0
    tab = browser.new_page()
    tab.goto((folder / "apart" / "report.html").as_uri())
    press(tab, "v")
    expect(tab.locator("#detail")).to_contain_text("This film lies beside the page: report_films/")
    until(tab, "document.querySelector('video')?.readyState >= 2")
    tab.close()
