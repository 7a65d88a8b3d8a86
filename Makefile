# make demo works on a fresh machine that has Python 3.11+ and git; make test wants Chromium besides.
# COMFYUI_PATH=<tree> uses a ComfyUI of your own instead of the pinned one.
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed
# Processes that share the tests. Two are what two cores and 8 GB carry.
WORKERS ?= 2
# `make soak`: N times the counts that its checks name, with the cases of SEED.
N ?= 1
SEED ?= 0
# Dozens of Python processes are started here; none should compile PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test extras soak test-gpu check tidy bench host clean

demo: $(STAMP)
	$(PY) -m scripts.demo

test: $(STAMP)
	@$(PY) -m scripts.front browser
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest tests -n $(WORKERS)

# The wheel, and what training and evaluation need of others, in a fresh environment: it is kept outside of the tree,
# and made anew where requirements change. `make soak` does so for each extra alone.
extras: $(STAMP)
	SOAK=1 $(PY) -m pytest tests/test_extras.py --timeout 0 -k "environment_of_its_own and eval"

# Generated cases at full counts, for hours if need be. Stop it and start it again: what has passed is not repeated.
soak: SHELL := bash
soak: $(STAMP)
	@mkdir -p output/soak
	@set -o pipefail; SOAK=$(N) SOAK_SEED=$(SEED) $(PY) -m pytest tests -m soak -n $(WORKERS) --timeout 0 -v \
		--hypothesis-seed=$(SEED) 2>&1 | tee -a output/soak/log

# What goes another way on a GPU: fused attention kernels, Triton kernels compiled instead of interpreted.
test-gpu: $(STAMP)
	@$(PY) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() else 'make test-gpu: torch sees no GPU')"
	$(PY) -m pytest tests -m gpu

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_house.py

# What can be written without thinking: formatting, the tree and the table of models in the documentation, help pages
# in other languages, both workflow forms.
tidy: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) -m scripts.front form
	$(PY) -m scripts.tree
	$(PY) -m scripts.models
	$(PY) -m scripts.locales
	$(PY) -m scripts.workflows

bench: $(STAMP)
	$(PY) -m benchmarks

host: $(STAMP)
	$(PY) -m scripts.comfyui

$(STAMP): pyproject.toml constraints.txt scripts/install.sh scripts/comfyui.py tests/front/package-lock.json
	PYTHON=$(PYTHON) bash scripts/install.sh
	touch $@

clean:
	rm -rf .venv output .pytest_cache .ruff_cache .mypy_cache
