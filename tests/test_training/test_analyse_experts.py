"""An analysis of a model with two experts (Wan 2.2 A14B) and LoRAs on them."""

import shutil

import numpy as np
import pytest
from diffusers import WanTransformer3DModel
from support_loras import make_lora
from support_models import make_wan

from matrix_lib.backbones import lora as lora_module
from matrix_lib.evaluation.layers.scores import load_run
from matrix_lib.hosts.diffusers.lora import merge_lora
from matrix_lib.io.lora.read import save_lora
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.analyse import main
from training.run.task_settings import EXPERTS, expert_note

pytestmark = pytest.mark.usefixtures("one_thread")
NOISE = ("900", "400")  # the experts change at 875


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny model, the same with LoRAs merged into both experts, and the files; the low one's says whose it is."""
    folder = tmp_path_factory.mktemp("experts")
    make_wan(folder / "model", version="2.2")
    shutil.copytree(folder / "model", folder / "merged")
    for seed, (expert, part) in enumerate(EXPERTS.items()):
        notes = expert_note(expert) if expert == "low" else ()
        lora = make_lora(lora_module, "wan", seed=1000 * seed)
        lora = lora_module.AlignmentLoRA("wan", lora.factors, info=lora_module.Info(notes=notes))
        (folder / expert).mkdir()
        save_lora(lora, folder / expert / "lora.safetensors", "matrix")
        net = WanTransformer3DModel.from_pretrained(folder / "merged" / part)
        merge_lora(net, lora)
        net.save_pretrained(folder / "merged" / part)
    export_clips(make_clips(3, 1, WorldConfig(frames=9, single_motion_share=0.0)), folder / "clips")
    return folder


def scores(home, out, *loras, model="model"):
    """{kind: (layers, steps, entities)} of the one clip."""
    given = [part for lora in loras for part in ("--lora", lora)]
    sizes = ["--frames", "9", "--height", "32", "--width", "32", "--examples", "0"]
    how = [*sizes, "--mode", "noise", "--timesteps", *NOISE]
    main([str(home / "clips"), str(home / model), "--out", str(home / out), *how, *given])
    (run,) = (home / out / "runs").iterdir()
    return {kind: found.steps_raw for kind, found in load_run(run).kinds.items()}


def test_each_lora_acts_on_its_expert(home, capsys):
    high, low = (home / expert / "lora.safetensors" for expert in EXPERTS)
    base, merged = scores(home, "base"), scores(home, "both merged", model="merged")
    alone = scores(home, "high", f"high={high}")
    both = scores(home, "both", f"high={high}", str(low))
    assert "lora.safetensors on the expert of the low noise levels" in capsys.readouterr().out
    report = (home / "high" / "report.html").read_text()
    assert "on the expert of the high noise levels (the other expert has none)" in report
    for kind, plain in base.items():
        np.testing.assert_allclose(both[kind], merged[kind], rtol=1e-3)
        assert np.array_equal(alone[kind][:, 1], plain[:, 1])  # the layers of the expert without one
        for step, other in ((0, alone), (1, both)):
            assert abs(other[kind][:, step] / plain[:, step] - 1).max() > 1e-2
    with pytest.raises(SystemExit, match="holds results of other settings"):
        scores(home, "both", f"high={high}")
    part = "transformer_2/diffusion_pytorch_model.safetensors"
    shutil.copy(home / "model" / part, home / "merged" / part)  # another second expert of the same size
    with pytest.raises(SystemExit, match=r"holds results of other settings \(content"):
        scores(home, "both merged", model="merged")


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        (["{home}/high/lora.safetensors"], "this model has two experts, and .* does not say whose it is"),
        (["high={home}/low/lora.safetensors"], "the file says that it is of the expert of the low noise levels"),
        (["low={home}/high/lora.safetensors", "{home}/low/lora.safetensors"], "are both of the expert of the low"),
    ],
)
def test_what_is_open_is_refused_by_name(home, loras, message):
    with pytest.raises(SystemExit, match=message):
        scores(home, "refused", *(lora.format(home=home) for lora in loras))
    assert not (home / "refused").exists()


def test_an_expert_of_a_model_with_one_is_refused(home, tmp_path):
    make_wan(tmp_path / "one", vae=False, text_encoder=False)
    with pytest.raises(SystemExit, match="this model has one transformer"):
        main([str(home / "clips"), str(tmp_path / "one"), "--out", str(tmp_path / "x"), "--lora",
              str(home / "low" / "lora.safetensors")])  # fmt: skip
