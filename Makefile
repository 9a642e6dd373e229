# finetune-operator: `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export UV_PYTHON_PREFERENCE ?= only-system
export DS_ACCELERATOR ?= cpu
UV := $(shell command -v uv 2>/dev/null || echo python3 -m uv)
RUN := $(UV) run --frozen
PYTEST := $(RUN) pytest

.PHONY: help
help:  ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	  /^[a-zA-Z_-]+:.*## / {printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use

.PHONY: setup
setup:  ## Install uv if it is missing, and the locked environment into .venv
	@$(UV) --version >/dev/null 2>&1 || { echo "installing uv"; \
	  python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq python3-pip; }; \
	  python3 -m pip install --quiet uv 2>/dev/null || python3 -m pip install --quiet --user --break-system-packages uv; }
	@$(UV) sync --frozen --quiet

.PHONY: demo
demo: setup  ## From nothing to a verified adapter on a real cluster (KUBE_CONTEXT=… uses yours)
	@$(RUN) python -m dev.demo

.PHONY: up
up: setup  ## Start the local cluster
	@$(RUN) python -m dev.localcluster up

.PHONY: down
down: setup  ## Stop the local cluster; only its caches stay behind
	@$(RUN) python -m dev.localcluster down

.PHONY: status
status: setup  ## Show which parts of the local cluster are running
	@$(RUN) python -m dev.localcluster status

##@ Develop

.PHONY: lint
lint: setup  ## ruff, mypy --strict, import-linter, vulture
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) vulture

.PHONY: fmt
fmt: setup  ## Format and fix what ruff can fix
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

.PHONY: clean
clean: down  ## Stop the cluster, remove build/ and .venv; caches outside the checkout stay
	rm -rf build .venv

##@ Test

.PHONY: test-unit
test-unit: setup  ## Tests that need no cluster: operator core, crash harness, contract, chart, trainer, dev
	$(PYTEST) tests/unit tests/crash tests/contract tests/chart tests/trainer tests/upgrade tests/localcluster tests/dev \
	  -m "not nightly and not cluster"

.PHONY: test
test: lint  ## Every test; starts the local cluster and stops it at the end; a summary names what failed
	$(RUN) python -m dev.lanes

.PHONY: test-races
test-races: setup  ## Repeat the tests that wait for a pod, process or signal, beside two busy loops; resumes where it stopped
	@$(RUN) python -m dev.races

.PHONY: test-nightly
test-nightly: setup  ## The full depth: 200 kill points and whatever else takes too long for every change
	$(PYTEST) tests/trainer tests/crash tests/upgrade -m nightly --timeout 7200

##@ Measure

.PHONY: bench-trainer
bench-trainer: setup  ## Tokens/s of the demo job and its share of this CPU's matmul rate → build/bench/trainer.json
	@$(RUN) python -m tests.benchmarks.bench_trainer

.PHONY: bench-operator
bench-operator: setup  ## Latency, API writes and memory of the operator → build/bench/operator.json
	@$(RUN) python -m tests.benchmarks.bench_operator

.PHONY: bench-prepare
bench-prepare: setup  ## Rows/s and memory of the preparation of 100,000 chat rows → build/bench/prepare.json
	@$(RUN) python -m tests.benchmarks.bench_prepare

.PHONY: recording
recording: setup  ## Run the demo, record it, draw its terminal and loss curve, quote its model card → docs/pictures
	@$(RUN) python -m dev.demo --record build/recording/demo.cast
	@$(RUN) python -m dev.recording fetch build/recording
	@$(RUN) python -m dev.recording terminal build/recording/demo.cast docs/pictures/demo.svg
	@$(RUN) python -m dev.recording loss build/recording/manifest.json docs/pictures/loss.svg
	@$(RUN) python -m dev.recording card build/recording/README.md docs/pictures/model-card.md
