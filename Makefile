# The two commands of the README are `make quickstart` and `make test`; both create .venv and install what they need.

# A Python that will do prints its version and "runs". Others are on the PATH too: version managers' shims with nothing
# behind them, system Pythons without venv.
CHECK = import sys; sys.stdout.write("%d.%d" % sys.version_info[:2]); import ensurepip, ssl, venv; sys.stdout.write(" runs")
# PYTHON=... if given, else that of .venv, else the newest.
FOUND_PYTHON = $(or $(PYTHON),$(shell for name in $(BIN)/python python3.13 python3.12 python3.11 python3; do \
	$$name -c '$(CHECK)' 2>/dev/null | grep -qx '3\.1[123] runs' && echo $$name && break; done))
BASE = import os, sys; print(sys.version, os.path.realpath(sys.base_prefix))
PIP_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_FLAGS)
REQUIREMENTS := pyproject.toml setup.py constraints.txt
RUNTIME := $(VENV)/installed
DEVELOPMENT := $(VENV)/installed-for-development

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all soak test-tpu-compiler lint format wheel docs bench install clean

help:  ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "make %-17s %s\n", $$1, $$2 }'

quickstart: $(RUNTIME)  ## train a tiny MrT5 on vowel removal; a page of what it deletes, and a table (minutes)
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

docs: $(DEVELOPMENT)  ## the docs site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(DEVELOPMENT)  ## ratios measured in one run: forward, training and decoding against PyTorch; schemes; data
	for suite in forward training decoding schemes data; do $(BIN)/python -m benchmarks.$$suite || exit; done

install: $(DEVELOPMENT)  ## .venv with everything in it

clean:  ## remove what was built, not .venv
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis

$(BIN)/python: | suitable-python
	"$(FOUND_PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

.PHONY: suitable-python
suitable-python:
	@python="$(FOUND_PYTHON)"; advice="name a Python 3.11, 3.12 or 3.13 by PYTHON=..., as in make test PYTHON=/usr/bin/python3.13"; \
	version=$$("$$python" -c '$(CHECK)' 2>/dev/null); \
	case "$$python:$$version" in \
		?*:3.1[123]" runs") problem="" ;; \
		:*) problem="no Python 3.11, 3.12 or 3.13 on the PATH runs and has venv, ensurepip and ssl" ;; \
		*:3.1[123]) problem="$$python lacks venv, ensurepip or ssl (Debian: apt-get install python$$version-venv)" ;; \
		*:[23].[0-9]*) problem="$$python is Python $${version% runs}" ;; \
		*) problem="$$python does not run as a Python" ;; \
	esac; \
	test -z "$$problem" || { echo "$$problem: $$advice" >&2; exit 1; }; \
	test ! -e $(VENV) || test "$$($(BIN)/python -c '$(BASE)' 2>&1)" = "$$("$$python" -c '$(BASE)')" || \
		{ echo "$(VENV) does not run, or was made by another Python than $$python: remove it (rm -r $(VENV))" >&2; exit 1; }

$(RUNTIME): $(BIN)/python $(REQUIREMENTS)
	@echo "installing into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable .
	@touch $@

$(DEVELOPMENT): $(BIN)/python $(REQUIREMENTS)
	@echo "installing into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable ".[dev,parity]"
	@touch $(RUNTIME) $@
