# Needs python3 (3.11 or newer), make and a package registry; everything else it installs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := infra/requirements
# Stamps: what is installed is newer than what asks for it.
MADE := $(VENV)/.made
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
# The soak: how long, which schedule, which group protocol.
MINUTES ?= 10
SEED ?= 7
PROTOCOL ?= consumer
# Options of the command behind a target: make up ARGS="--workers 4 --processing-seconds 5"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup up down demo check test test-all soak lab notebooks format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUN) ## Install what is needed to run, into .venv

up: $(RUN) ## Start everything and open the page at http://127.0.0.1:8501; Ctrl-C stops it (ARGS="--workers 4")
	@$(BIN)/filemill up $(ARGS)

down: $(RUN) ## Stop a stack that runs in another terminal
	@$(BIN)/filemill down $(ARGS)

demo: $(RUN) ## Try it all in a throw-away home: 12 files, downloaded, compared, verified
	@$(BIN)/filemill demo $(ARGS)

check: $(DEV) ## What CI checks first: ruff, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(DEV) ## Run the tests, on real servers that they start themselves (ARGS="-k relay")
	$(BIN)/pytest -m "not slow" $(ARGS)

test-all: $(DEV) ## Run the tests that take long, too
	$(BIN)/pytest $(ARGS)

soak: $(DEV) ## A seeded storm of all faults under load, then a verdict (MINUTES=10 SEED=7 PROTOCOL=consumer)
	$(BIN)/python -m filemill.lab soak --minutes $(MINUTES) --seed $(SEED) --protocol $(PROTOCOL) $(ARGS)

lab: $(DEV) ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks $(ARGS)

notebooks: $(DEV) ## Run all notebooks at small parameters, to their verdicts (ARGS=--full: at those for real figures)
	$(BIN)/python -m filemill.lab notebooks $(ARGS)

format: $(DEV) ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: $(DEV) ## Pin the newest versions of all dependencies, with their hashes
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--upgrade --all-extras --group dev --quiet --output-file $(REQUIREMENTS)/dev.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--extra embedded --group build --constraints $(REQUIREMENTS)/dev.txt \
		--quiet --output-file $(REQUIREMENTS)/run.txt

clean: ## Remove .venv and caches; the data in .filemill stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "filemill needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "python3 could not make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 1; }
	@touch $@

$(RUN): $(MADE) $(REQUIREMENTS)/run.txt pyproject.toml
	@echo "Installing into $(VENV) (a minute or two, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUN) $(REQUIREMENTS)/dev.txt
	@echo "Installing what tests and checks need (a minute or two, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/dev.txt
	@touch $@
