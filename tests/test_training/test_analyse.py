"""The analysis as a command, on a tiny pipeline: right, resumable after SIGKILL, clear about bad input."""

import json
import random
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support_attention import Explicit
from support_models import make_cogvideox, make_wan

from matrix_lib.core.layers import LayerSet
from matrix_lib.core.sites import BatchRow
from matrix_lib.evaluation.layers.probe import Recipe, fit_clip, probe
from matrix_lib.evaluation.layers.scores import RunScores, load_run
from matrix_lib.evaluation.seeds.fit import masked_features
from matrix_lib.hosts.diffusers.attach import attach
from matrix_lib.hosts.diffusers.load import open_model
from matrix_lib.instrument.readings.seed_rule import SeedRule, seed_features
from matrix_lib.instrument.session import Session
from matrix_lib.io.clips.folder import read_clips
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.analyse import main
from training.analysis.settings import parse
from training.run.task_settings import TuneTask

WORLD = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0)


# Two of these run beside each other; each says which clips it measured.
SHARED = """
import sys
from accelerate import PartialState
from training import analyse
seen, one = [], analyse.Analysis._one
def noted(self, model, recipe, clip, *more):
    seen.append(clip.name)
    return one(self, model, recipe, clip, *more)
analyse.Analysis._one = noted
analyse.main(sys.argv[1:])
state = PartialState()
print(f"process {state.process_index} of {state.num_processes}: {' '.join(seen)}", flush=True)
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny pipeline of three layers and six clips of 9 frames of 64x64, in MATRIX' layout."""
    folder = tmp_path_factory.mktemp("analyse")
    make_cogvideox(folder / "model", sample=(9, 8, 8), layers=3)
    export_clips(make_clips(3, 6, WORLD), folder / "clips")
    return folder


@pytest.fixture(scope="module")
def model(home):
    return open_model(str(home / "model"), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def whole(home):
    """An analysis that nobody disturbed."""
    main(command(home, "whole"))
    return home / "whole"


def command(home, out, *more):
    return [
        str(home / "clips"),
        str(home / "model"),
        "--out",
        str(home / out),
        "--steps",
        "3",
        "--examples",
        "1",
        *more,
    ]


def test_an_analysis_writes_report_tables_and_layers(whole):
    layers = LayerSet.from_json((whole / "layers.json").read_text())
    assert layers.backbone == "cogvideox"
    assert sorted(layers.v2t) == sorted(layers.v2v) == [0, 1, 2]
    assert {p.name for p in (whole / "tables").iterdir()} == {
        "runs.parquet", "layers.parquet", "steps.parquet", "heads.parquet", "frames.parquet"
    }  # fmt: skip
    page = (whole / "report.html").read_text()
    assert "Which layers carry the interaction" in page
    assert "data:image/jpeg" in page, "the example overlays are inside"
    assert str(whole) not in page
    assert len(list((whole / "runs").iterdir())) == 6


@pytest.mark.parametrize("mode", ["generate", "noise"])
def test_scores_equal_the_definition_on_an_explicit_softmax(home, model, mode):
    clip = read_clips(home / "clips").clips[0]
    recipe = Recipe(mode, 9, 64, 64, steps=2, timesteps=(800, 300))
    frames, tracks = fit_clip(clip.frames(9), clip.tracks(), recipe)
    binding = model.bind(clip.prompt, clip.phrases)
    on_grid = tracks.to_grid(model.grid(recipe.frames, recipe.height, recipe.width))
    masks = {name: on_grid.map(name) for name in on_grid.names}
    query = {name: on_grid.query(name) for name in on_grid.names}
    (verb,) = binding.verbs
    masks[verb.name] = on_grid.map(verb.subject, verb.object)
    query[verb.name] = torch.cat([query[verb.subject], query[verb.object]]).unique()
    explicit = Explicit({p.name: p.rows for p in binding.phrases}, query)

    def rows(forward):
        forward.rows = (BatchRow("cond"),) * forward.batch

    with attach(model.pipeline.transformer, Session([explicit]), rows):
        found = probe(model, recipe, binding, tracks, frames, seed=4)
    for (kind, layer), calls in explicit.seen.items():
        scores = found.kinds[kind]
        assert [timestep for _, timestep, _ in scores.steps] == ([800, 300] if mode == "noise" else [999, 499])
        names = [p.name for p in binding.phrases] if kind == "v2t" else list(query)
        assert scores.entities == tuple(names)
        assert len(calls) == 2
        for step, (_, maps) in enumerate(calls):
            for e, name in enumerate(names):
                raw = float((maps[-1, e] * masks[name]).sum())  # the conditional row is the last one
                assert scores.steps_raw[layer, step, e] == pytest.approx(raw, rel=1e-4)
                assert scores.steps_mass[layer, step, e] == pytest.approx(float(maps[-1, e].sum()), rel=1e-4)
    want = [np.float32(masks[name].mean()) for name in found.kinds["v2t"].entities]
    np.testing.assert_allclose(found.kinds["v2t"].area, want, rtol=1e-5)


def test_heads_and_frames_are_marginals_of_the_same_scores(whole):
    run = load_run(sorted((whole / "runs").iterdir())[0])
    for scores in run.kinds.values():
        np.testing.assert_allclose(scores.heads_raw.mean(-1), scores.steps_raw.mean(1), rtol=1e-5)
        np.testing.assert_allclose(scores.frames_raw.sum(-1), scores.steps_raw.mean(1), rtol=1e-5)
        share = scores.over_steps("share")
        assert ((share >= 0) & (share <= 1)).all()
        np.testing.assert_allclose(scores.over_steps("above"), share - scores.area, atol=1e-6)


def test_wan_under_noise(tmp_path, home):
    """Cross-attention: words in one module, instances in another; flow matching."""
    made = open_model(str(make_wan(tmp_path / "wan")), torch.device("cpu"), torch.float32)
    clip = read_clips(home / "clips").clips[0]
    recipe = Recipe("noise", 9, 64, 64, timesteps=(700, 200))
    frames, tracks = fit_clip(clip.frames(9), clip.tracks(), recipe)
    scheduler = made.pipeline.scheduler
    found = probe(made, recipe, made.bind(clip.prompt, clip.phrases), tracks, frames, seed=0)
    assert made.pipeline.scheduler is scheduler
    assert [step for _, step, _ in found.kinds["v2t"].steps] == [700, 200]
    assert found.kinds["v2t"].steps_raw.shape == (2, 2, 3)
    assert (found.kinds["v2v"].steps_mass > 0).all()


def test_each_expert_has_layers_of_its_own(tmp_path, home, capsys):
    """Wan 2.2 A14B: scores of each one's own steps, in the report, in layers.json and, from there, in training."""
    folder = make_wan(tmp_path / "wan", version="2.2")
    more = ("--steps", "4", "--examples", "0", "--limit", "2", "--frames", "9", "--height", "64", "--width", "64")
    main([str(home / "clips"), str(folder), "--out", str(tmp_path / "out"), *more])
    run = load_run(sorted((tmp_path / "out" / "runs").iterdir())[0])
    parts = ("transformer", "transformer_2")
    assert tuple(run.experts) == parts
    for kind, whole in run.kinds.items():
        own = [run.experts[part][kind] for part in parts]
        assert own[0].steps + own[1].steps == whole.steps
        assert np.array_equal(np.concatenate([each.steps_raw for each in own], 1), whole.steps_raw)
        shares = [len(each.steps) / len(whole.steps) for each in own]
        for name in ("heads_raw", "frames_mass"):
            mean = sum(share * getattr(each, name) for share, each in zip(shares, own))
            np.testing.assert_allclose(mean, getattr(whole, name), rtol=1e-4)
    found = LayerSet.from_json((tmp_path / "out" / "layers.json").read_text())
    assert tuple(found.experts) == parts
    assert "transformer_2 in its own steps" in found.experts["transformer_2"].source
    said, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    assert "transformer_2, v2v: influential layers" in said
    assert all(f"Everything about {part} in its own steps" in page for part in parts)
    more = ("--mode", "noise", "--timesteps", "500", "--limit", "1", "--examples", "0", "--frames", "9")
    main([str(home / "clips"), str(folder), "--out", str(tmp_path / "low"), *more, "--height", "64", "--width", "64"])
    low = LayerSet.from_json((tmp_path / "low" / "layers.json").read_text())
    assert tuple(low.experts) == ("transformer_2",), "no step fell to the other"
    swapped = replace(found, experts={"transformer_2": replace(found, v2t=(1,), v2v=(0,))})
    (tmp_path / "layers.json").write_text(swapped.to_json())
    task = TuneTask(model=str(folder), layers=str(tmp_path / "layers.json"), expert="low")
    assert task.pinned() == replace(task, v2t=(1,), v2v=(0,), layers=""), "a run goes on without the file"
    assert replace(task, expert="").pinned().v2t == tuple(sorted(found.v2t))
    with pytest.raises(ValueError, match="not given for an expert called 'transformer'; experts: transformer_2"):
        replace(task, expert="high").pinned()
    with pytest.raises(ValueError, match="layers are of wan, and mini is cogvideox"):
        replace(task, model="mini").pinned()


def test_killed_at_a_random_point_it_gives_the_same_report(home, whole, commands):
    out = home / "killed"
    shutil.rmtree(out, ignore_errors=True)
    running = commands.start("training.analyse", *command(home, "killed"))
    running.until(lambda: running.poll() is not None or list((out / "runs").glob("*.safetensors")), 300)
    time.sleep(random.uniform(0.0, 0.6))
    running.kill()
    running.wait()
    left = len(list((out / "runs").glob("*.safetensors")))
    (out / "runs" / ".mini_00003__seed0.abc.part.safetensors").write_bytes(b"half a file")
    (out / "runs" / "mini_00004__seed0.safetensors").write_bytes(b"a damaged file")
    main(command(home, "killed"))
    assert 1 <= left <= 6
    assert not list(out.glob("*/.*"))
    assert (out / "report.html").read_text() == (whole / "report.html").read_text()
    for path in sorted((whole / "runs").iterdir()):
        ours, theirs = load_file(out / "runs" / path.name), load_file(path)
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_two_processes_share_the_clips(home, whole, commands):
    out = home / "shared"
    (home / "both.py").write_text(SHARED)
    said = commands.ranks(2, home / "both.py", *command(home, "shared"))
    assert said.count("wrote") == 1
    shares = {line for line in said.splitlines() if line.startswith("process ")}
    names = [f"mini_{number:05d}" for number in range(6)]
    assert shares == {f"process {place} of 2: {' '.join(names[place::2])}" for place in (0, 1)}
    assert (out / "report.html").read_text() == (whole / "report.html").read_text()


def test_parts_that_know_nothing_of_each_other_are_put_together(home, whole, capsys):
    """As processes that share a GPU: each its runs alone and no report; what another is writing is left alone."""
    out = home / "parts"
    for part in ("2/2", "1/2"):
        main(command(home, "parts", "--part", part))
        assert not (out / "report.html").exists()
        (out / "runs" / ".mini_00009__seed0.abc.part.safetensors").touch()
    assert "part 1 of 2 is done; the same command without --part reports" in capsys.readouterr().out
    assert len(list((out / "runs").glob(".*"))) == 1
    assert len(list((out / "runs").glob("mini*"))) == 6
    main(command(home, "parts"))
    assert "6 of 6 runs are done already" in capsys.readouterr().out
    assert (out / "report.html").read_text() == (whole / "report.html").read_text()
    assert "a part from 1 to N" in usage([*command(home, "parts"), "--part", "3/2"], capsys)
    assert "such as 1/8" in usage([*command(home, "parts"), "--part", "half"], capsys)


def test_a_rule_sees_the_same_in_a_capture_as_it_was_fitted_on(home, model):
    """What is kept of a judged run, and what a seed shows while it is tried: one number, on a real model."""
    clip = read_clips(home / "clips").clips[1]
    recipe = Recipe("generate", 9, 64, 64, steps=4)
    frames, tracks = fit_clip(clip.frames(9), clip.tracks(), recipe)
    binding = model.bind(clip.prompt, clip.phrases)
    found = probe(model, recipe, binding, tracks, frames, seed=4, maps=True, bins=0)
    run = RunScores(clip.name, 4, clip.prompt, found.kinds)
    fitted = masked_features([run], 2)
    live = seed_features(found.capture.take(range(2)), tracks, (0, 2), (1, 2))
    assert set(fitted.tables) == {"words", "words_least", "verb", "instances"}
    for name, table in fitted.tables.items():
        layers = [1, 2] if name == "instances" else [0, 2]
        # maps of a capture are float16 and means; the least of two layers' means is told of their mean here
        assert live[name] == pytest.approx(table[0, layers].mean(), abs=2e-3), name


def test_stopping_keeps_what_is_done(home, whole, monkeypatch, capsys):
    """Ctrl-C in the middle of a run: a clear word, no half file, and the same command goes on."""
    out = home / "stopped"
    seen = []

    def interrupt(*given, **named):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(given)
        return probe(*given, **named)

    monkeypatch.setattr("training.analyse.probe", interrupt)
    with pytest.raises(SystemExit) as told:
        main(command(home, "stopped"))
    assert told.value.code == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert len(list((out / "runs").iterdir())) == 2
    monkeypatch.undo()
    main(command(home, "stopped"))
    assert "2 of 6 runs are done already" in capsys.readouterr().out
    assert (out / "report.html").read_text() == (whole / "report.html").read_text()


def told(arguments, capsys=None):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    return str(error.value) if capsys is None else capsys.readouterr().err


def test_bad_input_is_told_before_anything_is_measured(home, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("training.analyse.probe", lambda *a, **k: pytest.fail("it began to measure"))
    out = ["--out", str(tmp_path / "out"), "--steps", "3"]
    clips, folder = str(home / "clips"), str(home / "model")
    assert "no folder" in told([str(tmp_path / "absent"), folder, *out])
    assert "no clips" in told([str(tmp_path), folder, *out])
    assert "no model" in told([clips, str(tmp_path / "absent"), *out])
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text('{"transformer": ["diffusers", "FluxTransformer2DModel"]}')
    assert "FluxTransformer2DModel is not a video DiT" in told([clips, str(tmp_path / "odd"), *out])
    labels = tmp_path / "l.csv"
    labels.write_text("clip,success\n" + "".join(f"mini_0000{i},yes\n" for i in range(5)))
    assert "mini_00005" in told([clips, folder, *out, "--labels", str(labels)])
    labels.write_text("clip,success\n" + "".join(f"mini_0000{i},{i < 5}\n" for i in range(6)))
    assert "5 successes and 1 failures" in told([clips, folder, *out, "--labels", str(labels)])
    rule = tmp_path / "rule.json"
    rule.write_text("{}")
    mini = ["mini:2", folder, *out, "--labels", "judge"]
    assert "a run has 3" in told([*mini, "--seed-steps", "3"])
    assert "rule.json: this is no seed rule" in told([*mini, "--seed-rule", str(rule)])
    rule.write_text(SeedRule(2, {"words": 1.0}, backbone="wan").to_json())
    assert "fitted on wan, and the model is cogvideox" in told([*mini, "--seed-rule", str(rule)])
    other = plan_of(tmp_path, whole)
    assert "2 before, 3 now" in told([clips, folder, "--out", str(other), "--steps", "3"])
    (other / "plan.json").write_text("{")
    assert "plan.json is damaged (Expecting" in told([clips, folder, "--out", str(other), "--steps", "3"])
    bad = tmp_path / "bad"
    shutil.copytree(home / "clips", bad)
    for name in ("mini_00001", "mini_00004"):
        shutil.rmtree(bad / "mask_annotation" / name / "<id1>")
    message = told([str(bad), folder, *out])
    assert "2 of 6 clips" in message
    assert "mini_00001: no mask of" in message
    assert "mini_00004: no mask of" in message
    assert not (tmp_path / "out" / "runs").exists()


def plan_of(folder, whole):
    """A folder whose plan says 2 steps."""
    plan = json.loads((whole / "plan.json").read_text())
    (folder / "other").mkdir()
    (folder / "other" / "plan.json").write_text(json.dumps({**plan, "steps": 2}))
    return folder / "other"


def test_masks_that_the_grid_loses_are_told_by_name(home, tmp_path):
    from PIL import Image

    lost = tmp_path / "lost"
    shutil.copytree(home / "clips", lost)
    for path in (lost / "mask_annotation" / "mini_00002" / "<id1>").iterdir():
        speck = np.zeros((64, 64), dtype=np.uint8)
        speck[3, 3] = 255
        Image.fromarray(speck).save(path)
    message = told([str(lost), str(home / "model"), "--out", str(tmp_path / "out"), "--steps", "3"])
    assert "1 of 6 clips" in message
    assert "mini_00002" in message
    assert "no token" in message


def test_settings_that_cannot_be(capsys):
    given = ["clips", "model", "--out", "x"]
    assert "--labels judge with mini:COUNT" in usage([*given, "--labels", "judge"], capsys)
    assert "seeds are different" in usage([*given, "--seeds", "1", "1"], capsys)
    assert "alpha" in usage([*given, "--alpha", "2"], capsys)


def usage(arguments, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    return capsys.readouterr().err


def test_clips_of_the_mini_world_with_the_judge(home, capsys):
    """A random model fails every clip, so there are labels but no gap, and the report says so."""
    arguments = ["mini:2", str(home / "model"), "--out", str(home / "judged"), "--steps", "1", "--labels", "judge"]
    main([*arguments, "--examples", "0", "--tracks", "seen"])
    assert "0 successes and 2 failures: a gap needs at least 5 of each" in capsys.readouterr().out
    run = load_run(sorted((home / "judged" / "runs").iterdir())[0])
    assert set(run.judged) >= {"right_path", "right_roles", "intact"}
