# The verbs of this project. `make demo` and `make test` work on a fresh machine with Python 3.11+, make and a C++ compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-slow fault check lint types layers format golden bench bench-gpu clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with the exact versions tested

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train the embedded default here, watch it, talk to it
	$(BIN)/llmctl demo

test: $(STAMP) ## the tests that fit in a coffee break
	$(BIN)/python -m pytest -m 'not slow and not fault'

test-slow: $(STAMP) ## the tests that take longer or kill things
	$(BIN)/python -m pytest -m 'slow or fault'

fault: $(STAMP) ## every fault, as often as docs/RELIABILITY.md promises (28 minutes when last timed, on two cores that had other work beside it)
	LLMCTL_FAULTS=full $(BIN)/python -m pytest -m fault

check: test test-slow lint types layers ## everything that CI runs

lint: $(STAMP) ## ruff, formatting included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy strict
	$(BIN)/mypy

layers: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff rewrite
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

golden: $(STAMP) ## draw the pictures that the tests compare every screen with anew
	$(BIN)/python -m tests.tui.golden

bench: $(STAMP) ## measure, as ratios within one run
	$(BIN)/python -m tests.bench.training_step
	$(BIN)/python -m tests.bench.optimizer_step 7
	$(BIN)/python -m tests.bench.writing
	$(BIN)/python -m tests.bench.beside_training
	$(BIN)/python -m tests.bench.data_rates
	$(BIN)/python -m tests.bench.watching
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check textual-plotext # to stand beside, where there is a network
	$(BIN)/python -m tests.bench.cockpit
	$(BIN)/python -m tests.bench.soak

bench-gpu: $(STAMP) ## tokens/s, MFU and memory of d12, d20 and d26 on a GPU, and a profile
	$(BIN)/python -m tests.bench.gpu_training $(BENCH_OPTIONS)

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
