# `make help` lists the targets. This file works with GNU make 3.81, the version of macOS.
PYTHON ?= python3
BIN := .venv/bin
REFERENCE := .venv-reference/bin/python
PIP := $(BIN)/python -m pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help .venv demo test test-reference images test-docker test-docker-torch test-faults test-deploy rehearsal settings-page lint bench clean

help: ## print this help
	@grep -E '^[a-z.-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.venv: .venv/.installed ## set up a virtual environment with the command faceq in .venv/bin

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "faceq needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo 'installing faceq and its dependencies into .venv: about a minute'
	@$(PYTHON) -m venv .venv
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[local,dlib]'
	@touch $@

.venv/.tested: .venv/.installed
	@echo 'installing the dependencies of the tests and checks into .venv: about a minute'
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[local,dlib,test]'
	@touch $@

demo: .venv/.installed ## send real photographs and check the names in the answers
	@$(BIN)/faceq models get
	@$(BIN)/faceq demo

# Most tests wait for processes and networks, so more of them run at a time than there are processors.
TEST_WORKERS ?= 4

test: .venv/.tested ## run the unit, conformance, functional and fuzz tests: real processes, a real queue, no torch
	@$(BIN)/faceq models get && $(BIN)/faceq models get stand-in
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m 'not reference and not docker'

# The reference tests need a CPU build of torch. If your index has a CUDA build of several GB under this version, name
# another one: make test-reference TORCH='torch==2.13.0+cpu --extra-index-url ...'
TORCH ?= torch==2.13.0

.venv-reference/.installed: pyproject.toml constraints.txt
	@echo 'installing torch and facenet-pytorch into .venv-reference: a few minutes'
	$(PYTHON) -m venv .venv-reference
	$(REFERENCE) -m pip install --quiet --constraint constraints.txt --editable '.[local,dlib,test]'
	$(REFERENCE) -m pip install --quiet $(TORCH)
	$(REFERENCE) -m pip install --quiet --no-deps torchvision==0.29.1 facenet-pytorch==2.5.3
	@touch $@

test-reference: .venv-reference/.installed ## compare the ONNX engine with torch and facenet-pytorch; run the service on torch
	@$(REFERENCE) -m cli.main models get && $(REFERENCE) -m cli.main models get stand-in
	$(REFERENCE) -m pytest -m reference
	FACEQ_ENGINE=torch $(REFERENCE) -m pytest tests/functional/test_flow.py -k 'known_person_is_named or without_a_face'

# The image is built once; the container tests then use it unchanged.
images: .venv/.installed
	@.ci/engine
	$(BIN)/faceq image build

test-docker: .venv/.tested images ## run the functional tests against containers, and the tests that need containers
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest --target containers -m 'not reference and not faults' \
		tests/functional tests/docker tests/conformance/test_message_senders.py
	@$(BIN)/python -m deploy.tested_images faceq-function

# The original service's engine in containers: with the same torch as test-reference, it must answer the same frames.
test-docker-torch: .venv/.tested images
	@$(BIN)/faceq models get
	$(PIP) download --quiet --no-deps --dest wheels $(TORCH)
	$(BIN)/faceq image build --engine torch --tag faceq-torch-function
	rm -r wheels
	FACEQ_IMAGE=faceq-torch-function FACEQ_GATEWAY_IMAGE=faceq-torch-gateway $(BIN)/python -m pytest \
		--target containers tests/functional/test_flow.py -k 'known_person_is_named or without_a_face or four_people'

test-faults: .venv/.tested images ## post 1,000 frames while a container is killed every 5 s, and check that none is lost
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest tests/docker -m faults

test-deploy: .venv/.tested images ## test plan, deploy, rollback and destroy against moto for AWS and a real registry
	@.ci/registry
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest tests/deploy

rehearsal: .venv/.tested images ## rehearse a deploy and write its output into README.md and docs/operations.md
	@.ci/registry
	FACEQ_REHEARSAL=1 $(BIN)/python -m pytest tests/deploy/test_rehearsal.py

settings-page: .venv/.installed ## write docs/settings.md, the page with all variables
	@$(BIN)/python -m adapters.settings_page

bench: .venv/.tested ## measure speed and memory, and write bench/results.md
	@$(BIN)/faceq models get
	$(BIN)/python -m bench

# W1030: SubnetIds is empty without a VPC; a condition then leaves it unused, which cfn-lint does not see.
lint: .venv/.tested ## check style, types, import rules, the CloudFormation templates, the dependencies' wheels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cfn-lint --ignore-checks W1030 -- deploy/template.yaml deploy/base.yaml
	$(BIN)/python .ci/check_wheels.py

clean: ## remove the virtual environments and the output of the demo
	rm -rf .venv .venv-reference out
