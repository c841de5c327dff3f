# `make demo` shows the product, `make test` runs the whole suite; both install what they need into .venv.
PYTHON ?= python3
LAKE ?= ./demo-lake
BIN := .venv/bin
# Each has a Ray and an S3 server of its own on loopback. A third one on two cores ends no sooner, and tests of lost
# nodes then meet their limits.
PROCESSES ?= 2
TESTS ?= tests/unit tests/integration tests/browser tests/multi_node

PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# Python keeps what it compiled of this repository: a suite starts hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test coverage bench docs lint clean

demo: .venv/installed
	$(BIN)/python jobs/demo.py --lake $(LAKE)

# A file at a time on each process; tests/conftest.py says in which order.
test: .venv/installed-test lint
	$(PYTEST) $(TESTS)

# The same with the share of lines that it runs, which costs a third more time: Ray's workers are traced too.
coverage: .venv/installed-test
	$(PYTEST) --cov --cov-report=term:skip-covered $(TESTS)

# The figures of speed that README lists, measured small: at most 20 minutes, on a machine that does nothing else.
# Environments of what is compared with are made before, into .benchmarks; the figures lie in .benchmarks/bench.json.
bench: .venv/installed-test
	$(BIN)/python benchmarks/bench.py

# The documentation site, below site/: a link that leads nowhere is an error.
docs: .venv/installed-test
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict --quiet

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv: about 6 GB, 2 minutes"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e .
# Once and on all cores: where PYTHONDONTWRITEBYTECODE is set, each Ray worker would compile torch anew.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[test]'
	@touch $@
