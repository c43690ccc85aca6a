# Everything a newcomer needs: `make serve` runs the server, `make test` checks the whole project.
# Each target installs what it needs first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install system serve check test test-all test-services docs pre-commit bench bench-quick constraints clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "runstream needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "uv>=0.8"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

install: $(STAMP) ## make .venv with everything

system: ## install the programs that some tests need (browser, PostgreSQL, wrk, Maven), saying which
	@scripts/system-packages

serve: install ## run the server on this machine: http://127.0.0.1:5000
	$(BIN)/runstream serve $(ARGS)

check: install ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks
	@if command -v npx >/dev/null; then cd query/page && npm run --silent check && npm test --silent; \
		elif [ -n "$$CI" ]; then echo "npx is missing: the page is not checked"; exit 1; \
		else echo "npx is missing: the page's modules are not checked"; fi

test: install system check ## install, lint, check types, run the tests that guard every promise (what CI runs)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 -m "not slow_suite" $(ARGS)

test-all: install system check ## the same with the long ones: matrices of versions, hours of failures
	RUNSTREAM_TEST_KILL_ROUNDS=2 RUNSTREAM_TEST_READ_YOUR_WRITES=1000 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 $(ARGS)

test-services: install ## the behaviour suite on servers that you name: CLICKHOUSE=… KAFKA=… POSTGRES=… S3=…
	RUNSTREAM_TEST_SET=production RUNSTREAM_TEST_CLICKHOUSE='$(CLICKHOUSE)' RUNSTREAM_TEST_KAFKA='$(KAFKA)' \
	RUNSTREAM_TEST_POSTGRES='$(POSTGRES)' RUNSTREAM_TEST_S3='$(S3)' \
		$(BIN)/python -m pytest tests/integration/test_client_*.py tests/integration/test_read_your_writes.py $(ARGS)

docs: install ## build the documentation's site into build/site, warnings as errors
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m mkdocs build --quiet --clean

pre-commit: install ## check what a commit touches, at each commit
	$(BIN)/uv pip install --quiet --python $(BIN)/python pre-commit
	$(BIN)/python -m pre_commit install

bench: install system ## compare with stock MLflow and others (up to 30 minutes)
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: install system ## the same in about 3 minutes
	$(BIN)/python -m benchmarks --quick $(ARGS)

constraints: ## lock the newest versions that the tests pass with
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --universal --upgrade \
		--extra dev pyproject.toml --output-file constraints.txt

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
