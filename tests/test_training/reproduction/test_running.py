"""Jobs of a sitting: their order, who takes them, what is done again, and a whole small sitting."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.layers import Layers
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.unet import find_unet_sites
from matrix_lib.mini.world import make_clips
from training.models.mini_unet import encode_frames
from training.reproduce import main
from training.reproduction import worker
from training.reproduction.bases import Base
from training.reproduction.boxes import UNSAMPLED, BoxArm, _sampled, box_scores, run_boxes
from training.reproduction.layers import choose
from training.reproduction.plan import Job, jobs_of
from training.reproduction.scale import TINY
from training.reproduction.sets import held_out
from training.reproduction.state import State
from training.reproduction.unet_bench import open_bench
from training.reproduction.worker import Worker

pytestmark = pytest.mark.usefixtures("one_thread")
BASE = Job("base", Base("weak_moves", 1))


def arm(name: str) -> Job:
    return Job("boxes", BASE.base, "boxes", name)


def test_a_base_comes_before_what_needs_it_and_rounds_by_weight() -> None:
    jobs = jobs_of(["target", "alignment"], bases=2)
    seen: set[str] = set()
    for job in jobs:
        assert job.kind == "base" or Job("base", job.base).name in seen
        seen.add(job.name)
    assert len(seen) == len(jobs)
    first = [job.arm for job in jobs if job.claim == "alignment" and job.seed == 0]
    assert first.index("off") < first.index("10x random 3") < first.index("10x all")
    later = [job for job in jobs_of(["alignment", "pairs"]) if job.kind != "base"]
    new = next(at for at, job in enumerate(later) if job.claim == "pairs")
    assert new > max(
        at for at, job in enumerate(later) if job.arm in ("10x all", "100x", "off") and job.claim == "alignment"
    )
    assert [job.arm for job in jobs_of(["pairs"], bases=1, rounds=1)][1:] == [
        "off",
        "10x",
        "10x blind",
        "10x wrong masks",
    ]
    assert {job.base.seed for job in later if job.arm == "10x layer 1"} == {4, 5, 6}
    with pytest.raises(ValueError, match="there is no claim 'others'"):
        jobs_of(["others"])
    with pytest.raises(ValueError, match="no arm '7x'"):
        jobs_of(["alignment"], arms=["7x"])
    with pytest.raises(ValueError, match="weak_roles-6"):
        jobs_of(["alignment"], only=["weak_moves-3"])
    assert {job.base.name for job in jobs_of(["alignment", "boxes"], only=["weak_moves-3"])} == {"weak_moves-3"}
    some = jobs_of(["alignment"], arms=["off", "10x"], only=["weak_roles-4"], seeds=[1, 2])
    assert [(job.arm, job.seed) for job in some[1:]] == [("off", 1), ("10x", 1), ("off", 2), ("10x", 2)]
    with pytest.raises(ValueError, match="no seed 3; they have 0, 1, 2"):
        jobs_of(["alignment"], seeds=[3])


def test_a_job_is_taken_once_and_again_where_its_process_is_gone(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert state.take(BASE, 0)
    assert not State(tmp_path).take(BASE, 1)
    assert state.busy(0)
    assert not state.busy(1)
    (tmp_path / "locks" / BASE.name).write_text(json.dumps({"process": 2**22 + os.getpid(), "gpu": 0}))
    assert not state.busy(0)
    assert not state.take(BASE, 0), "clears the lock"
    assert state.take(BASE, 0)


def test_others_wait_while_a_base_is_trained(tmp_path: Path) -> None:
    state, jobs = State(tmp_path), [BASE, arm("none")]

    def of(lead: bool) -> Worker:
        """A worker whose time is soon up."""
        end = time.monotonic() + 1.0
        return Worker(state, TINY, 0, lead, 2, lambda: 1e6 if time.monotonic() < end else 0.0)

    assert of(True)._next(jobs) == BASE
    assert of(False)._next(jobs) is None, "the base is under way"
    state.finish(BASE, {"seconds": {"all": 1.0}})
    assert of(False)._next(jobs) is None, "the process that leads this GPU has not left it"
    assert of(True)._next(jobs) == arm("none"), "another one that trains bases waits for none"
    state.leave(arm("none"))
    state.leave(BASE)
    assert of(False)._next(jobs) == arm("none")


def test_a_failed_job_is_noted_and_its_dependents_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: Any) -> dict[str, Any]:
        raise RuntimeError("no room")

    monkeypatch.setattr(worker, "train_base", broken)
    state = State(tmp_path)
    assert Worker(state, TINY, 0, True, 1, lambda: 1e9).work([BASE, arm("none")]) == 0
    assert "no room" in (tmp_path / "failed" / BASE.name).read_text()
    assert not state.held()
    state.forgive()
    assert not state.failed()


def test_layers_are_named_lowest_or_drawn() -> None:
    row = {"share": [0.1, 0.5, 0.3, 0.2, 0.4, 0.05], "chosen": [3]}
    found = {"v2t": row, "v2v": {**row, "chosen": []}}
    assert choose(found, "dominant") == {"v2t": (1, 3), "v2v": (1,)}
    assert choose(found, "lowest") == {"v2t": (0, 5), "v2v": (5,)}
    for draw in range(4):
        drawn = choose(found, f"random {draw}")
        assert drawn == choose(found, f"random {draw}")
        assert not set(drawn["v2t"]) & {0, 1, 3, 5}
    assert choose(found, "layer 4") == {"v2t": (4,), "v2v": (4,)}
    own = {home: [choose(found, f"random {draw} of the base", home) for draw in range(4)] for home in range(9)}
    assert own[4] == [choose(found, f"random {draw} of the base", 4) for draw in range(4)]
    assert len({str(drawn) for drawn in own.values()}) > 1, "not the same places in every base"
    with pytest.raises(ValueError, match="layers are"):
        choose(found, "random")
    with pytest.raises(ValueError, match="layers are"):
        choose(found, "layer 6")


def test_boxes_are_kept_by_true_clips_and_missed_by_others() -> None:
    clips = held_out("open moves", (9, 64, 64), 12, torch.device("cpu"))
    true = box_scores(clips.video, clips)
    still = box_scores(clips.video[:, :1].expand_as(clips.video), clips)
    other = box_scores(clips.repaint(trajectories=clips.trajectories.roll(1, 0)), clips)
    assert float(true["miou"].mean()) > 0.8
    assert float(true["miou"].min()) > float(other["miou"].max())
    assert bool(true["covered"].all())
    assert float(true["miou"].mean()) > float(still["miou"].mean()) > float(other["miou"].mean())
    assert float(still["moves"].max()) < 1 < float(true["moves"].min())
    empty = box_scores(torch.full_like(clips.video, 128), clips)
    assert not bool(empty["covered"].any())
    assert float(empty["miou"].max()) == 0


def test_a_small_sitting_is_run_resumed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = [UNSAMPLED[2], "none", "masked 4, matched, denoising"]
    command = ["--out", str(tmp_path), "--scale", "tiny", "--gpus", "0", "--claims", "boxes", "--bases", "1"]
    command += ["--rounds", "1", "--arms"]
    assert main([*command, *arms, "--plan"]) == 0
    assert "4 jobs to run" in capsys.readouterr().out
    spent = tmp_path / "bases" / "weak_moves-1.seconds.json"
    spent.write_text("1000.0")  # as a process leaves it that was stopped after so long
    assert main([*command, *arms[:2]]) == 0
    assert not spent.exists()
    made = (tmp_path / "bases" / "weak_moves-1" / "bundle.json").read_bytes()
    assert main([*command, *arms]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "bases" / "weak_moves-1" / "bundle.json").read_bytes() == made
    assert "4 of 4 jobs are done" in said
    sitting = json.loads((tmp_path / "sitting.json").read_text())
    rows = {row["arm"]: row for row in sitting["jobs"].values() if row["kind"] == "boxes"}
    [base] = [row for row in sitting["jobs"].values() if row["kind"] == "base"]
    assert 1000 < base["seconds"]["training"] <= base["seconds"]["all"] < 2000
    assert set(rows) == set(arms)
    assert all(len(row["sets"]["boxes"]["miou"]) == TINY.boxes for row in rows.values())
    assert len({row["base"]["hash"] for row in sitting["jobs"].values()}) == 1
    page = (tmp_path / "report.html").read_text()
    assert "exchanged clips" in page
    assert "data:image/jpeg" in page
    other_ways_to_hold_it_to_boxes(open_bench(tmp_path / "bases" / "weak_moves-1", TINY, torch.device("cpu")))


def other_ways_to_hold_it_to_boxes(bench: Any) -> None:
    """Matched before and behind the output projection, boxes of two subjects and of a fast path, a control that follows
    the true clip, other noise."""
    names = ["masked 4, matched", "masked 4, matched behind the projection", "none"]
    found = {name: run_boxes(name, bench) for name in names}
    assert len({row["picture"] for row in found.values()}) == 3
    assert any("variance of the attention output" in note for note in found[names[0]]["notes"])
    for part in ("fast boxes", "several boxes"):
        held, true = (run_boxes(name, bench, part)["sets"][part] for name in ("held to the true clip", "true clips"))
        assert min(true["miou"]) > 0.6
        assert len(held["miou"]) == TINY.boxes
    assert run_boxes("none", bench, seed=1)["picture"] != found["none"]["picture"]


def test_a_u_net_of_zeroscope_s_kind_through_the_same_command(tmp_path: Path) -> None:
    """Trained, published, opened and held to boxes; each frame by itself, each clip under noise of its own."""
    arms = ["peekaboo 4, matched", "denoising", "masked 4, matched behind the projection", "biased"]
    command = ["--out", str(tmp_path), "--scale", "tiny", "--gpus", "0", "--claims", "boxes_unet", "--bases", "1"]
    assert main([*command, "--arms", *arms]) == 0
    rows = json.loads((tmp_path / "sitting.json").read_text())["jobs"].values()
    assert {row["arm"] for row in rows if row["kind"] == "boxes"} == set(arms)
    folder = tmp_path / "bases" / "weak_moves_unet-1"
    with pytest.raises(ValueError, match="format"):
        bundle.load(folder)
    bench = open_bench(folder, TINY, torch.device("cpu"))
    clips = bench.clips("open moves", 2)
    assert clips.video.shape[1:] == (5, 3, 48, 48)
    one, other = (bench.from_text(clips.prompts[:1] * 2, seed).float() for seed in (3, 4))
    assert float((one[1] - other[0]).abs().max()) <= 1, "clip i has the noise of seed + i"
    assert not torch.equal(one[0], other[0])
    assert {site.kind for _, site in find_unet_sites(bench.pipeline.unet)} == {"spatial", "cross", "temporal"}
    latents = encode_frames(bench.encoders.vae, clips.video, torch.float32)
    alone = encode_frames(bench.encoders.vae, clips.video[1:, 3:4], torch.float32)
    assert latents.shape == (2, 16, 5, 6, 6)
    torch.testing.assert_close(latents[1:, :, 3:4], alone, msg="a frame is encoded by itself")
    matched_behind_the_projection(bench)


def matched_behind_the_projection(bench: Any) -> None:
    """One attention of each kind projects values with the order statistics of what it projects unmasked."""
    clips, sites = bench.clips("open moves", 2), find_unet_sites(bench.pipeline.unet)
    for kind, (module, name) in {site.kind: (module, site.name) for module, site in sites}.items():
        masks = (Partition(1, layers=Layers(sites=re.escape(name))),)
        made = []
        for arm in (BoxArm(""), BoxArm("", masks, before_projection=False), BoxArm("", masks)):
            seen: list[torch.Tensor] = []
            handle = module.to_out[1].register_forward_hook(lambda *told, seen=seen: seen.append(told[2]))
            _sampled(arm, bench, clips, {}, 0)
            handle.remove()
            made.append(seen[0])
        plain, after, before = (each.sort(1).values for each in made)
        assert not torch.equal(made[0], made[1])
        torch.testing.assert_close(after, plain, msg=kind)
        assert float((before - plain).abs().max()) > 1e-6, kind


def test_fine_tuning_in_arms(tmp_path: Path) -> None:
    command = ["--out", str(tmp_path), "--scale", "tiny", "--gpus", "0", "--bases", "1", "--seeds", "0"]
    command += ["--claims", "alignment", "even", "--arms", "10x wrong masks", "lambda 1", "lambda 10 two masks"]
    command += ["lambda 10 learnt trigger", "10x with features", "--only", "weak_roles-4"]
    assert main(command) == 0
    sitting = json.loads((tmp_path / "sitting.json").read_text())
    rows = {row.get("arm", "base"): row for row in sitting["jobs"].values() if not row.get("seed")}
    assert set(rows["lambda 10 two masks"]["curve"][-1]["sets"]) == {"even look-alikes", "look-alikes"}
    assert rows["lambda 10 learnt trigger"]["settings"]["settings"]["even_look_alikes"]
    learnt, plain = (rows[name]["losses"] for name in ("lambda 10 learnt trigger", "lambda 1"))
    assert learnt["target"][0] > 5 * plain["target"][0] > 0
    assert [point["step"] for point in rows["lambda 1"]["curve"]] == [1, 2]
    assert set(rows["10x wrong masks"]["curve"][-1]["sets"]) == {"told", "unseen pairs"}
    assert set(rows["10x wrong masks"]["losses"]) == {"diffusion", "sga", "spa"}
    assert set(rows["lambda 1"]["losses"]) == {"diffusion", "target"}
    assert set(rows["10x with features"]["losses"]) == {"diffusion", "sga", "spa", "flow"}
    assert 0 < rows["10x with features"]["gradient"] < 1
    share = {arm: row["gradient"] for arm, row in rows.items() if "gradient" in row}
    assert 0.1 < share["lambda 1"] < share["lambda 10 two masks"] < 1
    assert "weak_roles-4.alignment.10x-wrong-masks.0" in json.loads((tmp_path / "sitting.pictures.json").read_text())
    assert len(rows["lambda 1"]["attention"]["v2t"]) == TINY.layers
    assert not list((tmp_path / "runs").iterdir()), "what training wrote is gone"
    make_clips(0, 1)  # the world is as it was
