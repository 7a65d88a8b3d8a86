"""What is measured of steering, how it is kept, and what the report makes of it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.evaluation.steering.choice import best_of, chosen
from matrix_lib.evaluation.steering.measures import MEASURES
from matrix_lib.evaluation.steering.plan import (
    CODEC,
    EXCHANGED,
    MAIN,
    PLAIN,
    SETS,
    SKETCH,
    STILL,
    UNSAMPLED,
    Cell,
    Condition,
    cells,
    conditions,
    shares,
)
from matrix_lib.evaluation.steering.report import rows, write_report
from matrix_lib.evaluation.steering.results import (
    Measured,
    cell_path,
    is_done,
    keep_plan,
    load_cells,
    read_cell,
    write_cell,
)
from matrix_lib.io.tables import read_table
from training import steer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("which", SETS)
def test_the_plan_names_everything_once_and_sorts_by_importance(which):
    every = conditions(which, 12)
    assert len({c.name for c in every}) == len(every)
    settings = [c.settings for c in every if not c.name.startswith(UNSAMPLED)]
    assert len(set(settings)) == len(settings) or which == "sweep"
    plan = cells(every)
    assert [cell.rank for cell in plan] == sorted(cell.rank for cell in plan)
    assert plan[0].condition.name == PLAIN
    assert {(c.name, kind) for c in every for kind in c.tracks} == {
        (cell.condition.name, kind) for cell in plan for kind in cell.tracks
    }
    for cell in plan:
        layers = [guide.layers.v2v or () for guide in cell.condition.guidance if hasattr(guide, "layers")]
        assert all(0 <= layer < 12 for some in layers for layer in some)
    dealt = shares(plan, 4)
    assert sorted(cell.condition.name for part in dealt for cell in part) == sorted(c.condition.name for c in plan)
    loads = [sum(cell.condition.cost for cell in part) for part in dealt]
    assert max(loads) - min(loads) <= max(c.cost for c in every)


def test_the_issues_ablations_are_in_the_table():
    table = conditions("table", 12)
    partitions = {
        g.frozen_steps for c in table for g in c.guidance if isinstance(g, Partition) and len(c.guidance) == 1
    }
    assert {2, 4, 6} <= partitions
    assert {g.match for c in table for g in c.guidance if isinstance(g, Partition)} == {None, "channel", "global"}
    priors = [c.intrinsic for c in table if c.intrinsic is not None and not c.guidance]
    assert {0, 2000, 5000, 7000, 10000} <= {prior.strength for prior in priors}
    assert {1, 2, 3, 4} <= {prior.iterations for prior in priors}
    plain = next(c for c in table if c.name == PLAIN)
    assert set(plain.tracks) == {*MAIN, "static", "slow", "fast", "jumping"}
    assert plain.blind
    assert Condition("", (Perturbation(),)).blind
    assert not Condition("", (Perturbation(bound=True),)).blind
    assert [cell.tracks for cell in cells([plain], ("slow",))] == [("slow",)]
    with pytest.raises(ValueError, match="table, sweep"):
        conditions("all", 12)
    with pytest.raises(ValueError, match="1 process"):
        shares([], 0)


def measured(condition, tracks="swapped", iou=0.2, spi=1.0, mark="m", count=40, seed=0, fidelity=0.5):
    chance = np.random.default_rng(seed)
    values = {name: np.full(count, 0.5) for name in MEASURES}
    values |= {"follows": chance.random(count).round(), "intact": np.ones(count)}
    values |= {"iou": iou + 0.01 * chance.standard_normal(count), "spi": np.full(count, spi)}
    values["fidelity"] = np.full(count, fidelity)
    values["fidelity"][0] = np.nan
    return Measured(condition, tracks, "()", mark, 0.5, values, ("a note",))


def test_measurements_are_kept_whole(tmp_path):
    one = measured("masked attention")
    path = write_cell(tmp_path, one)
    again = read_cell(path)
    assert again.notes == one.notes
    assert np.isnan(again.values["fidelity"][0])
    np.testing.assert_allclose(again.values["iou"], one.values["iou"], atol=1e-6)
    named = Condition("masked attention")
    assert not is_done(tmp_path, named, "swapped", "m"), "made with other settings"
    write_cell(tmp_path, Measured(named.name, "swapped", named.settings, "m", 0.5, one.values))
    assert is_done(tmp_path, named, "swapped", "m")
    assert not is_done(tmp_path, named, "own", "m")
    assert not is_done(tmp_path, named, "swapped", "other")
    path.write_text(path.read_text()[:-30])
    assert not is_done(tmp_path, named, "swapped", "m")
    with pytest.raises(ValueError, match="remove it and run again"):
        load_cells(tmp_path)
    with pytest.raises(ValueError, match="no measurements"):
        load_cells(tmp_path / "empty")
    assert cell_path(tmp_path, "a b", "own") != cell_path(tmp_path, "a-b", "own")


def test_a_sweep_chooses_of_every_mode_what_costs_nothing():
    plan = conditions("sweep", 12)
    known = {c.name: c for c in plan}

    def swept(name, **more):
        found = measured(name, **more)
        return Measured(**{**vars(found), "settings": known[name].settings})

    names = [name for name in known if name.startswith("bias:")][:3]
    found = [
        measured(PLAIN, count=300),
        swept(names[0], iou=0.4, count=300),
        swept(names[1], iou=0.6, spi=0.9, count=300),
        swept(names[2], iou=0.3, count=300),
        swept("masked: 2 steps", iou=0.1, count=300),
    ]
    best = best_of(found, plan, "swapped")
    assert best == {("bias", "gentle"): known[names[0]]}, "the best loses SPI, and masking follows worse than nothing"
    faithful = swept(names[1], iou=0.6, spi=0.9, fidelity=0.8, count=300)
    both = best_of([found[0], found[1], faithful], plan, "swapped")
    assert both == {("bias", "gentle"): known[names[0]], ("bias", "faithful"): known[names[1]]}
    with pytest.raises(ValueError, match="without 'no guidance'"):
        best_of(found[1:], plan, "swapped")
    table = conditions("table", 12, best)
    assert [c.guidance for c in table if c.name == "region bias, gentle of the sweep"] == [known[names[0]].guidance]
    combined = next(c for c in table if c.name == "bias + masked")
    assert combined.guidance == (*known[names[0]].guidance, Partition())
    assert len({c.name for c in table}) == len(table)
    named = {c.name: c for c in conditions("table", 12, both)}
    assert named["region bias, faithful of the sweep"].guidance == known[names[1]].guidance
    assert named["bias + masked"].guidance == (*known[names[1]].guidance, Partition()), "the faithful one joins others"


def test_what_is_held_to_a_sketch_is_chosen_apart_and_measured_with_boxes_too():
    plan = conditions("sweep", 12)
    known = {c.name: c for c in plan}
    held, both = known["clocks: inside 67%, outside 50%"], known["together: clocks inside 67%, words down 2"]
    assert (held.mode, both.mode) == ("clocks", "clocks together")

    def swept(condition, **more):
        return Measured(**{**vars(measured(condition.name, **more)), "settings": condition.settings})

    found = [measured(PLAIN), measured(SKETCH, iou=0.9, fidelity=1.0), swept(held, iou=0.8, fidelity=0.9)]
    best = best_of([*found, swept(both, iou=0.7, fidelity=0.8, spi=0.8)], plan, "swapped")
    assert best == {("clocks", "gentle"): held, ("clocks", "faithful"): held, ("clocks together", "faithful"): both}
    assert chosen(found, "swapped").condition == held.name, "the sketch itself is no way of steering"
    table = {c.name: c for c in conditions("table", 12, best)}
    one = table["dual-clock denoising, gentle of the sweep"]
    assert one.tracks == table[PLAIN].tracks
    boxed = table[f"{one.name}, of boxes"]
    assert (boxed.guidance, boxed.boxes, boxed.tracks) == (one.guidance, True, ("swapped",))
    assert boxed.settings != one.settings
    assert boxed.said.endswith("of boxes")
    assert table[f"{SKETCH}, of boxes"].boxes


def test_a_folder_has_one_plan(tmp_path):
    keep_plan(tmp_path, {"steps": 24, "clip": (17, 128)})
    keep_plan(tmp_path, {"steps": 24, "clip": (17, 128)})
    with pytest.raises(ValueError, match="steps: 24 before, 8 now"):
        keep_plan(tmp_path, {"steps": 8, "clip": (17, 128)})


def test_the_report_compares_on_the_same_clips(tmp_path):
    found = [
        measured(PLAIN),
        measured(CODEC, iou=0.9),
        measured("region bias x2", iou=0.5),
        measured("region bias x4", iou=0.7, spi=0.8),
        measured("masked attention", iou=0.3),
        measured("masked attention, gentle of the sweep", iou=0.35),
        measured("masked attention, 2 steps", iou=0.25),
        measured(PLAIN, "own", iou=0.7),
    ]
    table = {(row["condition"], row["tracks"]): row for row in rows(found)}
    bias = table["region bias x2", "swapped"]
    assert bias["iou_gain"] == pytest.approx(0.3, abs=1e-4)
    assert bias["iou_gain_high"] - bias["iou_gain_low"] < 1e-3, "paired: the same noise is on both"
    assert np.isnan(table[CODEC, "swapped"]["iou_gain"])
    assert chosen(found, "swapped").condition == "region bias x2", "x4 costs SPI"
    assert chosen(found, "static") is None
    with pytest.raises(ValueError, match="different clips"):
        found[2].against(measured(PLAIN, mark="other"), "iou")

    path = write_report(tmp_path, found, tmp_path / "steering" / "README.md")
    text = path.read_text()
    assert "without a significant loss of SPI: region bias x2." in text
    assert "| region bias x4 | 40 |" in text
    assert "**-0.200" in text
    columns, _ = read_table(tmp_path / "table.parquet")
    assert len(columns["condition"]) == len(found)
    clips, _ = read_table(tmp_path / "clips.parquet")
    assert len(clips["iou"]) == 40 * len(found)
    assert (tmp_path / "table.csv").read_text().count("\n") == len(found) + 1
    pictures = sorted(p.name for p in tmp_path.glob("*.svg"))
    assert pictures == [
        "curve-factor-of-the-region-bias.svg", "curve-frozen-steps.svg", "trade-off-swapped.svg",
    ]  # fmt: skip
    assert all(f"({name})" in text for name in pictures)
    page = (tmp_path / "steering" / "README.md").read_text()
    assert all((tmp_path / "steering" / "images" / f"steering-{name}").is_file() for name in pictures)
    assert all(f"(images/steering-{name})" in page for name in pictures)
    with pytest.raises(ValueError, match="2 settings"):
        write_report(tmp_path, [*found, measured(PLAIN, mark="other")])


@pytest.fixture
def tiny(monkeypatch):
    """A mini model of random weights: 5 frames of 64x64."""
    from matrix_lib.hosts.bundle import load
    from matrix_lib.hosts.diffusers import mini

    sizes = mini.Sizes(2, 1, 32, 1, 64, 226, codec_base=4, frames=5, height=64, width=64)
    torch.manual_seed(0)
    codec, text, net = mini.make_codec(sizes), mini.make_text_encoder(sizes), mini.make_transformer(sizes)
    parts = SimpleNamespace(
        vae=codec.eval(), text_encoder=text.eval(), transformer=net.eval(), scheduler=mini.make_scheduler(),
        tokenizer=mini.make_tokenizer(load().tokenizer), to=lambda *where: None,
        _execution_device=torch.device("cpu"),
    )  # fmt: skip
    pipeline = type("CogVideoXTinyPipeline", (SimpleNamespace,), {})(**vars(parts))
    monkeypatch.setattr(steer, "pipeline_of", lambda folder: (pipeline, sizes))
    return pipeline


def test_the_command_measures_resumes_and_reports(tiny, tmp_path, capsys):
    out = ["--out", str(tmp_path), "--prompts", "3", "--batch", "2", "--steps", "2", "--device", "cpu"]
    names = ["no guidance", "codec", "bias + masked + intrinsic", "words hidden"]
    steer.main([*out, "--only", *names, "--last-rank", "0", "--shard", "0/2"])
    steer.main([*out, "--only", *names, "--last-rank", "0", "--shard", "1/2"])
    steer.main([*out, "--only", "4 steps, normalised globally", "soft", "gradient", "rough animation"])
    found = {(one.condition, one.tracks): one for one in load_cells(tmp_path)}
    assert len(found[PLAIN, "static"]) == 3
    assert ("bias + masked + intrinsic", "swapped") in found
    plain = found[PLAIN, "swapped"].values
    here = [one.condition for one in found.values() if one.tracks == "swapped"]
    assert {SKETCH, f"{SKETCH}, of boxes", STILL, EXCHANGED} < set(here)
    moved = [name for name in here if name != PLAIN and not name.startswith(UNSAMPLED)]
    for name in moved:
        values = found[name, "swapped"].values
        assert any(not np.array_equal(values[m], plain[m], equal_nan=True) for m in MEASURES), f"{name} did nothing"
    said = capsys.readouterr().out
    assert "swapped IoU" in said
    steer.main([*out, "--only", *names, "--last-rank", "0", "--shard", "0/2"])
    assert "are measured already" in capsys.readouterr().out
    steer.main([*out, "--report"])
    assert "no guidance" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "plan.json").read_text())["prompts"] == 3


def test_the_command_holds_to_rough_animations(tiny, tmp_path):
    names = ["no guidance", "clocks: inside 67%, outside 50%"]
    out = ["--out", str(tmp_path), "--prompts", "2", "--steps", "3", "--device", "cpu", "--set", "sweep"]
    steer.main([*out, "--only", *names])
    found = {one.condition: one for one in load_cells(tmp_path) if one.tracks == "swapped"}
    assert set(found) == set(names)
    assert any(not np.array_equal(*(found[name].values[m] for name in names)) for m in ("background", "sharpness"))


def test_the_command_says_what_is_wrong(tiny, tmp_path, capsys):
    out = ["--out", str(tmp_path), "--device", "cpu"]
    for given, said in (
        (["--shard", "4/4"], "I/N"),
        (["--only", "nonsense"], "no condition"),
        (["--prompts", "0"], "1 or more"),
        (["--cfg", "0.5"], "guidance scale"),
        (["--report"], "no measurements"),
    ):
        with pytest.raises(SystemExit, match=said):
            steer.main([*out, *given])
    steer.main([*out, "--list", "--shard", "0/4"])
    assert PLAIN in capsys.readouterr().out


def test_clips_do_not_depend_on_the_batch_nor_their_number(tiny):
    from matrix_lib.evaluation.steering.run import Bench, SteerRecipe
    from matrix_lib.hosts.diffusers.mini import Sizes

    sizes = Sizes(2, 1, 32, 1, 64, 226, codec_base=4, frames=5, height=64, width=64)
    condition = next(c for c in conditions("table", 2) if c.name == "bias + masked + intrinsic")
    cell = Cell(condition, ("swapped",), 0)
    few = Bench(tiny, sizes, SteerRecipe(2, 2, 4.0, 2)).run(cell)[0]
    more = Bench(tiny, sizes, SteerRecipe(3, 2, 4.0, 1)).run(cell)[0]
    for name in MEASURES:
        np.testing.assert_allclose(few.values[name], more.values[name][:2], atol=2e-2, err_msg=name)
