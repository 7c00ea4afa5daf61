# `make help` lists what there is to do. Rust, Python 3.10 or later and make are all it takes:
# everything else is installed into .venv, and what is up to date is not built again.

# The first Python that is new enough. `make PYTHON=python3.13 …` chooses another, for a new .venv.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; \
	then command -v $$candidate; break; fi; done)

# Every Python from 3.10 on that pyenv or the PATH has, the newest of each minor version: `test-all`.
PYTHONS ?= $(shell for minor in 10 11 12 13; do \
	for candidate in $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.$$minor.*/bin/python3 2>/dev/null | sort -Vr) \
		$$(command -v python3.$$minor); do \
	if $$candidate -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, '$$minor'))' >/dev/null 2>&1; \
	then echo $$candidate; break; fi; done; done)

# Passed on to pytest by `test-python`, to the benchmark by `bench`, and so on.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
CARGO ?= cargo

# pyo3 asks this Python what to build for; maturin finds the environment by the second name.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport CONDA_PREFIX PYTHONHOME

# The stub is one of them: the bindings have their docstrings from it.
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml $(wildcard Cargo.lock) aevent/_core.pyi

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- setting up -----------------------------------------------------------------------------------

.PHONY: venv
venv: $(STAMPS)/dev  ## create .venv with what development needs (PYTHON=… chooses the Python)

$(STAMPS)/created:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or later was found. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is not a Python 3.10 or later." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. Install its venv module (often a package of its own, such as python3-venv), or name another: make PYTHON=/path/to/python" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(STAMPS)/created pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(STAMPS)/bench: $(STAMPS)/dev pyproject.toml
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

.PHONY: build
build: $(STAMPS)/build  ## build the extension module (if a Rust source has changed) and install aevent into .venv

$(STAMPS)/build: $(STAMPS)/dev $(RUST_SOURCES)
	@command -v $(CARGO) >/dev/null || { echo "cargo was not found. Install Rust." >&2; exit 1; }
	PIP_QUIET=1 $(BIN)/maturin develop --release
	@touch $@

# The stamp says nothing if the module itself is gone.
ifeq ($(wildcard aevent/_core.*.so),)
.PHONY: $(STAMPS)/build
endif

# --- using it -------------------------------------------------------------------------------------

.PHONY: demo
demo: build  ## 500 downloads with requests, 100 at a time, on each backend
	$(BIN)/python examples/fetch.py $(ARGS)

.PHONY: bench
bench: build $(STAMPS)/bench  ## run the benchmarks (ARGS=… goes to benches/run.py)
	$(BIN)/python benches/run.py $(ARGS)

.PHONY: bench-watchdog
bench-watchdog: build  ## what setup(warn_blocking=0.1) costs, on each backend (ARGS=… goes to benches/watchdog.py)
	$(BIN)/python benches/watchdog.py $(ARGS)

.PHONY: wheel
wheel: $(STAMPS)/dev  ## build a wheel and a source archive into dist/
	$(BIN)/maturin build --release --sdist --out dist

# --- checking it ----------------------------------------------------------------------------------

# --keep-going: a formatting error must not hide what the tests say. The Python tests come last, so
# that their summary ends the output.
.PHONY: test
test: build  ## all checks: lint, types, Rust tests and models, Python tests
	@$(MAKE) --no-print-directory --keep-going lint typecheck test-rust test-python

# Each has an environment and a build of its own, so that none is built twice.
.PHONY: test-all
test-all:  ## the Python tests and the conformance suite on every Python there is (PYTHONS=…, ARGS=… as for conformance)
	@test -n "$(PYTHONS)" || { echo "No Python from 3.10 on was found: PYTHONS=\"/path/to/python …\"" >&2; exit 1; }
	@failed=; for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "=== Python $$version ($$python)"; \
		$(MAKE) --no-print-directory --keep-going PYTHON=$$python VENV=build/python$$version \
			CARGO_TARGET_DIR=$(CURDIR)/target/python$$version on-this-python || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "failed on Python$$failed" >&2; exit 1; }

.PHONY: on-this-python
on-this-python:
	@$(MAKE) --no-print-directory test-python ARGS=
	@$(MAKE) --no-print-directory conformance

.PHONY: test-rust
test-rust:  ## the scheduler's own tests, and loom's exploration of what threads share
	$(CARGO) test -p aevent-runtime
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 RUSTFLAGS="--cfg loom" \
		$(CARGO) test -p aevent-runtime --release --test loom_wait_queue --test loom_inbox \
		--test loom_park --target-dir target/loom

.PHONY: test-python
test-python: build  ## the Python tests (ARGS=… goes to pytest)
	$(BIN)/python -m pytest $(ARGS)

.PHONY: storm
storm: build  ## 10,000 tasks in every kind of wait, cancelled in random order, a thousand times (ARGS=… goes to tests/stress/storm.py)
	$(BIN)/python tests/stress/storm.py $(ARGS)

.PHONY: conformance
conformance: build  ## CPython's own tests, patched, against plain Python (ARGS=… goes to tests/stdlib/run.py)
	$(BIN)/python tests/stdlib/run.py $(ARGS)

.PHONY: host-suites
host-suites: build  ## asyncio's, trio's and anyio's own tests, patched (ARGS=… goes to tests/hosts/run.py)
	$(BIN)/python tests/hosts/run.py $(ARGS)

.PHONY: anyio-suite
anyio-suite: build  ## anyio's own tests on the backend aevent, against its trio backend (ARGS=… goes to tests/anyio/run.py)
	$(BIN)/python tests/anyio/run.py $(ARGS)

.PHONY: lint
lint: $(STAMPS)/dev  ## formatting and lints of Rust and Python
	@$(CARGO) fmt --version >/dev/null 2>&1 || { echo "rustfmt was not found. With rustup: rustup component add rustfmt" >&2; exit 1; }
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo "clippy was not found. With rustup: rustup component add clippy" >&2; exit 1; }
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# backends/ is checked as aevent._backends, the name it is imported by.
.PHONY: typecheck
typecheck: build  ## mypy, and stubtest: does _core.pyi tell the truth?
	$(BIN)/python -m mypy --strict aevent pytest_aevent.py examples
	$(BIN)/python -m mypy.stubtest aevent._core

.PHONY: clean
clean:  ## remove what was built, and .venv
	rm -rf $(VENV) build target dist aevent/_core.*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
