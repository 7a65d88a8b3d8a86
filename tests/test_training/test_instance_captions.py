"""What `training.instance_captions` asks, its peer by dense masks, and the table of rows that are made to say it."""

import argparse

import diffusers
import pytest
import torch

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers import mini
from training import instance_captions as asking
from training.instance_captions import ARMS, DENSE, EXCHANGED, ONE, OURS, QUESTIONS, WHOLE

COUNT = 60
GIVEN = argparse.Namespace(clips=COUNT, steps=24, seed=0, device="cpu")
SIZES = mini.Sizes(1, 1, 32, 1, 64, 226, codec_base=4, frames=5, height=48, width=48)


def rows(shares):
    """Rows of every question: the share of things that go their own way in each arm, the rest another's."""
    out = []
    for kind, count in QUESTIONS:
        for arm in ARMS:
            for clip in range(COUNT):
                own = float(clip % 10 < 10 * shares[arm])
                values = {"own": own, "leaked": 1 - own, "all right": own, "lost": 0.0}
                out.append(dict(zip(asking._KEYS, (kind, count, arm, clip, clip, "x", 0.1))) | values)
    return out


def said(text, other):
    return next(line for line in text.splitlines() if line.startswith(f"| alike of 4 | {other} | own"))


def test_verdicts_follow_the_rule():
    text = asking._report(GIVEN, rows({ONE: 0.3, DENSE: 0.8, OURS: 0.7, WHOLE: 1.0, EXCHANGED: 0.2}))
    assert "| holds:" in said(text, ONE)
    assert "| does not hold:" in said(text, DENSE)
    full = asking._report(GIVEN, rows({ONE: 1.0, DENSE: 0.5, OURS: 1.0, WHOLE: 1.0, EXCHANGED: 0.2}))
    assert "cannot be asked: the base scores 1.000" in said(full, ONE)
    still = asking._report(GIVEN, rows(dict.fromkeys(ARMS, 0.5)))
    assert "cannot be asked: what the method moves moved by" in said(still, ONE)


@pytest.mark.parametrize(("kind", "count"), QUESTIONS)
def test_the_truth_is_right_and_what_others_were_told_is_leaked(kind, count):
    asked = asking._asked(kind, count, 3, mini.Sizes(), "cpu")
    told = asked.measured(asked.clips.video)
    assert told["own"] == told["all right"] == [1.0] * 3
    assert told["leaked"] == told["lost"] == [0.0] * 3
    start = asked.clips.trajectories[:, :, :1]
    go = asked.clips.trajectories - start
    if kind == "each":
        assert all(-count < int(ways.sum()) < count for ways in asked.ways), "some go up, some down"
        wrong, share = -go, 1.0
    else:
        assert all(int(ways.abs().sum()) == 1 for ways in asked.ways)
        assert all(
            len(set(looks)) == 1 and prompt.count("the ") == 1 for looks, prompt in zip(asked.looks, asked.whole)
        )
        wrong, share = go.sum(1, keepdim=True).expand_as(go) - go, (count - 1) / count
    found = asked.measured(asked.clips.repaint(start + wrong))
    assert found["leaked"] == pytest.approx([share] * 3)
    assert found["own"] == found["all right"] == [0.0] * 3
    rest = asked.measured(asked.clips.video[:, :1].expand_as(asked.clips.video))
    assert rest["own"] == rest["leaked"] == [0.0] * 3


@pytest.fixture
def tiny(monkeypatch):
    torch.manual_seed(0)
    parts = dict(
        vae=mini.make_codec(SIZES), text_encoder=mini.make_text_encoder(SIZES), scheduler=mini.make_scheduler(),
        transformer=mini.make_transformer(SIZES), tokenizer=mini.make_tokenizer(bundle.load().tokenizer),
    )  # fmt: skip
    parts["tokenizer"].model_max_length = SIZES.text_length
    for name in ("vae", "text_encoder", "transformer"):
        parts[name].eval()
    pipeline = diffusers.CogVideoXImageToVideoPipeline(**parts)
    monkeypatch.setattr(asking, "pipeline_of", lambda folder: (pipeline, SIZES))
    return pipeline


def test_the_base_prompt_alone_is_the_plain_model(tiny):
    """The peer's processor with a share of 1, all rows of captions hidden: it is CogVideoX's own attention."""
    net, g = tiny.transformer, torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 2, 32, 6, 6, generator=g), torch.randn(1, 3 * 226, 64, generator=g)
    more = dict(timestep=torch.tensor([500]), image_rotary_emb=mini.rotary(SIZES), return_dict=False)
    with torch.no_grad():
        want = net(x, text[:, :226], **more)[0]
        for steps, same in ((0, True), (5, False)):
            with asking._processed(net, asking._Regional(asking._dense_masks(SIZES, 2, "cpu"), 226, steps)):
                got = net(x, text, **more)[0]
            assert torch.allclose(got, want, atol=1e-5) is same
        assert torch.equal(net(x, text[:, :226], **more)[0], want)


def test_a_run_that_is_stopped_goes_on(tiny, tmp_path, monkeypatch):
    given = ["--clips", "2", "--steps", "2", "--batch", "1", "--device", "cpu", "--out", str(tmp_path)]
    measured = asking.Asked.measured

    def stopped(self, video, seen=[]):  # noqa: B006 - calls so far
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return measured(self, video)

    monkeypatch.setattr(asking.Asked, "measured", stopped)
    with pytest.raises(SystemExit, match="130"):
        asking.main(given)
    kept = (tmp_path / "rows.csv").read_text()
    assert len(kept.splitlines()) == 7
    with pytest.raises(SystemExit, match="holds rows that were asked with other steps"):
        asking.main([*given, "--steps", "3"])
    asking.main(given)
    whole = (tmp_path / "rows.csv").read_text()
    assert whole.splitlines()[:7] == kept.splitlines()
    assert len(whole.splitlines()) == 1 + 2 * len(ARMS) * len(QUESTIONS)
    assert "## alike of 4" in (tmp_path / "README.md").read_text()
