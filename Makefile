# SPDX-License-Identifier: AGPL-3.0-or-later
# Everything a newcomer may type. The targets install what they need (Debian 12, as root); a second run is instant.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup lint format test test-unit test-integration test-e2e simulate chaos-rdmp soak-controller fuzz demo bench bench-rdmp bench-fabric lab-up lab-down lock clean
PY := .venv/bin/python
IMAGE_SCRIPTS := $(wildcard examples/shop/images/*/*.py)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install Debian packages (when missing) and the locked Python packages into .venv
	@.ci/setup

lint: setup ## style, types and the import rule
	$(PY) -m ruff check .
	$(PY) -m mypy
	@for script in $(IMAGE_SCRIPTS); do $(PY) -m mypy "$$script" || exit 1; done
	$(PY) -m tests.imports

format: setup ## sort imports and repair what ruff can repair by itself
	$(PY) -m ruff check --fix .

test: setup ## all tests: unit, integration, end to end
	$(PY) -m pytest tests

test-unit: setup ## unit tests only (no root, no engine, no switch)
	$(PY) -m pytest tests/unit

test-integration: setup ## tests of one part on real engines and switches
	$(PY) -m pytest tests/integration

test-e2e: setup ## tests of the whole
	$(PY) -m pytest tests/e2e

chaos-rdmp: setup ## RDMP in real processes under kills, stops, full disks and cut links; MINUTES=5, SEED=N
	@$(PY) -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) --json

soak-controller: setup ## switches that connect and leave by thousands: threads, sockets, memory; MINUTES=10, SEED=N, REPORT=FILE
	@$(PY) -m tests.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

fuzz: setup ## coverage-guided fuzzing of RDMP; SECONDS=60 for all targets together
	@$(PY) -m tests.fuzz --seconds $(if $(filter command,$(origin SECONDS)),$(SECONDS),60)

simulate: setup ## RDMP under a simulated clock, network and disk: SEEDS=100000 FIRST=0 JOBS=1
	@$(PY) -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0) --jobs $(or $(JOBS),1)

demo: setup ## the main job, start to end; DEMO_KEEP=1 leaves it up, DEMO_REPORT=FILE writes the result as JSON
	@$(PY) -m odyssey.demo

bench: setup ## measure, print, and write docs/benchmarks.md
	@$(PY) -m tests.bench

bench-rdmp: setup ## RDMP's speed and size beside etcd, RabbitMQ and NATS; BENCH_REPORT=FILE writes JSON, QUICK=1 is small
	@.ci/setup-peers
	@$(PY) -m tests.bench.rdmp $(if $(BENCH_REPORT),--report $(BENCH_REPORT)) $(if $(QUICK),--quick)

bench-fabric: setup ## flow programming, commits, reconnects, traffic, compiling; BENCH_REPORT=FILE writes JSON, QUICK=1 is small
	@.ci/setup-peers iperf3
	@$(PY) -m tests.bench.fabric $(if $(BENCH_REPORT),--report $(BENCH_REPORT)) $(if $(QUICK),--quick)

lab-up: setup ## three Docker hosts, two switches, all daemons
	@$(PY) -m odyssey.lab up

lab-down: setup ## stop the lab; WIPE=1 removes its state too
	@$(PY) -m odyssey.lab down $(if $(WIPE),--wipe)

lock: setup ## write both lock files anew from pyproject.toml, with the newest releases
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile pyproject.toml --upgrade --generate-hashes \
	  --universal --python-version 3.11 --quiet --output-file requirements.lock >/dev/null
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile pyproject.toml --upgrade --generate-hashes \
	  --extra dev --universal --python-version 3.11 --quiet --output-file requirements-dev.lock >/dev/null

clean: ## remove .venv, caches and build results (not the lab: make lab-down WIPE=1)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
