# Every target sets up what it needs. `make` alone lists them.

PYTHON ?= python3
PROFILE ?= quick
CORES ?= all
BROWSER ?= yes
ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
# uv is pinned where everything else is.
UV := $(shell sed -n 's/^\(uv==[^ ;]*\).*/\1/p' requirements.txt)

.DEFAULT_GOAL := help
.PHONY: help setup browser book pdf costs test outside lint format bench throughput families distill \
	notebooks readme runtime lock clean
.DELETE_ON_ERROR:

# A package path left over in the shell would win over the pinned packages, and without compiled
# files every process compiles its libraries anew: a quarter of a minute for each training run.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo "Variables: PYTHON=$(PYTHON) (3.11 or newer), PROFILE=$(PROFILE), CORES=$(CORES), BROWSER=no to install none, ARGS for the called tool"

setup: $(STAMP) ## Create .venv from the pinned requirements

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is not Python 3.11 or newer; run make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing the pinned packages into .venv (several minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# The built book is read in a browser; without one that is skipped, so a failure here stops nothing.
browser: ## Install Chromium where it is missing (root on Debian only)
ifneq ($(BROWSER),no)
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| test "$$(id -u)" != 0 -o ! -e /etc/debian_version \
		|| { echo "Installing Chromium, to read the book in a browser (BROWSER=no leaves it out)" \
			&& apt-get update -qq -o Acquire::http::Timeout=30 \
			&& DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "Chromium could not be installed; going on without it"
else
	@:
endif

book: $(STAMP) browser ## Run the notebooks and build the book
	@$(BIN)/snakemake --cores $(CORES) --config profile=$(PROFILE) $(ARGS) -- book
	@echo "The book is at $(CURDIR)/_build/html/index.html"

pdf: book ## Print the book into one PDF
	@$(BIN)/python -m tests.printing _build/html _build/ttame.pdf

costs: $(STAMP) ## Write what the chapters of the last build took into their first lines
	@$(BIN)/python -m tests.costs _build/src/notebooks

# One process per core, each with one thread: more threads than cores wait for each other.
test: $(STAMP) browser ## Run the tests (fast part: ARGS="-m 'not slow'")
	@MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses auto --dist loadfile $(ARGS)

outside: $(STAMP) ## Run the notebooks outside the repository, freshly installed
	@$(BIN)/python tests/outside.py $(ARGS)

lint: $(STAMP) ## Check style, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP) ## Apply the style, to the notebooks' .ipynb, too
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(MAKE) --no-print-directory notebooks

bench: $(STAMP) ## Time explanations, every method, ROAD's imputation and exported files
	@$(BIN)/python -m benchmarks explaining $(ARGS)
	@$(BIN)/python -m benchmarks runtime

throughput: $(STAMP) ## Time training steps against the classifier's own passes
	@$(BIN)/python -m benchmarks training $(ARGS)

families: $(STAMP) ## Check a member of every model family
	@$(BIN)/python -m benchmarks families $(ARGS)

distill: $(STAMP) ## Train the shipped Vision Transformer anew, into runs/vit
	@$(BIN)/python -m benchmarks distill $(ARGS)

notebooks: $(STAMP) ## Regenerate the .ipynb beside each notebook source
	@$(BIN)/python -m ttame.companion.notebooks convert notebooks/*.py

readme: $(STAMP) ## Rewrite the README's table of results from the records
	@$(BIN)/python -m tests.headline

runtime: $(STAMP) ## Fetch ONNX Runtime for browsers from npm (VERSION=... for another)
	@$(BIN)/python -m ttame.companion.page.runtime $(VERSION)

# All extras but `lrp`, which is for those who choose it.
lock: $(STAMP) ## Recompile requirements.txt from pyproject.toml
	@$(BIN)/uv pip compile --universal --python-version 3.11 -q --no-header \
		--extra train --extra evaluate --extra lite --extra export --extra book --extra dev \
		pyproject.toml -o requirements.txt

clean: ## Remove what was built, but not the environment
	@rm -rf _build .snakemake dist .mypy_cache .pytest_cache .ruff_cache
