"""What two passes come to: the table of rows that are made to say it, and rows that do not belong together."""

import argparse
from pathlib import Path

import diffusers
import pytest
import torch

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers import mini
from matrix_lib.instrument.readings import word_masks
from training import two_passes
from training.run.kept_rows import write_rows
from training.two_passes import BLIND, BY_ANOTHER, BY_JUDGE, BY_MOTION, FIRST, OWN, PLAIN, TRUE

COUNT = 60
GIVEN = argparse.Namespace(clips=COUNT, set="told", steps=24, first=6, cfg=1.0, seed=0, device="cpu")


def rows(base, plain, own, blind, j=0.4):
    """Of one base: shares of right roles in three arms, and how good the masks of the first pass are."""
    g = torch.Generator().manual_seed(len(base))
    shares = {PLAIN: plain, FIRST: plain, f"bias, {OWN}": own, f"bias, {BLIND}": blind}
    out = []
    for arm, share in shares.items():
        for clip in range(COUNT):
            right = float(clip % 10 < 10 * share)
            values = {"right roles": right, "IF": right, "SPI": 1.0, "intact": 1.0}
            if arm == FIRST:
                seen = {"J": j, "J blind": 0.1, "swapped": 0.0, "doubled": 0.0}
                values |= {n: v + 0.01 * float(torch.rand((), generator=g)) for n, v in seen.items()}
            out.append(dict(zip(two_passes._KEYS, (base, arm, clip, clip, "x", 24))) | values)
    return out


def said(text, against):
    return next(line for line in text.splitlines() if line.startswith(f"| bias, {OWN} | {against} | right roles"))


def test_the_verdict_is_about_the_bases_that_there_are():
    one = two_passes._report(GIVEN, rows("a", 0.3, 0.8, 0.3))
    assert "Verdicts are about a alone" in one
    assert "| holds:" in said(one, PLAIN)
    three = two_passes._report(GIVEN, [*rows("a", 0.3, 0.8, 0.3), *rows("b", 0.4, 0.8, 0.8), *rows("c", 0.3, 0.7, 0.7)])
    assert "Verdicts are about bases like these" in three
    assert "| holds:" in said(three, PLAIN)
    assert "| open:" in said(three, f"bias, {BLIND}"), "one base of three says nothing of others"


def test_a_choice_of_noise_is_held_to_plain_runs_and_to_another_choice():
    given = []
    for base in ("a", "b", "c"):
        given += rows(base, 0.3, 0.3, 0.3)
        for arm, share in ((BY_MOTION, 0.8), (BY_ANOTHER, 0.3), (BY_JUDGE, 0.9)):
            seen = {"pairs": 2.0, "in order": 1.5}
            for row in rows(base, share, 0.3, 0.3)[:COUNT]:
                given.append(row | seen | {"arm": arm, "first right": row["right roles"]})
    told = two_passes._report(GIVEN, given)
    for other in (PLAIN, BY_ANOTHER):
        assert f"| {BY_MOTION} | {other} | right roles | 0.500 [" in told
    assert told.count("| holds:") == 4
    assert "60 of 60 clips have some with right roles and some with wrong ones" in told
    assert "who moves first puts the right ones above the wrong ones in 0.750 [" in told


def test_what_cannot_be_asked():
    assert "cannot be asked: the base scores 1.000" in said(two_passes._report(GIVEN, rows("a", 1.0, 1.0, 0.5)), PLAIN)
    assert "cannot be asked: the base scores 0.000" in said(two_passes._report(GIVEN, rows("a", 0.0, 0.5, 0.5)), PLAIN)
    blind = two_passes._report(GIVEN, rows("a", 0.3, 0.8, 0.3, j=0.1))
    assert "cannot be asked: what the method moves moved by" in said(blind, PLAIN)


def test_rows_of_earlier_runs_join_only_what_was_asked_alike(tmp_path):
    write_rows(tmp_path / "rows.csv", rows("a", 0.3, 0.8, 0.3))
    before = two_passes._read(tmp_path / "rows.csv")
    assert two_passes._report(GIVEN, before) == two_passes._report(GIVEN, rows("a", 0.3, 0.8, 0.3))
    other = [row | {"calls": 12} for row in rows("b", 0.3, 0.8, 0.3)]
    with pytest.raises(ValueError, match="b was not asked what a was"):
        two_passes._report(GIVEN, [*before, *other])
    short = [row for row in rows("b", 0.3, 0.8, 0.3) if row["arm"] != FIRST]
    told = two_passes._report(GIVEN, [*before, *short])
    assert "Left out, for arms of it are missing: b." in told
    assert "## b" not in told
    with pytest.raises(ValueError, match="no base was asked everything that others were: a lacks plain; b lacks first"):
        two_passes._report(GIVEN, [*(row for row in before if row["arm"] != PLAIN), *short])
    twice = ["--out", str(tmp_path / "o"), "--model", "--have", str(tmp_path / "rows.csv"), str(tmp_path / "rows.csv")]
    with pytest.raises(SystemExit, match="--have names the rows of a twice"):
        two_passes.main(twice)
    (tmp_path / "asked.json").write_text('{"steps": 12, "ways": ["bias"]}')
    with pytest.raises(SystemExit, match="rows.csv was asked with steps 12: give the same here"):
        two_passes.main(["--out", str(tmp_path / "o"), "--model", "--have", str(tmp_path / "rows.csv")])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="holds no rows of training.two_passes"):
        two_passes._read(tmp_path / "other.csv")


def test_a_run_that_is_stopped_keeps_its_arms_and_goes_on_in_any_batch(tmp_path, monkeypatch):
    sizes = mini.Sizes(1, 1, 32, 1, 64, 226, codec_base=4, frames=5, height=48, width=48)
    torch.manual_seed(0)
    parts = dict(
        vae=mini.make_codec(sizes), text_encoder=mini.make_text_encoder(sizes), scheduler=mini.make_scheduler(),
        transformer=mini.make_transformer(sizes), tokenizer=mini.make_tokenizer(bundle.load().tokenizer),
    )  # fmt: skip
    parts["tokenizer"].model_max_length = sizes.text_length
    for name in ("vae", "text_encoder", "transformer"):
        parts[name].eval()
    pipeline = diffusers.CogVideoXImageToVideoPipeline(**parts)
    monkeypatch.setattr(two_passes, "pipeline_of", lambda folder: (pipeline, sizes))
    monkeypatch.setattr(word_masks, "_FLAT", 1.0)  # random weights look nowhere in particular
    given = [
        "--clips",
        "2",
        "--steps",
        "3",
        "--first",
        "1",
        "--ways",
        "bias",
        "noise",
        "--device",
        "cpu",
        "--model",
        "tiny",
    ]
    given += ["--tries", "2", "--look", "1"]
    two_passes.main([*given, "--out", str(tmp_path / "whole"), "--batch", "2"])
    whole = two_passes._read(tmp_path / "whole" / "rows.csv")
    assert list(dict.fromkeys(row["arm"] for row in whole)) == two_passes._arms(
        two_passes._parse([*given, "--out", "x"])
    )
    measured, out = two_passes.Bench.measured, ["--out", str(tmp_path / "cut"), "--batch", "1"]

    def stopped(self, video, seen=[]):  # noqa: B006 - calls so far
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return measured(self, video)

    monkeypatch.setattr(two_passes.Bench, "measured", stopped)
    with pytest.raises(SystemExit, match="130"):
        two_passes.main([*given, *out])
    kept = two_passes._read(tmp_path / "cut" / "rows.csv")
    assert [row["arm"] for row in kept[::2]] == [PLAIN, "fewer steps", FIRST, f"bias, {OWN}"]
    with pytest.raises(SystemExit, match="holds rows that were asked with other seed"):
        two_passes.main([*given, *out, "--seed", "1"])
    two_passes.main([*given, *out])
    again = two_passes._read(tmp_path / "cut" / "rows.csv")
    assert again[: len(kept)] == kept
    assert [row["arm"] for row in again[::2]][-1] == BY_JUDGE
    assert f"bias, {TRUE}" in {row["arm"] for row in again}
    assert {row["calls"] for row in again if row["arm"].startswith("noise")} == {3}
    with pytest.raises(SystemExit, match="3 tries of 1 steps each"):
        two_passes.main([*given, "--out", str(tmp_path / "other"), "--tries", "3"])
    for row, other in zip(again, whole, strict=True):
        assert [row[n] for n in two_passes._KEYS] == [other[n] for n in two_passes._KEYS]
        values = [name for name in other if name not in two_passes._KEYS]
        assert [row[n] for n in values] == pytest.approx([other[n] for n in values], abs=1e-3)


def test_the_published_table_is_that_of_the_published_rows(tmp_path):
    published = Path(__file__).parents[2] / "benchmarks" / "results" / "two-passes"
    two_passes.main(
        ["--out", str(tmp_path), "--clips", "256", "--device", "cuda", "--model"]
        + ["--have", str(published / "rows.csv.xz")]
    )
    assert (tmp_path / "README.md").read_text() == (published / "README.md").read_text()
    with pytest.raises(SystemExit, match="nothing to tell"):
        two_passes.main(["--out", str(tmp_path), "--model"])
