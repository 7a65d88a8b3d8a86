"""The whole way from videos to tables on the mini world, with a judge that answers from exact truth."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support_counts import SEED, count
from support_failing_clips import KINDS, failing_clips, whole_truth
from torch import Tensor

from matrix_lib.evaluation.intergen.report import compare, differences
from matrix_lib.evaluation.intergen.scores import VideoScores
from matrix_lib.evaluation.mini.judges import Verdict, judge
from matrix_lib.evaluation.mini.object_tracking import look
from matrix_lib.io.tracks import save_tracks
from matrix_lib.io.video import write_video
from matrix_lib.mini.export import mask_tracks
from matrix_lib.mini.world import Clips, WorldConfig, make_clips
from training.judge import main

CLIPS = count(10, soak=512)


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(61, 5, WorldConfig(split="all", single_motion_share=0, distractor_share=0, frames=9))


def write_suite(folder: Path, clips: Clips) -> None:
    samples = []
    for i in range(len(clips)):
        names = clips.names[i]
        roles = clips.roles[i]
        samples.append(
            {
                "id": f"{i:03d}",
                "prompt": clips.prompts[i],
                "type": clips.verb[i],
                "instances": [
                    {"name": name, "class": name.split()[-1], "appearance": f"the {name}", "role": roles[name]}
                    for name in names
                ],
                "interactions": [{"name": clips.verb[i], "subject": names[0], "object": names[1]}],
            }
        )
    folder.mkdir(parents=True)
    content = {"format": "intergen", "version": 1, "stride": 1, "samples": samples}
    (folder / "suite.json").write_text(json.dumps(content))


def write_videos(folder: Path, video: Tensor, clips: Clips) -> tuple[Verdict, Tensor]:
    """Videos (N, F, 3, H, W) with the tracks that the exact judge sees; its verdict, and frames with something new."""
    sight = look(video, clips)
    verdict = judge(video, clips, sight=sight)
    seen = replace(clips, masks=sight.masks & ~sight.lost[..., None, None])
    for i in range(len(clips)):
        write_video(folder / f"{i:03d}.mp4", video[i].permute(0, 2, 3, 1), crf=0)
        save_tracks(mask_tracks(seen, i), folder / f"{i:03d}.tracks.safetensors")
    return verdict, sight.new


def answer(folder: Path, verdict: Verdict, new: Tensor, flip: Callable[[], bool] = lambda: False) -> list[list[bool]]:
    """Plays another program: reads the requests, answers each from the truth. Returns what it said to the questions."""
    lines, said = [], []
    for line in (folder / "intergen" / "requests.jsonl").read_text().splitlines():
        request = json.loads(line)
        i = int(request["id"])
        frames = [frame["index"] for frame in request["frames"]]
        assert all((folder / "intergen" / frame["png"]).is_file() for frame in request["frames"])
        raw: Any
        if request["kind"] == "verify":
            said.append([bool(seen) ^ flip() for seen in verdict.questions[i]])
            raw = [
                {"question_id": q, "answer": "yes" if seen else "no", "frame_index": frames[-1] if seen else None}
                for q, seen in enumerate(said[-1], 1)
            ]
        else:
            there = [k for k in frames[1:] if new[i, k]]
            raw = {"emergence": "yes" if there else "no", "emergence_frames": there, "emergence_reason": ""}
        lines.append(json.dumps({"key": request["key"], "judge": "exact", "model": "v1", "raw": json.dumps(raw)}))
    (folder / "others.jsonl").write_text("\n".join(lines) + "\n")
    return said


def scores_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "intergen" / "scores.jsonl").read_text().splitlines()]


def ask(suite: Path, folder: Path) -> int:
    return main(["ask", str(suite), str(folder), "--answers", str(folder / "others.jsonl")])


def values_of(folder: Path, *names: str) -> NDArray[np.float64]:
    """(measures, videos)."""
    return np.array([[line["values"][name] for line in scores_of(folder)] for name in names])


@pytest.mark.soak
@pytest.mark.timeout(3600)  # 512 clips in `make soak`
def test_scores_equal_the_exact_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good, wrong, swapped, vanishing and doubled clips; then with a tenth of the answers flipped."""
    asked = 300 + SEED, CLIPS
    some, truth = failing_clips(*asked), whole_truth(*asked)
    video, kinds = torch.stack([clip.video for clip in some]), np.array([clip.kind for clip in some])
    suite, folder, flipped = (tmp_path / name for name in ("suite", "exact", "flipped"))
    write_suite(suite, truth)
    verdict, new = write_videos(folder, video, truth)
    shutil.copytree(folder, flipped)
    assert main(["prepare", str(suite)]) == 0
    assert ask(suite, folder) == 2, "nobody has answered yet"
    answer(folder, verdict, new)
    assert ask(suite, folder) == 0
    assert main(["score", str(suite), str(folder)]) == 0

    # Presence from tracks, frame by frame, and all that is made of it and of the answers.
    lost = [[int(k) for k in each.nonzero()] for each in look(video, truth).lost.any(1)]
    assert [line["presence"]["disappearance"] for line in scores_of(folder)] == [
        [k for k in each if k] for each in lost
    ]
    names = ("kisa_raw", "sgi_raw", "kisa", "sgi", "spi", "fidelity")
    exact = [verdict.kisa_raw, verdict.sgi_raw, verdict.kisa, verdict.sgi, verdict.spi, verdict.interaction_fidelity]
    found = values_of(folder, *names)
    assert found == pytest.approx(torch.stack(exact).double().numpy(), abs=1e-6)
    assert (found[4][kinds == "vanishing"] < 1).all()
    assert (found[4][kinds == "doubled"] < 1).all()
    assert f"| exact | {CLIPS} of {CLIPS} | " in capsys.readouterr().out

    # A judge that is wrong about every tenth question: its answers count, not the truth.
    chance = random.Random(3 + SEED)
    assert ask(suite, flipped) == 2
    said = np.array(answer(flipped, verdict, new, lambda: chance.random() < 0.1))
    assert ask(suite, flipped) == 0
    assert main(["score", str(suite), str(folder), str(flipped)]) == 0
    assert "| exact - flipped | kisa_raw |" in capsys.readouterr().out
    share = float((said != verdict.questions.numpy()).mean())
    assert 0 < share < 0.25
    kisa, sgi, spi = said[:, :6].mean(1), said[:, 6:].mean(1), verdict.spi.double().numpy()
    wanted = np.array([kisa, sgi, kisa * spi, sgi * spi, spi, (kisa + sgi) / 2 * spi])
    assert values_of(flipped, *names) == pytest.approx(wanted, abs=1e-6)
    assert np.abs(wanted - found).max() > 0.1
    means = ", ".join(f"{kind} {found[5][kinds == kind].mean():.3f}" for kind in KINDS)
    print(
        f"{CLIPS} clips: all six measures equal the exact judge's; IF by kind: {means}; {share:.4f} of answers flipped"
    )


def test_what_is_missing_is_named_and_never_averaged(
    clips: Clips, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, folder = tmp_path / "suite", tmp_path / "model"
    some = clips.select([0, 1, 2, 3, 4])
    write_suite(suite, some)
    verdict, new = write_videos(folder, some.video, some)
    ask(suite, folder)
    answer(folder, verdict, new)
    (folder / "000.mp4").unlink()
    (folder / "001.mp4").write_bytes(b"no video")
    (folder / "002.tracks.safetensors").unlink()
    lines = (folder / "others.jsonl").read_text().splitlines()
    spoilt = json.loads(lines[-2])  # the interaction of clip 4
    lines[-2] = json.dumps({**spoilt, "raw": "I cannot judge people."})
    (folder / "others.jsonl").write_text("\n".join(lines)[:-3] + "\n")  # and its last line is cut off
    assert ask(suite, folder) == 2
    assert main(["score", str(suite), str(folder)]) == 2
    said = capsys.readouterr()
    assert "| model | 1 of 5 |" in said.out
    for text in (
        "- 000: ",
        "there is no video",
        "cannot be read as a video",
        "002.tracks.safetensors is missing",
        "004, verify 1: ",
        "I cannot judge people",
        "004, emergence: ",
    ):
        assert text in said.out, text
    assert main(["score", str(suite), str(folder), "--complete"]) == 1
    assert "--complete asks for all" in capsys.readouterr().err
    summary = json.loads((folder / "intergen" / "summary.json").read_text())
    assert (summary["n"], summary["complete"]) == (5, 1)


def test_another_suite_or_judge_is_refused(clips: Clips, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, folder = tmp_path / "suite", tmp_path / "model"
    some = clips.select([0, 1])
    write_suite(suite, some)
    verdict, new = write_videos(folder, some.video, some)
    ask(suite, folder)
    answer(folder, verdict, new)
    lines = [json.loads(line) for line in (folder / "others.jsonl").read_text().splitlines()]
    lines[0]["model"] = "v2"
    (folder / "others.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ask(suite, folder) == 0
    assert main(["score", str(suite), str(folder)]) == 1
    assert "several judges answered (file: v1, file: v2)" in capsys.readouterr().err
    assert main(["score", str(suite), str(folder), "--mixed"]) == 0
    content = json.loads((suite / "suite.json").read_text())
    content["samples"][0]["prompt"] += " slowly"
    (suite / "suite.json").write_text(json.dumps(content))
    assert main(["score", str(suite), str(folder)]) == 1
    assert "made for another state of the suite" in capsys.readouterr().err


def test_models_that_share_no_sample_are_said_to() -> None:
    def run(*names: str) -> list[VideoScores]:
        values = dict.fromkeys(("kisa_raw", "sgi_raw", "spi", "fidelity"), 0.5)
        return [VideoScores(name, "", values, (), (), None) for name in names]

    text = compare(differences({"one": run("a", "b"), "other": run("b", "c")}))
    assert "one and other do not share a, c" in text
    assert "0.000 [-0.975, 0.975] | 1 |" in text
    assert "not known" not in text
