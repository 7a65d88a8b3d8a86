"""From scores of runs to layers: planted truth, too few labels, the report's own text."""

import re

import numpy as np
import pytest
from support_analysis import planted_runs

from matrix_lib.core.layers import LayerSet
from matrix_lib.evaluation.layers.labels import read_labels
from matrix_lib.evaluation.layers.report import report_html
from matrix_lib.evaluation.layers.scores import load_run, save_run
from matrix_lib.evaluation.layers.study import Options, study
from matrix_lib.evaluation.layers.tables import write_tables
from matrix_lib.io.tables import read_table

FAST = Options(draws=500, alpha=0.02)


@pytest.fixture(scope="module")
def runs():
    return planted_runs()


@pytest.fixture(scope="module")
def found(runs):
    return study(runs, "cogvideox", FAST, "tiny")


def test_planted_layers_are_found(found):
    for one in found.kinds.values():
        assert set(one.dominance.chosen) == {3, 7}
        assert set(one.influence.chosen[:3]) == {3, 5, 7}
        assert one.held_out.mean > 0.8
        assert all(one.auc[layer] > 0.8 for layer in (3, 7))
        assert abs(one.auc[0] - 0.5) < 0.3
        assert {layer for layer, _ in one.heads[:8]} <= {3, 5, 7}
    assert LayerSet.from_json(found.preset.to_json()) == found.preset
    assert set(found.preset.v2t) == {3, 7}


def test_without_enough_labels_there_are_influential_layers_only():
    few = study(planted_runs(4), "cogvideox", FAST)
    assert few.kinds["v2t"].dominance is None
    assert "at least 5" in few.kinds["v2t"].no_gap
    assert len(few.preset.v2t) == FAST.preset
    assert any("few" in note for note in few.notes)
    with pytest.raises(ValueError, match="no results"):
        study([], "cogvideox")


def test_a_run_file_comes_back_as_it_was(tmp_path, runs):
    path = save_run(runs[0], tmp_path / "r.safetensors")
    again = load_run(path)
    assert (again.name, again.success, again.prompt) == (runs[0].name, runs[0].success, runs[0].prompt)
    for kind, scores in runs[0].kinds.items():
        np.testing.assert_array_equal(again.kinds[kind].steps_raw, scores.steps_raw)
        assert again.kinds[kind].steps == scores.steps
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="no result of an analysis"):
        load_run(path)


def test_tables_hold_what_was_measured(tmp_path, runs, found):
    paths = write_tables(runs, found, tmp_path)
    assert [p.stem for p in paths] == ["runs", "layers", "steps", "heads", "frames"]
    steps, _ = read_table(tmp_path / "steps.parquet")
    assert len(steps["raw"]) == len(runs) * 2 * 12 * 3 * 6
    at = next(i for i, row in enumerate(zip(*steps.values())) if row[:3] == ("clip_001", 0, "v2v"))
    assert steps["share"][at] == pytest.approx(float(runs[1].kinds["v2v"].each_step("share")[0, 0, 0]))
    layers, notes = read_table(tmp_path / "layers.parquet")
    chosen = {layer for layer, strong, kind in zip(layers["layer"], layers["dominant"], layers["kind"]) if strong}
    assert chosen == {3, 7}
    assert notes["backbone"] == "cogvideox"


def test_the_report_stands_alone(found):
    page = report_html(found, {"model": "<tiny> & co"}, [])
    assert "&lt;tiny&gt; &amp; co" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "http" not in page
    assert page == report_html(found, {"model": "<tiny> & co"}, [])


def test_labels_of_a_csv(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("video,success,seed\na.mp4,yes,\nb.mp4,0.2,\nb.mp4,true,3\n")
    labels = read_labels(path)
    assert (labels.of("a", 0), labels.of("b", 0), labels.of("b", 3), labels.of("c", 0)) == (True, False, True, None)
    with pytest.raises(ValueError, match="2 clips have no label: c, d"):
        labels.check([("a", 0), ("d", 0), ("c", 1)], 1)
    with pytest.raises(ValueError, match="at least 2"):
        labels.check([("a", 0), ("b", 0), ("b", 3)], 2)
    path.write_text("clip,success\na,perhaps\n")
    with pytest.raises(ValueError, match=r"line 2 \(a\).*perhaps"):
        read_labels(path)
    path.write_text("clip,score\na,0.7\n")
    assert read_labels(path, "score", 0.6).of("a", 0) is True
    with pytest.raises(ValueError, match="`success`"):
        read_labels(path)
