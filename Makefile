# Needs python3 (3.11 or newer), make and a package registry; everything else it installs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := infra/requirements
# Stamps: what is installed is newer than what asks for it.
MADE := $(VENV)/.made
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
BENCHED := $(VENV)/.bench
# The linter and formatter of the dashboard's scripts and style sheets: from npm, by the Node.js that pip installs.
BIOME := $(VENV)/biome
BIOME_RUN := cd dashboard && PATH="$(abspath $(BIN)):$$PATH" $(abspath $(BIOME))/node_modules/.bin/biome
# Tests wait more than they work: two processes of them, each with servers of its own (ARGS="-n 0": one).
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# The soak: how long, which schedule, which group protocol.
MINUTES ?= 10
SEED ?= 7
PROTOCOL ?= consumer
# Options of the command behind a target: make up ARGS="--workers 4 --processing-seconds 5"
ARGS ?=
# make bench BENCH=relay: only what has this in its name; BENCH="relay;sync": this or that
BENCH ?=
# make compose-scale N=6; make compose-rebuild SERVICE=processor
N ?= 3
SERVICE ?= processor

.DEFAULT_GOAL := help
.PHONY: help setup up down demo check test test-all test-containers soak lab notebooks notebooks-full bench bench-growth bench-viewers pictures format \
	lock clean compose-up compose-down compose-scale compose-logs compose-rebuild

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUN) ## Install what is needed to run, into .venv

up: $(RUN) ## Start everything and open the page at http://127.0.0.1:8501; Ctrl-C stops it (ARGS="--workers 4")
	@$(BIN)/filemill up $(ARGS)

down: $(RUN) ## Stop a stack that runs in another terminal
	@$(BIN)/filemill down $(ARGS)

demo: $(RUN) ## Try it all in a throw-away home: 12 files, downloaded, compared, verified
	@$(BIN)/filemill demo $(ARGS)

check: $(DEV) $(BENCHED) $(BIOME)/.made ## What CI checks first: ruff, Biome, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIOME_RUN) check --error-on-warnings
	$(BIN)/mypy

test: $(DEV) $(BENCHED) ## Run the tests, on real servers that they start themselves (ARGS="-k relay")
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(DEV) $(BENCHED) ## Run the tests that take long, too
	$(PYTEST) $(ARGS)

test-containers: $(DEV) ## Run the integration and contract tests on servers in containers (Docker)
	FILEMILL_TEST_SERVERS=containers $(BIN)/pytest -m "not slow" tests/contract tests/integration $(ARGS)

compose-up: ## Start everything in containers, with Docker alone; the page is at http://localhost:8501
	docker compose up --detach --build --wait $(ARGS)

compose-down: ## Stop and remove the containers; the data stays (ARGS=--volumes removes it too)
	docker compose down $(ARGS)

compose-scale: ## Have N processors in containers (N=6)
	docker compose up --detach --no-deps --no-recreate --scale processor=$(N) processor

compose-logs: ## Show what the containers say (ARGS="--follow processor")
	docker compose logs $(ARGS)

compose-rebuild: ## Rebuild and replace one service after a change of the code (SERVICE=processor)
	docker compose up --detach --build --no-deps $(SERVICE)

soak: $(DEV) ## A seeded storm of all faults under load, then a verdict (MINUTES=10 SEED=7 PROTOCOL=consumer)
	$(BIN)/python -m filemill.lab soak --minutes $(MINUTES) --seed $(SEED) --protocol $(PROTOCOL) $(ARGS)

lab: $(DEV) ## Open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks $(ARGS)

notebooks: $(DEV) ## Run all notebooks at small parameters, to their verdicts
	$(BIN)/python -m filemill.lab notebooks $(ARGS)

notebooks-full: $(DEV) ## Run all notebooks at full parameters and keep their outputs in them: an hour, and a Chromium
	$(BIN)/python -m filemill.lab notebooks --full $(ARGS)
	$(BIN)/python -m filemill.lab publish

pictures: $(DEV) ## Take the pictures of all pages from a running stack (URL=http://127.0.0.1:8501)
	$(BIN)/python -m tests.browser.take_pictures $(or $(URL),http://127.0.0.1:8501)

bench: $(BENCHED) ## Measure it beside raw limits and peers, interleaved: a quarter of an hour (BENCH=relay for one)
	$(BIN)/python -m benchmarks ratios $(if $(BENCH),--only "$(BENCH)") $(ARGS)

bench-growth: $(BENCHED) ## More files, rows, partitions, workers; long jobs, latency, verify: an hour (BENCH=rows)
	$(BIN)/python -m benchmarks growth $(if $(BENCH),--only "$(BENCH)") $(ARGS)

bench-viewers: $(BENCHED) ## Open pages, 1,000 pollers, any page of a million rows: ten minutes (ARGS="--rows 10000")
	$(BIN)/python -m benchmarks.viewers $(ARGS)

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

$(BENCHED): $(DEV) $(REQUIREMENTS)/bench.txt
	@echo "Installing the peers that are measured beside it ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(REQUIREMENTS)/bench.txt
	@touch $@

$(BIOME)/.made: $(DEV) dashboard/package.json dashboard/package-lock.json
	@mkdir -p $(BIOME)
	@cp dashboard/package.json dashboard/package-lock.json $(BIOME)
	@PATH="$(abspath $(BIN)):$$PATH" npm ci --prefix $(BIOME) --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@
