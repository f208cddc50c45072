# `make repro` and `make test` set up what they need; every target can be repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# An index of torch's CPU builds, for machines whose usual index gives torch with gigabytes of CUDA packages.
TORCH_INDEX ?=

.PHONY: setup repro exps test test-fast test-avx2 types lint accept bench bench-peers clean

setup: $(STAMP)

# torch goes first and by exact version, so that what follows finds it and brings no other build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") \
		"torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# NVIDIA's proprietary packages. TensorRT-RTX's builder needs no GPU and is part of the tests where its packages can be
# had (Linux, x86-64); `make repro` does without.
$(VENV)/.rtx: $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tensorrt-rtx]'
	touch $@

# The stages run `python`; the environment's must be the first one found. The CPU is asked for first: on another kind
# than that of the last run, DVC calibrates anew. Files that DVC itself stops at are named before it starts.
repro: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m stages doctor --dataset
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m stages detect-cpu
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc metrics show

# Experiments that fit 160 columns.
exps: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc exp show --only-changed --drop '.*(deps|outs|yolov6core|stages|artifacts).*' --no-pager

# Test files side by side, each process with one thread. Files stay whole: their fixtures are expensive. They keep the
# order of tests/conftest.py: what sends signals to its own process has to come first in it.
PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 \
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: lint types $(VENV)/.rtx
	$(PYTEST)

# What most edits break, in under two minutes.
test-fast: lint
	$(PYTEST) -m "not slow"

# The same on the kernels of a CPU without VNNI, whose instructions are hidden from the process (Linux, Intel, gcc).
test-avx2: $(VENV)/.rtx
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/support/cpu_modes.py avx2 -m pytest

types: $(STAMP)
	$(BIN)/python -m basedpyright

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

# After an edit that changes no output (names, comments, moved code): runs the stages that DVC calls changed, and accepts
# their outputs into dvc.lock only if they are the same as before.
accept: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" python tests/support/accept.py

# A quick form of every benchmark, in a table; it wants a machine that is else idle.
bench: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" python benchmarks/run_all.py

# The same beside other toolkits, in an environment of their own. ultralytics goes in without what it asks for: its
# OpenCV would replace the one that is there. Where it cannot be had, its row says so.
PEERS := .venv-peers
PEERS_PIP = $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
bench-peers: $(PEERS)/.installed
	PATH="$(CURDIR)/$(PEERS)/bin:$$PATH" python benchmarks/run_all.py --peers

$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torch
	$(PEERS_PIP) --editable '.[pipeline]' --requirement benchmarks/peers.txt
	-$(PEERS_PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") torchvision
	-$(PEERS_PIP) --no-deps ultralytics==8.4.190 ultralytics-thop==2.2.3 ultralytics-platform==0.1.99
	touch $@

clean:
	rm -rf artifacts .cpu.json .dialect.json .ckpt dvc_plots .pytest_cache .ruff_cache
