# `make` lists the targets. Everything lives in ./.venv, installed at the versions of constraints.txt.

PYTHON ?= python3
# Processes that run tests side by side.
WORKERS ?= 2

BIN := .venv/bin
# One thread per process: the tests' tensors are small, and the processes share the cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Shapes in annotations are checked where they state the mathematics.
CHECKED := cognates.objectives,cognates.distributions,cognates.kernels,cognates.evaluation
SHAPES := --jaxtyping-packages=$(CHECKED),beartype.beartype
# The first is for the packages, the second for what builds this one (pip from 25.3 on).
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check
# Without byte-compiling what is never imported, an install takes half the time.
INSTALL := $(PIP) install --quiet --no-compile

.DEFAULT_GOAL := help
.PHONY: help install demo test slow check format bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed ## make ./.venv with the library and its tools

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Expected Python 3.11 or later, got " + sys.version.split()[0] + \
		": name another with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[dev]'
	@touch $@

.venv/.bench: .venv/.installed
	$(INSTALL) --editable '.[dev,bench]'
	@touch $@

demo: .venv/.installed ## train, evaluate and report on the embedded images: runs/demo/report.html
	$(BIN)/cognates demo

test: .venv/.installed ## run the tests and the examples in docstrings
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) $(SHAPES) \
		-m "not slow and not learn and not gpu"

slow: .venv/.installed ## run the tests that train, or take long
	$(ONE_THREAD) $(BIN)/python -m pytest -q --durations=10 -m "slow or learn"

check: .venv/.installed ## check format, lint, types, layers, spelling and sizes
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tools/check_sizes.py

format: .venv/.installed ## put the source into the house's format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format --quiet

bench: .venv/.bench ## measure the views beside kornia and Pillow
	$(BIN)/python benchmarks/views.py

clean: ## remove the environment and every cache; runs stay
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
