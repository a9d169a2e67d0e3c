# Two commands: `make demo` (IMAGES=<folder> for your own pictures) and `make test`.
# They need Python 3.11 or newer and nothing else; everything goes into .venv.

PYTHON ?= python3
VENV ?= .venv
# Where your index has CPU-only wheels of PyTorch, name it here and save gigabytes: make demo TORCH_INDEX=<url>
TORCH_INDEX ?=
IMAGES ?=
# make demo KEEP=1 leaves everything running until Ctrl-C
KEEP ?=
# make faults SECONDS=300 breaks things at random that long, on each of DATABASES; SEED=<n> repeats a run
SECONDS ?=
SEED ?=
DATABASES ?= sqlite postgresql

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo up test contract-postgresql examples faults benchmarks check page screens format docs clean

help:
	@echo 'make demo [IMAGES=<folder>]   embed, search and cluster 30 drawn pictures, or your own; KEEP=1: stay, to look at them'
	@echo 'make up                       keep the service running on this machine'
	@echo 'make test                     format, lint, types, import rules and all tests'
	@echo 'make contract-postgresql      the tests of the HTTP API on PostgreSQL, those too that run on SQLite by default'
	@echo 'make examples                  examples/ against the packages that they are for, in an environment of their own'
	@echo 'make faults [SECONDS=300]     kill, freeze and fill everything; or do so at random for that long'
	@echo 'make benchmarks               measure against other libraries; `imagekin bench` measures this machine'
	@echo 'make page                     build the web page from web/ into the package; needs Node 18'
	@echo 'make screens [SCREENS=<dir>]  draw every screen of the page, in light and dark, wide and narrow'
	@echo 'make format                   put the code into shape'
	@echo 'make docs                     write the reference pages that are made of the code'

demo: $(VENV)/.quickstart
	$(BIN)/imagekin demo $(if $(IMAGES),"$(IMAGES)") $(if $(KEEP),--keep)

up: $(VENV)/.quickstart
	$(BIN)/imagekin up

# Tests wait for servers more than they compute: more of them at once than there are cores. tests/kit/distribution.py says
# which run where. Modules are compiled once, not by each process that tests start.
TESTS_AT_ONCE ?= 4

test: check
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTS_AT_ONCE)

contract-postgresql: $(VENV)/.dev
	$(BIN)/python -m pytest tests/contract --postgresql -k 'not sqlite' -n $(TESTS_AT_ONCE)

faults: $(VENV)/.dev
ifdef SECONDS
	for database in $(DATABASES); do \
		$(BIN)/python tests/faults/random_run.py --seconds $(SECONDS) --database $$database $(if $(SEED),--seed $(SEED)) || exit 1; \
	done
else
	$(BIN)/python -m pytest tests/faults -m 'faults or not faults'
	$(BIN)/python -m pytest tests/unit tests/integration -m faults
endif

examples: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/examples
	$(VENV)/examples/bin/python -m pip --quiet --disable-pip-version-check install '.[examples]'
	EXAMPLES_PYTHON=$(VENV)/examples/bin/python $(BIN)/python -m pytest tests/e2e/service/test_example_tools.py

benchmarks: $(VENV)/.dev
	$(PIP) install --editable '.[benchmarks]'
	$(BIN)/python -m pytest tests/benchmarks -m benchmarks -s

check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	web/check.sh

# Committed, so that only those who change the page need Node.
page:
	cd web && npm ci --no-audit --no-fund --loglevel=error && npm run types && npm run build

# To be looked at by whoever changed one; needs Chromium.
SCREENS ?= screens

screens: $(VENV)/.dev
	$(BIN)/python tests/browser/screens.py "$(SCREENS)"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'imagekin needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo 'Python has no venv module (Debian and Ubuntu: install python3-venv).' >&2; exit 1; }

$(VENV)/.torch: $(BIN)/python
	@echo 'Installing PyTorch into $(VENV); the first time this takes minutes.'
	$(if $(TORCH_INDEX),$(PIP) install --index-url $(TORCH_INDEX) torch torchvision)
	@touch $@

$(VENV)/.quickstart: $(VENV)/.torch pyproject.toml
	$(PIP) install --editable '.[quickstart]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.quickstart
