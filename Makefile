# The two commands of the README are `make quickstart` and `make test`; both create .venv and install what they need.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_FLAGS)
REQUIREMENTS := pyproject.toml setup.py constraints.txt
RUNTIME := $(VENV)/installed
DEVELOPMENT := $(VENV)/installed-for-development

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all soak test-tpu-compiler lint format wheel bench install clean

help:  ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "make %-17s %s\n", $$1, $$2 }'

quickstart: $(RUNTIME)  ## train a tiny MrT5 and a ByT5 on vowel removal, print a table, write a page (about 10 minutes)
	$(BIN)/mrt5 quickstart

test: $(DEVELOPMENT)  ## the tests that take minutes
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

test-all: $(DEVELOPMENT)  ## all tests but those of the next two targets
	$(BIN)/python -m pytest -m "not soak and not tpu_compiler" $(PYTEST_FLAGS)

soak: $(DEVELOPMENT)  ## kill a real run at 20 random moments, and see that nothing differs (half an hour)
	$(BIN)/python -m pytest -m soak

test-tpu-compiler: $(DEVELOPMENT)  ## compile for TPU slices, without a TPU; installs libtpu (0.7 GB)
	$(PIP_INSTALL) --editable ".[dev,parity,tpu]"
	$(BIN)/python -m pytest -m tpu_compiler

lint: $(DEVELOPMENT)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(DEVELOPMENT)  ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(DEVELOPMENT)  ## dist/mrt5_jax-*.whl
	rm -rf build dist  # what an older build left would be packed again
	$(BIN)/python -m build --wheel

bench: $(DEVELOPMENT)  ## ratios measured in one run: forward, training and decoding against PyTorch; speed of data
	for suite in forward training decoding data; do $(BIN)/python -m benchmarks.$$suite || exit; done

install: $(DEVELOPMENT)  ## .venv with everything in it

clean:  ## remove what was built, not .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no python3 on the PATH: install Python 3.11 or newer, or give PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: give a newer one by PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(RUNTIME): $(BIN)/python $(REQUIREMENTS)
	@echo "installing into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable .
	@touch $@

$(DEVELOPMENT): $(BIN)/python $(REQUIREMENTS)
	@echo "installing into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable ".[dev,parity]"
	@touch $(RUNTIME) $@
