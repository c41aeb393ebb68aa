# `make` lists the targets. Everything is installed into .venv. Only `make run` writes outside this folder, to its data directory
# (see `session-notes serve --help`).

# The newest Python found, at least 3.11. Choose another with `make PYTHON=... run`.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
PROTOS := $(shell find protos -name '*.proto' | sort)
GENERATED := v1 status
# What Envoy needs to convert JSON (deploy/envoy): the services, and the messages in their errors.
DESCRIPTORS := deploy/envoy/descriptors.binpb

# Override the environment: tests start hundreds of Python processes, and without bytecode each would compile every module.
export PYTHONDONTWRITEBYTECODE :=

# Create an environment unless it is complete (Ctrl-C may have interrupted its creation) and its Python still exists.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
define venv
@$(1)/bin/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null || { \
	"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null \
		|| { echo "session-notes needs Python 3.11 or newer$(PYTHON:%=, which % is not). Set one with make PYTHON=/path/to/python3 ..." >&2; exit 1; }; \
	echo "creating $(1) with $(PYTHON)"; "$(PYTHON)" -m venv --clear $(1); }
endef

.DEFAULT_GOAL := help
.PHONY: help install run demo test test-integrations test-typescript test-pythons compliance faults soak guards oldest bench dist check format protos clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Create the environment again if its Python no longer exists.
.venv/run: pyproject.toml $(if $(shell $(BIN)/python -c '' 2>/dev/null || test ! -e .venv/run || echo gone),gone)
	$(call venv,.venv)
	@echo "installing the sidecar into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server]'
	@touch $@

.venv/dev: .venv/run
	@echo "installing the dependencies of tests and checks into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev]'
	@touch $@

# Generated code rejects a runtime older than its generator, so use the oldest supported grpcio-tools, in a separate
# environment because it conflicts with the newest protobuf.
.venv-protos/ready: Makefile
	$(call venv,.venv-protos)
	@.venv-protos/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.80.0 mypy-protobuf==5.1.0 \
		googleapis-common-protos==1.72.0
	@touch $@

install: .venv/run ## create .venv and install the sidecar and the command line
	@echo "ready: $(BIN)/session-notes --help"

run: .venv/run ## start the sidecar on 127.0.0.1:50051 (ARGS="--listen ..." for more)
	@exec env STARTED_BY="make run" $(BIN)/session-notes serve $(ARGS)

demo: .venv/run ## play a conversation with a primary and an observer (under a minute)
	@$(BIN)/python examples/demo.py $(ARGS)

# Every promise holds on both engines, so the tests of the sidecar run on both. Folders that are not listed test no engine.
ENGINES := native grpcio
PER_ENGINE := $(addprefix tests/,access clients conformance fundamentals process server)
define on_each_engine
@for engine in $(ENGINES); do $(1) --engine $$engine $(ARGS) || exit 1; done
endef

# The fault tests measure how long calls take while something is broken, so they run after the others. With ARGS, one pytest
# run selects from all tests.
test: .venv/dev ## run the tests, on both engines (with ARGS="-k name" those selected, on the native engine)
ifdef ARGS
	@$(BIN)/python -m pytest -n 4 --dist loadgroup $(ARGS)
else
	@$(BIN)/python -m pytest -n 4 --dist loadgroup --ignore tests/faults --ignore tests/integrations --ignore tests/compliance
	@$(BIN)/python -m pytest -n 4 --dist loadgroup --engine grpcio $(PER_ENGINE)
	@$(MAKE) --no-print-directory faults
endif

# The first run builds the suites, which takes several minutes.
compliance: .venv/dev ## run the suites of h2spec, gRPC and Connect, and porcupine, on both engines, and promtool (needs Go)
	@$(BIN)/python -m tests.compliance.tools
	@$(BIN)/python -m pytest -n 2 tests/compliance $(ARGS)

faults: .venv/dev ## run only the fault tests, on both engines: real kills, silent stores, cut connections, random bytes
	$(call on_each_engine,$(BIN)/python -m pytest -n 4 tests/faults)

soak: .venv/dev ## run the fault tests at full length (at most an hour per engine; FOR=10m shortens it)
	$(call on_each_engine,timeout --signal=INT --kill-after=60 $(or $(FOR),1h) $(BIN)/python -m pytest tests/faults --soak --timeout 1800)

guards: .venv/dev ## remove each guard from a copy of the code, and check that its test fails
	@$(BIN)/python tests/guards.py $(ARGS)

# The lower bounds in pyproject.toml as pins. The last bound of a package applies, since the sidecar needs newer versions.
OLDEST = import re, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	bounds = project["dependencies"] + project["optional-dependencies"]["server"]; \
	pins = dict(re.match(r"([\w-]+)>=([\d.]+)", bound).groups() for bound in bounds); \
	print("\n".join(map("==".join, pins.items())))

.venv-oldest/ready: pyproject.toml Makefile
	$(call venv,.venv-oldest)
	@.venv-oldest/bin/python -c '$(OLDEST)' > .venv-oldest/pins.txt
	@echo "installing the oldest supported versions into .venv-oldest"
	@.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-oldest/pins.txt --editable '.[server,dev]'
	@touch $@

oldest: .venv-oldest/ready ## run the tests on the oldest supported versions of all dependencies (ARGS="-k name" selects tests)
	@cat .venv-oldest/pins.txt
	@$(MAKE) --no-print-directory test BIN=.venv-oldest/bin

# The integrations need many large packages, so they have a separate environment.
.venv-integrations/ready: pyproject.toml
	$(call venv,.venv-integrations)
	@echo "installing the packages of the integrations into .venv-integrations (1.6 GB)"
	@# An old pip takes minutes to resolve these versions, a new one seconds.
	@.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev,integrations]'
	@touch $@

# Google ADK accepts no OpenTelemetry as new as LiveKit Agents needs.
.venv-google-adk/ready: pyproject.toml
	$(call venv,.venv-google-adk)
	@echo "installing Google ADK into .venv-google-adk (600 MB)"
	@.venv-google-adk/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@.venv-google-adk/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev,google-adk]'
	@touch $@

# Traces, workers, addresses and HTTP/2 depend on the engine.
INTEGRATIONS_PER_ENGINE := tests/integrations/test_traces.py tests/integrations/test_envoy.py $(wildcard tests/integrations/test_worker*.py)

# Modules that import these packages can be type-checked only in these environments, so `make check` skips them.
TYPED_HERE = find clients/python/session_notes/integrations tests/integrations tests/compliance/mcp examples/*_agent.py -name '*.py'

# The conformance suite of MCP, with the Node.js that it needs.
MCP_SUITE := .cache/compliance/mcp

$(MCP_SUITE)/node_modules/.package-lock.json: tests/compliance/mcp/package.json tests/compliance/mcp/package-lock.json
	@echo "installing the conformance suite of MCP into $(MCP_SUITE)"
	@mkdir -p $(MCP_SUITE) && cp $^ $(MCP_SUITE)
	@cd $(MCP_SUITE) && npm --silent ci --no-audit --no-fund --ignore-scripts
	@touch $@

# ARGS may select no test of an environment, with which pytest exits with 5.
NONE_SELECTED = $(if $(ARGS),|| test $$? -eq 5)

test-integrations: .venv-integrations/ready .venv-google-adk/ready ## run the tests of the integrations, with the real packages (ARGS="-k name" selects tests)
	.venv-integrations/bin/mypy $$($(TYPED_HERE) ! -path '*google_adk*')
	.venv-google-adk/bin/mypy $$($(TYPED_HERE) -path '*google_adk*')
	@# The first run takes a minute longer, on Debian as root with buildah and debootstrap.
	@.venv-integrations/bin/python -m tests.integrations.base_image
	@if $(NODE); then $(MAKE) --no-print-directory $(MCP_SUITE)/node_modules/.package-lock.json; fi
	@.venv-integrations/bin/python -m pytest -n 2 tests/integrations tests/compliance/claude_agent_sdk tests/compliance/mcp $(ARGS) $(NONE_SELECTED)
	@.venv-google-adk/bin/python -m pytest -n 2 tests/integrations $(ARGS) $(NONE_SELECTED)
ifndef ARGS
	@.venv-integrations/bin/python -m pytest -n 2 --engine grpcio $(INTEGRATIONS_PER_ENGINE)
endif
	@if $(NODE); then $(MAKE) --no-print-directory test-typescript; fi

# Whether the TypeScript client can be built, and MCP's suite installed, on this machine; prints a message if not.
NODE = { npm --version && node -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)'; } >/dev/null 2>&1 \
	|| { echo "skipped: the TypeScript client and the suite of MCP need Node.js 20 or newer, and npm"; false; }
NPM := cd clients/typescript && npm --silent
BUF_TYPESCRIPT = cd clients/typescript && ../../$(BIN)/buf generate

clients/typescript/node_modules/.package-lock.json: clients/typescript/package.json clients/typescript/package-lock.json
	@echo "installing the dependencies of the TypeScript client into clients/typescript/node_modules"
	@$(NPM) ci --no-audit --no-fund --ignore-scripts
	@touch $@

# The tests import the built package, as users do, so both targets build it first.
test-typescript: .venv/dev clients/typescript/node_modules/.package-lock.json ## lint, build and test the TypeScript client (Node.js 20 or newer)
	@$(NPM) run lint
	@export SIDECAR_PYTHON="$(CURDIR)/.venv/bin/python"; $(NPM) test

# A quick selection is enough to find problems with a Python version: the contract, the clients and a start, on the embedded store.
PYTHONS := 3.11 3.12 3.13 3.14
QUICK := tests/fundamentals tests/clients/test_async.py tests/clients/test_background.py tests/clients/test_import.py \
	tests/process/test_start.py

test-pythons: $(PYTHONS:%=test-python-%) ## run a quick selection of the tests on each Python on PATH or in pyenv

test-python-%:
	@found=$$(for p in python$* $(HOME)/.pyenv/versions/$*.*/bin/python; do "$$p" -c '' 2>/dev/null && { echo "$$p"; break; }; done); \
	test -n "$$found" || { echo "skipped: Python $* is not installed"; exit 0; }; \
	set -e; python=.venv-pythons/$*/bin/python; \
	test -x $$python || "$$found" -m venv .venv-pythons/$*; \
	$$python -m pip install --quiet --disable-pip-version-check --editable '.[server]' hypothesis pytest pytest-asyncio pytest-timeout pytest-xdist trustme; \
	$$python -m pytest -n 2 -k "not redis and not cluster" $(QUICK) $(ARGS); \
	$$python -m pytest -n 2 --engine grpcio tests/process/test_start.py

# Build into an empty folder, so that no old file is uploaded. The SBOM lists what an installation of the sidecar gets today.
dist: .venv-integrations/ready ## build the wheel, the sdist and the sidecar's SBOM into dist/, and check them
	@rm -rf dist build
	@.venv-integrations/bin/python -m build
	@.venv-integrations/bin/python -m twine check --strict dist/*
	@.venv-integrations/bin/python -m venv --without-pip build/sbom
	@.venv-integrations/bin/python -m pip --python build/sbom/bin/python install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[server]"
	@.venv-integrations/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file "$$(echo dist/*.whl | sed 's/-py3.*/.cdx.json/')" build/sbom/bin/python
	@ls dist

.venv/bench: .venv/dev
	@echo "installing the contenders of the bench into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,dev,bench]'
	@touch $@

# Run three times, because timings are noisy.
bench: .venv/bench ## measure the cost per call, next to alternatives, three times (20 minutes; RUNS=1 measures once)
	@for run in $$(seq $(or $(RUNS),3)); do \
		$(BIN)/session-notes bench --full --seed $$run --results benchmarks/results/$$run $(ARGS) || exit 1; done
	@$(BIN)/python benchmarks/tables.py

check: .venv/dev .venv-protos/ready ## lint, check types and the contract, and compare generated code with protos/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests examples benchmarks
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb
	@rm -rf .venv-protos/fresh && $(MAKE) --no-print-directory generate INTO=.venv-protos/fresh
	@for d in $(GENERATED); do diff -r -x __pycache__ -x __init__.py .venv-protos/fresh/session_notes/$$d clients/python/session_notes/$$d \
		|| { echo "generated code differs from protos/: run make protos" >&2; exit 1; }; done
	@$(MAKE) --no-print-directory generate-descriptors DESCRIPTORS=.venv-protos/fresh/descriptors.binpb
	@cmp .venv-protos/fresh/descriptors.binpb $(DESCRIPTORS) \
		|| { echo "$(DESCRIPTORS) differs from protos/: run make protos" >&2; exit 1; }
	@if $(NODE); then $(MAKE) --no-print-directory check-typescript; fi
	@echo "all checks passed"

.PHONY: check-typescript
check-typescript: .venv/dev clients/typescript/node_modules/.package-lock.json
	@rm -rf .venv-protos/typescript && $(BUF_TYPESCRIPT) --output ../../.venv-protos/typescript
	@diff -r .venv-protos/typescript/src/gen clients/typescript/src/gen \
		|| { echo "generated code differs from protos/: run make protos" >&2; exit 1; }

format: .venv/dev ## format the code and apply automatic fixes
	$(BIN)/python clients/python/async_clients.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: .venv-protos/ready ## generate code from protos/, for Python and (with Node.js) for TypeScript, and Envoy's descriptors
	@$(MAKE) --no-print-directory generate INTO=clients/python
	@$(MAKE) --no-print-directory generate-descriptors
	@if $(NODE); then $(MAKE) --no-print-directory generate-typescript; fi

.PHONY: generate
generate:
	@mkdir -p $(INTO)
	@.venv-protos/bin/python -m grpc_tools.protoc --proto_path=protos --plugin=protoc-gen-mypy=.venv-protos/bin/protoc-gen-mypy \
		--plugin=protoc-gen-mypy_grpc=.venv-protos/bin/protoc-gen-mypy_grpc \
		--python_out=$(INTO) --mypy_out=quiet:$(INTO) --grpc_python_out=$(INTO) --mypy_grpc_out=quiet:$(INTO) $(PROTOS)
	@for p in $$(grep -L '^service' $(PROTOS)); do f=$${p#protos/}; rm -f $(INTO)/$${f%.proto}_pb2_grpc.py*; done

.PHONY: generate-descriptors
generate-descriptors:
	@.venv-protos/bin/python -m grpc_tools.protoc --proto_path=protos --proto_path=$$(echo .venv-protos/lib/python3*/site-packages) \
		--include_imports --descriptor_set_out=$(DESCRIPTORS) $(filter protos/session_notes/v1/%,$(PROTOS)) google/rpc/error_details.proto

.PHONY: generate-typescript
generate-typescript: .venv/dev clients/typescript/node_modules/.package-lock.json
	@$(BUF_TYPESCRIPT)

.PHONY: gone
gone:

clean: ## remove environments, caches and builds
	rm -rf .venv .venv-protos .venv-oldest .venv-integrations .venv-google-adk .venv-pythons build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .cache
	rm -rf clients/typescript/node_modules clients/typescript/build clients/typescript/dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
