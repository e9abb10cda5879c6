# make demo | test | setup | bench | lint | debug: see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
# Every file that is compiled: an edit of any of them makes `make` install again.
NATIVE := setup.py pyproject.toml csrc/Makefile $(shell find csrc src kernels \( -name '*.cpp' -o -name '*.hpp' -o -name '*.h' \
          -o -name '*.inc' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.cu' -o -name '*.cuh' \) -not -path 'csrc/tests/*' 2>/dev/null)

# The tests talk to a real Redis, started by themselves on a free port; where there is none, Debian's is installed.
servers:
	@command -v redis-server >/dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server)

.PHONY: setup servers demo test bench lint debug clean

setup: $(STAMP)-all servers

demo: $(STAMP)-demo
	$(BIN)/engine demo

test: $(STAMP)-all servers
	$(BIN)/python -m pytest
	$(MAKE) -j$(shell nproc) -C csrc test

bench: $(STAMP)-all
	$(BIN)/python -m benchmarks run all

lint: $(STAMP)-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

debug:
	$(MAKE) -j$(shell nproc) -C csrc asan tsan

clean:
	rm -rf build src/*.egg-info
	find src -name '*.so' -delete
	$(MAKE) -C csrc clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip "setuptools>=77" wheel "cython>=3.1" "numpy>=2.0"

# An editable install without build isolation: the compiled modules land beside their sources, so that an edit of C++
# and `make setup` is the whole development loop.
$(STAMP)-%: $(BIN)/python $(NATIVE)
	@echo "== installing and compiling the core (about a minute on two cores)"
	$(PIP) install --quiet --no-build-isolation --editable ".[$(EXTRAS_$*)]"
	@touch $@

EXTRAS_demo := demo
EXTRAS_all := demo,test,lint,bench
