"""Tables in every form, with names that each form would take for its own signs; differences, and what they come to."""

from __future__ import annotations

import csv
import io
import math
import random

import pytest

from matrix_lib.evaluation.intergen.report import compare, differences
from matrix_lib.evaluation.intergen.scores import VideoScores
from matrix_lib.evaluation.intergen.tables import MATRIX, Table, agreement_table, paper_table, preference_table
from matrix_lib.evaluation.preference import Vote, preference
from matrix_lib.evaluation.statistics import Estimate

NAMES = r"a|b & 50% $x_1$ {\tt} #~^"
KNOWN, ALONE, NOTHING = (
    Estimate(0.5, 0.25, 0.75, 9), Estimate(0.5, math.nan, math.nan, 1), Estimate(math.nan, math.nan, math.nan, 0)
)  # fmt: skip


def test_names_stay_what_they_are() -> None:
    table = paper_table(NAMES, MATRIX, {NAMES: {"kisa": KNOWN, "sgi": ALONE}}, "a note\nof two lines")
    lines = table.markdown().splitlines()
    assert lines[2:4] == ["| model | KISA ↑ | SGI ↑ | IF ↑ |", "|---|---|---|---|"]
    assert lines[4].startswith(r"| a\|b & 50% $x_1$ {\\tt} #~^ | 0.500 [0.250, 0.750] | 0.500 | not known |")
    tex = table.latex()
    assert r"a|b \& 50\% \$x\_1\$ \{\textbackslash{}tt\} \#\textasciitilde{}\textasciicircum{}" in tex
    assert r"& 0.500 {\scriptsize [0.250, 0.750]} & 0.500 & -- \\" in tex
    assert all(line.startswith("%") for line in tex.split(r"\begin{tabular}")[0].splitlines())
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert rows[0]["model"] == NAMES
    assert rows[0]["KISA ↑"] == "0.5"
    assert table.csv().splitlines()[0] == "model,KISA ↑,low,high,SGI ↑,low,high,IF ↑,low,high"
    assert Table("", ("a",), (("x",), (3,))).csv() == "a\nx\n3\n"


def test_preferences_and_agreement_say_what_they_are() -> None:
    votes = [Vote(str(n), "a", "b", "a" if n % 3 else "b") for n in range(12)]
    said = preference_table({"quality": preference(votes, ("a", "b"))}).markdown()
    assert "| quality | a | 0.667 [" in said
    assert "quality: 12 votes on 12 prompts, 0 ties. Lead: a over b 0.333 [" in said
    assert "corrected for all pairs" in said
    assert "kappa" in agreement_table({}).markdown()


def videos(name: str, mean: float, spread: float, count: int = 40) -> list[VideoScores]:
    draws = random.Random(name)
    made = []
    for n in range(count):
        value = min(1.0, max(0.0, mean + draws.uniform(-spread, spread)))
        made.append(
            VideoScores(f"{n}", "", dict.fromkeys(("kisa_raw", "sgi_raw", "spi", "fidelity"), value), (), (), None)
        )
    return made


def test_a_difference_is_found_in_both_directions_or_left_open() -> None:
    runs = {"low": videos("low", 0.3, 0.1), "high": videos("high", 0.7, 0.1), "alike": videos("alike", 0.7, 0.1)}
    found = {(each.one, each.other): each for each in differences(runs) if each.measure == "fidelity"}
    assert found["low", "high"].outcome == "high is better"
    assert found["low", "alike"].outcome == "alike is better"
    assert found["high", "alike"].outcome == "as good, within 0.05"
    assert all(each.p <= 1 for each in found.values())
    narrow = {(each.one, each.other): each for each in differences(runs, margin=0.001)}
    assert narrow["high", "alike"].outcome.startswith("open: a difference of 0.0")
    few = differences({name: some[:1] for name, some in runs.items()})
    assert {each.outcome.split(":")[0] for each in few} == {"open"}
    assert "| low - high | fidelity | -0." in compare(list(found.values()))
    with pytest.raises(ValueError, match="margin"):
        differences(runs, margin=0)
