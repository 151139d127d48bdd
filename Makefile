# Everything sets itself up: `make train` and `make test` work in a fresh clone with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)
READY := $(VENV)/.ready
TOOLS := $(VENV)/infra

export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

.PHONY: train test check soak bench parity lock clean

train: $(READY)  ## run the main job on two workers
	$(BIN)/python -m jobs.digits_vae --workers 2 --storage runs --name vae-1

test: $(READY) $(TOOLS)/.ready  ## run every test
	$(BIN)/python -m pytest -m "not soak"

check: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

soak: $(READY) $(TOOLS)/.ready  ## the long campaigns
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

# Terraform, a linter and the google provider's schema, for tests/infra. Apart: see tests/infra/tools.in.
$(TOOLS)/.ready: $(READY) tests/infra/tools.lock tests/infra/google_schema.py
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(TOOLS)
	$(BIN)/uv pip install --quiet --no-deps --python $(TOOLS)/bin/python -r tests/infra/tools.lock
	$(TOOLS)/bin/python tests/infra/google_schema.py $(TOOLS)/google_schema.json
	touch $@

lock: $(READY)  ## choose and pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --upgrade --no-emit-index-url --python-version 3.11 --extra cpu --extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
