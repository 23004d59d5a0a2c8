# make demo                       set-up, then the whole road on generated faces
# make demo SOURCE=fer2013.csv    the same on real data (hours on a CPU; minutes with a GPU)
# make test                       set-up, then lint, types and tests
#
# PIP_ARGS is handed to pip; without a GPU the smaller CPU build of PyTorch does:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
SOURCE ?=
NPROC ?= 2
# One more than cores: the tests of the cluster mostly wait.
WORKERS ?= $(shell expr $$(nproc) + 1)
BIN := .venv/bin
DEMO := demo

.PHONY: demo test lint types tests clean help

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: Python 3.10 or later is needed; name one with PYTHON=python3.x" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: Python's venv is missing; install it (Debian: apt-get install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev]"
	@touch $@

demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: .venv/installed
	@mkdir -p $(DEMO)
ifeq ($(SOURCE),)
	@rm -rf $(DEMO)/runs/demo
	pattlite shards faces $(DEMO)/faces.csv
	pattlite shards create $(DEMO)/faces.csv $(DEMO)/shards
	NPROC=$(NPROC) launch/torchrun.sh train -c configs/demo.yaml --runs $(DEMO)/runs
	NPROC=$(NPROC) launch/torchrun.sh evaluate $(DEMO)/runs/demo
else
	pattlite shards create $(SOURCE) $(DEMO)/fer2013
	NPROC=$(NPROC) launch/torchrun.sh train -c configs/fer2013.yaml --runs $(DEMO)/runs \
	  --data.shards $(DEMO)/fer2013 $(TRAIN_ARGS)
	NPROC=$(NPROC) launch/torchrun.sh evaluate $(DEMO)/runs/fer2013
endif

# Types are one of the tests, so that they are checked beside others.
test: lint tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

clean:
	rm -rf $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis
