"""Machines that only train have neither PyAV nor pyarrow: commands start there, and say what is missing if asked."""

from __future__ import annotations

from pathlib import Path

from support_commands import Commands

# Of the process that it is a fork of it keeps the packages; the project itself is imported anew, without those two.
SCRIPT = """
import sys
for name in [*sys.modules]:
    if name.split(".")[0] in ("matrix_lib", "training", "av", "pyarrow"):
        del sys.modules[name]
sys.modules.update(av=None, pyarrow=None)
import training.analyse, training.cache, training.check_clips, training.clips.batches, training.compare
import training.evaluate, training.publish, training.steer
from training.fit import main
from matrix_lib.io.video import read_video
main(["align_cpu", "run.out=" + sys.argv[1], "run.steps=1", "data.batch=1", "data.chunk=1"])
open(sys.argv[1] + "/clip.mp4", "w").write("x")
try:
    read_video(sys.argv[1] + "/clip.mp4")
except ValueError as error:
    print(error)
"""


def test_training_needs_no_video_library(commands: Commands, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    said = commands(str(script), tmp_path / "run")
    assert "step 1/1" in said
    assert "video files need PyAV" in said
    assert (tmp_path / "run" / "lora.safetensors").is_file()
