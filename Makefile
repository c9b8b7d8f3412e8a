# Two commands: `make demo` (no GPU, no download, ten minutes) and `make test`. README.md gives the same as plain steps.
# `make soak` takes more than an hour: 200 runs killed at random moments, the fuzzers with new seeds for 30 minutes, and
# the demo with its language model in Qwen-1's format and in Qwen2's.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := --config demo.yaml

.PHONY: demo test test-web soak stages screenshots install install-dev clean

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: install
	$(BIN)/python -m demo.scenes --output data/demo/raw
	$(BIN)/python process_image.py $(DEMO)
	$(BIN)/python train.py $(DEMO) --overwrite
	$(BIN)/python evaluate.py --checkpoint checkpoints/demo --output result.json
	$(BIN)/python -m demo.finish --checkpoint checkpoints/demo --result result.json

test: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/python -m pytest

# web.py has an environment of its own, with an older pillow that gives the same pixels (docs/web.md).
WEB := .venv-web
$(WEB)/installed: requirements-web.txt requirements-dev.txt
	$(PYTHON) -m venv $(WEB)
	$(WEB)/bin/pip install --quiet --disable-pip-version-check -r requirements-web.txt "$$(grep -o '^pytest==[^ ]*' requirements-dev.txt)"
	touch $@

test-web: $(WEB)/installed
	$(WEB)/bin/python -m pytest tests/window/web tests/test_web.py tests/dataset/test_image.py tests/dataset/test_pixels.py

soak: install-dev
	VLM_KILLS=200 $(BIN)/python -m pytest tests/training/test_crash.py -k random_moments
	VLM_FUZZ_MINUTES=30 $(BIN)/python -m pytest -s tests/test_fuzz.py
	VLM_SOAK=1 $(BIN)/python -m pytest tests/training/test_distributed.py -k launcher
	VLM_SOAK=1 $(BIN)/python -m pytest tests/training/test_fsdp.py -k so_does
	VLM_SOAK=1 $(BIN)/python -m pytest tests/training/test_compile.py tests/model/test_compiling.py
	VLM_SOAK=1 $(BIN)/python -m pytest tests/model/test_llava.py
	VLM_SOAK=1 $(BIN)/python -m pytest tests/baselines/test_demo.py
	VLM_SOAK=1 $(BIN)/python -m pytest -s tests/answering/serving/test_app.py -k hostile
	VLM_SOAK=1 $(BIN)/python -m pytest -s tests/qwen/test_qwen1.py -k whole_demo

# The presets of configs/stages/ on the demo's pictures and backbones, each stage from the one before: minutes.
stages: install
	$(BIN)/python -m demo.scenes --output data/demo/raw
	$(BIN)/python process_image.py $(DEMO)
	$(BIN)/python -m benchmarks.stages

# Of the demo's model, on a virtual screen: needs `make demo` before, and Xvfb.
screenshots: install-dev
	$(BIN)/python -m docs.screenshots --checkpoint checkpoints/demo --data data/demo/raw

clean:
	rm -rf data/demo checkpoints/demo result.json result.html
