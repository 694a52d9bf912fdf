# Everything a fresh machine needs: `make run` and `make test` set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: $(STAMP)  ## evolve the bundled nanochat on this machine's CPU, about 40 evaluations, under 6 minutes
	$(BIN)/evolve run --preset cpu --generations 3 --offspring 6 --max-evaluations 44 --set lag=4

test: $(VENV)/.installed-dev  ## lint, types, import rules and the fast tests
	@echo "== lint"  && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== types" && $(BIN)/pyright --pythonpath $(BIN)/python
	@echo "== tests" && $(BIN)/pytest -n 2 -m "not slow and not gpu and not live"

check: test  ## what must be green before a change lands: lint, types, layers, tests, slow tests
	$(BIN)/pytest -m "slow and not gpu and not live"

bench: $(STAMP)  ## every benchmark, each into benchmarks/results/ (long: the scan and the simulation take minutes)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-long: $(STAMP)  ## a fresh clone timed, and the main job with 50 generations (an hour or more)
	@for script in benchmarks/long/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: $(STAMP)  ## depth 12 on one H100-class GPU: speed, memory, kernels, compile times, noise, judge (half an hour)
	$(BIN)/python benchmarks/gpu/depth12.py all

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: help run test check bench bench-long bench-gpu
