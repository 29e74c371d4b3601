# A machine with Python >= 3.11 (with venv) and make needs nothing else: every target makes what it stands on.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
SEED ?= 0
MINUTES ?= 10

.DEFAULT_GOAL := help
.PHONY: help demo test integration check format bench compare growth validate soak schema build clean

help: ## Show the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "sundog needs Python 3.11 or later with its venv module (Debian: apt-get install python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps say what is installed; they are older than pyproject.toml when a dependency may have changed.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $(VENV)/installed $@

# The peers bring a hundred packages: they get an environment of their own within ours.
$(VENV)/peers/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "sundog needs Python 3.11 or later with its venv module (Debian: apt-get install python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip --quiet --disable-pip-version-check install -e '.[compare]'
	@touch $@

demo: $(VENV)/installed ## Run the tour: what sundog does, in five seconds.
	@$(BIN)/python examples/tour.py

test: $(VENV)/installed ## Run every test but the soak, two at a time.
	$(BIN)/python -m tests.support.two_at_a_time

integration: $(VENV)/installed ## Run the tests that start real processes.
	$(BIN)/python -m pytest tests/integration -m 'not soak'

soak: $(VENV)/installed ## Run the tests that go on for long, with printed seeds.
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m soak -s --timeout=0

check: $(VENV)/installed-dev ## Run ruff, mypy --strict, the import contracts and the count of operations.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.operations

format: $(VENV)/installed-dev ## Format, and fix what can be fixed.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed ## Print the table of what things cost.
	$(BIN)/python -m benchmarks.run

compare: $(VENV)/peers/installed ## Put Ray, Dask, joblib and concurrent.futures beside sundog, for MINUTES (10).
	$(VENV)/peers/bin/python -m benchmarks.compare --minutes $(MINUTES)

growth: $(VENV)/installed ## Measure how cost grows with size: growth.md, growth.json and growth.svg.
	$(PIP) -e '.[plots]'
	$(BIN)/python -m benchmarks.growth

validate: $(VENV)/installed ## Hold the simulator against closed forms, and print the table.
	$(BIN)/python -m benchmarks.validation

schema: $(VENV)/installed ## Write the message schema that the tidy test compares with.
	$(BIN)/python -m tests.tidy.schema

build: $(VENV)/installed-dev ## Build the wheel and the source distribution into dist/.
	$(BIN)/python -m build --outdir dist .

clean: ## Remove everything that these targets made.
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
