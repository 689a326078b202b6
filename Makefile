# `make demo` and `make test` work on a fresh clone: the first makes .venv and installs into it.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-onnx test-tensorflow check up down bench lock clean

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Run the main job on 2,624 real images, without a server: from files to a champion and a scored batch.
	$(BIN)/grayline demo

test: $(INSTALLED) check ## Run every check and every test, except those that need an extra of half a gigabyte.
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not onnx and not tensorflow' --numprocesses auto --maxprocesses 4 --dist loadfile

test-onnx: $(INSTALLED) ## Run the tests of ONNX, onnxruntime and OpenVINO exports; install [onnx].
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[onnx]'
	$(BIN)/pytest -m onnx

test-tensorflow: $(INSTALLED) ## Run the tests of TensorFlow's exports and readers; install [tensorflow].
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tensorflow]'
	$(BIN)/pytest -m tensorflow

check: $(INSTALLED) ## Check lint, format, types, layers and words, in seconds.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.words

up: $(INSTALLED) ## Start Prefect, MLflow, a worker, all deployments; `make up DATA.yaml ...`: with nights. PUBLIC=1: behind a TLS proxy.
	@$(BIN)/python -m flows.stack up $(filter %.yaml %.yml,$(MAKECMDGOALS)) $(if $(PUBLIC),--public)

# Data set files behind `make up` are not goals.
%.yaml %.yml: ;

down: ## Stop the processes that `make up` started.
	@$(BIN)/python -m flows.stack down

bench: $(INSTALLED) ## Measure ratios against peers in the same run; print a table, write JSON.
	$(BIN)/python -m benchmarks

# Packages that constraints.txt leaves out.
UNPINNED := grayline pip setuptools wheel
lock: ## Resolve the newest dependencies that pyproject.toml allows, into constraints.txt; install nothing.
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --dry-run --ignore-installed --report .venv-lock/report.json \
	  '.[dev,onnx,samples,tensorflow]'
	{ echo '# Made by `make lock`: what `make demo` and `make test` install.'; \
	  .venv-lock/bin/python -c 'import json, sys; \
	    packages = (item["metadata"] for item in json.load(open(".venv-lock/report.json"))["install"]); \
	    print(*sorted((m["name"] + "==" + m["version"] for m in packages if m["name"] not in sys.argv), key=str.lower), sep="\n")' \
	  $(UNPINNED); } > constraints.txt
	rm -rf .venv-lock

clean: ## Remove .venv and caches; data and the store stay.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'grayline: needs Python 3.11 or newer; name one: make PYTHON=python3.11 ...' >&2; exit 2; }
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,samples]'
	@touch $@
