"""Machines that only train have neither PyAV nor pyarrow: commands start there, and say what is missing if asked."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
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


def test_training_needs_no_video_library(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 1/1" in done.stdout
    assert "video files need PyAV" in done.stdout
    assert (tmp_path / "lora.safetensors").is_file()
