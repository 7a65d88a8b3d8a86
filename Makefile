# make demo and make test work on a fresh machine that has Python 3.11+ and git.
# COMFYUI_PATH=<tree> uses a ComfyUI of your own instead of the pinned one.
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: demo test check tidy bench host clean

demo: $(STAMP)
	$(PY) -m scripts.demo

test: $(STAMP)
	$(PY) -m pytest tests

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_house.py

# What can be written without thinking: formatting, the tree in the documentation, English words, both workflow forms.
tidy: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) -m scripts.tree
	$(PY) -m scripts.locales
	$(PY) -m scripts.workflows

bench: $(STAMP)
	$(PY) -m benchmarks

host: $(STAMP)
	$(PY) -m scripts.comfyui

$(STAMP): pyproject.toml constraints.txt scripts/install.sh scripts/comfyui.py
	PYTHON=$(PYTHON) bash scripts/install.sh
	touch $@

clean:
	rm -rf .venv output .pytest_cache .ruff_cache .mypy_cache
