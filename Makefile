# Everything here also works by hand: the README shows the plain commands. Try `make help`.

PYTHON ?= python3
VENV ?= .venv
# Test processes that run at the same time; each uses one thread.
WORKERS ?= 2
# Options of `coevo train`, for example: make train ARGS="--seed 1 --iterations 20"
ARGS ?=
PYTEST_ARGS ?=
# Which library `make test-adapters` tests, for example: make test-adapters LIBRARY=torchrl. Empty means all.
LIBRARY ?=

# What `make test-versions` tries, for example: make test-versions VERSIONS="3.12 lowest". Empty means all.
VERSIONS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ONE_THREAD := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help train test test-slow test-adapters test-versions lint format assets bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(VENV)/.installed  ## two agents learn on the embedded model; the run goes to runs/
	$(BIN)/coevo train $(ARGS)

test: $(VENV)/.installed-dev  ## the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev  ## the tests that train for minutes, and those that need `make assets`
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) -m "slow or assets" $(PYTEST_ARGS)

test-adapters:  ## the libraries, each in an environment of its own under .venv-adapters/; writes docs/adapters.md
	$(PYTHON) docs/scripts/adapters.py run $(LIBRARY)

test-versions:  ## the tests under each supported Python, and with the oldest versions of the dependencies (by uv)
	$(PYTHON) docs/scripts/versions.py $(VERSIONS)

lint: $(VENV)/.installed-dev  ## linter, formatter and type checker, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev  ## puts the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

assets: $(VENV)/.installed-assets  ## a real language model and real reviews, into the user's cache
	$(BIN)/coevo assets

bench: $(VENV)/.installed-bench  ## the speed benchmarks, see benchmarks/README.md
	$(BIN)/python -m benchmarks.speed

clean:  ## removes the environment and what tools left behind, not the runs
	rm -rf $(VENV) .venv-adapters .venv-versions build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment, grown as targets need it. A stamp is renewed when the dependencies change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "coevo-env needs Python 3.10 or newer; $(PYTHON) is older or missing. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[$*]'
	@touch $@ $(VENV)/.installed
