"""What rows come to: the first sitting's figures, claims, verdicts, the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from training.reproduction.claims import CLAIMS, asked
from training.reproduction.plan import GROUPS, jobs_of
from training.reproduction.report import write_report
from training.reproduction.sittings import read_sittings

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
FIRST = RESULTS / "alignment-with-room" / "results.json.gz"
SECOND = RESULTS / "reproduction" / "2026-11-30.json.gz"
THIRD = RESULTS / "reproduction" / "2026-11-30-evening.json.gz"
FOURTH = RESULTS / "reproduction" / "2026-12-01.json.gz"
FIFTH = RESULTS / "reproduction" / "2026-12-01-few-clips.json.gz"


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
    text = write_report(read_sittings([FIRST, SECOND, THIRD, FOURTH, FIFTH]), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert (RESULTS / "reproduction" / "README.md").read_text().endswith(text)
    assert "| alignment: 8 of 18 planned runs | off; 10x;" in text  # bases 1 to 3 are others than those of the plan
    assert "| no rows | TAViD: the target mask tells who is meant" in text
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


def test_claims_ask_for_runs_that_are_planned() -> None:
    for claim in CLAIMS:
        arms = {job.arm for job in jobs_of([claim.claim])}
        names = {"10x random 0"} if claim.others == ("random draws",) else {*claim.others}
        assert {*claim.arms} | names <= arms, claim
        parts = GROUPS[claim.claim].sets or ("boxes",)
        assert claim.part in parts
