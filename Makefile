# Every verb is complete on a fresh machine: it makes .venv and installs what it needs first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# What `make train` trains, and more flags for it: make train ENV_ID=HalfCheetah-v5 ARGS="--steps 20000"
ENV_ID ?= Pendulum-v1
ARGS   ?=
# What `make bench` measures, one of benchmarks/*.py; empty: all of them.
TOPIC  ?=

# The caller's own Python settings must not leak into .venv.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE := 1
export PIP_USER := 0

.DEFAULT_GOAL := help
.PHONY: help install train test slow lint type bench clean

help:  ## print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv and install the package, once

# An interrupted install leaves no stamp, so the next one completes it.
$(STAMP): pyproject.toml constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,video]'
	touch $@

train: install  ## train ENV_ID with its preset and record a video
	$(BIN)/ode-rl train $(ENV_ID) $(ARGS)

# Tests are many and small: one thread in each of two processes is faster than two threads in one.
test: install  ## run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

slow: install  ## run the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not gpu" $(ARGS)

lint: install  ## check style, formatting and the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: install  ## check types
	$(BIN)/mypy ode_rl tests $(wildcard benchmarks/*.py)

bench: install  ## re-measure one seed of one row of TOPIC, or of every topic
	@for script in $(or $(TOPIC:%=benchmarks/%.py),$(filter-out benchmarks/plot_%,$(wildcard benchmarks/[a-z]*.py))); do \
		echo "$$script --quick $(ARGS)"; $(BIN)/python $$script --quick $(ARGS) || exit 1; \
	done

clean:  ## remove caches and build products; .venv and runs stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find ode_rl envs agents tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
