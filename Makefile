# Everything runs inside this folder: uv in .tools, the packages in .venv. Nothing else on the machine is touched but uv's cache.
# Needs python3 (3.11 or newer) with pip. Another interpreter: make PYTHON=python3.13 test

PYTHON     ?= python3
UV_VERSION := 0.13.9
TOOLS      := .tools/uv-$(UV_VERSION)
UV         := $(TOOLS)/bin/uv
BIN        := .venv/bin
LOCKED     := pyproject.toml uv.lock

# The defaults fit two cores. `make test ARGS='-k balance'`, `make test JOBS=0` for one process and a debugger.
JOBS ?= 2
ARGS ?=

export UV_PYTHON := $(PYTHON)
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
# The machine's own certificates, so that uv and pip trust the same proxies.
export UV_SYSTEM_CERTS := 1
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demos test crash chaos fire lint format types contracts check bench bench-peers build lock lock-check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready-dev ## everything the checks and tests need

demo: .venv/.ready-$(if $(findstring --queue,$(ARGS)),dev,demo) ## the main job on a real event log; options in ARGS='--seed 7'
	$(BIN)/crossfoot demo $(ARGS)

test: .venv/.ready-dev ## all tests; options in ARGS='-k balance'
	$(BIN)/pytest -n $(JOBS) --dist loadscope $(ARGS)

crash: .venv/.ready-dev ## the crash matrix in full: 20 kills at every boundary; options in ARGS='--queue sqs --kills 50'
	$(BIN)/python -m tests.crash $(ARGS)

chaos: .venv/.ready-dev ## everything around a service breaks, on every pair of book and queue; options in ARGS='--minutes 30 --pair postgres/postgres --seed 7'
	nice -n 19 $(BIN)/python -m tests.chaos $(ARGS)

fire: .venv/.ready-dev ## a replay of 20,000 dead letters while everything is killed; options in ARGS='--dead 2000 --seed 7'
	$(BIN)/python -m tests.fire $(ARGS)

demos: .venv/.ready-dev ## the demo at full size, over seeds and queues; options in ARGS='--seeds 1,2,3'
	$(BIN)/python -m tests.demos $(ARGS)

lint: .venv/.ready-dev ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.ready-dev ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.ready-dev ## mypy --strict
	$(BIN)/mypy

contracts: .venv/.ready-dev ## the rooms and who may import whom
	$(BIN)/lint-imports --no-logo

check: lint types contracts test ## all of the above

bench: .venv/.ready-bench ## every benchmark, one after the other
	@set -e; for file in benchmarks/[a-z]*.py; do \
	  [ -e "$$file" ] || { echo "no benchmark in benchmarks/ yet" >&2; exit 1; }; \
	  echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

bench-%: ## one benchmark: make bench-NAME runs benchmarks/NAME.py
	@[ -e benchmarks/$*.py ] || { echo "benchmarks/$*.py is not there; there are: $$(ls benchmarks 2>/dev/null | tr '\n' ' ')" >&2; exit 1; }
	@$(MAKE) --no-print-directory .venv/.ready-bench
	$(BIN)/python benchmarks/$*.py $(ARGS)

bench-peers: .venv/.ready-dev ## crossfoot beside other task queues, their servers included; options in ARGS='run --rounds 1'
	UV=$(abspath $(UV)) $(BIN)/python -m benchmarks.peers $(or $(ARGS),run)

build: $(UV) ## wheel and source archive into dist/
	$(UV) build

lock: $(UV) ## resolve the dependencies again, newest versions
	$(UV) lock --upgrade

lock-check: $(UV) ## does uv.lock fit pyproject.toml?
	$(UV) lock --check

clean: ## remove what make has set up
	rm -rf .venv .tools build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The demo needs the base only. It leaves alone what the tests have installed, hence --inexact.
.venv/.ready-demo: $(LOCKED) | $(UV)
	$(UV) sync --frozen --inexact --no-default-groups
	@touch $@

.venv/.ready-dev: $(LOCKED) | $(UV)
	$(UV) sync --frozen --all-extras --group dev
	@touch .venv/.ready-demo $@

.venv/.ready-bench: .venv/.ready-dev
	$(UV) sync --frozen --inexact --all-extras --group dev --group bench
	@touch $@

# --target: works without venv or ensurepip, and where the system's Python is "externally managed".
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "crossfoot needs Python 3.11 or newer, and $(PYTHON) is not: name another, as in make PYTHON=python3.13 setup" >&2; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null || \
	  { echo "$(PYTHON) has no pip: install it (on Debian: apt-get install python3-pip)" >&2; exit 1; }
	@rm -rf $(TOOLS).part
	PIP_USER=0 PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(TOOLS).part uv==$(UV_VERSION)
	@rm -rf $(TOOLS) && mv $(TOOLS).part $(TOOLS)
