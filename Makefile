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
	@awk -F ':.*## ' '/^[a-zA-Z_-]+:.*## / {printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup:  ## Install uv where it is missing, and the locked environment into .venv
	@$(UV) --version >/dev/null 2>&1 || { echo "installing uv"; \
	  python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq python3-pip; }; \
	  python3 -m pip install --quiet uv 2>/dev/null || python3 -m pip install --quiet --user --break-system-packages uv; }
	@$(UV) sync --frozen --quiet

.PHONY: demo
demo: setup  ## From nothing to a verified adapter on a real cluster (KUBE_CONTEXT=… for a cluster of yours)
	@$(RUN) python -m dev.demo

.PHONY: up
up: setup  ## Start the local cluster
	@$(RUN) python -m dev.localcluster up

.PHONY: down
down: setup  ## Stop the local cluster; nothing stays behind but the caches
	@$(RUN) python -m dev.localcluster down

.PHONY: status
status: setup  ## What of the local cluster runs
	@$(RUN) python -m dev.localcluster status

.PHONY: lint
lint: setup  ## ruff, mypy --strict, import-linter, vulture
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) vulture

.PHONY: fmt
fmt: setup  ## Format and mend what ruff can mend
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

.PHONY: test-unit
test-unit: setup  ## Tests that need no cluster: operator core, crash harness, contract, trainer
	$(PYTEST) tests/unit tests/crash tests/trainer tests/localcluster -m "not nightly and not cluster"

.PHONY: test
test: lint  ## Every test; starts the local cluster and stops it at the end
	$(RUN) python -m dev.lanes

.PHONY: test-nightly
test-nightly: setup  ## The full depth: 200 kill points and what else takes too long for every change
	$(PYTEST) tests/trainer tests/crash -m nightly --timeout 7200

.PHONY: bench-trainer
bench-trainer: setup  ## Tokens/s of the demo job and its share of this CPU's matmul rate → build/bench/trainer.json
	$(RUN) python -m tests.benchmarks.bench_trainer

.PHONY: bench-operator
bench-operator: setup  ## Latency, API writes and memory of the operator → build/bench/operator.json
	$(RUN) python -m tests.benchmarks.bench_operator

.PHONY: clean
clean: down  ## Stop the cluster and remove build/ and .venv (caches outside the checkout stay)
	rm -rf build .venv
