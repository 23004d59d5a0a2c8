# make demo                       install, then run everything end to end on generated faces
# make demo SOURCE=fer2013.csv    the same on real data (hours on a CPU; minutes with a GPU);
#                                 SOURCE="my data/x.csv", if its path has blanks
# make reproduce SOURCE=fer2013.csv WEIGHTS=mobilenet_v1.pt
#                                 train twice, as for README's best figure (docs/training.md), and
#                                 evaluate; the same line continues after a stop; SEED (0)
# make test                       install, then run lint, types and tests
# make docs                       build the documentation as a site, in docs/_build
# make fuzz                       try 10,000 damaged files of each kind (an hour)
# make soak                       disturb trainings by faults of all kinds for MINUTES (20), drawn from SEED (0)
# make test-pythons               run the quick tests on every Python found from 3.10 to 3.14
# make test-oldest                on the oldest Python, with the lowest versions setup.cfg allows
# make test-newest                on the newest Python found, ignoring setup.cfg's upper bounds
# make test-container             build the Containerfile, and train in it as any user (root, buildah)
# make test-cloud                 have SkyPilot and Kubeflow read what `pattlite render` writes
#
# Without a GPU, the smaller CPU build of PyTorch is installed, if its index can be reached; GPUS=1
# asks for the build with CUDA. PIP_ARGS is passed to pip, and an index named there is used instead.

PYTHON ?= python3
# Only the environment is made with it: launch/torchrun.sh would take it for the one to run.
unexport PYTHON
PIP_ARGS ?=
INSTALL ?= $(BIN)/python -m pip install
SOURCE ?=
WEIGHTS ?=
MINUTES ?= 20
SEED ?= 0
GPUS ?= $(wildcard /dev/nvidia[0-9]* /dev/kfd /dev/dxg)
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# Asked once: a process for each GPU, or two without any.
NPROC ?= $(eval NPROC := $(shell $(BIN)/python -m pattlite_dist.runtime.devices 2))$(NPROC)
# Two more than cores, of which nproc shows too many in a container: the tests of the two clusters
# mostly wait.
WORKERS ?= $(eval WORKERS := $(shell expr $$($(PYTHON) -m pattlite_dist.runtime.limits) + 2))$(WORKERS)
BIN := .venv/bin
DEMO := demo
REPRODUCED = reproduced/seed-$(SEED)
PYTEST_WORKERS = -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: demo reproduce test lint types tests docs fuzz soak test-pythons test-oldest test-newest test-cloud \
  test-container clean help

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

define check-python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: requires Python 3.10 or later; choose one with PYTHON=python3.x" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: Python's venv is missing; install it (Debian: apt-get install python3-venv)" >&2; exit 2; }
endef

# A path for the shell: in quotes, which would hide that ~/ is the home folder.
quoted = '$(subst ','\'',$(subst <>,,$(subst <>~/,$(HOME)/,<>$(1))))'

define CPU_BUILD
import sys, urllib.request
index = sys.argv[1]
try:
    urllib.request.urlopen(f"{index}/torch/", timeout=5).close()
except OSError:
    told = f"{index} cannot be reached: PyTorch comes with CUDA, several gigabytes"
else:
    told = "PyTorch comes without CUDA"
    print("--extra-index-url", index)
print(f"make: no GPU found; {told} (see `make help`)", file=sys.stderr)
endef
export CPU_BUILD
choose-build = $(if $(GPUS)$(findstring index,$(PIP_ARGS)),true,$(PYTHON) -c "$$CPU_BUILD" $(CPU_INDEX))

.venv/installed: setup.cfg pyproject.toml
	$(check-python)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@build=$$($(choose-build)) && set -x && \
	  $(INSTALL) --quiet $(PIP_ARGS) $$build --editable ".[dev]"
	@touch $@

demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: .venv/installed
	@mkdir -p $(DEMO)
ifeq ($(value SOURCE),)
	@rm -rf $(DEMO)/runs/demo
	pattlite shards faces $(DEMO)/faces.csv
	pattlite shards create $(DEMO)/faces.csv $(DEMO)/shards
	NPROC=$(NPROC) launch/torchrun.sh train -c configs/demo.yaml --runs $(DEMO)/runs
	NPROC=$(NPROC) launch/torchrun.sh evaluate $(DEMO)/runs/demo
else
	pattlite shards create $(call quoted,$(value SOURCE)) $(DEMO)/fer2013
	NPROC=$(NPROC) launch/torchrun.sh train -c configs/fer2013.yaml --runs $(DEMO)/runs \
	  --data.shards $(DEMO)/fer2013 $(TRAIN_ARGS)
	NPROC=$(NPROC) launch/torchrun.sh evaluate $(DEMO)/runs/fer2013
endif

reproduce: export PATH := $(CURDIR)/$(BIN):$(PATH)
reproduce: .venv/installed
ifeq ($(if $(value SOURCE),$(value WEIGHTS)),)
	@echo "make: reproduce requires SOURCE=fer2013.csv WEIGHTS=mobilenet_v1.pt, the weights that" \
	  "docs/weights.md makes" >&2; exit 2
endif
	pattlite shards create $(call quoted,$(value SOURCE)) reproduced/fer2013
	$(train) -c configs/fer2013-pattlite.yaml $(REPRODUCING) \
	  --model.weights $(call quoted,$(value WEIGHTS))
	$(train) -c configs/fer2013-distilled.yaml $(REPRODUCING) \
	  --model.weights $(REPRODUCED)/fer2013-pattlite \
	  --distill.teachers "[$(REPRODUCED)/fer2013-pattlite, pretrained:mobilenetv2-vit]"
	NPROC=$(NPROC) launch/torchrun.sh evaluate $(REPRODUCED)/fer2013-distilled
reproduce: train = NPROC=$(NPROC) launch/torchrun.sh train
reproduce: REPRODUCING = --seed $(SEED) --runs $(REPRODUCED) --data.shards reproduced/fer2013 \
  $(TRAIN_ARGS)

# Types are checked by one of the tests, in parallel with the others.
test: lint tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

tests: .venv/installed
	$(BIN)/pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo docs/_build/index.html

fuzz: export PATTLITE_FUZZ := fuzz
fuzz: .venv/installed
	$(BIN)/pytest --timeout=0 tests/fuzz $(PYTEST_ARGS)

soak: .venv/installed
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

.venvs/uv/bin/uv:
	$(check-python)
	$(PYTHON) -m venv .venvs/uv
	.venvs/uv/bin/python -m pip install --quiet uv

test-pythons test-oldest test-newest: test-%: .venvs/uv/bin/uv
	.venvs/uv/bin/python tests/versions.py $* $(PYTEST_WORKERS) $(PYTEST_ARGS)

test-container:
	tests/container.sh

test-cloud: .venvs/uv/bin/uv
	.venvs/uv/bin/uv venv --quiet --allow-existing .venvs/cloud
	.venvs/uv/bin/uv pip install --quiet --python=.venvs/cloud/bin/python \
	  'skypilot>=0.14,<0.15' 'kubeflow-trainer-api>=2.3,<3'
	.venvs/cloud/bin/python tests/clouds.py

clean:
	rm -rf $(DEMO) .venvs .mypy_cache .pytest_cache .ruff_cache .hypothesis
