"""What happens to a run's checkpoints when something goes wrong: killed processes, full disks, damaged files, NaN."""

import csv
import resource
import signal
import sys

import pytest
import torch
from support_counts import SEED, count

from scripts.kill_training import kill_and_compare
from training.fit import StoppedError, Trainer, main, parse
from training.run import checkpoint

QUICK = ("data.workers=1", "run.tensorboard=false", "run.save_every=1")


pytestmark = pytest.mark.usefixtures("one_thread")


def values(step):
    return {"model": {"a": torch.full((2000,), float(step))}, "average": {"0": torch.ones(3)}}


def test_damaged_checkpoints_are_passed_over(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, values(step), {"of": "me"}, keep=3)
    said = []
    whole = tmp_path / "step-0000003" / "model.safetensors"
    data = whole.read_bytes()
    for bad in (data[:-1], data[:-4] + b"\x00\x00\x80\x7f", b"", b"junk"):
        whole.write_bytes(bad)
        found = checkpoint.latest(tmp_path, said.append)
        assert found == tmp_path / "step-0000002"
        assert "damaged" in said[-1]
        assert "going back to the one before" in said[-1]
        with pytest.raises(checkpoint.DamagedError):
            checkpoint.load(tmp_path / "step-0000003")
    whole.unlink()
    assert checkpoint.latest(tmp_path, said.append) == tmp_path / "step-0000002"
    (tmp_path / "step-0000002" / "meta.json").write_text("{")
    assert checkpoint.latest(tmp_path, said.append) == tmp_path / "step-0000001"
    groups, meta = checkpoint.load(tmp_path / "step-0000001")
    assert torch.equal(groups["model"]["a"], values(1)["model"]["a"])
    assert (meta["step"], meta["of"]) == (1, "me")


def test_a_checkpoint_that_stepped_aside_comes_back(tmp_path):
    """A process that is killed between the two renames leaves the older one under another name."""
    checkpoint.save(tmp_path, 1, values(1), {})
    (tmp_path / "step-0000001").rename(tmp_path / ".step-0000001.aside")
    left = tmp_path / ".step-0000002.99"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-0000001"
    checkpoint.save(tmp_path, 1, values(5), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000001"]
    assert float(checkpoint.load(tmp_path / "step-0000001")[0]["model"]["a"][0]) == 5.0


def test_a_full_disk_leaves_what_was_there(tmp_path):
    checkpoint.save(tmp_path, 1, values(1), {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OSError):
            checkpoint.save(tmp_path, 2, values(2), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-0000001"


def test_a_run_on_a_full_disk_says_so(tmp_path, monkeypatch):
    trainer = Trainer(parse(["codec_cpu", f"run.out={tmp_path}", *QUICK]))
    save = checkpoint.save

    def full(folder, step, *more):
        if step > 1:
            raise OSError(28, "No space left on device")
        return save(folder, step, *more)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(StoppedError, match=r"step 2 could not be written.*No space left.*last good.*step-0000001"):
        trainer.run()
    monkeypatch.undo()
    main(["codec_cpu", f"run.out={tmp_path}", *QUICK])
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert checkpoint.load(found)[1]["finished"]


def test_nan_stops_the_run_and_spares_the_weights(tmp_path):
    more = ("run.skip_steps=1", "run.steps=6", "run.keep=9")
    trainer = Trainer(parse(["codec_cpu", f"run.out={tmp_path}", *QUICK, *more]))
    loss = trainer.task.loss

    def poisoned(net, batch, generator):
        made = loss(net, batch, generator)
        return made | {"loss": made["loss"] * float("nan")} if trainer.step in (1, 3) else made

    trainer.task.loss = poisoned
    with pytest.raises(
        StoppedError, match=r"2 steps up to step 4 .*not a finite number.*last good checkpoint is .*003"
    ):
        trainer.run()
    found = checkpoint.latest(tmp_path)
    assert found is not None
    assert found.name == "step-0000003"
    for group in checkpoint.load(found)[0].values():
        assert all(bool(value.isfinite().all()) for value in group.values() if value.is_floating_point())


def test_optimiser_states_of_any_kind(tmp_path):
    """bitsandbytes keeps its moments in a dict of their own, with one table for all of them, and counts in an int."""

    class Odd(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 1.0})

    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    table = torch.arange(4.0)
    one, two = Odd(params), Odd(params)
    for i, p in enumerate(params):
        one.state[p] = {"step": 3, "quantised": {"codes": torch.full((2,), i, dtype=torch.uint8), "table": table}}
    checkpoint.save(tmp_path, 1, {"optimiser0": checkpoint.pack_optimiser(one)}, {})
    checkpoint.unpack_optimiser(two, checkpoint.load(tmp_path / "step-0000001")[0]["optimiser0"])
    state = two.state[params[1]]
    assert state["step"] == 3
    assert isinstance(state["step"], int)
    assert state["quantised"]["codes"].tolist() == [1, 1]
    assert torch.equal(state["quantised"]["table"], table)


def test_eight_bits_need_a_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        Trainer(parse(["codec_cpu", f"run.out={tmp_path}", "optim.eight_bit=true", *QUICK]))
    with pytest.raises(SystemExit):
        parse(["codec_cpu", "optim.name=muon", "optim.eight_bit=true"])


def test_the_bar_shows_the_loss_and_the_curves_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    main(["codec_cpu", f"run.out={tmp_path}", "run.steps=2", "data.workers=1"])
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert "psnr" in shown.err
    assert "step 1/2" not in shown.out
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("train/loss")] == [1, 2]


@pytest.mark.soak
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, commands):
    """Kill -9 at random moments, once in `make test` and twenty times in `make soak`."""
    kills, steps = count(1, soak=20), count(6, soak=400)
    report = kill_and_compare(tmp_path, kills, steps, SEED, commands.start)
    assert report["kills"] == kills
    assert report["finished"]
    assert report["same_end_bit_for_bit"]
    rows = [row["step"] for row in csv.DictReader((tmp_path / "killed" / "metrics.csv").open())]
    assert rows == [str(step) for step in range(1, steps + 1)], "no step is missing in the curve, and none comes twice"
