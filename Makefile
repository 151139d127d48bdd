# Everything sets itself up: `make train` and `make test` work in a fresh clone with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)
READY := $(VENV)/.ready
TOOLS := $(VENV)/infra

export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

.PHONY: train test check soak bench parity lock image-locks images push-images cluster clean

train: $(READY)  ## run the main job on two workers
	$(BIN)/python -m jobs.digits_vae --workers 2 --storage runs --name vae-1

# What starts no processes of its own goes two at a time; the others have the machine's cores to themselves.
test: $(READY) $(TOOLS)/.ready  ## run every test
	$(BIN)/python -m pytest -m "not soak and not processes and not ray" --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m "not soak and (processes or ray)"

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

# Terraform, a linter and the google provider's schema, for tests/infra. Apart: see tests/infra/tools.in. Promtool, which reads
# k8s/monitoring, is in no package but Debian's; elsewhere its tests skip.
$(TOOLS)/.ready: $(READY) tests/infra/tools.lock tests/infra/google_schema.py
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(TOOLS)
	$(BIN)/uv pip install --quiet --no-deps --python $(TOOLS)/bin/python -r tests/infra/tools.lock
	$(TOOLS)/bin/python tests/infra/google_schema.py $(TOOLS)/google_schema.json
	-cd $(TOOLS) && apt-get download --quiet=2 prometheus && dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract --directory bin --strip-components 3 ./usr/bin/promtool; rm -f prometheus_*.deb
	touch $@

lock: $(READY)  ## choose and pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --upgrade --no-emit-index-url --python-version 3.11 --extra cpu --extra dev --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --no-emit-index-url --no-annotate --python-version 3.11 --output-file tests/infra/tools.lock tests/infra/tools.in
	$(MAKE) image-locks

# The images' packages, at the versions of requirements.lock. TensorFlow for TPUs is a minor version behind and brings its TensorBoard.
IMAGE_LOCK = $(BIN)/uv pip compile --quiet --no-emit-index-url --no-annotate --no-header --python-version 3.11 --python-platform x86_64-manylinux_2_31
image-locks: $(READY)  ## pin what the images hold
	sed '/^tensorboard==/d' requirements.lock > $(VENV)/tpu-constraints.txt
	$(IMAGE_LOCK) --constraint requirements.lock --extra cpu --extra jobs --output-file infra/images/cpu.lock pyproject.toml
	$(IMAGE_LOCK) --constraint requirements.lock --extra gpu --extra jobs --output-file infra/images/gpu.lock pyproject.toml
	$(IMAGE_LOCK) --constraint $(VENV)/tpu-constraints.txt --extra tpu --extra jobs --output-file infra/images/tpu.lock pyproject.toml
	printf 'tensorboard\ngcsfs\n' | $(IMAGE_LOCK) --constraint requirements.lock --output-file infra/images/tensorboard.lock -

# REGISTRY and IMAGE_TAG: where images go and what they are called.
include k8s/settings.env
IMAGES := cpu gpu tpu tensorboard

images: $(IMAGES:%=image-%)  ## build every image
image-%:
	DOCKER_BUILDKIT=1 docker build --file infra/images/Dockerfile --build-arg KIND=$* --target $(if $(filter tensorboard,$*),tensorboard,worker) --tag $(REGISTRY)/samestep-$*:$(IMAGE_TAG) .

push-images: images  ## build and push every image
	for kind in $(IMAGES); do docker push $(REGISTRY)/samestep-$$kind:$(IMAGE_TAG) || exit; done

cluster:  ## make or change the cluster that infra/terraform/terraform.tfvars describes
	terraform -chdir=infra/terraform init
	terraform -chdir=infra/terraform apply
	settings="$$(terraform -chdir=infra/terraform output -raw k8s_settings)" && echo "$$settings" > k8s/settings.env

clean:
	rm -rf $(VENV)
