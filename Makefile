# Needs python3 (3.11 or newer), make and a package registry. Everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := infra/requirements
# Time stamps of installations, compared with those of the requirements.
MADE := $(VENV)/.made
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
BENCHED := $(VENV)/.bench
# The linter and formatter for the dashboard's scripts and style sheets, from npm; pip installs Node.js.
BIOME := $(VENV)/biome
BIOME_RUN := cd dashboard && PATH="$(abspath $(BIN)):$$PATH" $(abspath $(BIOME))/node_modules/.bin/biome
# Tests mostly wait, so two processes run them, each with its own servers (ARGS="-n 0" for one).
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Options of the soak test: duration, seed of the schedule, group protocol.
MINUTES ?= 10
SEED ?= 7
PROTOCOL ?= consumer
# Options of a target's command: make up ARGS="--workers 4 --processing-seconds 5"
ARGS ?=
# make bench BENCH=relay: only benchmarks with this in their names; BENCH="relay;sync": either
BENCH ?=
# make compose-scale N=6; make compose-rebuild SERVICE=processor
N ?= 3
SERVICE ?= processor

.DEFAULT_GOAL := help
.PHONY: help setup up down demo check test test-rest test-all test-slow test-containers soak lab notebooks notebooks-full bench bench-growth bench-viewers bench-publish pictures format \
	lock clean compose-up compose-down compose-scale compose-logs compose-rebuild

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUN) ## Install the runtime requirements into .venv

up: $(RUN) ## Start a stack with its page at http://127.0.0.1:8501; Ctrl-C stops it (ARGS="--workers 4")
	@$(BIN)/filemill up $(ARGS)

down: $(RUN) ## Stop the stack from another terminal
	@$(BIN)/filemill down $(ARGS)

demo: $(RUN) ## Create 12 files in a temporary stack, download and verify them
	@$(BIN)/filemill demo $(ARGS)

check: $(DEV) $(BENCHED) $(BIOME)/.made ## Run the checks: ruff, import-linter, Biome, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIOME_RUN) check --error-on-warnings
	$(BIN)/mypy

test: $(DEV) $(BENCHED) ## Run the fast tests: unit, contract, core integration, dashboard, acceptance (ARGS="-k relay")
	$(PYTEST) -m "not full and not slow" $(ARGS)

test-rest: $(DEV) $(BENCHED) ## Run the tests that `make test` leaves out, but for the slow ones
	$(PYTEST) -m "full and not slow" $(ARGS)

test-all: $(DEV) $(BENCHED) ## Run all tests but the slow ones: about half an hour
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(DEV) $(BENCHED) ## Run the slow tests: they take minutes each, and some need a quiet machine
	$(PYTEST) -m slow $(ARGS)

test-containers: $(DEV) ## Run the integration and contract tests on servers in containers (Docker)
	FILEMILL_TEST_SERVERS=containers $(BIN)/pytest -m "not slow" tests/contract tests/integration $(ARGS)

compose-up: ## Start a stack in containers, with its page at http://localhost:8501; needs only Docker
	docker compose up --detach --build --wait $(ARGS)

compose-down: ## Stop and remove the containers, but not the data (ARGS=--volumes removes it too)
	docker compose down $(ARGS)

compose-scale: ## Scale the processors in containers to N (N=6)
	docker compose up --detach --no-deps --no-recreate --scale processor=$(N) processor

compose-logs: ## Show the containers' logs (ARGS="--follow processor")
	docker compose logs $(ARGS)

compose-rebuild: ## Rebuild and replace a service after a code change (SERVICE=processor)
	docker compose up --detach --build --no-deps $(SERVICE)

soak: $(DEV) ## Run a chaos schedule of all faults under load, then verify (MINUTES=10 SEED=7 PROTOCOL=consumer)
	$(BIN)/python -m filemill.lab soak --minutes $(MINUTES) --seed $(SEED) --protocol $(PROTOCOL) $(ARGS)

lab: $(DEV) ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks $(ARGS)

notebooks: $(DEV) ## Run all notebooks with small parameters and check their invariants
	$(BIN)/python -m filemill.lab notebooks $(ARGS)

notebooks-full: $(DEV) ## Run all notebooks with full parameters and save their outputs: one hour, needs Chromium
	$(BIN)/python -m filemill.lab notebooks --full $(ARGS)
	$(BIN)/python -m filemill.lab publish

pictures: $(DEV) ## Take screenshots of all pages of a running stack (URL=http://127.0.0.1:8501)
	$(BIN)/python -m tests.browser.take_pictures $(or $(URL),http://127.0.0.1:8501)

bench: $(BENCHED) ## Compare with raw limits and peers, interleaved: a quarter of an hour (BENCH=relay for one)
	$(BIN)/python -m benchmarks ratios $(if $(BENCH),--only "$(BENCH)") $(ARGS)

bench-growth: $(BENCHED) ## Measure growth of files, rows, partitions and workers, and latency: one hour (BENCH=rows)
	$(BIN)/python -m benchmarks growth $(if $(BENCH),--only "$(BENCH)") $(ARGS)

bench-viewers: $(BENCHED) ## Measure open pages, 1,000 pollers and a million rows: ten minutes (ARGS="--rows 10000")
	$(BIN)/python -m benchmarks.viewers $(ARGS)

bench-publish: $(BENCHED) ## Copy the figures of results/bench into benchmarks/results, which is committed
	$(BIN)/python -m benchmarks publish $(ARGS)

format: $(DEV) $(BIOME)/.made ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIOME_RUN) check --write

lock: $(DEV) ## Pin the newest versions of all dependencies, with their hashes
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--upgrade --all-extras --group dev --quiet --output-file $(REQUIREMENTS)/dev.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--extra embedded --group build --constraints $(REQUIREMENTS)/dev.txt \
		--quiet --output-file $(REQUIREMENTS)/run.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--constraints $(REQUIREMENTS)/dev.txt --quiet --output-file $(REQUIREMENTS)/image.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--extra lab --extra embedded --constraints $(REQUIREMENTS)/dev.txt --quiet --output-file $(REQUIREMENTS)/lab.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--group build --constraints $(REQUIREMENTS)/dev.txt --quiet --output-file $(REQUIREMENTS)/build.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
		--group bench --constraints $(REQUIREMENTS)/dev.txt --quiet --output-file $(REQUIREMENTS)/bench.txt

clean: ## Remove .venv and caches, but not the data in .filemill
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "filemill needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "python3 could not create a virtual environment (on Debian: apt install python3-venv)." >&2; exit 1; }
	@touch $@

$(RUN): $(MADE) $(REQUIREMENTS)/run.txt pyproject.toml
	@echo "Installing into $(VENV) (a minute or two, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUN) $(REQUIREMENTS)/dev.txt
	@echo "Installing the requirements of tests and checks (a minute or two, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/dev.txt
	@touch $@

$(BENCHED): $(DEV) $(REQUIREMENTS)/bench.txt
	@echo "Installing the peers of the benchmarks ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/bench.txt
	@touch $@

$(BIOME)/.made: $(DEV) dashboard/package.json dashboard/package-lock.json
	@mkdir -p $(BIOME)
	@cp dashboard/package.json dashboard/package-lock.json $(BIOME)
	@PATH="$(abspath $(BIN)):$$PATH" npm ci --prefix $(BIOME) --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@
