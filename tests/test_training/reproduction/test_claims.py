"""What rows come to: the first sitting's figures, claims, verdicts, the report."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from training.reproduction.claims import CLAIMS, asked
from training.reproduction.plan import GROUPS, jobs_of
from training.reproduction.report import fill_page, write_report
from training.reproduction.rules import layer_rules, predicted
from training.reproduction.sittings import read_sittings

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
FIRST = RESULTS / "alignment-with-room" / "results.json.gz"
SECOND = RESULTS / "reproduction" / "2026-11-30.json.gz"
THIRD = RESULTS / "reproduction" / "2026-11-30-evening.json.gz"
FOURTH = RESULTS / "reproduction" / "2026-12-01.json.gz"
FIFTH = RESULTS / "reproduction" / "2026-12-01-few-clips.json.gz"
SIXTH = RESULTS / "reproduction" / "2026-12-01-unet.json.gz"
SEVENTH = RESULTS / "reproduction" / "2026-12-01-boxes.json.gz"
EIGHTH = RESULTS / "reproduction" / "2026-12-01-seeds.json.gz"


def test_the_first_sitting_says_what_its_own_page_says() -> None:
    rows = read_sittings([FIRST])
    there = [each for each in asked(rows) if not each.missing and each.claim.score == "right_roles"]
    found = {(each.claim.contrast, each.claim.part): each for each in there}
    for contrast, part, mean in (
        ("10x - off", "told", 0.034),
        ("10x - off", "unseen pairs", 0.082),
        ("30x - off", "told", 0.047),
        ("10x - 10x blind", "unseen pairs", 0.087),
        ("10x - 10x lowest", "unseen pairs", 0.059),
    ):
        each = found[contrast, part]
        assert round(each.these.mean, 3) == mean
        assert (len(each.seeds), each.prompts) == (3, 128)
        assert each.like.low <= each.these.low < each.these.high <= each.like.high
    # Student's interval of three bases, as that page has it
    assert found["10x - off", "unseen pairs"].like.low == pytest.approx(-0.137, abs=0.001)


def test_pairs_are_of_one_base_and_one_seed_alone(tmp_path: Path) -> None:
    def job(base: int, arm: str, seed: int, bits: str) -> dict[str, object]:
        about = {"preset": "weak_roles", "seed": base, "hash": f"h{base}"}
        curve = [{"step": 200, "sets": {part: {"right_roles": bits} for part in ("told", "unseen pairs")}}]
        return {"claim": "alignment", "kind": "arm", "base": about, "arm": arm, "seed": seed, "curve": curve}

    jobs = [
        job(1, "off", 0, "0011"),
        job(1, "10x", 0, "0111"),
        job(1, "10x", 1, "1111"),  # no off of this seed
        job(2, "10x", 0, "1111"),  # no off of this base
    ]
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"format": 1, "manifest": {}, "jobs": {str(i): each for i, each in enumerate(jobs)}}))
    rows = read_sittings([path])
    assert {
        base: table.tolist()
        for base, table in rows.differences("alignment", ["10x"], ["off"], "told", "right_roles").items()
    } == {"weak_roles 1 (h1)": [[0.0, 1.0, 0.0, 0.0]]}
    claim = next(c for c in CLAIMS if c.contrast == "10x - off" and c.part == "told")
    [one] = asked(rows, [claim])
    assert np.isnan(one.like.low), "one base says nothing of others"
    assert one.outcome is not None
    assert one.outcome.word in ("open", "cannot be asked")


def test_the_report_is_the_committed_one_lists_what_is_missing_and_stands_alone(tmp_path: Path) -> None:
    text = write_report(read_sittings([FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH, SEVENTH, EIGHTH]), tmp_path)
    page = (tmp_path / "report.html").read_text()
    committed, filled = RESULTS / "reproduction" / "README.md", tmp_path / "README.md"
    filled.write_text(committed.read_text())
    fill_page(filled, text)
    assert filled.read_text() == committed.read_text(), "write it again: training.reproduce --report --page"
    assert "- *holds*: the target-aware loss at lambda 10 makes the right thing be acted on: look-alikes +0.083" in text
    assert (
        "| alignment: 8 of 18 planned runs | 10x random 3 |" in text
    )  # bases 1 to 3 are others than those of the plan
    assert "TAViD once more: 2 claims" in text
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    assert not re.search(r"\bnan\b", page)


def _moved(tmp_path: Path, words: list[float], tracks: list[float]) -> str:
    """The verdict on 10x, which is right everywhere where off is wrong, with the changes of attention a base."""
    jobs = []
    for base, changes in enumerate(zip(words, tracks, strict=True)):
        for arm, on in (("off", 0.0), ("10x", 1.0)):
            bits = "1" * 64 if on else "01" * 32
            jobs.append(
                {
                    "claim": "alignment",
                    "kind": "arm",
                    "arm": arm,
                    "seed": 0,
                    "base": {"preset": "weak_roles", "seed": base, "hash": f"h{base}"},
                    "settings": {"v2t": [0], "v2v": [0]},
                    "attention": {k: [0.2 + on * c] for k, c in zip(("v2t", "v2v"), changes, strict=True)},
                    "curve": [{"step": 200, "sets": {"told": {"right_roles": bits}}}],
                }
            )
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"format": 1, "manifest": {}, "jobs": {str(i): each for i, each in enumerate(jobs)}}))
    claim = next(c for c in CLAIMS if c.contrast == "10x - off" and c.part == "told")
    [found] = asked(read_sittings([path]), [claim])
    assert found.outcome is not None
    return found.outcome.word


def test_attention_has_to_rise_in_every_base_and_one_kind_may_fall(tmp_path: Path) -> None:
    assert _moved(tmp_path, [0.1, 0.1, 0.1], [-0.05, 0.1, 0.1]) == "holds"
    assert _moved(tmp_path, [0.1, 0.1, 0.1], [-0.15, 0.3, 0.3]) == "cannot be asked"


def test_two_bases_say_nothing_of_others(tmp_path: Path) -> None:
    assert _moved(tmp_path, [0.1, 0.1], [0.1, 0.1]) == "open"


def _sitting(
    folder: Path, name: str, rows: dict[tuple[str, str], list[str]], date: str, group: str = "alignment", look: str = ""
) -> Path:
    """A file with right roles of {(arm, hash): one text a base}."""
    jobs = [
        {
            "claim": group,
            "kind": "arm",
            "arm": arm,
            "seed": 0,
            "base": {"preset": "weak_roles", "seed": base, "hash": mark},
            "curve": [{"step": 200, "sets": {"unseen pairs": {"right_roles": bits}}}],
        }
        for (arm, mark), every in rows.items()
        for base, bits in enumerate(every)
    ]
    path = folder / f"{name}.json"
    about = {"date": date, "look": look}
    path.write_text(json.dumps({"format": 1, "manifest": about, "jobs": {str(i): j for i, j in enumerate(jobs)}}))
    return path


def test_looks_are_counted_and_a_base_trained_again_is_no_further_one(tmp_path: Path) -> None:
    low, high = ["0001" * 16, "0011" * 16, "0011" * 16], ["0011" * 16, "0111" * 16, "0111" * 16]
    rows = {("off", "h"): low, ("10x", "h"): high}
    first = _sitting(tmp_path, "a", rows, "2026-01-02")
    again = _sitting(tmp_path, "b", {(arm, "i"): bits for (arm, _), bits in rows.items()}, "2026-01-01")
    [claim] = [c for c in CLAIMS if (c.contrast, c.part, c.claim) == ("10x - off", "unseen pairs", "alignment")]
    [once], [twice] = (asked(read_sittings(paths), [claim]) for paths in ([first], [first, again]))
    assert (once.looks, twice.looks) == (1, 2)
    assert once.seeds == {f"weak_roles {base}": 1 for base in range(3)}
    assert twice.seeds == dict.fromkeys(once.seeds, 2)
    assert twice.like.mean == once.like.mean
    assert twice.p == pytest.approx(min(1.0, 3 * twice.like.p))
    alone = _sitting(
        tmp_path, "d", {("off", "j"): low}, "2026-01-03"
    )  # a later control, beside nothing it is paired with
    assert asked(read_sittings([first, alone]), [claim])[0].looks == 1
    (tmp_path / "later").mkdir()
    same = _sitting(tmp_path / "later", "a", {(arm, "i"): bits for (arm, _), bits in rows.items()}, "2026-01-03")
    assert asked(read_sittings([first, same]), [claim])[0].looks == 2, "files of one name are no one look"
    beside = [_sitting(tmp_path, path.stem, rows, "2026-01-02", look="one") for path in (first, again)]
    assert asked(read_sittings(beside), [claim])[0].looks == 1, "seen together first"
    two = {key: bits[:2] for key, bits in rows.items()}
    [early] = asked(read_sittings([_sitting(tmp_path, "e", two, "2026-01-01")]), [claim])
    assert np.isnan(early.p), "of too few bases there is no p that could make another claim easier"
    few = asked(read_sittings([_sitting(tmp_path, "c", rows, "2026-01-01", "again")]))
    [fresh] = [each for each in few if each.claim.claim == "again" and each.claim.part == "unseen pairs"][:1]
    assert fresh.outcome is not None
    assert fresh.outcome.word == "open"
    assert "too few" in fresh.outcome.why


def test_a_claim_that_its_looks_hold_back_does_not_make_the_next_one_easier(tmp_path: Path) -> None:
    """Holm asks less of the second p only after the first was found."""
    draws = np.random.default_rng(0)

    def bits(share: float) -> list[str]:
        return ["".join("1" if value < share else "0" for value in draws.random(128)) for _ in range(3)]

    first = {("off", "h"): bits(0.4), ("10x", "h"): bits(0.6)}
    paths = [
        _sitting(tmp_path, f"s{at}", {(arm, f"h{at}"): b for (arm, _), b in first.items()}, f"2026-01-0{at}")
        for at in (1, 2, 3, 4)
    ]
    paths.append(
        _sitting(tmp_path, "n", {("off n32", "k"): bits(0.5), ("10x n32", "k"): bits(0.66)}, "2026-01-05", "efficiency")
    )
    wanted = [("10x - off", "alignment"), ("10x n32 - off n32", "efficiency")]
    claims = [c for c in CLAIMS if (c.contrast, c.claim) in wanted and c.part == "unseen pairs"]
    looked, later = asked(read_sittings(paths), claims)
    assert (looked.looks, later.looks) == (4, 1)
    assert looked.like.p < later.like.p < 10 * looked.like.p
    assert later.p == pytest.approx(min(1.0, 2 * later.like.p))


def test_nothing_that_steers_a_base_leaves_what_does_not_hold_open(tmp_path: Path) -> None:
    def rows(held: float | None) -> Path:
        arms = {"none": 0.1, "masked 4": 0.05, **({} if held is None else {"held to the true clip": held})}
        jobs = [
            {
                "claim": "boxes",
                "kind": "boxes",
                "arm": arm,
                "seed": 0,
                "base": {"preset": "weak_moves", "seed": base, "hash": "h"},
                "sets": {"boxes": {"miou": [value + 0.001 * base + 0.001 * at for at in range(8)], "covered": "1" * 8}},
            }
            for arm, value in arms.items()
            for base in range(3)
        ]
        path = tmp_path / f"{held}.json"
        path.write_text(json.dumps({"format": 1, "manifest": {}, "jobs": {str(i): j for i, j in enumerate(jobs)}}))
        return path

    claim = next(c for c in CLAIMS if c.contrast == "masked 4 - none" and c.claim == "boxes")
    words = [asked(read_sittings([rows(held)]), [claim])[0].outcome for held in (None, 0.5, 0.12)]
    assert [each.word for each in words if each] == ["open", "does not hold", "cannot be asked"]


def test_a_rule_for_layers_is_judged_on_bases_it_was_not_chosen_on(tmp_path: Path) -> None:
    """Of the committed rows: each base is judged by what was best on the others."""
    found = {each.name: each for each in layer_rules(read_sittings([FIRST, SECOND, THIRD]))}
    best, *rules = found.values()
    assert len(best.by_base) == 5
    for base, value in best.by_base.items():
        means = {
            rule.name: np.mean([v for other, v in rule.by_base.items() if other != base])
            for rule in rules
            if base in rule.by_base and len(rule.by_base) > 1
        }
        assert value == found[max(means, key=means.__getitem__)].by_base[base]
    given = json.loads(gzip.decompress(SECOND.read_bytes()))
    for job in given["jobs"].values():
        job["base"]["hash"] = "again"
    (tmp_path / "again.json").write_text(json.dumps(given))
    more = {each.name: each for each in layer_rules(read_sittings([FIRST, SECOND, THIRD, tmp_path / "again.json"]))}
    for name, each in found.items():
        assert more[name].by_base == pytest.approx(each.by_base), "a base that was trained again is no further one"
    said = predicted({"v2t": {"share": [0.1, 0.3]}, "v2v": {"share": [0.5, 0.7]}}, {"v2t": [0, 1], "v2v": [1]})
    assert said == {
        "AAS (share on the mask) of things": pytest.approx(0.2),
        "AAS (share on the mask) of tracks": pytest.approx(0.7),
    }


def test_claims_ask_for_runs_that_are_planned() -> None:
    for claim in CLAIMS:
        arms = {job.arm for job in jobs_of([claim.claim])}
        names = {"10x random 0"} if claim.others == ("random draws",) else {*claim.others}
        assert {*claim.arms} | names <= arms, claim
        parts = GROUPS[claim.claim].sets or ("boxes",)
        assert claim.part in parts
