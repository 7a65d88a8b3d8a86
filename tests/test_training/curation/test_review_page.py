"""The review page as a browser's program meets it: what a fix may say, clips that nobody could follow, two reviewers,
and a page that was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support_curation import Blobs, Verifier, stages_for, write_raw

from training.curation.local import LocalEngine
from training.curation.raw import read_raw
from training.curation.review_page import Follower, ReviewSite, to_look_at
from training.curation.review_pictures import Pictures
from training.curation.run import Curation, Options
from training.curation.stage import Place

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_raw(folder, 2, 12, 64, 9, single_motion_share=0.0, distractor_share=0.0, verbs=("push", "pull"))
    return folder


def looked(
    home: Path, work: Path, look: Callable[[Curation, Follower, list[ReviewSite]], Any], **more: Any
) -> Curation:
    """A run with a page for anna and ben; `look` says what they do."""
    place = Place(work, home / "raw")
    stages = stages_for(home, work.with_suffix(".out"), 64, 9, detector=Blobs(0.0), **more)
    curation = Curation(read_raw(home / "raw"), place, stages, Options(), str)

    def page(found: Curation) -> None:
        with Pictures(place, work / "review", most=1) as pictures, Follower(found) as follower:
            names = to_look_at(found)
            look(found, follower, [ReviewSite(found, names, by, pictures, follower) for by in ("anna", "ben")])

    curation.run(LocalEngine(place), page)
    return curation


def put(site: ReviewSite, question: str, value: str, name: str = "mini_00000") -> dict[str, Any]:
    return dict(site.mark({"item": name, "question": question, "value": value, "frame": None}))


def done(site: ReviewSite) -> list[bool]:
    return [card["done"] for card in site.state()["cards"]]


def settled(follower: Follower) -> None:
    for _ in range(600):
        if not follower.busy:
            return
        time.sleep(0.05)
    raise AssertionError("it never ended")


def test_a_fix_says_where_and_two_people_look_again(home: Path, tmp_path: Path) -> None:
    truth = list(json.loads((home / "truth" / "mini_00000.json").read_text()).values())

    def centre(track: int, frame: int) -> str:
        x0, y0, x1, y1 = truth[track - 1][1][frame]
        return f"{frame}: {(x0 + x1) / 2:g},{(y0 + y1) / 2:g}"

    def look(curation: Curation, follower: Follower, sites: list[ReviewSite]) -> None:
        anna, ben = sites
        card = anna.card("mini_00000")
        text = card["scene"]["text"]
        assert [line.split(":")[0] for line in text.splitlines()] == ["id1", "id2"]
        put(ben, "verdict", "accept")
        put(anna, "verdict", "fix")
        for wrong, said in (
            (text, "nothing was changed"),
            (text.replace("id2", "id3"), "there is no 'id3'"),
            (f"{text}; 4: off", "where it is, not where it leaves"),
            (f"{text}; 9: 3,3", "behind the last one, 8"),
            ("id1: 3", "points are x,y"),
        ):
            with pytest.raises(ValueError, match=said):
                put(anna, "where", wrong)
        assert done(anna) == [False, False]
        first = Image.open(anna.media("0-f0"))
        assert Image.open(anna.media("0-s8")).size == first.size == (64, 64)
        with pytest.raises(KeyError):
            anna.media("0-s9")
        assert done(ben) == [True, False]
        reply = put(anna, "where", f"id1: {centre(1, 3)}; {centre(1, 5)}\n{text.splitlines()[1]}")
        assert reply["done"] or not follower.busy
        settled(follower)
        assert (done(anna), done(ben)) == ([False, False], [False, False]), "a fix wants a look again, of everybody"
        assert "from frame 3 alone" in str(curation.load("mini_00000")[0]["tracks"]["notes"])
        for site in sites:
            put(site, "verdict", "accept")
        put(anna, "verdict", "drop", "mini_00001")
        assert anna.media("1-c0").suffix == ".mp4"
        assert [p.name for p in (tmp_path / "work" / "review").iterdir()] == ["mini_00001"], "of one clip at a time"

    curation = looked(home, tmp_path / "work", look)
    assert curation.load("mini_00000")[1].stage == "write"
    lines = [json.loads(line) for line in (tmp_path / "work" / "7_review.jsonl").read_text().splitlines()]
    assert [len(line["fixes"]["1"]) for line in lines if line["verdict"] == "fix"] == [2]
    out = tmp_path / "work.out" / "mask_annotation" / "mini_00000"
    for k in (1, 2):
        true = home / "exported" / "mask_annotation" / "mini_00000" / f"<id{k}>"
        made, real = (
            np.stack([np.asarray(Image.open(p)) > 0 for p in sorted(f.iterdir())]) for f in (out / f"<id{k}>", true)
        )
        assert (made & real).sum() > 0.85 * (made | real).sum(), "at 64 pixels"

    def again(curation: Curation, follower: Follower, sites: list[ReviewSite]) -> None:
        assert done(sites[0]) == [True, True], "what was said is on the disk"
        assert done(sites[1]) == [True, False]

    looked(home, tmp_path / "work", again)


def test_clips_that_nobody_could_follow_are_fixed_or_dropped(home: Path, tmp_path: Path) -> None:
    """The verifier knows nobody: both clips stand before the tracker."""

    def look(curation: Curation, follower: Follower, sites: list[ReviewSite]) -> None:
        card = sites[0].card("mini_00000")
        assert [choice["value"] for choice in card["questions"][0]["choices"]] == ["fix", "drop"]
        assert "nobody knows where to begin" in card["text"]
        assert card["scene"]["text"] == ""
        put(sites[0], "verdict", "fix")
        put(sites[0], "where", "id1: 0: 1,1")
        settled(follower)
        assert done(sites[0]) == [False, False]
        assert "nobody knows where to begin for 2" in sites[0].card("mini_00000")["text"]
        put(sites[0], "verdict", "drop", "mini_00001")
        put(sites[0], "why", "nobody is to be seen", "mini_00001")

    empty = tmp_path / "truth"
    empty.mkdir()
    for path in (home / "truth").iterdir():
        nobody = {track: [first, [None] * 9] for track, (first, _) in json.loads(path.read_text()).items()}
        (empty / path.name).write_text(json.dumps(nobody))
    curation = looked(home, tmp_path / "work", look, verifier=Verifier(empty))
    ends = {end.name: end for end in curation.ends()}
    assert (ends["mini_00000"].stage, ends["mini_00000"].status) == ("tracks", "open")
    assert ends["mini_00001"].reason == "dropped by a person: nobody is to be seen"
