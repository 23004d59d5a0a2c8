# make demo                       install, then run everything end to end on generated faces
# make demo SOURCE=fer2013.csv    the same on real data (hours on a CPU; minutes with a GPU)
# make test                       install, then run lint, types and tests
# make fuzz                       try 10,000 damaged files of each kind (an hour)
# make test-pythons               run the quick tests on every Python found from 3.10 to 3.14
# make test-oldest                on the oldest Python, with the lowest versions setup.cfg allows
# make test-newest                on the newest Python found, ignoring setup.cfg's upper bounds
#
# PIP_ARGS is passed to pip; without a GPU the smaller CPU build of PyTorch is enough:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
SOURCE ?=
# Asked once: a process for each GPU, or two without any.
NPROC ?= $(eval NPROC := $(shell $(BIN)/python -m pattlite_dist.runtime.devices 2))$(NPROC)
# Two more than cores: the tests of the two clusters mostly wait.
WORKERS ?= $(shell expr $$(nproc) + 2)
BIN := .venv/bin
DEMO := demo
PYTEST_WORKERS := -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: demo test lint types tests fuzz test-pythons test-oldest test-newest clean help

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

define check-python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: requires Python 3.10 or later; choose one with PYTHON=python3.x" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: Python's venv is missing; install it (Debian: apt-get install python3-venv)" >&2; exit 2; }
endef

.venv/installed: setup.cfg pyproject.toml
	$(check-python)
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

# Types are checked by one of the tests, in parallel with the others.
test: lint tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(BIN)/pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

fuzz: export PATTLITE_FUZZ := fuzz
fuzz: .venv/installed
	$(BIN)/pytest --timeout=0 tests/fuzz $(PYTEST_ARGS)

.venvs/uv/bin/uv:
	$(check-python)
	$(PYTHON) -m venv .venvs/uv
	.venvs/uv/bin/python -m pip install --quiet uv

test-pythons test-oldest test-newest: test-%: .venvs/uv/bin/uv
	.venvs/uv/bin/python tests/versions.py $* $(PYTEST_WORKERS) $(PYTEST_ARGS)

clean:
	rm -rf $(DEMO) .venvs .mypy_cache .pytest_cache .ruff_cache .hypothesis
