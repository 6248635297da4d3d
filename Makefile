# `make serve` sets up and serves; `make test` sets up and passes the tests. `make` alone lists the rest.
VENV ?= .venv
BIN := $(VENV)/bin
# The first Python that is new enough, unless you name one: make serve PYTHON=/opt/python3.12/bin/python3
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help serve test test-compiled test-images test-checkov lint types contracts check-all bench test-engines clean
.DELETE_ON_ERROR:

help:
	@echo "make serve      set up in $(VENV) (once), then serve Gemma 4; make serve ARGS=--demo needs no download"
	@echo "make test       set up the tests (once), then run them; make test ARGS='tests/spec -x' runs some"
	@echo "make lint       style"
	@echo "make types      types"
	@echo "make contracts  which package may import which"
	@echo "make check-all  all of these"
	@echo "make test-compiled  the same for the compiled request path (needs a C compiler)"
	@echo "make test-images    builds and runs the rendered images (root, podman, mmdebstrap; some 7 minutes)"
	@echo "make test-checkov   checkov over the rendered files (installs it once)"
	@echo "make test-engines   real engines on processors (installs 4 GB once; some 10 minutes)"
	@echo "make bench      compare the gateway with others (docs/benchmarks.md)"
	@echo "make clean      remove $(VENV) and what the tools left; keys, records and models stay where they are"
	@echo
	@echo "Read README.md first, then docs/quickstart.md."

serve: $(VENV)/.serve
	@$(BIN)/gemstead serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

check-all: lint types contracts test

# The request path as its wheels have it, compiled: the tests that use real processes and sockets must pass on it too.
COMPILED := benchmarks/gateway/peers/gemstead/bin/python
test-compiled: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gateway install gemstead
	$(COMPILED) -m pip install --quiet --disable-pip-version-check \
	  pytest pytest-asyncio pytest-xdist hypothesis openai anthropic trustme prometheus-client \
	  h2 hpack xds-protos grpcio grpcio-health-checking
	$(COMPILED) -P -m pytest -m "not slow" -p no:cacheprovider -n 2 --dist loadfile \
	  tests/gateway tests/traffic tests/wiring/test_epp.py tests/flow/test_failures.py tests/flow/test_head.py tests/flow/test_leaving.py tests/flow/test_mixture.py tests/flow/test_records.py \
	  tests/flow/test_reload.py

# The gateway's and an engine's image from the files that are rendered, over bases made of Debian's packages.
test-images: $(VENV)/.dev
	$(BIN)/python -m pytest -rs $(or $(ARGS),tests/images)

# checkov over what is rendered; in an environment of its own, because it pins old libraries.
test-checkov: $(VENV)/.dev build/checkov/.done
	PATH="$(CURDIR)/build/checkov/bin:$$PATH" $(BIN)/python -m pytest -rs tests/render/test_checkov.py $(ARGS)

build/checkov/.done:
	$(BIN)/python -m venv build/checkov
	build/checkov/bin/pip install --quiet --disable-pip-version-check 'checkov>=3.3,<4'
	@touch $@

# Real engines (vLLM, Transformers) on processors: installed once, 4 GB in ~/.cache/gemstead; docs/engine-install.md.
test-engines: $(VENV)/.dev
	GEMSTEAD_ENGINE_TESTS=1 $(BIN)/python -m pytest -rs -s -o faulthandler_timeout=600 tests/live/engines $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.gateway install gemstead
	$(BIN)/python -m benchmarks.gateway run $(ARGS)

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "Gemstead needs Python 3.11 or newer; `python3 --version 2>&1 || true` is what is here." >&2; \
	  echo "Install one, or say where it is: make serve PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Gemstead needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`." >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON); this happens once."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "No environment could be made with '$(PYTHON) -m venv' (see above)." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv. Otherwise see that this folder can be written." >&2; \
	  exit 1; }

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	@echo "Installing what Gemstead needs ..."
	@$(PIP) install --quiet --editable . || { $(call no_install) }
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing what Gemstead and its tests need ..."
	@$(PIP) install --quiet --editable '.[dev]' || { $(call no_install) }
	@touch $@ $(VENV)/.serve

define no_install
echo "pip could not install the packages (see above)." >&2; \
echo "Is there a network? Behind a proxy set HTTPS_PROXY; with a mirror of your own set PIP_INDEX_URL." >&2; \
echo "Then type the same again." >&2; exit 1;
endef

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
