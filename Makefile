# `make help` lists the targets. Works with GNU make 3.81, which macOS has.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help .venv demo test test-reference lint bench clean

help: ## print this help
	@grep -E '^[a-z.-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.venv: .venv/.installed ## set up: a virtual environment with the command faceq in .venv/bin

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "faceq needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint constraints.txt --editable '.[local,dlib]'
	@touch $@

.venv/.tested: .venv/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[local,dlib,test]'
	@touch $@

demo: .venv/.installed ## real photographs in, real names out: the main job, by one command
	@$(BIN)/faceq models get
	@$(BIN)/faceq demo

test: .venv/.tested ## unit, conformance, functional and fuzz tests; real processes, real queue, no torch
	@$(BIN)/faceq models get
	$(BIN)/python -m pytest -m 'not reference'

lint: .venv/.tested ## style, types, import rules, the CloudFormation template, the base dependencies' wheels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cfn-lint deploy/template.yaml

clean: ## remove what make made
	rm -rf .venv .venv-reference out
