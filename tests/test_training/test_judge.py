"""The whole way from videos to tables on the mini world, with a judge that answers from exact truth."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from support_counts import count
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

KINDS = ("true", "swapped", "vanishing", "still")
CLIPS = count(6, soak=128)  # of each kind


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(61, CLIPS, WorldConfig(split="all", single_motion_share=0, distractor_share=0, frames=9))


def video_of(clips: Clips, kind: str) -> Tensor:
    if kind == "swapped":
        paths = clips.trajectories.clone()
        paths[:, :2] = clips.swapped
        return clips.repaint(paths)
    video = clips.video.clone()
    if kind == "still":
        return video[:, :1].expand_as(video)
    if kind == "vanishing":
        there = clips.present.clone()
        there[:, 1] = False
        for i in range(len(clips)):
            last = 1 + i % 6
            video[i, -last:] = clips.repaint(present=there)[i, -last:]
    return video


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
    """Videos with the tracks that the exact judge sees; its verdict, and frames with something new."""
    sight = look(video, clips)
    verdict = judge(video, clips, sight=sight)
    seen = replace(clips, masks=sight.masks & ~sight.lost[..., None, None])
    for i in range(len(clips)):
        write_video(folder / f"{i:03d}.mp4", video[i].permute(0, 2, 3, 1), crf=0)
        save_tracks(mask_tracks(seen, i), folder / f"{i:03d}.tracks.safetensors")
    return verdict, sight.new


def answer(folder: Path, verdict: Verdict, new: Tensor, flip: Callable[[], bool] = lambda: False) -> None:
    """Plays another program: reads the requests, answers each from the truth."""
    lines = []
    for line in (folder / "intergen" / "requests.jsonl").read_text().splitlines():
        request = json.loads(line)
        i = int(request["id"])
        frames = [frame["index"] for frame in request["frames"]]
        assert all((folder / "intergen" / frame["png"]).is_file() for frame in request["frames"])
        raw: Any
        if request["kind"] == "verify":
            yes = [bool(seen) ^ flip() for seen in verdict.questions[i]]
            raw = [
                {"question_id": q, "answer": "yes" if seen else "no", "frame_index": frames[-1] if seen else None}
                for q, seen in enumerate(yes, 1)
            ]
        else:
            there = [k for k in frames[1:] if new[i, k]]
            raw = {"emergence": "yes" if there else "no", "emergence_frames": there, "emergence_reason": ""}
        lines.append(json.dumps({"key": request["key"], "judge": "exact", "model": "v1", "raw": json.dumps(raw)}))
    (folder / "others.jsonl").write_text("\n".join(lines) + "\n")


def scores_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "intergen" / "scores.jsonl").read_text().splitlines()]


def ask(suite: Path, folder: Path) -> int:
    return main(["ask", str(suite), str(folder), "--answers", str(folder / "others.jsonl")])


@pytest.mark.soak
def test_scores_equal_the_exact_judges(clips: Clips, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """KISA, SGI, SPI and IF of good, swapped, vanishing and still videos; then with a tenth of the answers flipped."""
    suite = tmp_path / "suite"
    write_suite(suite, clips)
    assert main(["prepare", str(suite)]) == 0
    every: dict[str, list[float]] = {"spi": [], "exact": []}
    for kind in KINDS:
        folder = tmp_path / kind
        verdict, new = write_videos(folder, video_of(clips, kind), clips)
        assert ask(suite, folder) == 2, "nobody has answered yet"
        answer(folder, verdict, new)
        assert ask(suite, folder) == 0
        assert main(["score", str(suite), str(folder)]) == 0
        for i, line in enumerate(scores_of(folder)):
            want = {
                "kisa": verdict.kisa[i],
                "sgi": verdict.sgi[i],
                "spi": verdict.spi[i],
                "fidelity": verdict.interaction_fidelity[i],
            }
            for name, value in want.items():
                assert line["values"][name] == pytest.approx(float(value), abs=1e-6), (kind, i, name)
            every["spi"].append(line["values"]["spi"])
            every["exact"].append(float(verdict.spi[i]))
    assert spearmanr(every["spi"], every["exact"]).statistic > 0.9
    said = capsys.readouterr().out
    assert f"| true | {CLIPS} of {CLIPS} | " in said

    rng, folder = random.Random(3), tmp_path / "flipped"
    verdict, new = write_videos(folder, video_of(clips, "true"), clips)
    ask(suite, folder)
    answer(folder, verdict, new, lambda: rng.random() < 0.1)
    assert ask(suite, folder) == 0
    assert main(["score", str(suite), str(tmp_path / "true"), str(folder), str(tmp_path / "swapped")]) == 0
    lines, exact = scores_of(folder), scores_of(tmp_path / "true")
    flipped = 0
    for line, true in zip(lines, exact, strict=True):
        yes = [line["answers"][0][str(q)]["yes"] for q in range(1, 11)]
        flipped += sum(a != true["answers"][0][str(q)]["yes"] for q, a in enumerate(yes, 1))
        assert line["values"]["kisa_raw"] == pytest.approx(np.mean(yes[:6]))
        assert line["values"]["sgi_raw"] == pytest.approx(np.mean(yes[6:]))
    assert flipped, "the answers count, not the truth"
    said = capsys.readouterr().out
    assert "| true - flipped | kisa_raw |" in said
    assert "| flipped - swapped | fidelity |" in said


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
