# make install | demo | test | test-all | test-cuda | faults | soak | fuzz | lint | chromium | clean
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
# A machine without a GPU: make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := .venv/bin
DEMO := demo
SEED ?= 0
MINUTES ?= 20
COUNT ?= 2000

.PHONY: install demo test test-all test-cuda faults soak fuzz lint chromium clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX),)
	$(BIN)/pip install --quiet --constraint constraints.txt --index-url $(TORCH_INDEX) torch
endif
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/mmray demo-corpus $(DEMO)/corpus
	$(BIN)/mmray models make-tiny $(DEMO)/models
	$(BIN)/mmray manifest $(DEMO)/corpus -o $(DEMO)/manifest.parquet --label-from parent \
		--join $(DEMO)/corpus/descriptions.csv --on file
	$(BIN)/mmray extract configs/demo.yaml
	$(BIN)/mmray verify $(DEMO)/store
	@echo "The tables are in $(DEMO)/store: windows/ (rows as they come), features/ (one vector per sample), ledger/ (the account)."
	@echo "The weights of this demo are random (no model hub was asked): its numbers show the machinery, they mean nothing."

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Tests look at pages in Chromium; without it they skip, but never in CI.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update \
		&& apt-get -qq install -y --no-install-recommends chromium; } \
		|| echo "no chromium on this machine: install it (Debian: apt-get install chromium), or the tests of pages skip"

# Two at a time: runs that are killed or wait leave a core to the others. A file stays with one process and its Ray.
# Files start in the order of tests/conftest.py, the longest first, not in that of xdist, which counts their tests.
test: lint chromium
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: lint chromium
	$(BIN)/pytest

# On a machine with a GPU; elsewhere they skip.
test-cuda: install
	$(BIN)/pytest tests/cuda

# Every fault that a run must survive, compared with an undisturbed run; a line of the table that is not all zeros fails.
faults: install
	$(BIN)/python -m tests.faults --seed $(SEED) --json faults.json

# Random faults over random runs, for MINUTES; mutants of media, COUNT of them. The same SEED gives the same.
soak: install
	$(BIN)/python -m tests.faults.soak --seed $(SEED) --minutes $(MINUTES)

fuzz: install
	$(BIN)/python -m tests.faults.fuzz --seed $(SEED) --count $(COUNT)

clean:
	rm -rf .venv demo faults.json .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
