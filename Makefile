# `make demo` and `make test` work on a fresh clone: the first makes .venv and installs into it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEVELOPED := .venv/developed
# Draws one of three heavy tests; `make test TEST_SEED=` runs all.
TEST_SEED ?= $(shell date +%F)
# uv or pip; a package whose files are not those of the lock is refused.
INSTALL := $(PYTHON) install.py $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help install demo test test-onnx test-tensorflow docs check up down bench faults year test-team test-latest test-floors lock audit release clean

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install into it, without development tools.

demo: $(INSTALLED) ## Run the main job on 2,624 real images, without a server: from files to a champion and a scored batch.
	$(BIN)/grayline demo

test: $(DEVELOPED) check ## Run every check and every test; one in three heavy ones; none that needs an extra of half a gigabyte.
	TEST_SEED=$(TEST_SEED) OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not docs and not onnx and not tensorflow' \
		--numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-onnx: $(DEVELOPED) ## Run the tests of ONNX, onnxruntime and OpenVINO exports; install [onnx].
	$(INSTALL) requirements-onnx.lock
	$(BIN)/pytest -m onnx

test-tensorflow: $(DEVELOPED) ## Run the tests of TensorFlow's exports and readers; install [tensorflow].
	$(INSTALL) requirements-tensorflow.lock
	$(BIN)/pytest -m tensorflow

docs: $(DEVELOPED) ## Build the documentation site into build/site/, check its links, and open its pages in a browser.
	$(INSTALL) requirements-docs.lock
	$(BIN)/pytest -m docs
	@echo "open build/site/index.html, or: $(BIN)/mkdocs serve"

check: $(DEVELOPED) ## Check lint, format, types, layers and words, in seconds.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.words

up: $(INSTALLED) ## Start Prefect, MLflow, a worker, all deployments; `make up DATA.yaml ...`: with nights. PUBLIC=1: behind a TLS proxy.
	@$(BIN)/grayline up $(filter %.yaml %.yml,$(MAKECMDGOALS)) $(if $(PUBLIC),--public)

# Data set files behind `make up` are not goals.
%.yaml %.yml: ;

down: ## Stop the processes that `make up` started.
	@$(BIN)/grayline down

faults: $(DEVELOPED) ## Let every operation of nights, batches and promotions fail once, and run them again: hours.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fault_points

year: $(DEVELOPED) ## Simulate 365 nights with what a year brings, drawn by a seed.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.year

test-team: $(DEVELOPED) ## Run the team profile: PostgreSQL, S3, TLS, two workers in network namespaces (as root); ten minutes.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.team

test-latest: $(DEVELOPED) ## Try the newest releases of all dependencies, in an environment of its own.
	$(BIN)/python -m tests.other_versions highest

test-floors: $(DEVELOPED) ## Try the oldest releases that pyproject.toml allows, in an environment of its own.
	$(BIN)/python -m tests.other_versions lowest-direct

bench: $(DEVELOPED) ## Measure ratios against peers in the same run; print a table, write JSON.
	$(BIN)/python -m benchmarks

# Versions and hashes of every package, for every platform; those of an extra leave out what is in the first.
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-annotate \
  --custom-compile-command 'make lock' pyproject.toml
lock: ## Resolve the newest dependencies that pyproject.toml allows, into requirements*.lock; install nothing.
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv==0.13.9
	$(COMPILE) --upgrade --extra make --extra samples -o requirements.lock
	LOCKED=requirements.lock; for extra in dev docs onnx tensorflow; do \
	  $(COMPILE) --upgrade --extra $$extra $$(printf -- '-c %s ' $$LOCKED) -o requirements-$$extra.lock \
	  $$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p' $$LOCKED) || exit 1; \
	  LOCKED="requirements.lock requirements-dev.lock"; done
	rm -rf .venv-lock

audit: ## Ask PyPI for known holes in the locked packages; needs a network that reaches its JSON API.
	test -d .venv-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit==2.10.1; }
	.venv-audit/bin/pip-audit --progress-spinner off --require-hashes --disable-pip $(addprefix -r ,$(wildcard requirements*.lock))

release: export PYTHONPATH :=
release: ## Build wheel and sdist into dist/, check both, and run the demo on digits from an empty environment.
	rm -rf dist .venv-release && $(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install --quiet --disable-pip-version-check build==1.6.1 twine==7.0.0
	.venv-release/bin/python -m build --outdir dist . > /dev/null
	.venv-release/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear .venv-release && $(PYTHON) install.py .venv-release/bin/python requirements.lock
	.venv-release/bin/pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	cd $$(mktemp -d) && $(CURDIR)/.venv-release/bin/grayline demo --dataset digits
	ls -l dist

clean: ## Remove .venv and caches; data and the store stay.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'grayline: needs Python 3.11 or newer; name one: make PYTHON=python3.11 ...' >&2; exit 2; }
	test -d .venv || $(PYTHON) -m venv .venv
	@$(INSTALL) requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEVELOPED): $(INSTALLED) requirements-dev.lock
	@$(INSTALL) requirements-dev.lock
	@touch $@
