# Everything happens in .venv, and nothing is done twice. `make help` says what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.tools
WHEEL := $(VENV)/.package
BENCH := .venv-bench
PEERS := $(BENCH)/.peers
# All five parts in some 30 minutes on two cores; with QUICK=1 in some 4.
MAP_STYLE := $(if $(QUICK),--rows 200000 --batches 256 --rounds 1 --seconds 0.3,--rounds 2 --seconds 0.8)
STREAMING := $(if $(QUICK),--quick --workloads embeddings,--rounds 2 --seconds 1)
SIDE_BY_SIDE := $(if $(QUICK),--scale quick --workloads embeddings images tokens)
MIXTURES := $(if $(QUICK),--quick)
DISK_CACHE := $(if $(QUICK),--rows 100000 --rounds 1)
# Tests run in more processes than there are cores, as many wait for others, and most where programs do;
# each file in one, by their names.
SIDE_BY_SIDE_TESTS := --dist loadfile --no-loadscope-reorder
SOURCES := pyproject.toml $(shell find python/lancedb python/lancedb_torch_worker -name '*.py' -o -name '*.pyi' -o -type d \
	| grep -v __pycache__)

# Tests as pytest has rewritten them are kept, where Python is told to write no bytecode too: six seconds
# of each process.
test soak: export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help demo test soak check format docs bench clean

help:  ## Say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(WHEEL)  ## Make a table of handwritten digits and train a model on it with two workers
	@echo "== training on digits in an embedded LanceDB (demo/lancedb)"
	@$(BIN)/python examples/digits.py --out demo

test: $(WHEEL)  ## Run the tests, in a few minutes
	@echo "== running the tests"
	@$(BIN)/python -m pytest $(or $(ARGS),-m "not soak" -n 3 $(SIDE_BY_SIDE_TESTS))

soak: $(WHEEL)  ## Run what takes long: every start method, programs on ranks, thousands of epochs
	@echo "== soaking"
	@$(BIN)/python -m pytest -m soak -n 4 $(SIDE_BY_SIDE_TESTS)

check: $(WHEEL)  ## Lint, formatting, types
	@echo "== ruff check"
	@$(BIN)/ruff check .
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "== pyright"
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Fix lint and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)  ## Build the documentation into site/
	@echo "== building the documentation into site/"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict --clean
	@echo "== open site/index.html"

bench: $(PEERS)  ## Measure against other loaders, and write the docs' figures; QUICK=1: in 4 minutes, without
	@echo "== measuring; results go to benchmarks/results"
	@$(BENCH)/bin/python benchmarks/map_style.py $(MAP_STYLE)
	@$(BENCH)/bin/python benchmarks/streaming.py $(STREAMING)
	@# What killed peers leave in shared memory is tidied up at the end, with a warning.
	@$(BENCH)/bin/python -W ignore:resource_tracker:UserWarning benchmarks/side_by_side.py $(SIDE_BY_SIDE)
	@$(BENCH)/bin/python -W ignore:resource_tracker:UserWarning benchmarks/mixtures.py $(MIXTURES)
	@$(BENCH)/bin/python benchmarks/disk_cache.py $(DISK_CACHE) --out benchmarks/results/disk_cache.json
	@$(if $(QUICK),,$(BENCH)/bin/python benchmarks/figures.py)

clean:  ## Remove what was made, but for the benchmark data
	rm -rf $(VENV) $(BENCH) demo site dist build .hypothesis .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "Python 3.10 or newer is needed; name one with 'make PYTHON=python3.12 ...'"; exit 1; }
	@echo "== making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(STAMP): constraints.txt $(BIN)/python
	@echo "== installing the tested set of packages into $(VENV) (torch is large)"
	@$(PIP) install --constraint constraints.txt --requirement constraints.txt
	@touch $@

# Installed as users have it, as a wheel, and again whenever a source file has changed.
$(WHEEL): $(STAMP) $(SOURCES) README.md
	@echo "== installing lancedb-torch into $(VENV)"
	@$(PIP) uninstall --yes lancedb-torch 2>/dev/null
	@rm -rf build
	@$(PIP) install --no-deps --no-build-isolation .
	@touch $@

# The loaders to compare with see the packages of $(VENV), and do not change them.
$(PEERS): $(WHEEL) benchmarks/requirements.txt benchmarks/install_peers.py
	@echo "== installing the loaders to compare with into $(BENCH)"
	@$(BIN)/python -m venv $(BENCH)
	@$(BIN)/python benchmarks/install_peers.py $(BENCH)
	@touch $@
