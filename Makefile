# Everything sets itself up: `make train` and `make test` work in a fresh clone with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)
READY := $(VENV)/.ready

export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

.PHONY: train test check soak bench parity lock clean

train: $(READY)  ## run the main job on two workers
	$(BIN)/python -m jobs.digits_vae --workers 2 --storage runs --name vae-1

test: $(READY)  ## run every test
	$(BIN)/python -m pytest -m "not soak"

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(READY)  ## the long campaigns
	$(BIN)/python -m pytest -m soak

bench: $(READY)  ## the timed figures
	$(BIN)/python -m tests.benchmarks.step_time
	$(BIN)/python -m tests.benchmarks.checkpoint
	$(BIN)/python -m tests.benchmarks.recovery

parity: $(READY)  ## how far stock Keras, tf_keras and this service end from one device, case by case
	$(BIN)/python -m tests.benchmarks.parity

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

lock: $(READY)  ## choose and pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --upgrade --no-emit-index-url --python-version 3.11 --extra cpu --extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
