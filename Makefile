# `make help` lists the targets. Works with GNU make 3.81, which macOS has.
PYTHON ?= python3
BIN := .venv/bin
REFERENCE := .venv-reference/bin/python
PIP := $(BIN)/python -m pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help .venv demo test test-reference images test-docker test-docker-torch test-faults test-deploy rehearsal lint bench clean

help: ## print this help
	@grep -E '^[a-z.-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.venv: .venv/.installed ## set up: a virtual environment with the command faceq in .venv/bin

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "faceq needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo 'installing faceq and what it needs into .venv: about a minute'
	@$(PYTHON) -m venv .venv
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[local,dlib]'
	@touch $@

.venv/.tested: .venv/.installed
	@echo 'installing what the tests and checks need into .venv: about a minute'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[local,dlib,test]'
	@touch $@

demo: .venv/.installed ## real photographs in, real names out: the main job, by one command
	@$(BIN)/faceq models get
	@$(BIN)/faceq demo

test: .venv/.tested ## unit, conformance, functional and fuzz tests; real processes, real queue, no torch
	@$(BIN)/faceq models get && $(BIN)/faceq models get stand-in
	$(BIN)/python -m pytest -m 'not reference and not docker'

# The reference wants a CPU build of torch. Where the index gives a CUDA build of several GB under this version, name
# another: make test-reference TORCH='torch==2.13.0+cpu --extra-index-url ...'
TORCH ?= torch==2.13.0

.venv-reference/.installed: pyproject.toml constraints.txt
	@echo 'installing torch and facenet-pytorch into .venv-reference: a few minutes'
	$(PYTHON) -m venv .venv-reference
	$(REFERENCE) -m pip install --quiet --constraint constraints.txt --editable '.[local,dlib,test]'
	$(REFERENCE) -m pip install --quiet $(TORCH)
	$(REFERENCE) -m pip install --quiet --no-deps torchvision==0.29.1 facenet-pytorch==2.5.3
	@touch $@

test-reference: .venv-reference/.installed ## hold the ONNX engine to torch and facenet-pytorch; run the service once on torch
	@$(REFERENCE) -m cli.main models get && $(REFERENCE) -m cli.main models get stand-in
	$(REFERENCE) -m pytest -m reference
	FACEQ_ENGINE=torch $(REFERENCE) -m pytest tests/functional/test_flow.py -k 'known_person_is_named or without_a_face'

# An image is built once; both suites then take it as it is.
images: .venv/.installed
	@.ci/engine
	$(BIN)/faceq image build

test-docker: .venv/.tested images ## the functional tests against containers too, and what only containers can show
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest --target containers -m 'not reference and not faults' \
		tests/functional tests/docker tests/conformance/test_message_senders.py
	@$(BIN)/python -m deploy.tested_images faceq-function

# The original service's own variant; takes torch as test-reference does, then answers the same frames.
test-docker-torch: .venv/.tested images
	@$(BIN)/faceq models get
	$(PIP) download --quiet --no-deps --dest wheels $(TORCH)
	$(BIN)/faceq image build --engine torch --tag faceq-torch-function
	rm -r wheels
	FACEQ_IMAGE=faceq-torch-function FACEQ_GATEWAY_IMAGE=faceq-torch-gateway $(BIN)/python -m pytest \
		--target containers tests/functional/test_flow.py -k 'known_person_is_named or without_a_face or four_people'

test-faults: .venv/.tested images ## post 1,000 frames while a container is killed every 5 s: none is lost
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest tests/docker -m faults

test-deploy: .venv/.tested images ## plan, deploy, roll back, destroy: against moto for AWS and a real registry
	@.ci/registry
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest tests/deploy

rehearsal: .venv/.tested images ## write what a rehearsed deploy prints into README.md and docs/operations.md
	@.ci/registry
	FACEQ_REHEARSAL=1 $(BIN)/python -m pytest tests/deploy/test_rehearsal.py

bench: .venv/.tested ## measure speed and memory; writes bench/results.md
	@$(BIN)/faceq models get
	$(BIN)/python -m bench

# W1030: SubnetIds is empty unless there is a VPC; the condition that keeps it unused is more than cfn-lint follows.
lint: .venv/.tested ## style, types, import rules, the CloudFormation template, the dependencies' wheels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cfn-lint --ignore-checks W1030 -- deploy/template.yaml deploy/base.yaml
	$(BIN)/python .ci/check_wheels.py

clean: ## remove what make made
	rm -rf .venv .venv-reference out
